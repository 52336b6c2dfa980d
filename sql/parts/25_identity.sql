-- Identity: a copy never speaks. doc/architecture.md, "Copies".

CREATE FUNCTION sync._identity(
    OUT state text, OUT reason text, OUT hint text, OUT hub_id uuid, OUT incarnation integer,
    OUT system_identifier bigint, OUT database_oid oid, OUT timeline integer, OUT permit boolean)
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_identity';
COMMENT ON FUNCTION sync._identity() IS 'What this cluster is, against what was adopted';

CREATE FUNCTION sync._permit_write(hub_id uuid)
RETURNS void
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'se_permit_write';
COMMENT ON FUNCTION sync._permit_write(uuid) IS 'Adds a hub to the permit file in sync_ext.secrets_dir';

CREATE FUNCTION sync._library_version()
RETURNS text
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_library_version';
COMMENT ON FUNCTION sync._library_version() IS 'Version of the loaded library, to be compared with that of the SQL objects';

CREATE FUNCTION sync._preloaded()
RETURNS boolean
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_preloaded';
COMMENT ON FUNCTION sync._preloaded() IS 'Whether shared_preload_libraries brought the library, so that workers can run';

CREATE FUNCTION sync._incarnation()
RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT h.incarnation FROM sync.hub h), 0)
$$;
COMMENT ON FUNCTION sync._incarnation() IS 'Current incarnation of the hub; 0 before it was adopted';

-- The launcher serves databases where sync_ext.enabled is not off; a TEMPLATE copy and a restore
-- without -C come without settings of the database.
CREATE FUNCTION sync._enable()
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET sync_ext.enabled = on', current_database());
    PERFORM sync._register();
END
$$;
COMMENT ON FUNCTION sync._enable() IS 'Marks this database as one with a hub and has the launcher look';

-- The state of a foreign server with what changed since its last audit row, and references to secrets, never
-- secrets: of a user mapping the validator lets nothing else in but a user's name.
CREATE FUNCTION sync._audit_system(action text, system text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._audit($1, NULL, NULL, $2, now.state || CASE WHEN last.detail IS NOT NULL THEN
               jsonb_build_object('before', (SELECT coalesce(jsonb_object_agg(b.key, b.value), '{}')
                                               FROM jsonb_each(last.detail - 'before') b WHERE b.value IS DISTINCT FROM now.state -> b.key)) ELSE '{}' END)
      FROM (SELECT jsonb_build_object(
                       'options', s.options, 'owner', pg_get_userbyid(s.owner),
                       'credentials', (SELECT coalesce(jsonb_object_agg(c.key, CASE WHEN c.value #>> '{}' ~ '^(file|env):' THEN c.value ELSE '"(given)"' END), '{}')
                                         FROM jsonb_each(sync._system_secrets(s.name)) c)) AS state
              FROM sync._server s WHERE s.name = $2) now
      LEFT JOIN LATERAL (SELECT a.detail FROM sync.audit a
                          WHERE a.system = $2 AND a.action LIKE 'system.%' AND a.detail ? 'options' ORDER BY a.id DESC LIMIT 1) last ON true
$$;
COMMENT ON FUNCTION sync._audit_system(text, text) IS 'Writes an audit row with the state of a foreign server, and how it was before';

CREATE FUNCTION sync.adopt_cluster(same boolean DEFAULT false, hub_id uuid DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here record;
    hub sync.hub;
    newest_known xid8;
    taken integer;
    said text;
BEGIN
    SELECT i.* INTO here FROM sync._identity() i;
    IF here.state = 'standby' THEN
        RAISE EXCEPTION 'a standby cannot be adopted'
            USING ERRCODE = 'SE002', HINT = 'Promote it first; with the permit in place it then speaks by itself.';
    END IF;
    -- One adoption at a time.
    LOCK TABLE sync.hub IN SHARE ROW EXCLUSIVE MODE;
    SELECT h.* INTO hub FROM sync.hub h;

    IF adopt_cluster.hub_id <> hub.hub_id THEN
        RAISE EXCEPTION 'this is hub %, not hub %', hub.hub_id, adopt_cluster.hub_id
            USING ERRCODE = 'SE002', HINT = 'hub_id is for a new hub whose permit was written beforehand; leave it out.';
    END IF;
    IF hub.hub_id IS NULL AND same THEN
        RAISE EXCEPTION 'there is nothing to adopt again: this database never was a hub'
            USING ERRCODE = 'SE002', HINT = 'Run SELECT sync.adopt_cluster() without arguments.';
    ELSIF hub.hub_id IS NULL THEN
        -- Rows that a restore without sync.hub brought along keep older numbers than ours.
        SELECT coalesce(max(c.incarnation), 0) INTO taken FROM sync.checkpoint c;
        hub.hub_id := coalesce(adopt_cluster.hub_id, gen_random_uuid());
        hub.incarnation := taken + 1;
        said := 'adopted as a new hub';
    ELSIF here.state IN ('ok', 'promoted') AND here.permit THEN
        PERFORM sync._enable();
        RETURN format('already adopted: hub %s, incarnation %s', hub.hub_id, hub.incarnation);
    ELSIF same THEN
        IF NOT here.permit THEN
            RAISE EXCEPTION 'this is not known to be the same hub: the permit is missing'
                USING ERRCODE = 'SE002',
                      DETAIL = 'After pg_upgrade or a move the permit of the old place is still, or was brought, in sync_ext.secrets_dir.',
                      HINT = format('If it is the same, write this line into the file hub_id there: %s. If it is a copy, run sync.adopt_cluster() without arguments.', hub.hub_id);
        END IF;
        SELECT max(pg_snapshot_xmax(c.window_end)) INTO newest_known
          FROM sync.checkpoint c WHERE c.incarnation = hub.incarnation;
        IF newest_known > pg_snapshot_xmax(pg_current_snapshot()) THEN
            RAISE EXCEPTION 'this is not the same hub: its cursors know transactions that this cluster has not reached'
                USING ERRCODE = 'SE002',
                      DETAIL = format('Cursors reach transaction %s, the cluster is at %s.', newest_known,
                                      pg_snapshot_xmax(pg_current_snapshot())),
                      HINT = 'pg_upgrade keeps transaction ids, a dump does not. Run sync.adopt_cluster() without arguments.';
        END IF;
        -- Until now this looked like a copy, so what was written here was put down to the incarnation
        -- that an adoption would have begun.
        UPDATE sync.outbox SET incarnation = hub.incarnation WHERE incarnation = hub.incarnation + 1;
        UPDATE sync.mirror_history SET incarnation = hub.incarnation WHERE incarnation = hub.incarnation + 1;
        said := 'adopted as the same hub';
    ELSE
        hub.incarnation := hub.incarnation + 1;
        -- What had changed since a reconciliation that knew other transaction ids tells nobody anything.
        DELETE FROM sync.mirror_history WHERE fields IS NULL;
        said := 'adopted';
    END IF;

    PERFORM sync._permit_write(hub.hub_id);
    INSERT INTO sync.hub AS h (hub_id, incarnation, system_identifier, database_oid, timeline, suspect_before)
    VALUES (hub.hub_id, hub.incarnation, here.system_identifier, here.database_oid, here.timeline, NULL)
    ON CONFLICT ON CONSTRAINT hub_pkey DO UPDATE
       SET incarnation = EXCLUDED.incarnation,
           system_identifier = EXCLUDED.system_identifier,
           database_oid = EXCLUDED.database_oid,
           timeline = EXCLUDED.timeline,
           -- What the other place delivered after the copy was taken is not known here.
           suspect_before = CASE WHEN same AND here.state <> 'recovered' THEN h.suspect_before
                                 ELSE clock_timestamp() END,
           adopted_xid = pg_current_xact_id(),
           adopted_at = clock_timestamp(),
           adopted_by = session_user;
    PERFORM sync._audit('hub.adopted', detail => jsonb_strip_nulls(jsonb_build_object(
        'hub_id', hub.hub_id, 'incarnation', hub.incarnation, 'as', said, 'found', here.state,
        'system_identifier', here.system_identifier, 'timeline', here.timeline)));
    -- Servers that a restore made, or that were there before the first adoption, have no audit row of their own.
    PERFORM sync._audit_system('system.adopted', s.name) FROM sync._server s;
    PERFORM sync._enable();
    RETURN format('%s: hub %s, incarnation %s', said, hub.hub_id, hub.incarnation);
END
$$;
COMMENT ON FUNCTION sync.adopt_cluster(boolean, uuid) IS 'Lets this database speak: a new hub, a copy that takes over, or (same) the hub after pg_upgrade or a move';

CREATE FUNCTION sync.hub_status(OUT speaks boolean, OUT reason text, OUT hint text, OUT hub_id uuid, OUT incarnation integer)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.state IN ('ok', 'promoted'), i.reason, i.hint, i.hub_id, i.incarnation FROM sync._identity() i
$$;
COMMENT ON FUNCTION sync.hub_status() IS 'Whether this hub may speak, and why not';

-- DROP EXTENSION leaves the setting behind, harmlessly: without the extension the launcher finds
-- nothing to do here.
SELECT sync._enable();
