-- The four roles of the ledger. They are group roles without login: grant them to the logins of your programs.
--   toolkit_app       a program that asks for jobs (one that runs them itself in synchronous mode is a toolkit_worker, too)
--   toolkit_worker    workers and supervisors: write runs, and images through each job's own grants
--   toolkit_operator  an engineer on call: all that the worker may, and audit, replay, toggle
--   toolkit_observer  reads everything, writes nothing
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['toolkit_app', 'toolkit_worker', 'toolkit_operator', 'toolkit_observer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA toolkit FROM PUBLIC;
GRANT USAGE ON SCHEMA toolkit TO toolkit_app, toolkit_worker, toolkit_operator, toolkit_observer;
GRANT EXECUTE ON FUNCTION toolkit.enqueue TO toolkit_app, toolkit_worker, toolkit_operator;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA toolkit TO toolkit_worker, toolkit_operator;
GRANT SELECT ON ALL TABLES IN SCHEMA toolkit TO toolkit_worker, toolkit_operator, toolkit_observer;
GRANT INSERT, UPDATE ON toolkit.intent, toolkit.run TO toolkit_worker, toolkit_operator;
GRANT INSERT, DELETE ON toolkit.trace TO toolkit_worker, toolkit_operator;
GRANT INSERT ON toolkit.trace TO toolkit_app;
GRANT SELECT ON toolkit.alembic_version TO toolkit_app; -- is this database of my release?
GRANT USAGE ON SEQUENCE toolkit.fence TO toolkit_worker, toolkit_operator;
GRANT INSERT ON toolkit.audit TO toolkit_operator;

-- The toggle: everybody reads it and says what he sees; only an operator flips it.
GRANT SELECT ON toolkit.toggle, toolkit.toggle_history TO toolkit_app;
GRANT EXECUTE ON FUNCTION toolkit.toggle_ack, toolkit.toggle_leave TO toolkit_app;
GRANT EXECUTE ON FUNCTION toolkit.held_jobs TO toolkit_observer;
GRANT INSERT, UPDATE ON toolkit.toggle TO toolkit_operator;
GRANT INSERT ON toolkit.toggle_history TO toolkit_operator;
REVOKE EXECUTE ON FUNCTION toolkit.flip FROM toolkit_worker;
-- Replay: only an operator moves jobs; a worker only notes that a flight landed.
REVOKE EXECUTE ON FUNCTION toolkit.reopen_jobs, toolkit.lock_jobs FROM toolkit_worker;
GRANT INSERT, UPDATE ON toolkit.replay, toolkit.replay_item, toolkit.flight TO toolkit_operator;
GRANT UPDATE (landed_at, outcome) ON toolkit.flight TO toolkit_worker;
-- verify-deploy: an operator marks deployments, verifies and attests.
GRANT INSERT ON toolkit.deployment, toolkit.attestation TO toolkit_operator;
GRANT INSERT, UPDATE ON toolkit.verification, toolkit.test_order TO toolkit_operator;
