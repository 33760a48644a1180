-- Every operator's act: who, what, why, when. Append only: no role may change or remove a row, not even its owner.

CREATE TABLE toolkit.audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    who      text NOT NULL,                       -- the operator: TOOLKIT_OPERATOR, else user@host
    action   text NOT NULL,                       -- 'replay', 'toggle', 'repair', …
    subject  text NOT NULL,                       -- what it was done to: a plan's hash, a toggle's name, a job's id
    reason   text NOT NULL,
    detail   jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_action ON toolkit.audit (action, audit_id);

CREATE FUNCTION toolkit.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'toolkit.% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON toolkit.audit
    FOR EACH STATEMENT EXECUTE FUNCTION toolkit.refuse_change();
