-- Toggles: one row each, moved from version to version by `flip` alone; every version kept for good; and what every
-- process that looks at a toggle has seen of it. A toggle without a row has never been flipped: its default is in force.

CREATE TABLE toolkit.toggle (
    name        text PRIMARY KEY,                 -- the environment variable's name too: ASYNC_IMAGE_PROCESSING
    version     bigint NOT NULL,                  -- 1 for the first flip
    enabled     boolean NOT NULL,                 -- on: asynchronous; off: the safe side
    percent     integer NOT NULL DEFAULT 100 CHECK (percent BETWEEN 0 AND 100), -- of orders, while enabled
    pins        jsonb NOT NULL DEFAULT '{}',      -- merchant id → on or off, before anything else in this row
    jobs        text[] NOT NULL DEFAULT '{}',     -- the job names that it governs
    held_until  timestamptz,                      -- the relay hands no job of these to the broker until then
    lease_until timestamptz,                      -- remind somebody after that; nothing flips by itself
    who         text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE toolkit.toggle IS 'The state of each toggle; changed only by toolkit.flip.';

CREATE TABLE toolkit.toggle_history (LIKE toolkit.toggle INCLUDING DEFAULTS, PRIMARY KEY (name, version));
COMMENT ON TABLE toolkit.toggle_history IS 'Every version of every toggle. Append only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON toolkit.toggle_history
    FOR EACH STATEMENT EXECUTE FUNCTION toolkit.refuse_change();

-- Inline jobs whose importer may have died: the reconciler looks for them.
CREATE INDEX intent_sync_open ON toolkit.intent (created_at) WHERE done_at IS NULL AND pushed_at IS NULL AND mode = 'sync';

-- Unlogged: a heartbeat a process every two seconds is not worth WAL, and after a crash every process says it again.
CREATE UNLOGGED TABLE toolkit.toggle_process (
    toggle     text NOT NULL,
    process    text NOT NULL,                     -- unique: host, pid and a random part
    kind       text NOT NULL CHECK (kind IN ('importer', 'worker', 'supervisor')),
    host       text NOT NULL,
    pid        integer NOT NULL,
    release    text NOT NULL,
    version    bigint,                            -- acknowledged; null: has not read the toggle yet
    variant    text NOT NULL DEFAULT '',          -- what an order without a pin gets there: async, sync, split
    layer      text NOT NULL DEFAULT '',          -- which layer says so: environment, ledger, default
    backend    integer,                           -- its connection's server process; null behind a pooler
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    acked_at   timestamptz,                       -- when it acknowledged `version`
    beat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (toggle, process)
) WITH (fillfactor = 70);

-- Move a toggle from version `p_version` (0: never flipped) to the next one. Whoever was faster wins: the other gets TK002,
-- with the winner's name, and decides again.
CREATE FUNCTION toolkit.flip(
    p_name text, p_version bigint, p_enabled boolean, p_percent integer, p_pins jsonb, p_jobs text[],
    p_hold double precision,                      -- seconds; infinity: until the next flip; null: nothing is held
    p_lease double precision,                     -- seconds; null: no lease
    p_who text, p_reason text
) RETURNS toolkit.toggle
LANGUAGE plpgsql AS $$
DECLARE
    moment   timestamptz := clock_timestamp();
    hold     timestamptz := CASE WHEN p_hold = 'infinity' THEN 'infinity' ELSE moment + p_hold * interval '1 second' END;
    lease    timestamptz := moment + p_lease * interval '1 second';
    standing toolkit.toggle;
BEGIN
    IF btrim(p_reason) = '' OR btrim(p_who) = '' THEN
        RAISE EXCEPTION 'a flip needs a reason and a name' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_version = 0 THEN
        INSERT INTO toolkit.toggle AS t (name, version, enabled, percent, pins, jobs, held_until, lease_until, who, reason, at)
        VALUES (p_name, 1, p_enabled, p_percent, p_pins, p_jobs, hold, lease, p_who, p_reason, moment)
        ON CONFLICT DO NOTHING
        RETURNING t.* INTO standing;
    ELSE
        UPDATE toolkit.toggle t SET
            version = t.version + 1, enabled = p_enabled, percent = p_percent, pins = p_pins, jobs = p_jobs,
            held_until = hold, lease_until = lease, who = p_who, reason = p_reason, at = moment
        WHERE t.name = p_name AND t.version = p_version
        RETURNING t.* INTO standing;
    END IF;
    IF standing.name IS NULL THEN
        SELECT * INTO standing FROM toolkit.toggle t WHERE t.name = p_name;
        RAISE EXCEPTION '% is at version %, not %: % flipped it meanwhile (%)', p_name, coalesce(standing.version, 0), p_version,
            coalesce(standing.who, 'somebody'), coalesce(standing.reason, 'no row')
            USING ERRCODE = 'TK002', HINT = 'look at it again, then decide again';
    END IF;
    INSERT INTO toolkit.toggle_history SELECT standing.*;
    INSERT INTO toolkit.audit (who, action, subject, reason, detail)
    VALUES (p_who, 'toggle', p_name, p_reason, to_jsonb(standing) - ARRAY['name', 'who', 'reason', 'at']);
    PERFORM pg_notify('toolkit_toggle', p_name || ' ' || standing.version); -- hints; everybody polls as well
    PERFORM pg_notify('toolkit_intent', '');      -- what a hold kept back may go now
    RETURN standing;
END $$;
COMMENT ON FUNCTION toolkit.flip IS 'Change a toggle by compare-and-set on its version; keeps history and audit.';

-- The job names that the relay must not hand to the broker right now.
CREATE FUNCTION toolkit.held_jobs() RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(job), '{}') FROM toolkit.toggle t, unnest(t.jobs) job WHERE t.held_until > clock_timestamp()
$$;

-- A process says which version of a toggle it goes by; again every two seconds, as a heartbeat. Version null: it has
-- started and is about to read. `p_direct`: its connection is its own, so that its end tells the end of the process.
CREATE FUNCTION toolkit.toggle_ack(
    p_toggle text, p_process text, p_kind text, p_host text, p_pid integer, p_release text,
    p_version bigint, p_variant text, p_layer text, p_direct boolean
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO toolkit.toggle_process AS p (
        toggle, process, kind, host, pid, release, version, variant, layer, backend, acked_at
    ) VALUES (
        p_toggle, left(p_process, 200), p_kind, left(p_host, 200), p_pid, left(p_release, 128), p_version, p_variant, p_layer,
        CASE WHEN p_direct THEN pg_backend_pid() END, CASE WHEN p_version IS NOT NULL THEN clock_timestamp() END
    )
    ON CONFLICT (toggle, process) DO UPDATE SET
        acked_at = CASE WHEN p.version IS DISTINCT FROM excluded.version THEN clock_timestamp() ELSE p.acked_at END,
        version = excluded.version, variant = excluded.variant, layer = excluded.layer, backend = excluded.backend,
        beat_at = clock_timestamp()
$$;

-- A process ends, or goes on without looking.
CREATE FUNCTION toolkit.toggle_leave(p_process text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM toolkit.toggle_process WHERE process = p_process OR beat_at < clock_timestamp() - interval '1 day'
$$;

-- The processes that look at a toggle. `connected`: its connection to this server is open, so it may act; a process that
-- has none can neither read the toggle nor write an order. Behind a pooler that is unknown, and a fresh heartbeat decides.
CREATE VIEW toolkit.toggle_seen AS
    SELECT p.toggle, p.process, p.kind, p.host, p.pid, p.release, p.version, p.variant, p.layer, p.started_at, p.acked_at,
           extract(epoch FROM clock_timestamp() - p.beat_at)::float8 AS silent,
           CASE WHEN p.backend IS NULL THEN p.beat_at > clock_timestamp() - interval '10 seconds' ELSE a.pid IS NOT NULL END
               AS connected
    FROM toolkit.toggle_process p
    LEFT JOIN pg_stat_activity a ON a.pid = p.backend AND (a.backend_start IS NULL OR a.backend_start <= p.beat_at);
