-- DDL on what the registry names: renames are followed, drops of what is in use are refused.
-- The registry holds names (a dump keeps those); OIDs and attribute numbers beside them are a cache
-- that tells what a name belonged to before it changed. Event triggers do not fire with
-- session_replication_role = replica: a superuser's way past the refusals.

-- Keeps the cache. Runs at the load of a dump too, so it never fails for a table that is missing.
CREATE FUNCTION sync._object_cache()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.table_oid := to_regclass(format('%I.%I', NEW.schema_name, NEW.table_name));
    NEW.line_oid := CASE WHEN NEW.line_table IS NOT NULL THEN to_regclass(format('%I.%I', NEW.line_schema, NEW.line_table)) END;
    NEW.attributes := jsonb_build_object(
        'table', (SELECT coalesce(jsonb_object_agg(a.attname, a.attnum), '{}') FROM pg_attribute a
                   WHERE a.attrelid = NEW.table_oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND a.attname = ANY (NEW.key_columns || NEW.volatile_columns || NEW.number_column)),
        'line', (SELECT coalesce(jsonb_object_agg(a.attname, a.attnum), '{}') FROM pg_attribute a
                  WHERE a.attrelid = NEW.line_oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.attname = ANY (NEW.line_parent_columns || NEW.line_key_columns)));
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync._object_cache() IS 'Keeps the OIDs and attribute numbers that sync.object names';

CREATE TRIGGER cache BEFORE INSERT OR UPDATE ON sync.object
    FOR EACH ROW EXECUTE FUNCTION sync._object_cache();
COMMENT ON TRIGGER cache ON sync.object IS 'Keeps the OIDs and attribute numbers that the row names';

-- The same columns under their present names; columns that are gone fall out.
CREATE FUNCTION sync._follow_columns(relation oid, columns name[], known jsonb)
RETURNS name[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(coalesce(a.attname, c.name) ORDER BY c.n)
      FROM unnest(columns) WITH ORDINALITY c (name, n)
      LEFT JOIN pg_attribute a ON a.attrelid = relation AND NOT a.attisdropped
                              AND a.attnum = (known ->> c.name)::smallint
     WHERE NOT known ? c.name OR a.attname IS NOT NULL
$$;
COMMENT ON FUNCTION sync._follow_columns(oid, name[], jsonb) IS 'Column names after a rename, by attribute number';

-- The row as it should be by the catalog; as it is when the table is gone.
CREATE FUNCTION sync._followed(o sync.object)
RETURNS sync.object
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known constant jsonb := o.attributes;
BEGIN
    SELECT n.nspname, c.relname INTO o.schema_name, o.table_name
      FROM (VALUES (1)) one
      LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace) ON c.oid = o.table_oid;
    IF o.table_name IS NULL THEN
        RETURN NULL;
    END IF;
    o.key_columns := sync._follow_columns(o.table_oid, o.key_columns, known -> 'table');
    o.volatile_columns := coalesce(sync._follow_columns(o.table_oid, o.volatile_columns, known -> 'table'), '{}');
    o.number_column := (sync._follow_columns(o.table_oid, ARRAY[o.number_column], known -> 'table'))[1];
    IF o.line_oid IS NOT NULL THEN
        SELECT n.nspname, c.relname INTO o.line_schema, o.line_table
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = o.line_oid;
        o.line_parent_columns := sync._follow_columns(o.line_oid, o.line_parent_columns, known -> 'line');
        o.line_key_columns := sync._follow_columns(o.line_oid, o.line_key_columns, known -> 'line');
    END IF;
    RETURN o;
END
$$;
COMMENT ON FUNCTION sync._followed(sync.object) IS 'A row of sync.object under the present names of its tables and columns; NULL when its table is gone';

-- Runs at everybody's ALTER TABLE, temporary tables included. A lock taken here lasts as long as
-- that transaction, and a locked row of sync.object stops the hub, so only rows that change are
-- locked: those can only be changed by who owns the table.
CREATE FUNCTION sync._follow_tables()
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    before sync.object;
    changed integer;
BEGIN
    FOR changed IN
        SELECT t.id FROM sync.object t
         CROSS JOIN LATERAL (SELECT sync._followed(t) AS row) f
         WHERE t.table_oid IS NOT NULL AND (f.row).id IS NOT NULL AND f.row IS DISTINCT FROM t
         ORDER BY t.id
    LOOP
        SELECT t.* INTO before FROM sync.object t WHERE t.id = changed FOR UPDATE;
        o := sync._followed(before);
        CONTINUE WHEN o.id IS NULL OR o = before;

        IF cardinality(o.key_columns) IS DISTINCT FROM cardinality(before.key_columns)
           OR cardinality(o.line_parent_columns) IS DISTINCT FROM cardinality(before.line_parent_columns)
           OR cardinality(o.line_key_columns) IS DISTINCT FROM cardinality(before.line_key_columns) THEN
            RAISE EXCEPTION 'cannot drop a key column of object "%"', o.name
                USING ERRCODE = 'SE013',
                      DETAIL = format('Records of table %I.%I are identified by it.', o.schema_name, o.table_name),
                      HINT = format('Run SELECT sync.untrack(%L) first.', o.name);
        END IF;
        IF before.number_column IS NOT NULL AND o.number_column IS NULL THEN
            RAISE NOTICE 'object "%" has no column with a business number any more', o.name
                USING HINT = 'Views show ids only; track the table again to name another column.';
        END IF;
        IF o.key_columns <> before.key_columns OR o.number_column <> before.number_column
           OR o.line_parent_columns <> before.line_parent_columns OR o.line_key_columns <> before.line_key_columns THEN
            RAISE NOTICE 'columns of object "%" were renamed', o.name
                USING DETAIL = 'Keys and business number are followed.',
                      HINT = 'Conditions of routes and mappings of connectors name columns themselves: check those.';
        END IF;
        UPDATE sync.object t
           SET schema_name = o.schema_name, table_name = o.table_name, key_columns = o.key_columns,
               volatile_columns = o.volatile_columns, number_column = o.number_column,
               line_schema = o.line_schema, line_table = o.line_table,
               line_parent_columns = o.line_parent_columns, line_key_columns = o.line_key_columns
         WHERE t.id = o.id;
    END LOOP;
    UPDATE sync.owner w SET field = a.attname
      FROM sync.object t, pg_attribute a
     WHERE t.id = w.object_id AND a.attrelid = t.table_oid AND a.attnum = w.attnum
       AND a.attname <> w.field AND NOT a.attisdropped
       AND NOT EXISTS (SELECT FROM sync.owner other WHERE other.object_id = w.object_id AND other.field = a.attname);
END
$$;
COMMENT ON FUNCTION sync._follow_tables() IS 'Follows renames of tracked tables, their schemas and their columns';

-- Triggers that are missing or switched off where owners were declared, with the partitions.
CREATE VIEW sync._guard_gap AS
SELECT o.name AS object, t.relid::pg_catalog.regclass AS relation, n.trigger_name, g.oid IS NULL AS missing
  FROM sync.object o
 CROSS JOIN LATERAL (
        SELECT g.relation, g.trigger_name FROM sync._guards_of(o.id) g WHERE g.trigger_name <> 'sync_guard_truncate'
        UNION ALL
        SELECT r, 'sync_capture'::pg_catalog.name FROM (VALUES (o.table_oid), (o.line_oid)) c (r)
         WHERE r IS NOT NULL AND o.captured) n
 CROSS JOIN LATERAL (SELECT n.relation::pg_catalog.oid AS relid
                     UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(n.relation) p) t
  LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.relid AND g.tgname = n.trigger_name
 WHERE EXISTS (SELECT FROM sync.owner w WHERE w.object_id = o.id AND w.system_id IS NOT NULL)
   AND (g.oid IS NULL OR g.tgenabled NOT IN ('O', 'A'));
COMMENT ON VIEW sync._guard_gap IS 'Triggers that declared owners need and that are missing or disabled';
COMMENT ON COLUMN sync._guard_gap.relation IS 'Table or partition that lacks it';
COMMENT ON COLUMN sync._guard_gap.trigger_name IS 'Trigger that should be there and fire';
COMMENT ON COLUMN sync._guard_gap.missing IS 'Whether it is not there at all';

-- After ALTER TABLE a trigger that is missing is nobody's doing: a restore makes triggers last.
CREATE FUNCTION sync._refuse_guard_gap(relation oid, dropped boolean)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gap record;
BEGIN
    SELECT g.* INTO gap FROM sync._guard_gap g
     WHERE (dropped OR NOT g.missing)
       AND (g.relation = _refuse_guard_gap.relation
            OR g.relation IN (SELECT p.relid FROM pg_partition_tree(_refuse_guard_gap.relation) p)) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'trigger "%" of table % cannot be dropped or disabled', gap.trigger_name, gap.relation
            USING ERRCODE = 'SE013',
                  DETAIL = format('It holds applications to the owners of fields of object "%s".', gap.object),
                  HINT = 'View sync.ownership shows the owners; sync.drop_owner() takes a declaration back.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._refuse_guard_gap(oid, boolean) IS 'Refuses what would switch ownership off behind the declaration';

CREATE FUNCTION sync._follow_systems()
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.system y SET name = s.name
      FROM sync._server s
     WHERE s.oid = y.server_oid AND s.name <> y.name
       AND NOT EXISTS (SELECT FROM sync.system other WHERE other.name = s.name)
$$;
COMMENT ON FUNCTION sync._follow_systems() IS 'Follows renames of foreign servers';

-- A restore makes the servers first and loads the audit trail later: a row written in between would stand in
-- its way. Until the hub is adopted servers leave no audit rows; adopt_cluster() then writes down all there are.
CREATE FUNCTION sync._audits_ddl()
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM sync.hub)
$$;
COMMENT ON FUNCTION sync._audits_ddl() IS 'Whether changes of foreign servers are audited: not before the hub is adopted';

CREATE FUNCTION sync._on_ddl()
RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mapping record;
BEGIN
    -- An update of the extension may find these tables half-way between two versions.
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d WHERE d.in_extension) THEN
        RETURN;
    END IF;
    IF TG_TAG IN ('ALTER TABLE', 'ALTER SCHEMA') THEN
        PERFORM sync._follow_tables();
        PERFORM sync._note_event_schema(o.id)
           FROM sync.object o
          WHERE EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d
                         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid IN (o.table_oid, o.line_oid));
        PERFORM sync._refuse_guard_gap(d.objid, false) FROM pg_event_trigger_ddl_commands() d
          WHERE TG_TAG = 'ALTER TABLE' AND d.classid = 'pg_catalog.pg_class'::regclass
            AND EXISTS (SELECT FROM sync.owner);
    ELSIF TG_TAG IN ('CREATE SERVER', 'ALTER SERVER') THEN
        IF sync._audits_ddl() THEN
            PERFORM sync._audit('system.renamed', NULL, NULL, s.name, jsonb_build_object('from', y.name))
               FROM sync._server s JOIN sync.system y ON y.server_oid = s.oid AND y.name <> s.name;
        END IF;
        PERFORM sync._follow_systems();
        IF sync._audits_ddl() THEN
            PERFORM sync._audit_system(CASE TG_TAG WHEN 'CREATE SERVER' THEN 'system.created' ELSE 'system.altered' END, s.name)
               FROM pg_event_trigger_ddl_commands() d JOIN sync._server s ON s.oid = d.objid
              WHERE d.classid = 'pg_catalog.pg_foreign_server'::regclass;
        END IF;
    ELSE
        IF sync._audits_ddl() THEN
            PERFORM sync._audit_system('system.credentials', s.name)
               FROM pg_event_trigger_ddl_commands() d
               JOIN pg_user_mapping m ON m.oid = d.objid AND m.umuser = 0
               JOIN sync._server s ON s.oid = m.umserver
              WHERE d.classid = 'pg_catalog.pg_user_mapping'::regclass;
        END IF;
        FOR mapping IN
            SELECT s.name, pg_get_userbyid(m.umuser) AS role
              FROM pg_event_trigger_ddl_commands() d
              JOIN pg_user_mapping m ON m.oid = d.objid AND m.umuser <> 0
              JOIN sync._server s ON s.oid = m.umserver
             WHERE d.classid = 'pg_catalog.pg_user_mapping'::regclass
        LOOP
            RAISE WARNING 'the user mapping of "%" for system "%" is not used', mapping.role, mapping.name
                USING DETAIL = 'A system has one account, that of the mapping for PUBLIC.',
                      HINT = 'Use CREATE USER MAPPING FOR PUBLIC.';
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._on_ddl() IS 'Event trigger: follows renames of what the registry names';

CREATE FUNCTION sync._on_drop()
RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped record;
    reason text;
BEGIN
    FOR dropped IN
        SELECT o.id, o.name, d.object_identity, o.captured, d.objid = o.line_oid AS line
          FROM pg_event_trigger_dropped_objects() d
          JOIN sync.object o ON d.objid IN (o.table_oid, o.line_oid)
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0
    LOOP
        SELECT coalesce(
            (SELECT format('Route "%s" sends its changes.', r.name) FROM sync.route r
              WHERE r.object_id = dropped.id AND r.state <> 'dropped' LIMIT 1),
            (SELECT format('A stream from system "%s" writes it.', y.name)
               FROM sync.stream t JOIN sync.system y ON y.id = t.system_id
              WHERE t.object_id = dropped.id AND t.state <> 'dropped' LIMIT 1),
            sync._owned(dropped.id, NULL),
            CASE WHEN dropped.captured THEN 'Its changes are captured.' END) INTO reason;
        IF reason IS NOT NULL THEN
            RAISE EXCEPTION 'cannot drop table %: it holds the %object "%"', dropped.object_identity,
                            CASE WHEN dropped.line THEN 'lines of ' ELSE '' END, dropped.name
                USING ERRCODE = 'SE013', DETAIL = reason,
                      HINT = format('Drop its routes, streams and owners (sync.drop_route, sync.drop_stream, sync.drop_owner), then run SELECT sync.untrack(%L).', dropped.name);
        END IF;
        UPDATE sync.object o SET captured = false WHERE o.id = dropped.id;
    END LOOP;

    FOR dropped IN
        SELECT o.name, w.field, sync._owner_name(w.system_id) AS owner, d.object_identity
          FROM pg_event_trigger_dropped_objects() d
          JOIN sync.object o ON o.table_oid = d.objid
          JOIN sync.owner w ON w.object_id = o.id AND w.attnum = d.objsubid
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid > 0
    LOOP
        RAISE EXCEPTION 'cannot drop column %: its field has an owner', dropped.object_identity
            USING ERRCODE = 'SE013', DETAIL = format('Field "%s" of object "%s" is owned by "%s".', dropped.field, dropped.name, dropped.owner),
                  HINT = format('Run SELECT sync.drop_owner(%L, %L) first.', dropped.name, dropped.field);
    END LOOP;
    PERFORM sync._refuse_guard_gap(t.oid, true)
       FROM pg_event_trigger_dropped_objects() d
       JOIN pg_class t ON t.relname = d.address_names[2] AND t.relnamespace = to_regnamespace(quote_ident(d.address_names[1]))
      WHERE d.object_type = 'trigger' AND EXISTS (SELECT FROM sync.owner);

    FOR dropped IN
        SELECT y.id, y.name, d.object_identity
          FROM pg_event_trigger_dropped_objects() d
          JOIN sync.system y ON d.objid = y.server_oid
         WHERE d.classid = 'pg_catalog.pg_foreign_server'::regclass
    LOOP
        SELECT coalesce(
            (SELECT format('Route "%s" sends to it.', r.name) FROM sync.route r
              WHERE r.system_id = dropped.id AND r.state <> 'dropped' LIMIT 1),
            (SELECT format('A stream reads object "%s" from it.', o.name)
               FROM sync.stream t JOIN sync.object o ON o.id = t.object_id
              WHERE t.system_id = dropped.id AND t.state <> 'dropped' LIMIT 1),
            sync._owned(NULL, dropped.id),
            (SELECT 'Deliveries to it are unfinished.' FROM sync.pending p JOIN sync.route r ON r.id = p.route_id
              WHERE r.system_id = dropped.id LIMIT 1),
            (SELECT 'Records are bound to records of it.' FROM sync.external_id x WHERE x.system_id = dropped.id LIMIT 1))
          INTO reason;
        IF reason IS NOT NULL THEN
            RAISE EXCEPTION 'cannot drop server %: it is a system in use', dropped.object_identity
                USING ERRCODE = 'SE013', DETAIL = reason,
                      HINT = format('Drop its routes, streams and ownership (sync.drop_route, sync.drop_stream, sync.drop_owner), then run SELECT sync.forget_system(%L).', dropped.name);
        END IF;
        UPDATE sync.system y SET server_oid = NULL WHERE y.id = dropped.id;
    END LOOP;

    -- A server that nothing used is known by its audit rows alone.
    IF sync._audits_ddl() THEN
        PERFORM sync._audit(CASE d.object_type WHEN 'server' THEN 'system.dropped' ELSE 'system.credentials' END, NULL, NULL, n.name,
                            CASE d.object_type WHEN 'server' THEN '{}' ELSE jsonb_build_object('dropped', d.address_names[1]) END)
           FROM pg_event_trigger_dropped_objects() d
          CROSS JOIN LATERAL (SELECT CASE d.object_type WHEN 'server' THEN d.address_names[1] ELSE d.address_args[1] END AS name) n
          WHERE d.object_type IN ('server', 'user mapping')
            AND (SELECT a.action FROM sync.audit a WHERE a.system = n.name AND a.action LIKE 'system.%'
                  ORDER BY a.id DESC LIMIT 1) <> 'system.dropped';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._on_drop() IS 'Event trigger: refuses to drop tables, owned columns and servers that are in use';

-- A system that is to go: what ties records to it is deleted, history stays.
CREATE FUNCTION sync.forget_system(system text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone integer;
BEGIN
    SELECT y.id INTO gone FROM sync.system y WHERE y.name = forget_system.system;
    IF NOT FOUND THEN
        PERFORM sync._system_id(forget_system.system);
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM sync.route r WHERE r.system_id = gone AND r.state <> 'dropped')
       OR EXISTS (SELECT FROM sync.stream t WHERE t.system_id = gone AND t.state <> 'dropped') THEN
        RAISE EXCEPTION 'system "%" is in use', forget_system.system
            USING ERRCODE = 'SE013',
                  DETAIL = 'It has routes or streams.',
                  HINT = 'Drop them first with sync.drop_route() and sync.drop_stream().';
    END IF;
    IF EXISTS (SELECT FROM sync.job j WHERE j.system_id = gone AND j.state IN ('queued', 'running', 'paused')) THEN
        RAISE EXCEPTION 'system "%" is in use', forget_system.system
            USING ERRCODE = 'SE013',
                  DETAIL = (SELECT format('Jobs about it: %s.', string_agg(j.id::text, ', ' ORDER BY j.id)) FROM sync.job j
                             WHERE j.system_id = gone AND j.state IN ('queued', 'running', 'paused')),
                  HINT = 'Wait for them (sync.progress), or end them with sync.stop_job().';
    END IF;
    IF sync._owned(NULL, gone) IS NOT NULL THEN
        RAISE EXCEPTION 'system "%" is in use', forget_system.system
            USING ERRCODE = 'SE013',
                  DETAIL = sync._owned(NULL, gone),
                  HINT = 'Give its fields another owner with sync.set_owner(), or none with sync.drop_owner().';
    END IF;
    PERFORM sync._audit('system.forgotten', NULL, NULL, forget_system.system, jsonb_build_object(
        'bindings', (SELECT count(*) FROM sync.external_id x WHERE x.system_id = gone)));
    DELETE FROM sync.inbox i WHERE i.system_id = gone;
    DELETE FROM sync.conflict_entry c WHERE c.system_id = gone;
    DELETE FROM sync.correction k WHERE k.system_id = gone;
    DELETE FROM sync.mirror m WHERE m.system_id = gone;
    DELETE FROM sync.mirror_history h WHERE h.system_id = gone;
    DELETE FROM sync.external_id x WHERE x.system_id = gone;
    DELETE FROM sync.external_alias x WHERE x.system_id = gone;
    DELETE FROM sync.match_candidate c WHERE c.system_id = gone;
    DELETE FROM sync.held_delete h WHERE h.system_id = gone;
END
$$;
COMMENT ON FUNCTION sync.forget_system(text) IS 'Deletes the bindings, mirror and inbox of a system without routes and streams, so that its server can be dropped';

CREATE EVENT TRIGGER sync_ext_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA', 'CREATE SERVER', 'ALTER SERVER', 'CREATE USER MAPPING', 'ALTER USER MAPPING')
    EXECUTE FUNCTION sync._on_ddl();
COMMENT ON EVENT TRIGGER sync_ext_ddl IS 'sync_ext: follows renames of tracked tables and of systems';

CREATE EVENT TRIGGER sync_ext_drop ON sql_drop
    WHEN TAG IN ('ALTER TABLE', 'DROP TABLE', 'DROP TRIGGER', 'DROP TYPE', 'DROP DOMAIN', 'DROP SCHEMA', 'DROP SERVER', 'DROP USER MAPPING', 'DROP FOREIGN DATA WRAPPER', 'DROP OWNED', 'DROP EXTENSION')
    EXECUTE FUNCTION sync._on_drop();
COMMENT ON EVENT TRIGGER sync_ext_drop IS 'sync_ext: refuses to drop tables, owned columns and servers that are in use';
