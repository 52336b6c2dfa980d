-- Merges taken back, followed, and kept up.

-- Rows that a merge re-pointed and that still point there go back; returns how many do not any more.
CREATE FUNCTION sync._move_back(entry jsonb)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := to_regclass(entry ->> 'table');
    columns text[] := ARRAY(SELECT jsonb_array_elements_text(entry -> 'columns'));
    keys text[] := CASE jsonb_typeof(entry -> 'keys') WHEN 'array' THEN ARRAY(SELECT jsonb_object_keys(entry -> 'keys' -> 0)) END;
    answer jsonb;
BEGIN
    IF relation IS NULL OR keys IS NULL THEN
        RETURN (entry ->> 'count')::bigint;
    END IF;
    answer := sync._as_owner(relation, format(
        'WITH m AS (UPDATE %s t SET %s FROM jsonb_to_recordset($1) k (%s) WHERE %s AND %s RETURNING 1) SELECT to_jsonb(count(*)) FROM m', relation,
        (SELECT string_agg(format('%I = CAST(%L AS %s)', c, entry -> 'before' ->> (n - 1)::integer, format_type(a.atttypid, a.atttypmod)), ', ')
           FROM unnest(columns) WITH ORDINALITY u (c, n) JOIN pg_attribute a ON a.attrelid = relation AND a.attname = c),
        (SELECT string_agg(format('%I %s', k, format_type(a.atttypid, a.atttypmod)), ', ')
           FROM unnest(keys) k JOIN pg_attribute a ON a.attrelid = relation AND a.attname = k),
        (SELECT string_agg(format('t.%1$I = k.%1$I', k), ' AND ') FROM unnest(keys) k),
        (SELECT string_agg(format('t.%I IS NOT DISTINCT FROM CAST(%L AS %s)', c, entry -> 'after' ->> (n - 1)::integer, format_type(a.atttypid, a.atttypmod)), ' AND ')
           FROM unnest(columns) WITH ORDINALITY u (c, n) JOIN pg_attribute a ON a.attrelid = relation AND a.attname = c)), entry -> 'keys');
    RETURN (entry ->> 'count')::bigint - (answer #>> '{}')::bigint;
END
$$;
COMMENT ON FUNCTION sync._move_back(jsonb) IS 'Takes re-pointed references back; returns how many point elsewhere by now';

CREATE FUNCTION sync._restore_bindings(m sync.merge)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b jsonb;
    remaining bigint := 0;
BEGIN
    FOR b IN SELECT * FROM jsonb_array_elements(m.bindings) LOOP
        CASE b ->> 'became'
        WHEN 'moved' THEN
            UPDATE sync.external_id e SET record_id = m.loser
             WHERE e.system_id = (b ->> 'system_id')::integer AND e.object_id = m.object_id AND e.remote_id = b ->> 'remote_id' AND e.record_id = m.survivor;
        WHEN 'alias' THEN
            DELETE FROM sync.external_alias e
             WHERE e.system_id = (b ->> 'system_id')::integer AND e.object_id = m.object_id AND e.remote_id = b ->> 'remote_id' AND e.record_id = m.survivor;
            IF FOUND THEN
                INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id, remote_number, remote_version)
                VALUES ((b ->> 'system_id')::integer, m.object_id, m.loser, b ->> 'remote_id', b ->> 'remote_number', b ->> 'remote_version');
            END IF;
        ELSE
            UPDATE sync.external_alias e SET record_id = m.loser
             WHERE e.system_id = (b ->> 'system_id')::integer AND e.object_id = m.object_id AND e.remote_id = b ->> 'remote_id' AND e.record_id = m.survivor;
        END CASE;
        remaining := remaining + CASE WHEN FOUND THEN 0 ELSE 1 END;
        UPDATE sync.mirror i SET record_id = m.loser, mapping = NULL
         WHERE i.system_id = (b ->> 'system_id')::integer AND i.object_id = m.object_id AND i.remote_id = b ->> 'remote_id'
           AND b ->> 'became' <> 'alias_moved';
        PERFORM sync._note_mirror((b ->> 'system_id')::integer, m.object_id, b ->> 'remote_id');
        UPDATE sync.conflict_entry c SET resolved_at = clock_timestamp(), resolved_by = session_user, taken = 'hub', reason = 'the merge was undone'
         WHERE c.kind = 'merged' AND c.resolved_at IS NULL AND c.object_id = m.object_id AND c.record_id = m.survivor
           AND c.system_id = (b ->> 'system_id')::integer AND c.remote_id = b ->> 'remote_id';
    END LOOP;
    RETURN remaining;
END
$$;
COMMENT ON FUNCTION sync._restore_bindings(sync.merge) IS 'Gives external ids back to the loser of a merge; returns how many were changed since';

CREATE FUNCTION sync._undo_merge(merge_id bigint, reason text)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    m sync.merge;
    t record;
    entry jsonb;
    remaining bigint := 0;
    not_bound bigint;
    later bigint;
BEGIN
    SELECT x.* INTO m FROM sync.merge x WHERE x.id = merge_id FOR UPDATE;
    IF NOT FOUND OR m.undone_at IS NOT NULL THEN
        RAISE EXCEPTION 'there is no merge % that could be undone', merge_id
            USING ERRCODE = 'undefined_object', DETAIL = CASE WHEN m.undone_at IS NOT NULL THEN format('It was undone at %s.', m.undone_at) ELSE 'No merge has that id.' END,
                  HINT = 'Table sync.merge lists merges.';
    END IF;
    IF m.undo_until < clock_timestamp() THEN
        RAISE EXCEPTION 'merge % can no longer be undone', merge_id
            USING ERRCODE = 'SE064', DETAIL = format('It could until %s.', m.undo_until), HINT = 'sync_ext.merge_retention says how long; it counts from the merge.';
    END IF;
    SELECT x.id INTO later FROM sync.merge x
     WHERE x.object_id = m.object_id AND x.undone_at IS NULL AND x.id > m.id
       AND (x.loser = m.survivor OR x.survivor = m.survivor) ORDER BY x.id DESC LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'merge % was built upon by merge %', merge_id, later
            USING ERRCODE = 'SE064', HINT = 'Undo the newest merge of the record first.';
    END IF;
    t := sync._identity_table(m.object_id);
    PERFORM sync._record_row(m.object_id, m.survivor, true);
    IF m.kept THEN
        PERFORM sync._as_owner(t.relation, format('UPDATE %s t SET merged_into_id = NULL WHERE %s = %L AND t.merged_into_id = CAST(%L AS %s)',
                                                  t.relation, t.record_sql, m.loser, m.survivor, t.key_types[1]));
    ELSE
        PERFORM sync._as_owner(t.relation, format('INSERT INTO %1$s (%2$s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1)', t.relation,
            (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
              WHERE a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND m.loser_row ? a.attname)), m.loser_row);
    END IF;
    FOR entry IN SELECT * FROM jsonb_array_elements(m.moved) LOOP
        remaining := remaining + sync._move_back(entry);
    END LOOP;
    not_bound := sync._restore_bindings(m);
    UPDATE sync.merge x SET undone_at = clock_timestamp(), undone_by = session_user, undo_reason = _undo_merge.reason WHERE x.id = merge_id;
    PERFORM sync._change();
    PERFORM sync._audit('record.merge_undone', (SELECT o.name FROM sync.object o WHERE o.id = m.object_id), m.survivor, NULL,
                        jsonb_build_object('merge', merge_id, 'loser', m.loser, 'references_left', remaining, 'bindings_left', not_bound), reason);
    RETURN jsonb_build_object('references_left', remaining, 'bindings_left', not_bound);
END
$$;
COMMENT ON FUNCTION sync._undo_merge(bigint, text) IS 'Takes a merge back; tells how much has changed since and stays with the survivor';

CREATE FUNCTION sync.undo_merge(merge_id bigint, reason text)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    m sync.merge;
    call jsonb := jsonb_build_object('undo', merge_id, 'reason', reason);
    result jsonb;
    waits_for bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT x.* INTO m FROM sync.merge x WHERE x.id = merge_id;
    IF m.id IS NOT NULL THEN
        PERFORM sync._check_merge_rights(m.object_id);
        waits_for := sync._approval('merge_records', (SELECT o.name FROM sync.object o WHERE o.id = m.object_id), m.survivor, NULL, NULL, call, reason);
    END IF;
    IF waits_for IS NOT NULL THEN
        RAISE NOTICE 'undoing the merge waits for approval %', waits_for;
        RETURN waits_for;
    END IF;
    result := sync._approved_merge_records(call, NULL);
    IF result ->> 'references_left' <> '0' OR result ->> 'bindings_left' <> '0' THEN
        RAISE NOTICE 'what has changed since the merge stays with the survivor'
            USING DETAIL = format('References: %s, external ids: %s.', result ->> 'references_left', result ->> 'bindings_left');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.undo_merge(bigint, text) IS
    'Takes a merge back within sync_ext.merge_retention: the loser, its references that still point to the survivor, its external ids. NULL: done; else the approval that it waits for';

CREATE FUNCTION sync.set_merge_policy(object text, system text, policy text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_object integer := sync._object_id(set_merge_policy.object);
    the_system integer := CASE WHEN set_merge_policy.system IS NOT NULL THEN sync._system_id(set_merge_policy.system) END;
BEGIN
    IF policy IS NULL OR policy NOT IN ('merge', 'conflict') THEN
        RAISE EXCEPTION 'invalid policy "%"', policy
            USING ERRCODE = 'invalid_parameter_value', HINT = 'merge: what a system merges is merged here, too; conflict: a person decides.';
    END IF;
    INSERT INTO sync.record_policy AS p (object_id, system_id, on_merge) VALUES (the_object, the_system, policy)
        ON CONFLICT (object_id, system_id) DO UPDATE SET on_merge = excluded.on_merge, set_at = clock_timestamp(), set_by = session_user;
    PERFORM sync._audit('merge_policy.set', object, NULL, system, jsonb_build_object('policy', policy), reason);
END
$$;
COMMENT ON FUNCTION sync.set_merge_policy(text, text, text, text) IS 'Says what a merge that a system reports does: merge or conflict, for one system or (NULL) all';

-- A system says that it merged one remote record into another.
CREATE FUNCTION sync._follow_merge(the_system integer, the_object integer, loser_remote text, survivor_remote text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    object text := (SELECT o.name FROM sync.object o WHERE o.id = the_object);
    system text := (SELECT y.name FROM sync.system y WHERE y.id = the_system);
    why text := format('%s merged %s into %s', system, loser_remote, survivor_remote);
    survivor text;
    loser text;
    policy text;
BEGIN
    SELECT x.record_id INTO loser FROM sync.external_id x WHERE x.system_id = the_system AND x.object_id = the_object AND x.remote_id = loser_remote;
    SELECT coalesce(x.record_id, a.record_id) INTO survivor FROM (SELECT) one
      LEFT JOIN sync.external_id x ON x.system_id = the_system AND x.object_id = the_object AND x.remote_id = survivor_remote
      LEFT JOIN sync.external_alias a ON a.system_id = the_system AND a.object_id = the_object AND a.remote_id = survivor_remote;
    IF loser IS NULL OR loser = survivor OR loser_remote = survivor_remote THEN
        RETURN 'nothing';
    END IF;
    IF survivor IS NULL THEN
        -- It lives on over there under an id that is nobody's here yet.
        UPDATE sync.external_id x SET remote_id = survivor_remote, bound_at = clock_timestamp()
         WHERE x.system_id = the_system AND x.object_id = the_object AND x.record_id = loser;
        INSERT INTO sync.external_alias (system_id, object_id, remote_id, record_id) VALUES (the_system, the_object, loser_remote, loser)
            ON CONFLICT ON CONSTRAINT external_alias_pkey DO NOTHING;
        UPDATE sync.mirror m SET record_id = NULL, deleted = true, mapping = NULL
         WHERE m.system_id = the_system AND m.object_id = the_object AND m.remote_id = loser_remote;
        PERFORM sync._note_mirror(the_system, the_object, loser_remote);
        PERFORM sync._audit('record.remote_renamed', object, loser, system, jsonb_build_object('from', loser_remote, 'to', survivor_remote), why);
        RETURN 'renamed';
    END IF;
    SELECT p.on_merge INTO policy FROM sync.record_policy p
     WHERE p.object_id = the_object AND (p.system_id = the_system OR p.system_id IS NULL) ORDER BY p.system_id NULLS LAST LIMIT 1;
    IF policy = 'merge' THEN
        BEGIN
            -- Nothing deferred is left for the commit, which has other rights.
            SET CONSTRAINTS ALL IMMEDIATE;
            PERFORM sync._merge(object, survivor, loser, why, the_system);
            UPDATE sync.mirror m SET deleted = true WHERE m.system_id = the_system AND m.object_id = the_object AND m.remote_id = loser_remote;
            PERFORM sync._note_mirror(the_system, the_object, loser_remote);
            RETURN 'merged';
        EXCEPTION WHEN SQLSTATE 'SE064' OR integrity_constraint_violation OR undefined_object OR raise_exception THEN
            why := format('%s; that cannot be followed: %s', why, SQLERRM);
        END;
    END IF;
    -- A person has seen it and left the two apart; the system tells of it again with every walk.
    IF EXISTS (SELECT FROM sync.conflict_entry c
                WHERE c.kind = 'merged' AND c.object_id = the_object AND c.system_id = the_system AND c.remote_id = loser_remote
                  AND c.record_id = survivor AND c.field = 'merge of record ' || loser AND c.taken = 'hub') THEN
        RETURN 'nothing';
    END IF;
    INSERT INTO sync.conflict_entry (kind, object_id, record_id, field, system_id, remote_id, hub_value, remote_value, policy, message)
    VALUES ('merged', the_object, survivor, 'merge of record ' || loser, the_system, loser_remote, to_jsonb(loser), to_jsonb(survivor_remote),
            'merges of a system are followed by a person', why || '; merge record ' || loser || ' with sync.merge_records(), or leave both with sync.keep_apart()')
        ON CONFLICT (object_id, record_id, field, system_id) WHERE resolved_at IS NULL DO NOTHING;
    RETURN 'conflict';
END
$$;
COMMENT ON FUNCTION sync._follow_merge(integer, integer, text, text) IS 'Follows a merge that a system reports: merged, renamed, conflict or nothing';

-- The second remote record of a merged one is gone: what it was a conflict for is settled.
CREATE FUNCTION sync._alias_gone(the_system integer, the_object integer, remote_id text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.conflict_entry c
       SET resolved_at = clock_timestamp(), resolved_by = session_user, taken = 'hub', reason = 'the system deleted its second record'
     WHERE c.kind = 'merged' AND c.resolved_at IS NULL AND c.system_id = $1 AND c.object_id = $2 AND c.remote_id = $3
$$;
COMMENT ON FUNCTION sync._alias_gone(integer, integer, text) IS 'Notes that a second remote record of a merged record is gone';

-- The answer to a conflict of kind merged that leaves things as they are.
CREATE FUNCTION sync.keep_apart(conflict_id bigint, reason text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c sync.conflict_entry;
BEGIN
    PERFORM sync._check_reason(reason);
    UPDATE sync.conflict_entry t
       SET resolved_at = clock_timestamp(), resolved_by = session_user, taken = 'hub', reason = keep_apart.reason
     WHERE t.id = conflict_id AND t.kind = 'merged' AND t.resolved_at IS NULL
    RETURNING t.* INTO c;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no open conflict % about a merge', conflict_id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.conflict lists what is open; others are settled with sync.resolve_conflict() or sync.decide_match().';
    END IF;
    PERFORM sync._audit('conflict.resolved', (SELECT o.name FROM sync.object o WHERE o.id = c.object_id), c.record_id,
                        (SELECT y.name FROM sync.system y WHERE y.id = c.system_id),
                        jsonb_build_object('conflict', c.id, 'kind', c.kind, 'remote_id', c.remote_id, 'taken', 'hub'), reason);
END
$$;
COMMENT ON FUNCTION sync.keep_apart(bigint, text) IS 'Closes a conflict about a merge: the two remote records, or the two of ours, stay as they are';

-- What came to a merged record while it was being merged: a reference whose writer waited for the merge
-- to commit, an external id out of a push that was in flight. Run by the hub.
CREATE FUNCTION sync._sweep_merges()
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    m sync.merge;
    t record;
    r record;
    loser_row jsonb;
    one jsonb;
    late jsonb;
    ids jsonb;
    found_count integer := 0;
BEGIN
    FOR m IN SELECT x.* FROM sync.merge x WHERE x.undone_at IS NULL AND x.merged_at > clock_timestamp() - interval '1 hour' LOOP
        t := sync._identity_table(m.object_id);
        CONTINUE WHEN t.relation IS NULL;
        loser_row := m.loser_row || jsonb_build_object('__id', m.loser);
        late := '[]';
        BEGIN
            SET CONSTRAINTS ALL IMMEDIATE;
            IF m.kept THEN
                FOR r IN SELECT * FROM sync._references_to(t.relation) LOOP
                    one := sync._move_references(r, loser_row, sync._record_row(m.object_id, m.survivor),
                                                 CASE WHEN r.referrer = t.relation THEN t.record_sql END,
                                                 CASE WHEN r.referrer = t.relation THEN ARRAY[m.survivor, m.loser] END);
                    late := CASE WHEN one IS NULL THEN late ELSE late || one END;
                END LOOP;
            END IF;
            ids := sync._move_bindings(m.id, m.object_id, m.survivor, m.loser, NULL);
            IF late <> '[]' OR ids <> '[]' THEN
                UPDATE sync.merge x SET moved = x.moved || late, bindings = x.bindings || ids WHERE x.id = m.id;
                PERFORM sync._audit('record.merge_completed', (SELECT o.name FROM sync.object o WHERE o.id = m.object_id), m.survivor, NULL,
                                    jsonb_build_object('merge', m.id, 'loser', m.loser, 'moved', late, 'bindings', ids), 'came while the records were merged');
                found_count := found_count + 1;
            END IF;
        EXCEPTION WHEN lock_not_available OR integrity_constraint_violation THEN
            RAISE LOG 'references to merged record % stay for now: %', m.loser, SQLERRM;
        END;
    END LOOP;
    RETURN found_count;
END
$$;
COMMENT ON FUNCTION sync._sweep_merges() IS 'Moves what came to merged records during their merge to the survivors; run by the hub';
