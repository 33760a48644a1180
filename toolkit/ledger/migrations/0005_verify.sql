-- verify-deploy: which release came when, what was found of it, its test orders, and what people attested.

CREATE TABLE toolkit.deployment (
    deployment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release       text NOT NULL CHECK (release <> ''),
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    who           text NOT NULL,
    note          text NOT NULL DEFAULT ''
);
COMMENT ON TABLE toolkit.deployment IS 'Deployments as they were marked: toolkit verify-deploy mark --release ID.';
CREATE INDEX deployment_at ON toolkit.deployment (at);

CREATE TABLE toolkit.verification (
    verification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release      text NOT NULL,
    since        timestamptz NOT NULL,             -- evidence counts from here
    asked        jsonb NOT NULL,                  -- what was asked for: phases, checks, rules, top-up; as toolkit.verify.asked reads it
    who          text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    verdict      text NOT NULL DEFAULT 'pending' CHECK (verdict IN ('proven', 'regression', 'inconclusive', 'pending')),
    receipt      jsonb,                           -- as it stood when last looked
    runner       text,                            -- who looks right now: host and pid
    runner_until timestamptz,                     -- unless it has fallen silent
    rescued_at   timestamptz,                     -- --on-fail acted, once
    annotation   text                             -- its annotation in Grafana
);
COMMENT ON TABLE toolkit.verification IS 'One verify-deploy, from its first look to its verdict.';
CREATE INDEX verification_release ON toolkit.verification (release, verification_id);

CREATE TABLE toolkit.test_order (
    verification_id bigint NOT NULL REFERENCES toolkit.verification ON DELETE CASCADE,
    number     integer NOT NULL,
    purpose    text NOT NULL CHECK (purpose IN ('probe', 'end-to-end', 'top-up')),
    job_id     text NOT NULL REFERENCES toolkit.intent ON DELETE CASCADE,
    subject    text NOT NULL,                     -- the order in the catalog
    placed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    cleaned_at timestamptz,                       -- its rows are gone from the catalog; its runs stay in the ledger
    PRIMARY KEY (verification_id, number)
);
COMMENT ON TABLE toolkit.test_order IS 'Orders that verify-deploy placed: evidence, and nobody''s business.';
CREATE UNIQUE INDEX test_order_job ON toolkit.test_order (job_id);
CREATE INDEX test_order_there ON toolkit.test_order (placed_at) WHERE cleaned_at IS NULL;

CREATE TABLE toolkit.attestation (
    attestation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what        text NOT NULL,                    -- user-satisfaction
    release     text NOT NULL,
    evidence    text NOT NULL,                    -- a URL
    who         text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_until timestamptz NOT NULL
);
COMMENT ON TABLE toolkit.attestation IS 'What a person vouches for, where there is no data. Append only.';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON toolkit.attestation
    FOR EACH STATEMENT EXECUTE FUNCTION toolkit.refuse_change();

-- A release's runs, and integrity errors, whatever the ledger's size.
CREATE INDEX run_release ON toolkit.run (release, started_at);
CREATE INDEX run_integrity ON toolkit.run (started_at) WHERE sqlstate LIKE '23%';
