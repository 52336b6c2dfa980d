-- Schema and roles. A schema `sync` that is already there belongs to somebody: using it would let its
-- owner plant objects that our functions then call, so the install refuses it instead of adopting it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'sync') THEN
        RAISE EXCEPTION 'schema "sync" already exists'
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'sync_ext keeps its objects in a schema of its own, named sync.',
                  HINT = 'Rename or drop the existing schema, then run CREATE EXTENSION sync_ext again.';
    END IF;
END
$$;

CREATE SCHEMA sync;
COMMENT ON SCHEMA sync IS 'sync_ext: outbox, routes, streams, history and the functions that drive them';

-- Roles are cluster-wide: another database may have made them already, and they outlive DROP EXTENSION.
DO $$
DECLARE
    role_name name;
    role_comment text;
BEGIN
    FOR role_name, role_comment IN
        VALUES ('sync_admin'::name, 'sync_ext: sets up connectors, tracking, routes and streams'),
               ('sync_operator', 'sync_ext: pauses, resumes, retries, discards, asks for pulls'),
               ('sync_approver', 'sync_ext: approves and rejects what policies hold for a second person'),
               ('sync_auditor', 'sync_ext: reads everything, history and audit included'),
               ('sync_analyst', 'sync_ext: reads canonical tables and business views'),
               ('sync_app', 'sync_ext: writes canonical tables and asks after its own records'),
               ('sync_worker', 'sync_ext: the role of the background workers; grant it to nobody')
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXECUTE format('COMMENT ON ROLE %I IS %L', role_name, role_comment);
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON SCHEMA sync FROM PUBLIC;
GRANT USAGE ON SCHEMA sync
    TO sync_admin, sync_operator, sync_approver, sync_auditor, sync_analyst, sync_app, sync_worker;
