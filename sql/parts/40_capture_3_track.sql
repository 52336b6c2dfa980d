-- sync.track() and sync.untrack(): which tables hold which objects.

-- Registry side, called by C functions as the extension's owner after they have checked who asks.

CREATE FUNCTION sync._untrackable(relation regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE
    WHEN c.oid IS NULL THEN 'it does not exist'
    WHEN c.relnamespace = 'sync'::regnamespace OR c.relnamespace = 'pg_catalog'::regnamespace THEN 'it belongs to the system'
    WHEN c.relkind = 'v' THEN 'it is a view'
    WHEN c.relkind = 'm' THEN 'it is a materialized view'
    WHEN c.relkind = 'f' THEN 'it is a foreign table'
    WHEN c.relkind NOT IN ('r', 'p') THEN 'it is no table'
    WHEN c.relpersistence = 't' THEN 'it is a temporary table'
    WHEN c.relispartition THEN 'it is a partition' END
  FROM (VALUES (1)) one LEFT JOIN pg_class c ON c.oid = relation
$$;
COMMENT ON FUNCTION sync._untrackable(regclass) IS 'Why a relation cannot be tracked; NULL when it can';

-- The tables' names come from the catalog and not from the definition: whoever may call the C
-- function above this one has shown that these tables are his, and no others.
CREATE FUNCTION sync._write_object(relation regclass, lines regclass, definition jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    def sync.object := jsonb_populate_record(NULL::sync.object, definition);
    old sync.object;
BEGIN
    SELECT n.nspname, c.relname INTO STRICT def.schema_name, def.table_name
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF lines IS NULL THEN
        def.line_parent_columns := NULL;
        def.line_key_columns := NULL;
    END IF;
    def.line_schema := NULL;
    def.line_table := NULL;
    SELECT n.nspname, c.relname INTO def.line_schema, def.line_table
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = lines;
    IF sync._untrackable(relation) IS NOT NULL OR lines IS NOT NULL AND sync._untrackable(lines) IS NOT NULL
       OR def.name !~ '^[A-Za-z_][A-Za-z0-9_]*$'
       OR cardinality(def.key_columns) = 0
       OR NOT sync._has_columns(relation, def.key_columns || array_remove(ARRAY[def.number_column], NULL))
       OR lines IS NOT NULL AND NOT sync._has_columns(lines, def.line_parent_columns || def.line_key_columns) THEN
        RAISE EXCEPTION 'invalid definition of object "%"', def.name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Call sync.track(), which makes a valid one.';
    END IF;
    SELECT * INTO old FROM sync.object o
    WHERE o.schema_name = def.schema_name AND o.table_name = def.table_name AND o.name <> def.name;
    IF FOUND THEN
        RAISE EXCEPTION 'table %.% is already tracked as object "%"', quote_ident(def.schema_name), quote_ident(def.table_name), old.name
            USING ERRCODE = 'duplicate_object',
                  HINT = format('Call sync.track() with object => %L, or first sync.untrack(%L, force => true).', old.name, old.name);
    END IF;
    SELECT * INTO old FROM sync.object o WHERE o.name = def.name FOR UPDATE;
    IF FOUND AND (old.schema_name, old.table_name) <> (def.schema_name, def.table_name) THEN
        RAISE EXCEPTION 'object "%" is already another table: %.%', def.name, quote_ident(old.schema_name), quote_ident(old.table_name)
            USING ERRCODE = 'duplicate_object',
                  HINT = format('Choose another name with object => ..., or first call sync.untrack(%L, force => true).', def.name);
    END IF;
    IF lines IS NULL AND EXISTS (SELECT FROM sync.owner w WHERE w.object_id = old.id AND w.field = 'lines' AND w.attnum IS NULL) THEN
        RAISE EXCEPTION 'the lines of object "%" have an owner', def.name
            USING ERRCODE = 'SE013', DETAIL = sync._owned(old.id, NULL), HINT = format('Run SELECT sync.drop_owner(%L, %L) first.', def.name, 'lines');
    END IF;
    INSERT INTO sync.object AS o (name, schema_name, table_name, key_columns, number_column, volatile_columns, on_truncate, financial, captured,
                                  line_schema, line_table, line_parent_columns, line_key_columns)
    VALUES (def.name, def.schema_name, def.table_name, def.key_columns, def.number_column, def.volatile_columns, def.on_truncate, def.financial,
            def.captured, def.line_schema, def.line_table, def.line_parent_columns, def.line_key_columns)
    ON CONFLICT (name) DO UPDATE SET
        key_columns = excluded.key_columns, number_column = excluded.number_column, volatile_columns = excluded.volatile_columns,
        on_truncate = excluded.on_truncate, financial = excluded.financial, captured = excluded.captured,
        line_schema = excluded.line_schema, line_table = excluded.line_table,
        line_parent_columns = excluded.line_parent_columns, line_key_columns = excluded.line_key_columns;
    PERFORM sync._note_event_schema(o.id) FROM sync.object o WHERE o.name = def.name;
    PERFORM sync._audit('object.tracked', o.name, detail => sync._audit_change(to_jsonb(old), to_jsonb(o)))
       FROM sync.object o WHERE o.name = def.name AND o IS DISTINCT FROM old;
    RETURN to_jsonb(old);
END
$$;
COMMENT ON FUNCTION sync._write_object(regclass, regclass, jsonb) IS 'Registers an object or changes it in place; returns what it was before';

CREATE FUNCTION sync._table_of_object(object text) RETURNS regclass
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass;
BEGIN
    SELECT to_regclass(format('%I.%I', o.schema_name, o.table_name)) INTO relation FROM sync.object o WHERE o.name = object;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" is not tracked', object
            USING ERRCODE = 'SE011', HINT = 'The tracked objects stand in sync.object.';
    END IF;
    RETURN relation;
END
$$;
COMMENT ON FUNCTION sync._table_of_object(text) IS 'The table of an object; NULL when it was dropped';

CREATE FUNCTION sync._delete_object(object text, force boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old sync.object;
    users text;
    kept boolean := false;
BEGIN
    SELECT * INTO STRICT old FROM sync.object o WHERE o.name = object FOR UPDATE;
    SELECT string_agg(u, ', ' ORDER BY u) INTO users
    FROM (SELECT format('route "%s"', r.name) AS u FROM sync.route r WHERE r.object_id = old.id AND r.state <> 'dropped'
          UNION ALL
          SELECT format('stream of system "%s"', y.name)
          FROM sync.stream s JOIN sync.system y ON y.id = s.system_id
          WHERE s.object_id = old.id AND s.state <> 'dropped') AS used;
    IF users IS NOT NULL THEN
        RAISE EXCEPTION 'object "%" is in use', object
            USING ERRCODE = 'SE013', DETAIL = format('It is used by %s.', users),
                  HINT = 'Call sync.drop_route() and sync.drop_stream() first.';
    END IF;
    -- Ending the tracking must not end ownership past the approval that drop_owner() may need.
    IF sync._owned(old.id, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'object "%" is in use', object
            USING ERRCODE = 'SE013', DETAIL = sync._owned(old.id, NULL), HINT = 'Call sync.drop_owner() first.';
    END IF;
    IF force THEN
        DELETE FROM sync.pending WHERE route_id IN (SELECT id FROM sync.route WHERE object_id = old.id);
        DELETE FROM sync.route WHERE object_id = old.id;
        DELETE FROM sync.stream WHERE object_id = old.id;
        DELETE FROM sync.inbox WHERE object_id = old.id;
        DELETE FROM sync.mirror WHERE object_id = old.id;
        DELETE FROM sync.mirror_history WHERE object_id = old.id;
        DELETE FROM sync.external_id WHERE object_id = old.id;
        DELETE FROM sync.external_alias WHERE object_id = old.id;
        DELETE FROM sync.match_candidate WHERE object_id = old.id;
        DELETE FROM sync.held_delete WHERE object_id = old.id;
        DELETE FROM sync.merge WHERE object_id = old.id;
        UPDATE sync.api_call SET object_id = NULL WHERE object_id = old.id;
        -- What was done and compared stays on record; what is being done ends.
        UPDATE sync.job SET object_id = NULL, state = CASE WHEN state IN ('queued', 'running', 'paused') THEN 'stopped' ELSE state END,
                            next_step_at = NULL, finished_at = coalesce(finished_at, clock_timestamp())
         WHERE object_id = old.id;
        UPDATE sync.reconciliation SET object_id = NULL WHERE object_id = old.id;
        DELETE FROM sync.object WHERE id = old.id;
    ELSE
        BEGIN
            DELETE FROM sync.object WHERE id = old.id;
        EXCEPTION WHEN foreign_key_violation THEN
            UPDATE sync.object SET captured = false WHERE id = old.id;
            kept := true;
            RAISE NOTICE 'object "%" stays registered, because cross-reference or history refer to it', object
                USING HINT = 'sync.untrack(..., force => true) forgets those, too.';
        END;
    END IF;
    PERFORM sync._audit('object.untracked', object, detail => jsonb_build_object(
        'table', format('%I.%I', old.schema_name, old.table_name), 'force', force, 'stays_registered', kept));
    RETURN to_jsonb(old);
END
$$;
COMMENT ON FUNCTION sync._delete_object(text, boolean) IS 'Takes an object out of the registry; what refers to it keeps it as a tombstone unless forced';

CREATE FUNCTION sync._save_object(relation regclass, lines regclass, definition jsonb) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_save_object';
COMMENT ON FUNCTION sync._save_object(regclass, regclass, jsonb) IS 'Writes the registry for who owns the tables';

CREATE FUNCTION sync._drop_object(object text, force boolean) RETURNS jsonb
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_drop_object';
COMMENT ON FUNCTION sync._drop_object(text, boolean) IS 'Writes the registry for who owns the table';

-- Table side, as the caller.

CREATE FUNCTION sync._check_trackable(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class pg_class;
    problem text := sync._untrackable(relation);
BEGIN
    SELECT * INTO class FROM pg_class WHERE oid = relation;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot track %: %', relation, problem
            USING ERRCODE = 'wrong_object_type',
                  HINT = CASE
                      WHEN class.relispartition THEN format('Track the partitioned table %s.', pg_partition_root(relation))
                      ELSE 'Track an ordinary or partitioned table.' END;
    END IF;
    IF NOT pg_has_role(class.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', relation
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Tracking makes triggers on the table; let its owner do it, as a member of sync_admin.';
    END IF;
    IF class.relpersistence = 'u' THEN
        RAISE WARNING 'table % is unlogged', relation
            USING DETAIL = 'After a crash it is empty, and no event tells of the rows that it lost.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_trackable(regclass) IS 'Refuses what cannot be captured';

-- The primary key, or the given columns if a unique index makes them one.
CREATE FUNCTION sync._find_key(relation regclass, wanted name[]) RETURNS name[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key name[];
    partition_key name[];
BEGIN
    IF wanted IS NULL THEN
        SELECT array_agg(a.attname ORDER BY k.n) INTO key
        FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = relation AND i.indisprimary AND k.n <= i.indnkeyatts;
        IF key IS NULL THEN
            RAISE EXCEPTION 'cannot track %: it has no primary key', relation
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Add one, or name the columns of a unique index that are NOT NULL with key_columns => ''{...}''.';
        END IF;
        RETURN key;
    END IF;
    -- A unique index of a partitioned table must contain the partition key; a record keeps its
    -- identity on a move between partitions only if the key can do without that.
    partition_key := ARRAY(
        SELECT a.attname
        FROM pg_partition_tree(relation) t JOIN pg_partitioned_table p ON p.partrelid = t.relid
        CROSS JOIN unnest(p.partattrs) AS k(attnum) JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum);
    IF cardinality(wanted) = 0 OR NOT EXISTS (
        SELECT FROM pg_index i
        CROSS JOIN LATERAL (
            SELECT array_agg(a.attname) AS columns, bool_and(a.attnotnull) AS all_set
            FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE k.n <= i.indnkeyatts) c
        WHERE i.indrelid = relation AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL
          AND c.all_set AND c.columns @> wanted AND c.columns <@ (wanted || partition_key)) THEN
        RAISE EXCEPTION 'columns % are no key of %', wanted, relation
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A key needs a unique index over these columns (of a partitioned table, the partition key may be left out), '
                         'all NOT NULL, without condition and not deferrable.';
    END IF;
    RETURN wanted;
END
$$;
COMMENT ON FUNCTION sync._find_key(regclass, name[]) IS 'Columns that identify a record';

-- Line columns that refer to the header's key, by the foreign key between the two.
CREATE FUNCTION sync._find_line_parent(relation regclass, lines regclass, key name[]) RETURNS name[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT (SELECT array_agg(l.attname ORDER BY array_position(key, h.attname))
        FROM unnest(c.conkey, c.confkey) AS k(lnum, hnum)
        JOIN pg_attribute l ON l.attrelid = c.conrelid AND l.attnum = k.lnum
        JOIN pg_attribute h ON h.attrelid = c.confrelid AND h.attnum = k.hnum)
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conrelid = lines AND c.confrelid = relation
  AND (SELECT array_agg(h.attname ORDER BY h.attname) FROM unnest(c.confkey) AS k(hnum)
       JOIN pg_attribute h ON h.attrelid = c.confrelid AND h.attnum = k.hnum)
      = (SELECT array_agg(w ORDER BY w) FROM unnest(key) AS w)
ORDER BY c.oid LIMIT 1
$$;
COMMENT ON FUNCTION sync._find_line_parent(regclass, regclass, name[]) IS 'Columns of a line that hold its header''s key';

-- A change of a line names the record by the line's columns. Of another type, or scale, the same key is another
-- text (1 and 1.00), and its events would be those of a record that nobody knows.
CREATE FUNCTION sync._check_line_parent(relation regclass, lines regclass, key name[], parent name[]) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong record;
BEGIN
    WITH RECURSIVE declared AS (
        SELECT u.n, u.of_line, a.attname, format_type(a.atttypid, a.atttypmod) AS type_name, a.atttypid, a.atttypmod
          FROM (SELECT n, false AS of_line, relation AS oid, name FROM unnest(key) WITH ORDINALITY k (name, n)
                UNION ALL SELECT n, true, lines, name FROM unnest(parent) WITH ORDINALITY p (name, n)) u
          JOIN pg_attribute a ON a.attrelid = u.oid AND a.attname = u.name),
    base (n, of_line, type, typmod) AS (
        SELECT d.n, d.of_line, d.atttypid, d.atttypmod FROM declared d
        UNION ALL
        SELECT b.n, b.of_line, y.typbasetype, y.typtypmod FROM base b JOIN pg_type y ON y.oid = b.type AND y.typtype = 'd'),
    -- kind: what writes equal values alike; of numeric the scale does, and with none they are whole numbers
    typed AS (
        SELECT b.n, b.of_line, CASE WHEN b.type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) OR b.type = 'numeric'::regtype AND b.typmod > 0 AND (b.typmod - 4) & 2047 = 0
                                         THEN 'whole'
                                    WHEN b.type = 'numeric'::regtype THEN 'numeric ' || CASE WHEN b.typmod > 0 THEN (b.typmod - 4) & 2047 END
                                    WHEN b.type IN ('text'::regtype, 'varchar'::regtype) OR b.of_line AND b.type = 'bpchar'::regtype AND EXISTS (
                                             SELECT FROM base k WHERE k.n = b.n AND NOT k.of_line AND k.type IN ('text'::regtype, 'varchar'::regtype)) THEN 'text'
                                    ELSE b.type::text END AS kind
          FROM base b JOIN pg_type y ON y.oid = b.type AND y.typtype <> 'd')
    SELECT l.attname, l.type_name AS declared, k.type_name AS needed INTO wrong
      FROM typed t JOIN typed u ON u.n = t.n AND NOT u.of_line
      JOIN declared l ON l.n = t.n AND l.of_line JOIN declared k ON k.n = t.n AND NOT k.of_line
     WHERE t.of_line AND t.kind IS DISTINCT FROM u.kind ORDER BY t.n LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of % is %, the key of % is %', wrong.attname, lines, wrong.declared, relation, wrong.needed
            USING ERRCODE = 'datatype_mismatch', DETAIL = 'The same key would be written in two ways, and a line''s record not be found.',
                  HINT = format('ALTER TABLE %s ALTER COLUMN %I TYPE %s, or pass documents => false.', lines, wrong.attname, wrong.needed);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_line_parent(regclass, regclass, name[], name[]) IS 'Refuses lines that would write the key of their header otherwise than the header does';

CREATE FUNCTION sync._has_columns(relation regclass, columns name[]) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM unnest(columns) AS c(name)
                   WHERE NOT EXISTS (SELECT FROM pg_attribute a
                                     WHERE a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped))
$$;
COMMENT ON FUNCTION sync._has_columns(regclass, name[]) IS 'Whether a table has all these columns';

-- Makes a trigger as it should be, touching (and locking) nothing when it is that already.
CREATE FUNCTION sync._set_trigger(relation regclass, trigger_name name, event text, function regproc, object text, always boolean) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    enabled "char";
BEGIN
    SELECT t.tgenabled INTO enabled FROM pg_trigger t
    WHERE t.tgrelid = relation AND t.tgname = trigger_name AND t.tgfoid = function::oid
      AND t.tgargs = convert_to(object, getdatabaseencoding()) || '\x00';
    IF NOT FOUND THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER %I %s EXECUTE FUNCTION %s(%L)',
                       trigger_name, replace(event, 'TABLE', relation::text), function, object);
        enabled := 'O';
    END IF;
    IF always AND enabled <> 'A' THEN
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, trigger_name);
    ELSIF NOT always AND enabled <> 'O' THEN
        EXECUTE format('ALTER TABLE %s ENABLE TRIGGER %I', relation, trigger_name);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._set_trigger(regclass, name, text, regproc, text, boolean) IS 'Makes or corrects one of our triggers';

-- Row triggers are cloned to partitions by the server; TRUNCATE triggers are not.
CREATE FUNCTION sync._set_triggers(relation regclass, function regproc, object text, always boolean) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part regclass;
BEGIN
    PERFORM sync._set_trigger(relation, 'sync_capture', 'AFTER INSERT OR UPDATE OR DELETE ON TABLE FOR EACH ROW', function, object, always);
    PERFORM sync._set_trigger(relation, 'sync_capture_truncate', 'AFTER TRUNCATE ON TABLE FOR EACH STATEMENT', function, object, always);
    FOR part IN SELECT relid FROM pg_partition_tree(relation) JOIN pg_class c ON c.oid = relid
                WHERE relid <> relation AND c.relkind IN ('r', 'p') LOOP
        PERFORM sync._set_trigger(part, 'sync_capture_truncate', 'AFTER TRUNCATE ON TABLE FOR EACH STATEMENT', function, object, always);
    END LOOP;
    -- A guard outlives the end of its object's tracking.
    IF function = 'sync.capture'::regproc
       AND EXISTS (SELECT FROM sync.guard g WHERE g.state = 'active' AND g.kind = 'change' AND g.object = _set_triggers.object) THEN
        PERFORM sync._set_trigger(relation, 'sync_demand', 'AFTER INSERT OR UPDATE ON TABLE FOR EACH ROW', 'sync.change_guard'::regproc, object, false);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._set_triggers(regclass, regproc, text, boolean) IS 'Makes the triggers of a tracked table and its partitions';

CREATE FUNCTION sync._drop_triggers(relation regclass, object text, names name[] DEFAULT '{sync_capture,sync_capture_truncate,sync_demand}')
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.tgrelid::regclass AS relation, t.tgname
        FROM pg_trigger t
        WHERE t.tgparentid = 0 AND t.tgname = ANY (names)
          AND t.tgrelid IN (SELECT relation UNION SELECT relid FROM pg_partition_tree(relation))
          AND t.tgargs = convert_to(object, getdatabaseencoding()) || '\x00'
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._drop_triggers(regclass, text, name[]) IS 'Drops our triggers from a table and its partitions';

CREATE FUNCTION sync.track(
    relation regclass,
    object text DEFAULT NULL,
    key_columns name[] DEFAULT NULL,
    number_column name DEFAULT NULL,
    volatile_columns name[] DEFAULT '{updated_at}',
    on_truncate text DEFAULT 'refuse',
    financial boolean DEFAULT NULL,
    lines regclass DEFAULT NULL,
    line_parent_columns name[] DEFAULT NULL,
    line_key_columns name[] DEFAULT NULL,
    documents boolean DEFAULT true,
    capture boolean DEFAULT true,
    replica boolean DEFAULT false
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own_name name;
    own_schema name;
    def jsonb;
    old jsonb;
    old_lines regclass;
BEGIN
    PERFORM sync._check_trackable(relation);
    SELECT c.relname, n.nspname INTO own_name, own_schema
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    object := coalesce(object, own_name);
    IF object !~ '^[A-Za-z_][A-Za-z0-9_]*$' THEN
        RAISE EXCEPTION 'object name "%" is not a plain name', object
            USING ERRCODE = 'invalid_name', HINT = 'Use letters, digits and underscores, beginning with a letter: object => ''customer''.';
    END IF;
    IF on_truncate IS NULL OR on_truncate NOT IN ('refuse', 'record') THEN
        RAISE EXCEPTION 'on_truncate must be refuse or record'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'refuse: TRUNCATE is an error; record: it is an event of its own.';
    END IF;
    key_columns := sync._find_key(relation, key_columns);
    volatile_columns := coalesce(volatile_columns, '{}');
    IF EXISTS (SELECT FROM unnest(volatile_columns) c WHERE c IS NULL) THEN
        RAISE EXCEPTION 'volatile_columns holds NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name columns whose change alone is no event; none: leave volatile_columns out.';
    END IF;
    number_column := coalesce(number_column,
        (SELECT w FROM unnest('{number,code}'::name[]) WITH ORDINALITY AS c(w, n) WHERE sync._has_columns(relation, ARRAY[w]) ORDER BY n LIMIT 1));
    IF NOT sync._has_columns(relation, array_remove(array_remove(volatile_columns, 'updated_at') || number_column, NULL)) THEN
        RAISE EXCEPTION 'number_column or volatile_columns name a column that % does not have', relation
            USING ERRCODE = 'undefined_column',
                  DETAIL = format('There is no column %s.', (SELECT string_agg(quote_ident(c), ', ') FROM unnest(volatile_columns || number_column) c
                                                             WHERE c <> 'updated_at' AND NOT sync._has_columns(relation, ARRAY[c]))),
                  HINT = 'Names are compared as they are stored: in small letters, unless the table was made with quoted ones.';
    END IF;
    financial := coalesce(financial, object IN (
        'invoice', 'credit_note', 'payment', 'payout', 'balance_transaction', 'payment_allocation',
        'revenue_schedule', 'revenue_schedule_line', 'gl_entry', 'tax_determination'));

    -- The canonical documents find their lines by name.
    IF NOT documents THEN
        lines := NULL;
    ELSIF lines IS NULL AND own_name IN ('invoice', 'credit_note', 'gl_entry', 'subscription') THEN
        lines := to_regclass(format('%I.%I', own_schema, CASE own_name WHEN 'subscription' THEN 'subscription_item' ELSE own_name || '_line' END));
        IF sync._find_line_parent(relation, lines, key_columns) IS NULL THEN
            lines := NULL;
        END IF;
    END IF;
    IF lines IS NOT NULL THEN
        PERFORM sync._check_trackable(lines);
        line_parent_columns := coalesce(line_parent_columns, sync._find_line_parent(relation, lines, key_columns));
        IF line_parent_columns IS NULL OR cardinality(line_parent_columns) <> cardinality(key_columns)
           OR NOT sync._has_columns(lines, line_parent_columns) THEN
            RAISE EXCEPTION 'cannot tell which lines of % belong to which record of %', lines, relation
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Add a foreign key from the lines to the key, or name its columns with line_parent_columns => ''{...}''.';
        END IF;
        PERFORM sync._check_line_parent(relation, lines, key_columns, line_parent_columns);
        line_key_columns := coalesce(line_key_columns,
            CASE WHEN sync._has_columns(lines, '{line_no}') THEN '{line_no}'::name[] ELSE sync._find_key(lines, NULL) END);
        IF NOT sync._has_columns(lines, line_key_columns) THEN
            RAISE EXCEPTION 'line_key_columns name a column that % does not have', lines USING ERRCODE = 'undefined_column';
        END IF;
        IF sync._has_columns(relation, '{lines}') THEN
            RAISE EXCEPTION 'cannot track % with lines: it has a column "lines"', relation
                USING ERRCODE = 'duplicate_column', DETAIL = 'The lines of a document stand under "lines" in its event.',
                      HINT = 'Rename the column, or pass documents => false.';
        END IF;
    END IF;

    def := jsonb_build_object(
        'name', object, 'schema_name', own_schema, 'table_name', own_name, 'key_columns', key_columns,
        'number_column', number_column, 'volatile_columns', volatile_columns, 'on_truncate', on_truncate,
        'financial', financial, 'captured', capture,
        'line_schema', (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = lines),
        'line_table', (SELECT c.relname FROM pg_class c WHERE c.oid = lines),
        'line_parent_columns', CASE WHEN lines IS NOT NULL THEN line_parent_columns END,
        'line_key_columns', CASE WHEN lines IS NOT NULL THEN line_key_columns END);
    old := sync._save_object(relation, lines, def);

    IF old->>'line_table' IS NOT NULL THEN
        old_lines := to_regclass(format('%I.%I', old->>'line_schema', old->>'line_table'));
    END IF;
    -- First, so that ownership is never without a trigger that keeps it.
    IF NOT capture THEN
        PERFORM sync._set_guards(object);
    END IF;
    IF old_lines IS NOT NULL AND (NOT capture OR old_lines IS DISTINCT FROM lines) THEN
        PERFORM sync._drop_triggers(old_lines, object);
        IF old_lines IS DISTINCT FROM lines THEN
            PERFORM sync._drop_triggers(old_lines, object, '{zz_sync_guard,sync_guard,sync_guard_truncate}');
        END IF;
    END IF;
    IF capture THEN
        PERFORM sync._ensure_partitions();
        PERFORM sync._set_triggers(relation, 'sync.capture', object, replica);
        IF lines IS NOT NULL THEN
            PERFORM sync._set_triggers(lines, 'sync.capture_line', object, replica);
        END IF;
        PERFORM sync._set_guards(object);
    ELSE
        PERFORM sync._drop_triggers(relation, object);
    END IF;
    RETURN object;
END
$$;
COMMENT ON FUNCTION sync.track(regclass, text, name[], name, name[], text, boolean, regclass, name[], name[], boolean, boolean, boolean) IS
    'Makes a table an object: its changes become events. Called again, it changes the options in place';

-- Nothing is dropped here: a lock of ours would last as long as the caller's transaction.
CREATE FUNCTION sync._ensure_partitions() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY '{outbox,claim,outcome}'::text[] LOOP
        IF (SELECT count(*) FROM pg_inherits WHERE inhparent = ('sync.' || parent)::regclass) < 2 THEN
            PERFORM sync._make_partitions(parent, 1);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._ensure_partitions() IS 'Makes outbox and history ready for rows before the first upkeep';

CREATE FUNCTION sync.untrack(object text, force boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old jsonb;
    relation regclass;
BEGIN
    IF object IS NULL THEN
        RAISE EXCEPTION 'the name of an object is required' USING ERRCODE = 'null_value_not_allowed', HINT = 'The tracked objects stand in sync.object.';
    END IF;
    old := sync._drop_object(object, coalesce(force, false));
    relation := to_regclass(format('%I.%I', old->>'schema_name', old->>'table_name'));
    IF relation IS NOT NULL THEN
        PERFORM sync._drop_triggers(relation, object);
    END IF;
    IF old->>'line_table' IS NOT NULL THEN
        relation := to_regclass(format('%I.%I', old->>'line_schema', old->>'line_table'));
        IF relation IS NOT NULL THEN
            PERFORM sync._drop_triggers(relation, object);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.untrack(text, boolean) IS
    'Ends the capture of an object. What refers to it (cross-reference, history) keeps it registered unless forced; a route or stream in use refuses';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p
             WHERE p.pronamespace = 'sync'::regnamespace
               AND p.proname IN ('track', 'untrack', '_write_object', '_table_of_object', '_delete_object', '_save_object', '_drop_object',
                                 '_check_trackable', '_untrackable', '_find_key', '_find_line_parent', '_check_line_parent', '_has_columns', '_set_trigger', '_set_triggers',
                                 '_drop_triggers', '_ensure_partitions')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        IF f::text !~ '^sync\._(write|table_of|delete)_' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO sync_admin', f);
        END IF;
    END LOOP;
END
$$;
