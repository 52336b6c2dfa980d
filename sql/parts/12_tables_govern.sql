-- Governance: who owns what, what disagrees, what was done by whom.

CREATE TABLE sync.owner (
    object_id       integer NOT NULL REFERENCES sync.object ON DELETE CASCADE,
    field           text NOT NULL,
    system_id       integer REFERENCES sync.system,
    on_violation    text NOT NULL CHECK (on_violation IN ('reject', 'ignore', 'correct', 'quarantine')),
    set_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    set_by          name NOT NULL DEFAULT session_user,
    attnum          smallint,
    PRIMARY KEY (object_id, field)
);
CREATE INDEX owner_system_idx ON sync.owner (system_id);
COMMENT ON TABLE sync.owner IS 'Who is authoritative for an object or a field; made by sync.set_owner(), read through sync.ownership';
COMMENT ON COLUMN sync.owner.field IS 'A column, "lines" for the lines of a document, or * for every field that has no row of its own';
COMMENT ON COLUMN sync.owner.system_id IS 'The owner; NULL is the hub itself, that is the applications that write the table';
COMMENT ON COLUMN sync.owner.on_violation IS 'What becomes of a change by anybody else: reject, ignore, correct, quarantine';
COMMENT ON COLUMN sync.owner.attnum IS 'Attribute number of the column, by which it is followed when it is renamed; kept by a trigger';

CREATE TABLE sync.conflict_policy (
    object_id       integer PRIMARY KEY REFERENCES sync.object ON DELETE CASCADE,
    policy          text NOT NULL CHECK (policy IN ('newest', 'owner', 'quarantine')),
    set_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    set_by          name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE sync.conflict_policy IS 'What decides when hub and system have both changed a field that has no owner; an object without a row: newest';
COMMENT ON COLUMN sync.conflict_policy.policy IS 'newest: the later change; owner: a person, for there is no owner; quarantine: a person';
COMMENT ON COLUMN sync.conflict_policy.set_at IS 'When it was declared';
COMMENT ON COLUMN sync.conflict_policy.set_by IS 'Who declared it';

CREATE TABLE sync.correction (
    object_id       integer NOT NULL REFERENCES sync.object ON DELETE CASCADE,
    record_id       text COLLATE "C" NOT NULL,
    field           text NOT NULL,
    system_id       integer NOT NULL REFERENCES sync.system,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (object_id, record_id, field, system_id)
);
CREATE INDEX correction_system_idx ON sync.correction (system_id);
COMMENT ON TABLE sync.correction IS 'Fields that an application changed against their owner, until the owner''s value is put back';
COMMENT ON COLUMN sync.correction.field IS 'A column, "lines", or * when the record was deleted';
COMMENT ON COLUMN sync.correction.system_id IS 'The owner, whose state the hub has asked for';
COMMENT ON COLUMN sync.correction.at IS 'When the application changed it last';

-- Ids of conflicts and of held deliveries come from one sequence, so that view sync.conflict can show
-- both under one id.
CREATE TABLE sync.conflict_entry (
    id              bigint PRIMARY KEY DEFAULT nextval('sync.pending_id_seq'),
    kind            text NOT NULL,
    object_id       integer NOT NULL REFERENCES sync.object ON DELETE CASCADE,
    record_id       text COLLATE "C",
    field           text,
    system_id       integer REFERENCES sync.system,
    remote_id       text COLLATE "C",
    hub_value       jsonb,
    hub_origin      integer,
    hub_at          timestamptz,
    remote_value    jsonb,
    remote_at       timestamptz,
    policy          text NOT NULL,
    message         text NOT NULL,
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at     timestamptz,
    resolved_by     name,
    taken           text,
    taken_value     jsonb,
    reason          text
);
CREATE UNIQUE INDEX conflict_entry_open_key
    ON sync.conflict_entry (object_id, record_id, field, system_id) NULLS NOT DISTINCT WHERE resolved_at IS NULL;
CREATE INDEX conflict_entry_record_idx ON sync.conflict_entry (object_id, record_id);
CREATE INDEX conflict_entry_system_idx ON sync.conflict_entry (system_id);
COMMENT ON TABLE sync.conflict_entry IS 'Disagreements that a person decides, open and resolved; read through sync.conflict';
COMMENT ON COLUMN sync.conflict_entry.kind IS 'What kind of disagreement: field, violation, repeated, deleted, match, merged, …';
COMMENT ON COLUMN sync.conflict_entry.system_id IS 'The system that disagrees; NULL when an application does';
COMMENT ON COLUMN sync.conflict_entry.hub_origin IS 'Who wrote the hub''s value: a system''s id, 0 an application, NULL unknown';
COMMENT ON COLUMN sync.conflict_entry.taken IS 'hub, remote, or value: what resolve_conflict() was told to take';

-- Audit. doc/audit.md says what is recorded; the chain of seals is made by 69_audit_1_seal.sql.
CREATE SEQUENCE sync.audit_seq AS bigint CACHE 1;
COMMENT ON SEQUENCE sync.audit_seq IS 'Ids of audit rows; a transaction that is rolled back leaves a gap';

CREATE FUNCTION sync._writer_incarnation()
RETURNS integer
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_writer_incarnation';
COMMENT ON FUNCTION sync._writer_incarnation() IS 'Incarnation that transaction ids of this cluster belong to; of a copy that is not adopted yet, the one to come';

CREATE FUNCTION sync._audit_wake()
RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_audit_wake';
COMMENT ON FUNCTION sync._audit_wake() IS 'Has the hub seal the audit rows of this transaction after its commit';

CREATE TABLE sync.audit (
    id              bigint PRIMARY KEY DEFAULT nextval('sync.audit_seq'),
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    incarnation     integer NOT NULL DEFAULT sync._writer_incarnation(),
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    action          text NOT NULL,
    object          text,
    record_id       text COLLATE "C",
    system          text,
    detail          jsonb NOT NULL DEFAULT '{}',
    reason          text,
    session_user_name name NOT NULL DEFAULT session_user,
    role_name       text,
    actor           text,
    correlation_id  text,
    client_addr     inet DEFAULT inet_client_addr(),
    application     text,
    salt            uuid DEFAULT gen_random_uuid(),
    content_hash    bytea
);
CREATE INDEX audit_xid_idx ON sync.audit (incarnation, xid);
CREATE INDEX audit_record_idx ON sync.audit (record_id, object) WHERE record_id IS NOT NULL;
CREATE INDEX audit_correlation_idx ON sync.audit (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX audit_system_idx ON sync.audit (system, id) WHERE action LIKE 'system.%';
CREATE INDEX audit_own_idx ON sync.audit (id) WHERE action IN ('audit.cut', 'audit.redacted');
COMMENT ON TABLE sync.audit IS 'Append-only: who did what, when, from where and why; written in the transaction of the act. Read it through sync.audit_trail';
COMMENT ON COLUMN sync.audit.incarnation IS 'Incarnation of the hub whose transaction ids xid belongs to';
COMMENT ON COLUMN sync.audit.xid IS 'Transaction of the act; with a snapshot it tells what has been sealed';
COMMENT ON COLUMN sync.audit.action IS 'What was done, as kind.verb: owner.set, conflict.resolved, approval.granted, delivery.done, …';
COMMENT ON COLUMN sync.audit.role_name IS 'Role set by SET ROLE, or none';
COMMENT ON COLUMN sync.audit.actor IS 'sync_ext.actor: the person on whose behalf an application acts';
COMMENT ON COLUMN sync.audit.salt IS 'Goes into the hash of detail and reason, and is deleted with what was erased of them';
COMMENT ON COLUMN sync.audit.content_hash IS 'Salted hash of detail and reason as they were, when something was erased of them; else NULL';

-- Seals are the links of the chain. A seal holds the ids of its rows, because ids commit out of order, and
-- the hash of each, so that a row that was changed can be named.
CREATE TABLE sync.audit_seal (
    id              bigint PRIMARY KEY,
    sealed_at       timestamptz NOT NULL,
    incarnation     integer NOT NULL,
    snapshot        pg_snapshot NOT NULL,
    began_after     timestamptz NOT NULL,
    ids             bigint[] NOT NULL,
    leaves          bytea[] NOT NULL,
    total           bigint NOT NULL,
    prev_hash       bytea NOT NULL,
    hash            bytea NOT NULL
);
COMMENT ON TABLE sync.audit_seal IS 'The chain over sync.audit: each seal holds the hashes of the rows that had committed since the one before, and is hashed with that one''s hash';
COMMENT ON COLUMN sync.audit_seal.id IS 'Counts seals without a gap';
COMMENT ON COLUMN sync.audit_seal.sealed_at IS 'When it was made';
COMMENT ON COLUMN sync.audit_seal.incarnation IS 'Incarnation of the hub that snapshot belongs to';
COMMENT ON COLUMN sync.audit_seal.snapshot IS 'Every row visible here is in this seal or an earlier one';
COMMENT ON COLUMN sync.audit_seal.began_after IS 'Transactions with ids from the snapshot''s xmax on began after this instant: a row of theirs that says it is older was backdated';
COMMENT ON COLUMN sync.audit_seal.ids IS 'Rows of sync.audit in it, ascending';
COMMENT ON COLUMN sync.audit_seal.leaves IS 'SHA-256 of each of these rows, in the same order';
COMMENT ON COLUMN sync.audit_seal.total IS 'Rows in this seal and all before it, those that retention has cut included';
COMMENT ON COLUMN sync.audit_seal.prev_hash IS 'Hash of the seal before; zeros for the first';
COMMENT ON COLUMN sync.audit_seal.hash IS 'SHA-256 over all of the above; what is written to the anchor';

-- A hurdle: nobody has the privilege anyway, and what a superuser does in spite of it the chain tells.
-- The two functions that may take something out say so first, in a row of their transaction.
CREATE FUNCTION sync._audit_refuse()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP <> 'TRUNCATE' AND EXISTS (
        SELECT FROM sync.audit a
         WHERE a.incarnation = sync._writer_incarnation() AND a.xid = pg_current_xact_id_if_assigned()
           AND a.action = CASE TG_OP WHEN 'DELETE' THEN 'audit.cut' WHEN 'UPDATE' THEN 'audit.redacted' END) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only'
        USING ERRCODE = 'SE070', TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA,
              DETAIL = format('%s on sync.%I was refused.', TG_OP, TG_TABLE_NAME),
              HINT = 'Past retention sync.cut_audit() cuts its old end; sync.erase() takes personal data out of it.';
END
$$;
COMMENT ON FUNCTION sync._audit_refuse() IS 'Refuses to change or delete audit rows and seals';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON sync.audit
    FOR EACH STATEMENT EXECUTE FUNCTION sync._audit_refuse();
COMMENT ON TRIGGER append_only ON sync.audit IS 'Refuses changes and deletions';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON sync.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION sync._audit_refuse();
COMMENT ON TRIGGER append_only ON sync.audit_seal IS 'Refuses changes and deletions';

CREATE FUNCTION sync._audit(action text, object text DEFAULT NULL, record_id text DEFAULT NULL, system text DEFAULT NULL,
                            detail jsonb DEFAULT '{}', reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    personal record;
    salt bytea;
    hashed jsonb := coalesce(detail, '{}');
    made bigint;
BEGIN
    -- Rows are never changed, so no value may stand in them that must be erased one day.
    SELECT p.object_id, array_agg(p.field) AS fields INTO personal
      FROM sync.personal_field p JOIN sync.object o ON o.id = p.object_id AND o.name = $2 GROUP BY p.object_id;
    IF FOUND THEN
        salt := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
        hashed := sync._hash_personal(hashed, personal.fields, salt);
    END IF;
    INSERT INTO sync.audit (action, object, record_id, system, detail, reason, role_name, actor, correlation_id, application)
    VALUES ($1, $2, $3, $4, hashed, coalesce($6, nullif(current_setting('sync_ext.reason', true), '')),
            current_setting('role'), nullif(current_setting('sync_ext.actor', true), ''),
            nullif(current_setting('sync_ext.correlation_id', true), ''), nullif(current_setting('application_name'), ''))
    RETURNING audit.id INTO made;
    IF hashed IS DISTINCT FROM coalesce(detail, '{}') THEN
        INSERT INTO sync.audit_salt (audit_id, object_id, record_id, salt) VALUES (made, personal.object_id, $3, salt);
    END IF;
    PERFORM sync._audit_wake();
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync._audit(text, text, text, text, jsonb, text) IS 'Writes an audit row for an act of this transaction; returns its id. Never give it a secret';

-- What a row was and is, for detail: columns that differ, without those that only the hub itself keeps.
CREATE FUNCTION sync._audit_change(old jsonb, new jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'new', (SELECT jsonb_object_agg(n.key, n.value) FROM jsonb_each(new) n
                 WHERE n.value IS DISTINCT FROM coalesce(old -> n.key, 'null') AND n.key <> ALL (hidden)),
        'old', (SELECT jsonb_object_agg(o.key, o.value) FROM jsonb_each(old) o
                 WHERE jsonb_typeof(old) = 'object' AND old ->> 'id' IS NOT NULL
                   AND o.value IS DISTINCT FROM coalesce(new -> o.key, 'null') AND o.key <> ALL (hidden))))
      FROM (VALUES ('{attributes,table_oid,line_oid,server_oid,created_at,created_by}'::text[])) h (hidden)
$$;
COMMENT ON FUNCTION sync._audit_change(jsonb, jsonb) IS 'What differs between two states of a row of the registry';

COMMENT ON COLUMN sync.owner.set_at IS 'When it was declared';
COMMENT ON COLUMN sync.owner.set_by IS 'Who declared it';
COMMENT ON COLUMN sync.conflict_entry.field IS 'The field that disagrees; NULL when the record as a whole does';
COMMENT ON COLUMN sync.conflict_entry.hub_value IS 'What the hub holds';
COMMENT ON COLUMN sync.conflict_entry.hub_at IS 'When the hub''s value was written, as far as known';
COMMENT ON COLUMN sync.conflict_entry.remote_value IS 'What the other side says';
COMMENT ON COLUMN sync.conflict_entry.remote_at IS 'When the other side changed it, by its own clock where it tells';
COMMENT ON COLUMN sync.conflict_entry.policy IS 'The policy that asked for a person, in words';
COMMENT ON COLUMN sync.conflict_entry.opened_at IS 'When it was found';
COMMENT ON COLUMN sync.conflict_entry.resolved_at IS 'When it was decided; NULL: open';
COMMENT ON COLUMN sync.conflict_entry.resolved_by IS 'Who decided';
COMMENT ON COLUMN sync.conflict_entry.taken_value IS 'The value that was decided for';
COMMENT ON COLUMN sync.audit.detail IS 'What was done, in full: old and new values, arguments';
COMMENT ON COLUMN sync.audit.session_user_name IS 'The role that logged in';
COMMENT ON COLUMN sync.audit.correlation_id IS 'sync_ext.correlation_id of the transaction';
COMMENT ON COLUMN sync.audit.client_addr IS 'Where the session came from; NULL: a local socket';
COMMENT ON COLUMN sync.audit.application IS 'application_name of the session';
