-- Two records of ours that are one: merge and undo.

-- What refers to a table, by foreign key: whole constraints, not their parts on partitions.
CREATE FUNCTION sync._references_to(relation regclass)
RETURNS TABLE (referrer regclass, said text, columns name[], targets name[], types text[], keys name[], key_types text[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.conrelid::regclass, format('%I.%I', n.nspname, r.relname),
           ARRAY(SELECT a.attname FROM unnest(c.conkey) WITH ORDINALITY u (k, i)
                   JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.k ORDER BY u.i),
           ARRAY(SELECT a.attname FROM unnest(c.confkey) WITH ORDINALITY u (k, i)
                   JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = u.k ORDER BY u.i),
           ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM unnest(c.conkey) WITH ORDINALITY u (k, i)
                   JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.k ORDER BY u.i),
           ARRAY(SELECT a.attname FROM pg_index x, unnest(x.indkey) WITH ORDINALITY u (k, i)
                   JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.k
                  WHERE x.indrelid = c.conrelid AND x.indisprimary ORDER BY u.i),
           ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_index x, unnest(x.indkey) WITH ORDINALITY u (k, i)
                   JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.k
                  WHERE x.indrelid = c.conrelid AND x.indisprimary ORDER BY u.i)
      FROM pg_constraint c
      JOIN pg_class r ON r.oid = c.conrelid
      JOIN pg_namespace n ON n.oid = r.relnamespace
     WHERE c.contype = 'f' AND c.conparentid = 0
       AND (c.confrelid = relation OR c.confrelid IN (SELECT p.relid FROM pg_partition_tree(relation) p))
     ORDER BY c.conrelid, c.oid
$$;
COMMENT ON FUNCTION sync._references_to(regclass) IS 'Foreign keys that refer to a table, and the primary keys of the tables that have them';

CREATE FUNCTION sync._check_merge_rights(the_object integer)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := sync._identity_table(the_object);
    caller name := sync._caller();
    lacking text := CASE WHEN NOT has_table_privilege(caller, t.relation, CASE WHEN t.has_merged THEN 'UPDATE' ELSE 'DELETE' END)
                         THEN t.relation::text END;
BEGIN
    SELECT coalesce(lacking, min(r.said)) INTO lacking
      FROM sync._references_to(t.relation) r
     WHERE EXISTS (SELECT FROM unnest(r.columns) k WHERE NOT has_column_privilege(caller, r.referrer, k::text, 'UPDATE'));
    -- The statements run as the owners, whom policies do not bind: a caller whom they do could merge rows
    -- that he may not even see.
    IF lacking IS NULL THEN
        SELECT min(c.oid::regclass::text) INTO lacking
          FROM pg_class c
         WHERE c.relrowsecurity AND (c.oid = t.relation OR c.oid IN (SELECT r.referrer FROM sync._references_to(t.relation) r))
           AND NOT pg_has_role(caller, c.relowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_roles u WHERE u.rolname = caller AND (u.rolsuper OR u.rolbypassrls));
    END IF;
    IF lacking IS NOT NULL THEN
        RAISE EXCEPTION 'permission denied for table %', lacking
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('A merge re-points what refers to the record; role %s must be able to do so.', caller),
                  HINT = 'It needs UPDATE on each referring column, UPDATE (or DELETE, where merged rows are deleted) on the table itself, and no row security that binds it.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_merge_rights(integer) IS 'An error unless the one who acts could do by hand what a merge does';

-- Re-points what refers to one row by a foreign key to another; returns an element of merge.moved, NULL
-- when nothing did. `except_ids` are rows of the table itself that stay as they are.
CREATE FUNCTION sync._move_references(r record, from_row jsonb, to_row jsonb, record_sql text DEFAULT NULL, except_ids text[] DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    answer jsonb;
    before jsonb := (SELECT jsonb_agg(from_row -> k::text ORDER BY n) FROM unnest(r.targets) WITH ORDINALITY u (k, n));
    after jsonb := (SELECT jsonb_agg(to_row -> k::text ORDER BY n) FROM unnest(r.targets) WITH ORDINALITY u (k, n));
BEGIN
    IF before @> '[null]' OR before = after THEN
        RETURN NULL;
    END IF;
    answer := sync._as_owner(r.referrer, format(
        'WITH m AS (UPDATE %s t SET %s WHERE %s%s RETURNING %s AS key) SELECT jsonb_build_object(''count'', count(*), ''keys'', jsonb_agg(m.key)) FROM m',
        r.said,
        (SELECT string_agg(format('%I = CAST(%L AS %s)', r.columns[i], after ->> (i - 1), r.types[i]), ', ') FROM generate_subscripts(r.columns, 1) i),
        (SELECT string_agg(format('t.%I = CAST(%L AS %s)', r.columns[i], before ->> (i - 1), r.types[i]), ' AND ') FROM generate_subscripts(r.columns, 1) i),
        CASE WHEN except_ids IS NOT NULL THEN format(' AND %s <> ALL (%L)', record_sql, except_ids) END,
        CASE WHEN cardinality(r.keys) = 0 THEN 'NULL::jsonb'
             ELSE (SELECT 'jsonb_build_object(' || string_agg(format('%L, t.%I', k, k), ', ') || ')' FROM unnest(r.keys) k) END));
    IF answer ->> 'count' = '0' THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object('table', r.said, 'columns', r.columns, 'before', before, 'after', after, 'count', answer -> 'count',
                              'keys', CASE WHEN cardinality(r.keys) > 0 THEN answer -> 'keys' END);
END
$$;
COMMENT ON FUNCTION sync._move_references(record, jsonb, jsonb, text, text[]) IS 'Re-points the rows that refer to one row by a foreign key to another row';

-- External ids of the loser: to the survivor, or aliases of it where it has one of its own.
CREATE FUNCTION sync._move_bindings(merge_id bigint, the_object integer, survivor text, loser text, reported_by integer)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    x sync.external_id;
    moved jsonb := '[]';
    other text;
BEGIN
    FOR x IN SELECT e.* FROM sync.external_id e WHERE e.object_id = the_object AND e.record_id = loser ORDER BY e.system_id FOR UPDATE LOOP
        SELECT e.remote_id INTO other FROM sync.external_id e
         WHERE e.object_id = the_object AND e.record_id = survivor AND e.system_id = x.system_id;
        IF FOUND THEN
            DELETE FROM sync.external_id e WHERE e.object_id = the_object AND e.record_id = loser AND e.system_id = x.system_id;
            INSERT INTO sync.external_alias (system_id, object_id, remote_id, record_id, merge_id)
            VALUES (x.system_id, the_object, x.remote_id, survivor, merge_id);
            UPDATE sync.mirror m SET record_id = NULL, mapping = NULL
             WHERE m.system_id = x.system_id AND m.object_id = the_object AND m.remote_id = x.remote_id;
            IF x.system_id IS DISTINCT FROM reported_by THEN
                INSERT INTO sync.conflict_entry (kind, object_id, record_id, field, system_id, remote_id, hub_value, remote_value, policy, message)
                VALUES ('merged', the_object, survivor, 'remote record ' || x.remote_id, x.system_id, x.remote_id, to_jsonb(other), to_jsonb(x.remote_id),
                        'one record has one remote record', format('the system still holds the merged record as %s beside %s; merge the two there', x.remote_id, other))
                    ON CONFLICT (object_id, record_id, field, system_id) WHERE resolved_at IS NULL DO NOTHING;
            END IF;
        ELSE
            UPDATE sync.external_id e SET record_id = survivor
             WHERE e.object_id = the_object AND e.record_id = loser AND e.system_id = x.system_id;
            UPDATE sync.mirror m SET record_id = survivor, mapping = NULL
             WHERE m.system_id = x.system_id AND m.object_id = the_object AND m.remote_id = x.remote_id;
        END IF;
        PERFORM sync._note_mirror(x.system_id, the_object, x.remote_id);
        moved := moved || jsonb_build_object('system_id', x.system_id, 'remote_id', x.remote_id, 'remote_number', x.remote_number,
                                             'remote_version', x.remote_version, 'bound_at', x.bound_at,
                                             'became', CASE WHEN other IS NULL THEN 'moved' ELSE 'alias' END);
    END LOOP;
    WITH a AS (UPDATE sync.external_alias e SET record_id = survivor WHERE e.object_id = the_object AND e.record_id = loser
               RETURNING e.system_id, e.remote_id)
    SELECT moved || coalesce(jsonb_agg(jsonb_build_object('system_id', a.system_id, 'remote_id', a.remote_id, 'became', 'alias_moved')), '[]')
      INTO moved FROM a;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION sync._move_bindings(bigint, integer, text, text, integer) IS 'Gives the external ids of a merged record to the survivor';

-- The survivor's own reference to the loser becomes what the loser refers to; nothing refers to itself.
CREATE FUNCTION sync._move_own_references(t record, r record, survivor_row jsonb, loser_row jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    value text := loser_row ->> r.columns[1]::text;
BEGIN
    IF cardinality(r.columns) > 1 OR survivor_row -> r.columns[1]::text IS DISTINCT FROM loser_row -> r.targets[1]::text THEN
        RETURN NULL;
    END IF;
    IF value = survivor_row ->> r.targets[1]::text THEN
        value := NULL;
    END IF;
    PERFORM sync._as_owner(t.relation, format('UPDATE %s t SET %I = CAST(%L AS %s) WHERE %s = %L',
                                              t.relation, r.columns[1], value, r.types[1], t.record_sql, survivor_row ->> '__id'));
    RETURN jsonb_build_object('table', r.said, 'columns', r.columns, 'count', 1, 'before', jsonb_build_array(loser_row -> r.targets[1]::text),
                              'after', jsonb_build_array(value),
                              'keys', jsonb_build_array((SELECT jsonb_object_agg(k, survivor_row -> k::text) FROM unnest(t.key_columns) k)));
END
$$;
COMMENT ON FUNCTION sync._move_own_references(record, record, jsonb, jsonb) IS 'Settles a reference from the survivor of a merge to the loser';

CREATE FUNCTION sync._merge(object text, survivor text, loser text, reason text, reported_by integer DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    t record := sync._identity_table(sync._object_id(_merge.object));
    r record;
    survivor_row jsonb;
    loser_row jsonb;
    one jsonb;
    references_moved jsonb := '[]';
    ids_moved jsonb;
    made bigint;
    why text;
    id text;
BEGIN
    SELECT x.* INTO o FROM sync.object x WHERE x.name = _merge.object;
    -- Whoever inserts a reference to either holds a share of its row: so those in progress are waited
    -- for and then seen below, and later ones wait for us.
    FOR id IN SELECT i FROM unnest(ARRAY[survivor, loser]) i ORDER BY lower(i) COLLATE "C" LOOP
        one := sync._record_row(o.id, id, true);
        IF one IS NULL THEN
            RAISE EXCEPTION 'there is no record % of object "%"', coalesce(id, 'NULL'), object
                USING ERRCODE = 'undefined_object', HINT = 'Give record ids as the views of schema sync show them.';
        END IF;
        IF id = survivor THEN survivor_row := one; END IF;
        IF id = loser THEN loser_row := one; END IF;
    END LOOP;
    IF survivor_row ->> '__id' = loser_row ->> '__id' THEN
        RAISE EXCEPTION 'a record cannot be merged into itself'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give two records: the one that stays, then the one that goes.';
    END IF;
    why := CASE WHEN o.financial OR o.line_table IS NOT NULL THEN 'documents are not merged'
                WHEN survivor_row ->> 'merged_into_id' IS NOT NULL AND t.has_merged THEN format('record %s was merged into %s', survivor, survivor_row ->> 'merged_into_id')
                WHEN loser_row ->> 'merged_into_id' IS NOT NULL AND t.has_merged THEN format('record %s was merged into %s', loser, loser_row ->> 'merged_into_id') END;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'records of object "%" cannot be merged: %', object, why
            USING ERRCODE = 'SE064', HINT = CASE WHEN why LIKE 'documents%' THEN 'Cancel one of them with a document of its own, such as a credit note.'
                                                 ELSE 'Name the record that survived, or undo that merge with sync.undo_merge().' END;
    END IF;

    INSERT INTO sync.merge (object_id, survivor, loser, loser_row, kept, reported_by, reason, undo_until)
    VALUES (o.id, survivor_row ->> '__id', loser_row ->> '__id', loser_row - '__id', t.has_merged, _merge.reported_by, _merge.reason,
            clock_timestamp() + current_setting('sync_ext.merge_retention')::interval)
    RETURNING merge.id INTO made;
    FOR r IN SELECT * FROM sync._references_to(t.relation) LOOP
        IF r.referrer = t.relation THEN
            one := sync._move_own_references(t, r, survivor_row, loser_row);
            references_moved := CASE WHEN one IS NULL THEN references_moved ELSE references_moved || one END;
        END IF;
        BEGIN
            one := CASE WHEN r.referrer = t.relation
                        THEN sync._move_references(r, loser_row, survivor_row, t.record_sql, ARRAY[survivor_row ->> '__id', loser_row ->> '__id'])
                        ELSE sync._move_references(r, loser_row, survivor_row) END;
        EXCEPTION WHEN unique_violation OR exclusion_violation OR not_null_violation THEN
            GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION 'records cannot be merged: table % has rows of both that must not be one''s', r.said
                USING ERRCODE = 'SE064', DETAIL = concat_ws(' ', SQLERRM || '.', nullif(why, '')),
                      HINT = 'Merge or remove one of those rows first; nothing was changed.';
        END;
        references_moved := CASE WHEN one IS NULL THEN references_moved ELSE references_moved || one END;
    END LOOP;
    ids_moved := sync._move_bindings(made, o.id, survivor_row ->> '__id', loser_row ->> '__id', _merge.reported_by);
    IF t.has_merged THEN
        PERFORM sync._as_owner(t.relation, format('UPDATE %s t SET merged_into_id = CAST(%L AS %s) WHERE t.%I = CAST(%L AS %s)', t.relation,
                               survivor_row ->> '__id', t.key_types[1], t.key_columns[1], loser_row ->> '__id', t.key_types[1]));
    ELSE
        PERFORM sync._as_owner(t.relation, format('DELETE FROM %s t WHERE %s = %L', t.relation, t.record_sql, loser_row ->> '__id'));
    END IF;
    UPDATE sync.merge m SET moved = references_moved, bindings = ids_moved WHERE m.id = made;
    -- What was in dispute about the loser is settled, and so is whether the two are one.
    UPDATE sync.conflict_entry c
       SET resolved_at = clock_timestamp(), resolved_by = session_user, taken = 'value', taken_value = to_jsonb(survivor_row ->> '__id'),
           reason = format('merged into %s', survivor_row ->> '__id')
     WHERE c.object_id = o.id AND c.resolved_at IS NULL
       AND (c.record_id = loser_row ->> '__id'
            OR c.kind = 'merged' AND c.record_id = survivor_row ->> '__id' AND c.field = 'merge of record ' || (loser_row ->> '__id'));
    UPDATE sync.pending p SET next_attempt_at = clock_timestamp()
     WHERE p.state = 'waiting' AND p.wait_object_id = o.id AND p.wait_record_id = loser_row ->> '__id';
    PERFORM sync._change();
    PERFORM sync._audit('record.merged', object, survivor_row ->> '__id', (SELECT y.name FROM sync.system y WHERE y.id = _merge.reported_by),
                        jsonb_build_object('merge', made, 'loser', loser_row ->> '__id', 'references',
                                           (SELECT coalesce(sum((e ->> 'count')::bigint), 0) FROM jsonb_array_elements(references_moved) e), 'bindings', ids_moved), reason);
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync._merge(text, text, text, text, integer) IS 'Merges two records; returns the id of the merge';

CREATE FUNCTION sync.merge_records(object text, survivor text, loser text, reason text)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_object integer := sync._object_id(merge_records.object);
    survivor_id text := sync._record_id(the_object, merge_records.survivor);
    call jsonb := jsonb_build_object('object', object, 'survivor', survivor_id, 'loser', sync._record_id(the_object, merge_records.loser), 'reason', reason);
    waits_for bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    PERFORM sync._check_merge_rights(the_object);
    waits_for := sync._approval('merge_records', object, survivor_id, NULL, NULL, call, reason);
    IF waits_for IS NULL THEN
        PERFORM sync._approved_merge_records(call, NULL);
    ELSE
        RAISE NOTICE 'the merge waits for approval %', waits_for;
    END IF;
    RETURN waits_for;
END
$$;
COMMENT ON FUNCTION sync.merge_records(text, text, text, text) IS
    'Makes two records one: references and external ids of the loser go to the survivor. NULL: done, table sync.merge has it; else the approval that it waits for';

CREATE FUNCTION sync._approved_merge_records(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF args ? 'undo' THEN
        RETURN sync._undo_merge((args ->> 'undo')::bigint, args ->> 'reason');
    END IF;
    RETURN jsonb_build_object('merge', sync._merge(args ->> 'object', args ->> 'survivor', args ->> 'loser', args ->> 'reason'));
END
$$;
COMMENT ON FUNCTION sync._approved_merge_records(jsonb, bigint) IS 'Does what sync.merge_records() or sync.undo_merge() was asked for';
