-- Capture: the triggers of tracked tables, and what keeps their caches true.

CREATE FUNCTION sync.capture() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_capture';
COMMENT ON FUNCTION sync.capture() IS 'Trigger of a tracked table: puts its changes into the outbox; made by sync.track()';

CREATE FUNCTION sync.capture_line() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_capture_line';
COMMENT ON FUNCTION sync.capture_line() IS 'Trigger of a table of lines: their document becomes an event at commit; made by sync.track()';

CREATE FUNCTION sync.is_applying() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'se_is_applying';
COMMENT ON FUNCTION sync.is_applying() IS 'Whether the current change was pulled from a system (true) or comes from an app';

CREATE FUNCTION sync._registry_changed() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_registry_changed';
COMMENT ON FUNCTION sync._registry_changed() IS 'Tells every backend that what it has cached of this table is stale';

CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sync.object
    FOR EACH STATEMENT EXECUTE FUNCTION sync._registry_changed();
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sync.hub
    FOR EACH STATEMENT EXECUTE FUNCTION sync._registry_changed();
-- Also when a replication or restore tool runs as a replica.
ALTER TABLE sync.object ENABLE ALWAYS TRIGGER registry_changed;
ALTER TABLE sync.hub ENABLE ALWAYS TRIGGER registry_changed;

-- Triggers are not asked for EXECUTE when they fire, only when they are made.
REVOKE ALL ON FUNCTION sync.capture(), sync.capture_line(), sync.is_applying(), sync._registry_changed()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.capture(), sync.capture_line() TO sync_admin;
GRANT EXECUTE ON FUNCTION sync.is_applying()
    TO sync_admin, sync_operator, sync_approver, sync_auditor, sync_analyst, sync_app, sync_worker;
