-- Ownership: who is authoritative for an object or a field, as declared; the triggers that bind applications.

-- ---- what the declaration keeps true by itself ----

-- Runs at the load of a dump too, so it never fails for a table that is missing.
CREATE FUNCTION sync._owner_cache()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.attnum := (SELECT a.attnum FROM sync.object o
                     JOIN pg_attribute a ON a.attrelid = to_regclass(format('%I.%I', o.schema_name, o.table_name))
                    WHERE o.id = NEW.object_id AND a.attname = NEW.field AND a.attnum > 0 AND NOT a.attisdropped);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync._owner_cache() IS 'Keeps the attribute number of an owned column';

CREATE TRIGGER cache BEFORE INSERT OR UPDATE ON sync.owner
    FOR EACH ROW EXECUTE FUNCTION sync._owner_cache();
COMMENT ON TRIGGER cache ON sync.owner IS 'Keeps the attribute number of the column that the row names';

-- Every backend forgets what it knows of owners, also when a replication or restore tool writes as a replica.
CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sync.owner
    FOR EACH STATEMENT EXECUTE FUNCTION sync._registry_changed();
ALTER TABLE sync.owner ENABLE ALWAYS TRIGGER registry_changed;
COMMENT ON TRIGGER registry_changed ON sync.owner IS 'Tells every backend that what it has cached of owners is stale';

DO $$
DECLARE
    registry text;
BEGIN
    FOREACH registry IN ARRAY ARRAY['owner', 'conflict_policy'] LOOP
        EXECUTE format('CREATE TRIGGER tell_hub AFTER INSERT OR UPDATE OR DELETE ON sync.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION sync._change_trigger()', registry);
        EXECUTE format('COMMENT ON TRIGGER tell_hub ON sync.%I IS %L', registry, 'Has the hub read its configuration again');
    END LOOP;
END
$$;

CREATE FUNCTION sync._owner_name(system_id integer)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $1 IS NULL THEN 'hub' ELSE (SELECT y.name FROM sync.system y WHERE y.id = $1) END
$$;
COMMENT ON FUNCTION sync._owner_name(integer) IS 'A system''s name, or hub';

-- What of an object a system owns, in words, for refusals; NULL when nothing is declared.
CREATE FUNCTION sync._owned(object_id integer, system_id integer)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s of object "%s" is owned by %s.',
                  CASE w.field WHEN '*' THEN 'Every field' ELSE format('Field "%s"', w.field) END, o.name,
                  CASE WHEN w.system_id IS NULL THEN 'the hub' ELSE format('system "%s"', sync._owner_name(w.system_id)) END)
      FROM sync.owner w JOIN sync.object o ON o.id = w.object_id
     WHERE w.object_id = coalesce($1, w.object_id) AND ($2 IS NULL OR w.system_id = $2)
     ORDER BY o.name, w.field LIMIT 1
$$;
COMMENT ON FUNCTION sync._owned(integer, integer) IS 'The first declaration of ownership of an object, by a system, in words';

-- ---- triggers ----

CREATE FUNCTION sync.guard() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_guard';
COMMENT ON FUNCTION sync.guard() IS 'Trigger of a table with owned fields: judges what applications write; made by sync.set_owner()';

CREATE FUNCTION sync._owner_bypass(object_id integer) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_owner_bypass_sql';
COMMENT ON FUNCTION sync._owner_bypass(integer) IS
    'For functions of the hub: their own statements on the object''s tables are not judged until NULL is given or the (sub)transaction ends';

-- Called by the triggers, as the extension's owner.
CREATE FUNCTION sync._want_correction(object_id integer, record_id text, field text, system_id integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound text;
BEGIN
    SELECT x.remote_id INTO bound FROM sync.external_id x
     WHERE x.object_id = $1 AND x.record_id = $2 AND x.system_id = $4
       AND EXISTS (SELECT FROM sync.stream s WHERE s.system_id = $4 AND s.object_id = $1 AND s.state = 'active');
    IF bound IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO sync.correction AS c (object_id, record_id, field, system_id) VALUES ($1, $2, $3, $4)
    ON CONFLICT ON CONSTRAINT correction_pkey DO UPDATE SET at = excluded.at;
    -- As the pull asks for records by id: src/pull/state.c, se_state_want().
    INSERT INTO sync.inbox (system_id, object_id, remote_id, item, reason, retry_at)
    VALUES ($4, $1, bound, 'null', 'an application changed what the system owns', clock_timestamp())
    ON CONFLICT DO NOTHING;
    PERFORM sync._wake();
END
$$;
COMMENT ON FUNCTION sync._want_correction(integer, text, text, integer) IS
    'Has the owner''s state of a record read again, if it is bound there and a stream reads it; else the change is kept';

CREATE FUNCTION sync._open_violation(object_id integer, record_id text, field text, owner_id integer, hub_value jsonb, remote_value jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    about sync.object;
    said text;
    opened bigint;
    -- One column of a row comes as an object with that one. Lines are held together, each beside what
    -- it was to become; null: there is, or was to be, none.
    hub_side constant jsonb := CASE WHEN $3 IS NULL THEN $5 WHEN $3 = 'lines' THEN jsonb_build_array(coalesce($5, 'null')) ELSE $5 -> $3 END;
    app_side constant jsonb := CASE WHEN $3 IS NULL THEN $6 WHEN $3 = 'lines' THEN jsonb_build_array(coalesce($6, 'null')) ELSE $6 -> $3 END;
BEGIN
    SELECT o.* INTO about FROM sync.object o WHERE o.id = $1;
    said := format('An application wanted to %s, which is owned by "%s"',
                   CASE WHEN $3 IS NOT NULL THEN format('change "%s"', $3)
                        WHEN $5 IS NULL THEN 'create the record' ELSE 'delete the record' END,
                   sync._owner_name($4));
    INSERT INTO sync.conflict_entry AS c (kind, object_id, record_id, field, system_id, hub_value, remote_value, remote_at, policy, message)
    VALUES ('violation', $1, $2, $3, NULL, hub_side, app_side, clock_timestamp(), 'quarantine', said)
    ON CONFLICT (object_id, record_id, field, system_id) WHERE resolved_at IS NULL
    DO UPDATE SET hub_value = CASE WHEN $3 = 'lines' THEN c.hub_value || excluded.hub_value ELSE excluded.hub_value END,
                  remote_value = CASE WHEN $3 = 'lines' THEN c.remote_value || excluded.remote_value ELSE excluded.remote_value END,
                  remote_at = excluded.remote_at, message = excluded.message
    RETURNING c.id INTO opened;
    PERFORM sync._audit('violation.quarantined', about.name, $2, sync._owner_name($4),
        jsonb_strip_nulls(jsonb_build_object('conflict', opened, 'field', $3, 'hub', hub_side, 'wanted', app_side)));
END
$$;
COMMENT ON FUNCTION sync._open_violation(integer, text, text, integer, jsonb, jsonb) IS
    'Keeps what an application wanted against the owner as an open conflict of the record and field, the newest one';

-- Which triggers judge the changes of a table; sync.capture() judges what it captures anyway.
CREATE FUNCTION sync._guards_of(object_id integer)
RETURNS TABLE (relation regclass, trigger_name name, event text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 4
SET search_path = pg_catalog, pg_temp
AS $$
    WITH bound AS (
        SELECT to_regclass(format('%I.%I', o.schema_name, o.table_name)) AS relation, o.captured,
               bool_or(w.on_violation IN ('ignore', 'quarantine')) AS undoes, bool_or(w.field = '*') AS whole
          FROM sync.object o JOIN sync.owner w ON w.object_id = o.id
         WHERE o.id = $1 AND w.system_id IS NOT NULL AND w.field <> 'lines'
         GROUP BY o.id
        UNION ALL
        SELECT to_regclass(format('%I.%I', o.line_schema, o.line_table)), o.captured,
               w.on_violation IN ('ignore', 'quarantine'), true
          FROM sync.object o
         CROSS JOIN LATERAL (SELECT * FROM sync.owner w WHERE w.object_id = o.id AND w.field IN ('lines', '*')
                              ORDER BY w.field = 'lines' DESC LIMIT 1) w
         WHERE o.id = $1 AND o.line_table IS NOT NULL AND w.system_id IS NOT NULL)
    SELECT b.relation, g.name, g.event
      FROM bound b JOIN pg_class c ON c.oid = b.relation
     CROSS JOIN LATERAL (VALUES
        ('sync_guard'::name, 'AFTER INSERT OR UPDATE OR DELETE ON TABLE FOR EACH ROW', NOT b.captured),
        -- Before it is made a change can be undone. There, too, is judged what moves a row to another
        -- partition, since afterwards there is a row deleted and another inserted. The name has it see
        -- what other triggers made of the row.
        ('zz_sync_guard', 'BEFORE INSERT OR UPDATE OR DELETE ON TABLE FOR EACH ROW', b.undoes OR c.relkind = 'p'),
        ('sync_guard_truncate', 'BEFORE TRUNCATE ON TABLE FOR EACH STATEMENT', b.whole)) g (name, event, needed)
     WHERE g.needed
$$;
COMMENT ON FUNCTION sync._guards_of(integer) IS 'The triggers that an object''s declared owners need';

-- Makes them so and drops those that are no longer needed. As the caller: who owns the table, or the
-- extension.
CREATE FUNCTION sync._set_guards(object text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    guard record;
    guarded regclass;
    part regclass;
    always boolean;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.name = _set_guards.object;
    FOREACH guarded IN ARRAY array_remove(ARRAY[to_regclass(format('%I.%I', o.schema_name, o.table_name)),
            CASE WHEN o.line_table IS NOT NULL THEN to_regclass(format('%I.%I', o.line_schema, o.line_table)) END], NULL)
    LOOP
        -- A table whose capture fires for replication, too, is judged then, too.
        always := EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = guarded AND t.tgname = 'sync_capture' AND t.tgenabled = 'A');
        FOR guard IN SELECT g.* FROM sync._guards_of(o.id) g WHERE g.relation = guarded LOOP
            FOR part IN SELECT guarded
                        UNION ALL
                        SELECT p.relid FROM pg_partition_tree(guarded) p JOIN pg_class c ON c.oid = p.relid
                         WHERE guard.trigger_name = 'sync_guard_truncate' AND p.relid <> guarded AND c.relkind IN ('r', 'p')
            LOOP
                PERFORM sync._set_trigger(part, guard.trigger_name, guard.event, 'sync.guard', o.name, always);
            END LOOP;
        END LOOP;
        PERFORM sync._drop_triggers(guarded, o.name, ARRAY(
            SELECT n FROM unnest('{zz_sync_guard,sync_guard,sync_guard_truncate}'::name[]) n
             WHERE n NOT IN (SELECT g.trigger_name FROM sync._guards_of(o.id) g WHERE g.relation = guarded)));
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._set_guards(text) IS 'Makes the triggers that an object''s declared owners need, and drops others of ours';

-- ---- the acts ----

-- The object of an act; the table's owner has been asked for by the C function in between.
CREATE FUNCTION sync._owner_object(object text)
RETURNS sync.object
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
BEGIN
    PERFORM sync._object_id(_owner_object.object);
    SELECT t.* INTO o FROM sync.object t WHERE t.name = _owner_object.object;
    IF to_regclass(format('%I.%I', o.schema_name, o.table_name)) IS NULL THEN
        RAISE EXCEPTION 'the table of object "%" was dropped', o.name
            USING ERRCODE = 'SE011', HINT = 'Track another table as this object, or untrack it.';
    END IF;
    RETURN o;
END
$$;
COMMENT ON FUNCTION sync._owner_object(text) IS 'An object that somebody wants to govern; an error when it has no table';

-- A field that can have an owner of its own; else an error that says why not.
CREATE FUNCTION sync._check_owned_field(o sync.object, field text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    column_of pg_attribute;
BEGIN
    IF field = '*' OR field = 'lines' AND o.line_table IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT a.* INTO column_of FROM pg_attribute a
     WHERE a.attrelid = to_regclass(format('%I.%I', o.schema_name, o.table_name))
       AND a.attname = field AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" has no field "%"', o.name, field
            USING ERRCODE = 'undefined_column',
                  DETAIL = format('Fields are the columns of %I.%I%s.', o.schema_name, o.table_name,
                                  CASE WHEN o.line_table IS NOT NULL THEN ', and "lines"' ELSE '' END),
                  HINT = 'Use * for every field that has no owner of its own.';
    END IF;
    IF column_of.attname = ANY (o.key_columns) THEN
        RAISE EXCEPTION 'key column "%" of object "%" cannot have an owner of its own', field, o.name
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It tells which record is meant, and who creates a record must give it.',
                  HINT = 'Declare the owner of * to say who may create and delete records.';
    END IF;
    IF column_of.attgenerated <> '' THEN
        RAISE EXCEPTION 'generated column "%" of object "%" cannot have an owner', field, o.name
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'The database computes it.',
                  HINT = 'Declare the owner of the columns that it is computed from.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_owned_field(sync.object, text) IS 'Refuses fields that cannot have an owner';

-- args: object, field, owner, on_violation; or object, field, drop; and a reason when nobody had to approve.
CREATE FUNCTION sync._approved_set_owner(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object := sync._owner_object(args ->> 'object');
    about text := args ->> 'field';
    asked sync.approval_request;
    owner_id integer;
    before jsonb;
    after jsonb;
BEGIN
    SELECT a.* INTO asked FROM sync.approval_request a WHERE a.id = approval;
    SELECT jsonb_build_object('owner', sync._owner_name(w.system_id), 'on_violation', w.on_violation) INTO before
      FROM sync.owner w WHERE w.object_id = o.id AND w.field = about;
    IF args ? 'drop' THEN
        IF before IS NULL THEN
            RAISE EXCEPTION 'field "%" of object "%" has no owner of its own', about, o.name
                USING ERRCODE = 'undefined_object', HINT = 'View sync.ownership shows what is declared, and where.';
        END IF;
    ELSE
        PERFORM sync._check_owned_field(o, about);
        owner_id := CASE WHEN args ->> 'owner' <> 'hub' THEN sync._system_id(args ->> 'owner') END;
        after := jsonb_build_object('owner', args ->> 'owner', 'on_violation', args ->> 'on_violation');
    END IF;

    -- Who is writing the table now was not judged by what is declared here: his transaction ends first.
    EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', o.schema_name, o.table_name);
    IF o.line_table IS NOT NULL AND about IN ('*', 'lines') THEN
        EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', o.line_schema, o.line_table);
    END IF;
    IF after IS NULL THEN
        DELETE FROM sync.owner w WHERE w.object_id = o.id AND w.field = about;
        DELETE FROM sync.correction c WHERE c.object_id = o.id AND (about = '*' OR c.field = about);
    ELSE
        INSERT INTO sync.owner AS w (object_id, field, system_id, on_violation, set_by)
        VALUES (o.id, about, owner_id, args ->> 'on_violation', coalesce(asked.requested_by, session_user))
        ON CONFLICT (object_id, field) DO UPDATE
           SET system_id = excluded.system_id, on_violation = excluded.on_violation, set_at = clock_timestamp(), set_by = excluded.set_by;
        DELETE FROM sync.correction c
         WHERE c.object_id = o.id AND (about = '*' OR c.field = about) AND c.system_id IS DISTINCT FROM owner_id;
    END IF;
    PERFORM sync._set_guards(o.name);
    PERFORM sync._change(); -- what is left out of updates
    PERFORM sync._audit(CASE WHEN after IS NULL THEN 'owner.dropped' ELSE 'owner.set' END, o.name, NULL, nullif(args ->> 'owner', 'hub'),
        jsonb_strip_nulls(jsonb_build_object('field', about, 'before', before, 'after', after, 'approval', approval,
                                             'requested_by', asked.requested_by)),
        coalesce(asked.reason, args ->> 'reason'));
    RETURN jsonb_build_object('before', before, 'after', after);
END
$$;
COMMENT ON FUNCTION sync._approved_set_owner(jsonb, bigint) IS 'Declares or drops an owner; an approval lets it happen where one is needed';

CREATE FUNCTION sync._approved_set_conflict_policy(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object := sync._owner_object(args ->> 'object');
    asked sync.approval_request;
    before text;
BEGIN
    SELECT a.* INTO asked FROM sync.approval_request a WHERE a.id = approval;
    SELECT p.policy INTO before FROM sync.conflict_policy p WHERE p.object_id = o.id;
    INSERT INTO sync.conflict_policy AS p (object_id, policy, set_by)
    VALUES (o.id, args ->> 'policy', coalesce(asked.requested_by, session_user))
    ON CONFLICT (object_id) DO UPDATE SET policy = excluded.policy, set_at = clock_timestamp(), set_by = excluded.set_by;
    PERFORM sync._audit('conflict_policy.set', o.name, NULL, NULL,
        jsonb_strip_nulls(jsonb_build_object('before', coalesce(before, 'newest'), 'after', args ->> 'policy', 'approval', approval,
                                             'requested_by', asked.requested_by)),
        coalesce(asked.reason, args ->> 'reason'));
    RETURN jsonb_build_object('before', coalesce(before, 'newest'), 'after', args ->> 'policy');
END
$$;
COMMENT ON FUNCTION sync._approved_set_conflict_policy(jsonb, bigint) IS 'Declares a conflict policy; an approval lets it happen where one is needed';

-- Does it, or has it wait for an approval. Runs as the extension's owner; called by _owner_act() alone.
CREATE FUNCTION sync._owner_request(operation text, call jsonb, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object := sync._owner_object(call ->> 'object');
    waits_for bigint;
BEGIN
    IF operation = 'set_owner' THEN
        IF call ->> 'field' IS NULL OR NOT call ? 'drop' AND (call ->> 'owner' IS NULL OR coalesce(call ->> 'on_violation', '')
                NOT IN ('reject', 'ignore', 'correct', 'quarantine')) THEN
            RAISE EXCEPTION 'an owner takes a field, a system or hub, and what a violation gets'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'on_violation is one of reject, ignore, correct, quarantine.';
        END IF;
        IF call ? 'drop' THEN
            PERFORM FROM sync.owner w WHERE w.object_id = o.id AND w.field = call ->> 'field';
            IF NOT FOUND THEN
                RAISE EXCEPTION 'field "%" of object "%" has no owner of its own', call ->> 'field', o.name
                    USING ERRCODE = 'undefined_object', HINT = 'View sync.ownership shows what is declared, and where.';
            END IF;
        ELSE
            PERFORM sync._check_owned_field(o, call ->> 'field');
            PERFORM FROM sync.owner w
              WHERE w.object_id = o.id AND w.field = call ->> 'field' AND w.on_violation = call ->> 'on_violation'
                AND w.system_id IS NOT DISTINCT FROM CASE WHEN call ->> 'owner' <> 'hub' THEN sync._system_id(call ->> 'owner') END;
            IF FOUND THEN
                PERFORM sync._set_guards(o.name);
                RETURN NULL;
            END IF;
        END IF;
    ELSIF operation = 'set_conflict_policy' THEN
        IF coalesce(call ->> 'policy', '') NOT IN ('newest', 'owner', 'quarantine') THEN
            RAISE EXCEPTION 'there is no conflict policy "%"', call ->> 'policy'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Policies are newest, owner, quarantine.';
        END IF;
    ELSE
        RAISE EXCEPTION 'there is no operation "%" here', operation
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Operations are set_owner, set_conflict_policy.';
    END IF;

    waits_for := sync._approval(operation, o.name, NULL, NULL, NULL, call, reason);
    IF waits_for IS NOT NULL THEN
        RAISE NOTICE 'approval % is needed: nothing has changed yet', waits_for
            USING HINT = format('A member of sync_approver who is not you calls sync.approve(%s, reason).', waits_for);
        RETURN waits_for;
    END IF;
    call := call || jsonb_strip_nulls(jsonb_build_object('reason', reason));
    IF operation = 'set_owner' THEN
        PERFORM sync._approved_set_owner(call, NULL);
    ELSE
        PERFORM sync._approved_set_conflict_policy(call, NULL);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._owner_request(text, jsonb, text) IS 'Checks a declaration, and does it or requests its approval';

CREATE FUNCTION sync._owner_act(operation text, call jsonb, reason text)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_owner_act';
COMMENT ON FUNCTION sync._owner_act(text, jsonb, text) IS 'Calls _owner_request() for who owns the object''s table';

CREATE FUNCTION sync.set_owner(object text, field text, owner text, on_violation text DEFAULT 'reject', reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._owner_act('set_owner', jsonb_build_object('object', $1, 'field', $2, 'owner', $3, 'on_violation', $4), $5)
$$;
COMMENT ON FUNCTION sync.set_owner(text, text, text, text, text) IS
    'Declares who is authoritative for a field (or *): a system, or hub. NULL: it holds now; else the id of the approval that it waits for';

CREATE FUNCTION sync.drop_owner(object text, field text, reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._owner_act('set_owner', jsonb_build_object('object', $1, 'field', $2, 'drop', true), $3)
$$;
COMMENT ON FUNCTION sync.drop_owner(text, text, text) IS
    'Takes back what set_owner() declared. NULL: it holds now; else the id of the approval that it waits for';

CREATE FUNCTION sync.set_conflict_policy(object text, policy text, reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._owner_act('set_conflict_policy', jsonb_build_object('object', $1, 'policy', $2), $3)
$$;
COMMENT ON FUNCTION sync.set_conflict_policy(text, text, text) IS
    'Declares what decides a field without owner that hub and system have both changed: newest, owner, quarantine';

-- ---- what holds ----

CREATE VIEW sync.ownership AS
SELECT o.name AS object, f.field,
       CASE WHEN w.object_id IS NULL THEN NULL WHEN w.system_id IS NULL THEN 'hub' ELSE y.name END AS owner,
       w.on_violation,
       CASE WHEN w.object_id IS NULL THEN 'none' WHEN w.field = '*' THEN 'object' ELSE 'field' END AS origin,
       w.set_by, w.set_at, coalesce(p.policy, 'newest') AS conflict_policy
  FROM sync.object o
 CROSS JOIN LATERAL (
        SELECT a.attname::text AS field, a.attnum::integer AS place,
               a.attgenerated = '' AND a.attname <> ALL (o.volatile_columns) AS inherits
          FROM pg_catalog.pg_attribute a WHERE a.attrelid = o.table_oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT 'lines', 10000, true WHERE o.line_table IS NOT NULL) f
  LEFT JOIN LATERAL (
        SELECT w.* FROM sync.owner w
         WHERE w.object_id = o.id AND (w.field = f.field OR w.field = '*' AND f.inherits)
         ORDER BY w.field = '*' LIMIT 1) w ON true
  LEFT JOIN sync.system y ON y.id = w.system_id
  LEFT JOIN sync.conflict_policy p ON p.object_id = o.id
 ORDER BY o.name, f.place;
COMMENT ON VIEW sync.ownership IS 'Who owns each field of each object, what a violation gets, and where that was declared';
COMMENT ON COLUMN sync.ownership.field IS 'A column, or "lines" for the lines of a document';
COMMENT ON COLUMN sync.ownership.owner IS 'A system, or hub: the applications; NULL: anybody may change it';
COMMENT ON COLUMN sync.ownership.on_violation IS 'What becomes of a change by anybody else: reject, ignore, correct, quarantine';
COMMENT ON COLUMN sync.ownership.origin IS 'field: declared for it; object: by * (not for volatile and generated columns); none: not declared';
COMMENT ON COLUMN sync.ownership.set_by IS 'Who declared it';
COMMENT ON COLUMN sync.ownership.set_at IS 'When it was declared';
COMMENT ON COLUMN sync.ownership.conflict_policy IS 'What decides when hub and system have both changed a field without owner: newest, owner, quarantine';
