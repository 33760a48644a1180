-- The ledger's first half: what was asked (intent), every attempt (run), the recent traces, and the three functions that
-- move them: enqueue, begin_run, finish_run. Times are timestamptz, durations are seconds (float8).

CREATE TABLE toolkit.job_type (
    name      text PRIMARY KEY,
    queue     text NOT NULL,
    fields    jsonb NOT NULL, -- {"purchaseOrderId": {"type": "string", "required": true, "max_length": 64, "pattern": "…"}}
    max_bytes integer NOT NULL
);
COMMENT ON TABLE toolkit.job_type IS 'The registered jobs and what their payloads may carry; written by `toolkit init`.';

CREATE TABLE toolkit.intent (
    job_id      text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    job_name    text NOT NULL,
    queue       text NOT NULL,
    payload     jsonb NOT NULL,
    mode        text NOT NULL DEFAULT 'async' CHECK (mode IN ('async', 'sync')),
    traceparent text,
    tracestate  text,
    release     text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    pushed_at   timestamptz,                      -- last handed to the broker
    pushes      integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT clock_timestamp(), -- a retry waits until then
    done_at     timestamptz,                      -- no further run is needed
    outcome     text,                             -- of the run that ended the job
    replay_of   uuid,                             -- replayed: the failed run that the runs from here on replay
    reopened_after integer                        -- replayed: the number of that run; attempts are counted from there
) WITH (fillfactor = 85);
COMMENT ON TABLE toolkit.intent IS 'A job that was asked for, in the transaction of the rows it is about.';
-- By due_at, not created_at: a replay of last week's job goes behind the jobs that wait now.
CREATE INDEX intent_unpushed ON toolkit.intent (due_at) WHERE pushed_at IS NULL AND done_at IS NULL AND mode = 'async';
CREATE INDEX intent_open ON toolkit.intent (pushed_at) WHERE done_at IS NULL AND pushed_at IS NOT NULL;
CREATE INDEX intent_created ON toolkit.intent (created_at);
CREATE INDEX intent_failed ON toolkit.intent (done_at) WHERE outcome IN ('failed', 'lost');

CREATE SEQUENCE toolkit.fence;

CREATE TABLE toolkit.run (
    run_id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    fence           bigint NOT NULL DEFAULT nextval('toolkit.fence'),
    job_id          text NOT NULL REFERENCES toolkit.intent ON DELETE CASCADE,
    job_name        text NOT NULL,
    queue           text NOT NULL,
    number          integer NOT NULL,             -- 1 for the job's first run
    mode            text NOT NULL,
    worker          text NOT NULL,
    host            text NOT NULL,
    release         text NOT NULL,
    lease_until     timestamptz,                  -- renewed by the host's supervisor; passed: the host is gone
    queue_wait      double precision NOT NULL,    -- seconds from asked (or due, for a retry) to started
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    duration        double precision,             -- seconds
    outcome         text CHECK (outcome IN ('processed', 'skipped', 'failed', 'lost')),
    reason          text NOT NULL DEFAULT '',
    counts          jsonb NOT NULL DEFAULT '{}',
    error_type      text,
    error_message   text,
    sqlstate        text,
    constraint_name text,
    fingerprint     text,
    traceback       text,
    trace_id        text NOT NULL DEFAULT '',
    span_id         text NOT NULL DEFAULT '',
    replay_of       uuid,
    retry_at        timestamptz,                  -- when the next attempt is due; null: this was the last
    uncounted       jsonb,                        -- the record, until some supervisor has counted it in its metrics
    UNIQUE (job_id, number)
) WITH (fillfactor = 85);
COMMENT ON TABLE toolkit.run IS 'Every attempt at a job; (run_id, fence) with outcome null is the holder of the job.';
CREATE INDEX run_open ON toolkit.run (lease_until) WHERE outcome IS NULL;
CREATE INDEX run_started ON toolkit.run (started_at);
CREATE INDEX run_failed ON toolkit.run (fingerprint, started_at) WHERE outcome IN ('failed', 'lost');
CREATE INDEX run_trace ON toolkit.run (trace_id);
CREATE INDEX run_uncounted ON toolkit.run (finished_at) WHERE uncounted IS NOT NULL;

-- Unlogged: recent traces cost no WAL, and are gone after a crash of the server. They are a convenience, not the truth.
CREATE UNLOGGED TABLE toolkit.trace (
    trace_id    text NOT NULL,
    job_id      text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    spans       bytea NOT NULL                    -- an OTLP ExportTraceServiceRequest
);
CREATE INDEX trace_id ON toolkit.trace (trace_id);
CREATE INDEX trace_job ON toolkit.trace (job_id);
CREATE INDEX trace_recorded ON toolkit.trace (recorded_at);

-- The guard, for a program in any language. The same rules as JobSpec.decode, from the fields that `toolkit init` wrote.
CREATE FUNCTION toolkit.check_payload(p_job_name text, p_payload jsonb) RETURNS toolkit.job_type
LANGUAGE plpgsql STABLE AS $$
DECLARE
    kind  toolkit.job_type;
    item  record;
    rule  jsonb;
    given text;
BEGIN
    SELECT * INTO kind FROM toolkit.job_type WHERE name = p_job_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no job named "%" is registered', p_job_name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'registered: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM toolkit.job_type), 'none');
    END IF;
    IF p_payload IS NULL OR jsonb_typeof(p_payload) <> 'object' THEN
        RAISE EXCEPTION 'payload of %: an object of ids is wanted', p_job_name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR item IN SELECT key, value FROM jsonb_each(p_payload) LOOP
        rule := kind.fields -> item.key;
        given := jsonb_typeof(item.value);
        IF rule IS NULL THEN
            RAISE EXCEPTION 'payload of %: unknown field "%"', p_job_name, left(item.key, 64)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'a payload carries only ' || (SELECT string_agg(k, ', ') FROM jsonb_object_keys(kind.fields) k)
                             || '; everything else is fetched when the job runs';
        ELSIF given = 'null' AND NOT (rule ->> 'required')::boolean THEN
            CONTINUE;
        ELSIF given <> rule ->> 'type' THEN
            RAISE EXCEPTION 'payload of %: field "%" is a %, a % is wanted', p_job_name, item.key, given, rule ->> 'type'
                USING ERRCODE = 'invalid_parameter_value';
        ELSIF given = 'string' AND (length(item.value #>> '{}') > (rule ->> 'max_length')::integer
                                    OR item.value #>> '{}' !~ (rule ->> 'pattern')) THEN
            RAISE EXCEPTION 'payload of %: field "%" is not an id of at most % characters', p_job_name, item.key, rule ->> 'max_length'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    FOR item IN SELECT key FROM jsonb_each(kind.fields) WHERE (value ->> 'required')::boolean LOOP
        IF NOT p_payload ? item.key THEN
            RAISE EXCEPTION 'payload of %: field "%" is missing', p_job_name, item.key USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    IF octet_length(p_payload::text) > kind.max_bytes THEN
        RAISE EXCEPTION 'payload of % has % bytes; at most % are taken', p_job_name, octet_length(p_payload::text), kind.max_bytes
            USING ERRCODE = 'invalid_parameter_value', HINT = 'pass ids and fetch the rows when the job runs';
    END IF;
    RETURN kind;
END $$;

-- Ask for a job, in the caller's own transaction. The caller may be any program; it needs no right on the tables.
CREATE FUNCTION toolkit.enqueue(
    job_name text, payload jsonb, traceparent text DEFAULT NULL, tracestate text DEFAULT NULL,
    mode text DEFAULT 'async', release text DEFAULT ''
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind toolkit.job_type := toolkit.check_payload(job_name, payload);
    id   text;
BEGIN
    INSERT INTO toolkit.intent (job_name, queue, payload, mode, traceparent, tracestate, release)
    VALUES (kind.name, kind.queue, payload, mode, left(traceparent, 64), left(tracestate, 512), left(release, 128))
    RETURNING intent.job_id INTO id;
    PERFORM pg_notify('toolkit_intent', kind.queue); -- a hint; the relay polls as well
    RETURN id;
END $$;
COMMENT ON FUNCTION toolkit.enqueue IS 'Ask for a job: SELECT toolkit.enqueue(''name'', jsonb_build_object(…)). Returns its job_id.';

-- A run that ended, as the RunRecord that its holder would have told, without samples.
CREATE FUNCTION toolkit.record_of(r toolkit.run) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'run_id', r.run_id, 'job_id', r.job_id, 'job_name', r.job_name, 'queue', r.queue, 'number', r.number, 'mode', r.mode,
        'release', r.release, 'worker', r.worker, 'host', r.host, 'outcome', r.outcome, 'reason', r.reason, 'counts', r.counts,
        'failure', CASE WHEN r.error_type IS NOT NULL THEN jsonb_build_object(
            'reason', r.reason, 'error_type', r.error_type, 'message', coalesce(r.error_message, ''),
            'sqlstate', coalesce(r.sqlstate, ''), 'constraint', coalesce(r.constraint_name, ''),
            'fingerprint', coalesce(r.fingerprint, '')) END,
        'asked_at', r.started_at - r.queue_wait * interval '1 second', 'started_at', r.started_at, 'finished_at', r.finished_at,
        'duration', r.duration, 'queue_wait', r.queue_wait, 'trace_id', r.trace_id, 'span_id', r.span_id,
        'replay_of', r.replay_of, 'retry_in', extract(epoch FROM r.retry_at - r.finished_at))
$$;

-- Give a run up as lost: its holder is gone. The record waits in `uncounted` until a supervisor has counted it.
-- A job that killed three workers (since it was asked for, or replayed) is not tried again by itself: it is done, as lost,
-- and waits for an engineer. So is one that was lost six times, leases that expired included: a job that takes down whole hosts
-- (their memory, say) leaves nobody who could say "killed". The limit is higher, for a host falls silent for many reasons
-- that are not the job's; a run whose worker never learned that it had begun did nothing, and is not counted.
CREATE FUNCTION toolkit.lose_run(p_run_id uuid, p_reason text, p_error_type text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    job    text;
BEGIN
    UPDATE toolkit.run r SET
        outcome = 'lost', reason = p_reason, error_type = p_error_type, finished_at = moment, lease_until = NULL,
        duration = extract(epoch FROM moment - r.started_at)
    WHERE r.run_id = p_run_id AND r.outcome IS NULL
    RETURNING r.job_id INTO job;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE toolkit.run r SET uncounted = toolkit.record_of(r) WHERE r.run_id = p_run_id;
    IF (SELECT count(*) FILTER (WHERE r.reason = 'killed') >= 3 OR count(*) >= 6
        FROM toolkit.run r JOIN toolkit.intent i USING (job_id)
        WHERE r.job_id = job AND r.outcome = 'lost' AND r.error_type <> 'BeginUnanswered'
              AND r.number > coalesce(i.reopened_after, 0)) THEN
        UPDATE toolkit.intent i SET done_at = moment, outcome = 'lost' WHERE i.job_id = job;
    END IF;
    RETURN true;
END $$;

-- Begin a run: become the holder of the job, or learn why not (already_done, already_running, unknown).
-- A delivery that is not needed is itself a run, skipped with that reason, so that every delivery is accounted for.
CREATE FUNCTION toolkit.begin_run(
    p_job_id text, p_worker text, p_host text, p_release text, p_lease double precision, p_mode text
) RETURNS TABLE (
    verdict text, run_id uuid, fence bigint, job_name text, queue text, payload text, number integer,
    asked_at timestamptz, started_at timestamptz, queue_wait double precision, replay_of uuid,
    retries integer, traceparent text, tracestate text, previous_run_id text, previous_trace_id text, previous_span_id text
)
LANGUAGE plpgsql AS $$
DECLARE
    asked    toolkit.intent;
    previous toolkit.run;
    linked   toolkit.run; -- the run to link to: the one before this, or the failed one that this replays
    moment   timestamptz := clock_timestamp();
    ready_at timestamptz;
    refusal  text := '';
BEGIN
    -- A run that the server forgets in a crash never was: its random run_id can never be held again.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO asked FROM toolkit.intent i WHERE i.job_id = p_job_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        verdict := 'unknown';
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT * INTO previous FROM toolkit.run r WHERE r.job_id = p_job_id ORDER BY r.number DESC LIMIT 1;
    IF asked.done_at IS NOT NULL THEN
        refusal := 'already_done';
    ELSIF previous.run_id IS NOT NULL THEN
        -- Runs whose host fell silent are given up first: one that woke late must find itself superseded.
        PERFORM toolkit.lose_run(r.run_id, 'lease_expired', 'LeaseExpired')
        FROM toolkit.run r WHERE r.job_id = p_job_id AND r.outcome IS NULL AND r.lease_until <= moment;
        IF EXISTS (SELECT FROM toolkit.intent i WHERE i.job_id = p_job_id AND i.done_at IS NOT NULL) THEN
            refusal := 'already_done'; -- that was one lost run too many
        ELSIF EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = p_job_id AND r.outcome IS NULL) THEN
            refusal := 'already_running';
        END IF;
    END IF;
    ready_at := greatest(asked.created_at, least(asked.due_at, moment), previous.finished_at);
    verdict := CASE WHEN refusal = '' THEN 'run' ELSE refusal END;
    INSERT INTO toolkit.run AS r (
        job_id, job_name, queue, number, mode, worker, host, release, lease_until, queue_wait, started_at, trace_id,
        replay_of, outcome, reason, finished_at, duration
    ) VALUES (
        p_job_id, asked.job_name, asked.queue, coalesce(previous.number, 0) + 1, p_mode, p_worker, p_host, p_release,
        CASE WHEN refusal = '' THEN moment + p_lease * interval '1 second' END,
        greatest(0, extract(epoch FROM moment - ready_at)), moment,
        CASE WHEN previous.run_id IS NULL THEN coalesce(split_part(asked.traceparent, '-', 2), '') ELSE '' END,
        CASE WHEN refusal = '' THEN asked.replay_of END, CASE WHEN refusal <> '' THEN 'skipped' END, refusal,
        CASE WHEN refusal <> '' THEN moment END, CASE WHEN refusal <> '' THEN 0 END
    )
    RETURNING r.run_id, r.fence, r.job_name, r.queue, asked.payload::text, r.number, asked.created_at, r.started_at, r.queue_wait,
              r.replay_of
    INTO run_id, fence, job_name, queue, payload, number, asked_at, started_at, queue_wait, replay_of;
    retries := 0;
    IF previous.run_id IS NOT NULL THEN
        SELECT count(*) INTO retries FROM toolkit.run r
        WHERE r.job_id = p_job_id AND r.retry_at IS NOT NULL AND r.number > coalesce(asked.reopened_after, 0);
        SELECT * INTO linked FROM toolkit.run r
        WHERE r.job_id = p_job_id AND r.number BETWEEN coalesce(asked.reopened_after, 0) + 1 AND previous.number
              AND NOT (coalesce(r.outcome, '') = 'skipped' AND r.reason IN ('already_done', 'already_running'))
        ORDER BY r.number DESC LIMIT 1;
        IF linked.run_id IS NULL AND asked.replay_of IS NOT NULL THEN
            SELECT * INTO linked FROM toolkit.run r WHERE r.run_id = asked.replay_of;
        END IF;
    END IF;
    traceparent := asked.traceparent;
    tracestate := asked.tracestate;
    previous_run_id := linked.run_id;
    previous_trace_id := linked.trace_id;
    previous_span_id := linked.span_id;
    RETURN NEXT;
END $$;

-- Raise unless this run still holds its job. Locks the run's row until the transaction ends, so that nobody can give the
-- run up as lost between the check and the write.
CREATE FUNCTION toolkit.hold_run(p_run_id uuid, p_fence bigint, p_lock_timeout text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', p_lock_timeout, true);
    PERFORM FROM toolkit.run r WHERE r.run_id = p_run_id AND r.fence = p_fence AND r.outcome IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run % no longer holds its job', p_run_id USING ERRCODE = 'TK001';
    END IF;
    RETURN true;
END $$;

-- Finish a run: only its holder may. `p` is the RunRecord as JSON. Returns the outcome that now stands in the row: another
-- than the one given means that the run had ended already (its commit's answer was lost, or it was given up as lost).
CREATE FUNCTION toolkit.finish_run(p_run_id uuid, p_fence bigint, p jsonb, p_uncounted boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    failure jsonb := coalesce(nullif(p -> 'failure', 'null'), '{}');
    moment  timestamptz := clock_timestamp();
    due     timestamptz := moment + (p ->> 'retry_in')::double precision * interval '1 second';
    job     text;
    standing text;
BEGIN
    UPDATE toolkit.run r SET
        outcome = p ->> 'outcome', reason = p ->> 'reason', counts = p -> 'counts',
        finished_at = moment, duration = (p ->> 'duration')::double precision, lease_until = NULL,
        error_type = failure ->> 'error_type', error_message = failure ->> 'message', sqlstate = failure ->> 'sqlstate',
        constraint_name = failure ->> 'constraint', fingerprint = failure ->> 'fingerprint', traceback = failure ->> 'traceback',
        retry_at = due, trace_id = p ->> 'trace_id', span_id = p ->> 'span_id', uncounted = CASE WHEN p_uncounted THEN p END
    WHERE r.run_id = p_run_id AND r.fence = p_fence AND r.outcome IS NULL
    RETURNING r.job_id INTO job;
    IF NOT FOUND THEN
        SELECT r.outcome INTO standing FROM toolkit.run r WHERE r.run_id = p_run_id;
        RETURN coalesce(standing, 'unknown');
    END IF;
    IF due IS NOT NULL THEN
        UPDATE toolkit.intent i SET due_at = due WHERE i.job_id = job;
    ELSIF p ->> 'outcome' <> 'lost' THEN
        UPDATE toolkit.intent i SET done_at = moment, outcome = p ->> 'outcome' WHERE i.job_id = job;
    END IF;
    RETURN p ->> 'outcome';
END $$;
