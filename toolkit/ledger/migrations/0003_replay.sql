-- Replay: frozen plans (replay), their jobs with a verdict each (replay_item), and who has which job in the air (flight).

CREATE TABLE toolkit.replay (
    replay_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash         text NOT NULL,                   -- of the jobs, their failed runs and verdicts: what an operator types
    planned_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    planned_by   text NOT NULL,
    release      text NOT NULL,
    selection    jsonb NOT NULL,                  -- the options that chose the jobs
    reason       text NOT NULL DEFAULT '',
    forced       boolean NOT NULL DEFAULT false,  -- LOOP runs as well
    verdicts     jsonb NOT NULL DEFAULT '{}',     -- how many jobs of each verdict
    remainder_of bigint REFERENCES toolkit.replay,
    started_at   timestamptz,                     -- null: only planned
    started_by   text,
    finished_at  timestamptz,                     -- null although started: interrupted, `--resume` goes on
    ending       text CHECK (ending IN ('done', 'stopped')) -- stopped: what was left is another plan
);
COMMENT ON TABLE toolkit.replay IS 'Plans to run failed jobs again, and how far each was carried out.';
CREATE INDEX replay_hash ON toolkit.replay (hash, replay_id);
CREATE INDEX replay_unfinished ON toolkit.replay (replay_id) WHERE started_at IS NOT NULL AND finished_at IS NULL;
-- In place of foreign keys on replay_item and flight, which look the same plan up for each of 300,000 jobs: whoever writes
-- there holds the plan's row, and no plan is ever deleted.
CREATE TRIGGER keep_plans BEFORE DELETE OR TRUNCATE ON toolkit.replay
    FOR EACH STATEMENT EXECUTE FUNCTION toolkit.refuse_change();

CREATE TABLE toolkit.replay_item (
    replay_id  bigint NOT NULL,                   -- of toolkit.replay
    job_id     text NOT NULL,
    verdict    text NOT NULL,                     -- when it was planned
    detail     text NOT NULL,
    run_id     uuid,                              -- the failed run
    settled_at timestamptz,                       -- not moved; a job that this plan moved has a flight of this plan
    settled    text,                              -- the verdict under lock that says why
    settled_detail text,
    PRIMARY KEY (replay_id, job_id)
);

CREATE TABLE toolkit.flight (
    job_id     text NOT NULL REFERENCES toolkit.intent ON DELETE CASCADE,
    after      integer NOT NULL,                  -- number of the failed run
    replay_of  uuid,                              -- the failed run
    replay_id  bigint NOT NULL,                   -- of toolkit.replay
    holder     text NOT NULL,                     -- the operator
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    landed_at  timestamptz,
    outcome    text,                              -- that the job ended in; null: in the air
    payload_before jsonb,                         -- the old form, where the job was replayed in a newer one
    PRIMARY KEY (job_id, after)                   -- one flight a failed run, ever
) WITH (fillfactor = 85);
COMMENT ON TABLE toolkit.flight IS 'One replay of one job, from asked again to done again.';
CREATE UNIQUE INDEX flight_one ON toolkit.flight (job_id) WHERE landed_at IS NULL; -- and one a job at a time
CREATE UNIQUE INDEX flight_replay ON toolkit.flight (replay_id, job_id);            -- and one a job of a plan

-- Move jobs from failed or lost to asked again: the next runs are replays of `p_run_ids`, attempts start fresh, the relay
-- pushes them. Atomic with the flights that say who did it. The caller has checked under toolkit.lock_jobs that they may
-- run. Returns the jobs that were moved: not those that are open already.
CREATE FUNCTION toolkit.reopen_jobs(
    p_replay_id bigint, p_holder text, p_job_ids text[], p_run_ids uuid[], p_numbers integer[], p_payloads jsonb[]
) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH wanted AS (
        SELECT * FROM unnest(p_job_ids, p_run_ids, p_numbers, p_payloads) AS w (job_id, run_id, number, payload)
    ), reopened AS (
        UPDATE toolkit.intent i SET
            done_at = NULL, outcome = NULL, pushed_at = NULL, mode = 'async', due_at = clock_timestamp(),
            replay_of = w.run_id, reopened_after = w.number, payload = coalesce(w.payload, i.payload)
        FROM wanted w WHERE i.job_id = w.job_id AND i.done_at IS NOT NULL AND i.outcome IN ('failed', 'lost')
        RETURNING i.job_id, w.run_id, w.number, CASE WHEN w.payload IS NOT NULL THEN
            (SELECT o.payload FROM toolkit.intent o WHERE o.job_id = i.job_id) END AS old -- as it was before this statement
    ), flights AS (
        INSERT INTO toolkit.flight (job_id, after, replay_of, replay_id, holder, payload_before)
        SELECT r.job_id, r.number, r.run_id, p_replay_id, p_holder, r.old FROM reopened r
        RETURNING flight.job_id
    )
    SELECT f.job_id FROM flights f;
    PERFORM pg_notify('toolkit_intent', ''); -- a hint; the relay polls as well
END $$;

-- Wait for and hold these jobs until the transaction ends, always in the same order, so that no two replays decide about a
-- job at once and none waits for another in a circle. Their rows are not locked: a job that is done stays as it is unless a
-- replay opens it, and toolkit.reopen_jobs looks once more.
CREATE FUNCTION toolkit.lock_jobs(p_job_ids text[]) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(key)
    FROM (SELECT DISTINCT hashtextextended('toolkit.replay:' || id, 0) AS key FROM unnest(p_job_ids) id ORDER BY key) keys;
$$;

-- A flight lands when its job is done again, whoever ended it.
CREATE FUNCTION toolkit.land_flight() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE toolkit.flight f SET landed_at = NEW.done_at, outcome = NEW.outcome
    WHERE f.job_id = NEW.job_id AND f.landed_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER land_flight AFTER UPDATE OF done_at ON toolkit.intent
    FOR EACH ROW WHEN (NEW.reopened_after IS NOT NULL AND OLD.done_at IS NULL AND NEW.done_at IS NOT NULL)
    EXECUTE FUNCTION toolkit.land_flight();
