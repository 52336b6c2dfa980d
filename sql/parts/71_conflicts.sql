-- Conflicts: what a person sees of them, and how he decides.

-- The field as it is now, when the caller may read it; else as it was when the conflict was last
-- looked at. Like sync._record_number(): built-in types only, no policies, so that no code of the
-- table's owner runs with the rights of whoever looks.
CREATE FUNCTION sync._hub_value(object_id integer, record_id text, field text, known jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    o record;
    matches text;
    value jsonb;
BEGIN
    SELECT t.* INTO o FROM sync._object_columns t WHERE t.id = _hub_value.object_id;
    IF o.table_oid IS NULL OR NOT has_schema_privilege(o.schema_name, 'USAGE') OR NOT has_table_privilege(o.table_oid, 'SELECT')
       OR NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
                       WHERE a.attrelid = o.table_oid AND a.attname = _hub_value.field AND a.attnum > 0 AND NOT a.attisdropped
                         AND y.typnamespace = 'pg_catalog'::regnamespace) THEN
        RETURN known;
    END IF;
    SELECT string_agg(format('t.%I = %s::%s', a.attname,
                             CASE cardinality(o.key_columns) WHEN 1 THEN '$1' ELSE format('($1::jsonb ->> %s)', k.n - 1) END,
                             format_type(a.atttypid, -1)), ' AND ')
      INTO matches
      FROM unnest(o.key_columns) WITH ORDINALITY k (name, n)
      JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = k.name
      JOIN pg_type y ON y.oid = a.atttypid AND y.typnamespace = 'pg_catalog'::regnamespace
    HAVING count(*) = cardinality(o.key_columns);
    IF matches IS NULL THEN
        RETURN known;
    END IF;
    EXECUTE format('SELECT to_jsonb(t.%I) FROM %I.%I t WHERE %s', field, o.schema_name, o.table_name, matches)
       INTO value USING record_id;
    RETURN value;
EXCEPTION WHEN insufficient_privilege OR data_exception OR undefined_table OR undefined_column THEN
    RETURN known;
END
$$;
COMMENT ON FUNCTION sync._hub_value(integer, text, text, jsonb) IS 'A field of a record as it is now, when the caller may read it, else the value given';

-- A value as the caller may see it: like sync._shown(), of one field or (NULL) of a whole record.
CREATE FUNCTION sync._shown_value(object_id integer, field text, value jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $2 IS NULL THEN sync._shown($1, $3)
                WHEN $3 IS NULL THEN NULL
                ELSE sync._shown($1, jsonb_build_object($2, $3)) -> $2 END
$$;
COMMENT ON FUNCTION sync._shown_value(integer, text, jsonb) IS 'A value of a field as the caller may see it: one that is personal and that he may not read is replaced';

CREATE VIEW sync.conflict WITH (security_barrier) AS
SELECT c.id, c.kind, o.name AS object, c.record_id,
       coalesce(m.fields ->> o.number_column::text, sync._record_number(o.id, c.record_id)) AS record_number,
       c.field, y.name AS system, c.remote_id,
       sync._shown_value(o.id, c.field, CASE WHEN c.field IS NULL OR c.record_id IS NULL THEN c.hub_value
            ELSE sync._hub_value(o.id, c.record_id, c.field, c.hub_value) END) AS hub_value,
       CASE WHEN c.hub_origin = 0 THEN 'an application' ELSE h.name END AS hub_origin, c.hub_at,
       sync._shown_value(o.id, c.field, c.remote_value) AS remote_value, c.remote_at, c.policy, c.message, c.opened_at, clock_timestamp() - c.opened_at AS age,
       format('SELECT sync.resolve_conflict(%s, ''hub'', ''why'')', c.id) AS how_to_resolve,
       NULL::text AS delivery, NULL::text AS code, NULL::text AS step, x.remote_number, NULL::text AS response,
       NULL::timestamptz AS event_at, NULL::timestamptz AS failed_at, NULL::bigint AS behind, NULL::text AS how_to_retry
  FROM sync.conflict_entry c
  JOIN sync._visible_object o ON o.id = c.object_id
  LEFT JOIN sync.system y ON y.id = c.system_id
  LEFT JOIN sync.system h ON h.id = c.hub_origin
  LEFT JOIN sync.mirror m ON m.system_id = c.system_id AND m.object_id = c.object_id AND m.remote_id = c.remote_id
  LEFT JOIN sync.external_id x ON x.system_id = c.system_id AND x.object_id = c.object_id AND x.record_id = c.record_id
 WHERE c.resolved_at IS NULL
UNION ALL
SELECT h.id, 'delivery', h.object, h.record_id, h.record_number, NULL, h.system, x.remote_id, NULL, NULL, h.event_at,
       NULL, NULL, 'a financial document is posted when both sides are equal', h.message, h.failed_at,
       clock_timestamp() - h.failed_at, NULL,
       h.delivery, h.code, h.step, x.remote_number, h.response, h.event_at, h.failed_at, h.behind, h.how_to_retry
  FROM sync._held h
  LEFT JOIN sync.system y ON y.name = h.system
  LEFT JOIN sync.object o ON o.name = h.object
  LEFT JOIN sync.external_id x ON x.system_id = y.id AND x.object_id = o.id AND x.record_id = h.record_id
 WHERE h.state = 'conflict';
COMMENT ON VIEW sync.conflict IS 'Disagreements that a person decides: fields by resolve_conflict(); documents whose remote copy differs from ours (kind delivery) by retry() or discard()';

CREATE VIEW sync.violation WITH (security_barrier) AS
SELECT a.at, CASE a.action WHEN 'violation.rejected' THEN 'rejected' WHEN 'violation.corrected' THEN 'corrected'
                           ELSE 'lost' END AS outcome,
       a.object, a.record_id, sync._record_number(o.id, a.record_id) AS record_number, a.detail ->> 'field' AS field,
       a.system, a.detail ->> 'remote_id' AS remote_id, sync._shown_value(o.id, a.detail ->> 'field', a.detail -> 'hub') AS hub_value,
       sync._shown_value(o.id, a.detail ->> 'field', a.detail -> 'remote') AS remote_value,
       a.detail ->> 'policy' AS policy
  FROM sync.audit a
  JOIN sync.object o ON o.name = a.object
 WHERE (SELECT sync._sees_all())
   AND a.action IN ('violation.rejected', 'violation.corrected', 'change.lost') AND a.system IS NOT NULL;
COMMENT ON VIEW sync.violation IS 'Changes of systems that were not applied: of fields that they do not own, or of records that were deleted here';

CREATE FUNCTION sync._field_lock(object_id integer, record_id text, field text)
RETURNS jsonb
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'se_field_lock';
COMMENT ON FUNCTION sync._field_lock(integer, text, text) IS 'Locks a record''s row and returns one of its fields; NULL: there is no such row';

CREATE FUNCTION sync._field_write(object_id integer, record_id text, field text, value jsonb, origin integer)
RETURNS void
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'se_field_write';
COMMENT ON FUNCTION sync._field_write(integer, text, text, jsonb, integer) IS 'Writes one field of a record as its table''s owner, as the change of a system or (0) of an application';

CREATE FUNCTION sync._record_push(object_id integer, record_id text, system_id integer, op "char", old jsonb)
RETURNS boolean
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_record_push';
COMMENT ON FUNCTION sync._record_push(integer, text, integer, "char", jsonb) IS 'Has a record as it stands sent to one system; false: there is no such record';

CREATE FUNCTION sync._apply_delete(stream_id integer, remote_id text)
RETURNS void
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'se_apply_delete';
COMMENT ON FUNCTION sync._apply_delete(integer, text) IS 'Does what the connector says a delete at the other side does here, whoever owns the record';

-- What both sides are agreed on from now on; value NULL: what the system says.
CREATE FUNCTION sync._agree(c sync.conflict_entry, value jsonb)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.mirror m
       SET agreed = nullif((coalesce(m.agreed, '{}') - c.field)
                           || CASE WHEN value IS NULL THEN '{}' ELSE jsonb_build_object(c.field, value) END, '{}'),
           corrected = nullif(m.corrected - c.field, '{}')
     WHERE m.system_id = c.system_id AND m.object_id = c.object_id AND m.remote_id = c.remote_id
$$;
COMMENT ON FUNCTION sync._agree(sync.conflict_entry, jsonb) IS 'Notes in the mirror what a conflict was decided for';

-- A person decides, whoever owns the field.
CREATE FUNCTION sync._decided_write(c sync.conflict_entry, value jsonb, origin integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._owner_bypass(c.object_id);
    PERFORM sync._field_write(c.object_id, c.record_id, c.field, value, origin);
    PERFORM sync._owner_bypass(NULL);
END
$$;
COMMENT ON FUNCTION sync._decided_write(sync.conflict_entry, jsonb, integer) IS 'Writes the value that a conflict was decided for, past the owner of the field';

CREATE FUNCTION sync._resolve_field(c sync.conflict_entry, take text, value jsonb, ours jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF ours IS NULL THEN
        IF take <> 'hub' THEN
            RAISE EXCEPTION 'the record of conflict % has been deleted', c.id
                USING ERRCODE = 'SE062', HINT = 'There is nothing to write; close the conflict with take => ''hub''.';
        END IF;
        RETURN NULL;
    END IF;
    IF take = 'remote' THEN
        IF c.remote_value IS NULL THEN
            RAISE EXCEPTION 'the remote value of conflict % is not known any more', c.id
                USING ERRCODE = 'SE062', HINT = 'Take ''hub'', or ''value'' with what the system says.';
        END IF;
        -- as a change of the system: it goes to the others, not back
        PERFORM sync._decided_write(c, c.remote_value, coalesce(c.system_id, 0));
        PERFORM sync._agree(c, NULL);
        RETURN c.remote_value;
    ELSIF take = 'value' THEN
        PERFORM sync._decided_write(c, value, 0);
        PERFORM sync._agree(c, value);
    ELSE
        value := ours;
        PERFORM sync._agree(c, ours);
    END IF;
    -- The write of a value that was there already makes no event.
    IF value = ours AND c.system_id IS NOT NULL THEN
        PERFORM sync._record_push(c.object_id, c.record_id, c.system_id, 'U', jsonb_build_object(c.field, c.remote_value));
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION sync._resolve_field(sync.conflict_entry, text, jsonb, jsonb) IS 'Makes both sides say what a conflict about a field was decided for; returns it';

-- hub: the record is made anew there, under another remote id; remote: it is deleted here, too.
CREATE FUNCTION sync._resolve_deleted(c sync.conflict_entry, take text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stream integer;
BEGIN
    IF take = 'remote' THEN
        SELECT t.id INTO stream FROM sync.stream t
         WHERE t.system_id = c.system_id AND t.object_id = c.object_id AND t.state = 'active';
        IF stream IS NULL THEN
            RAISE EXCEPTION 'the object is no longer pulled from the system of conflict %', c.id
                USING ERRCODE = 'SE062', HINT = 'Delete the record, and close the conflict with take => ''hub''.';
        END IF;
        PERFORM sync._apply_delete(stream, c.remote_id);
        RETURN;
    END IF;
    DELETE FROM sync.external_id x WHERE x.system_id = c.system_id AND x.object_id = c.object_id AND x.remote_id = c.remote_id;
    UPDATE sync.mirror m SET record_id = NULL
     WHERE m.system_id = c.system_id AND m.object_id = c.object_id AND m.remote_id = c.remote_id;
    PERFORM sync._note_mirror(c.system_id, c.object_id, c.remote_id);
    PERFORM sync._record_push(c.object_id, c.record_id, c.system_id, 'I', NULL);
END
$$;
COMMENT ON FUNCTION sync._resolve_deleted(sync.conflict_entry, text) IS 'Ends a conflict about a record that a system deleted: deleted here too, or made anew there';

CREATE FUNCTION sync._approved_resolve_conflict(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c sync.conflict_entry;
    take constant text := args ->> 'take';
    ours jsonb;
    taken jsonb;
BEGIN
    SELECT t.* INTO c FROM sync.conflict_entry t WHERE t.id = (args ->> 'id')::bigint;
    -- The record first, as a page does: what it or an application is about to write comes before or after.
    IF c.field IS NOT NULL AND c.record_id IS NOT NULL THEN
        ours := sync._field_lock(c.object_id, c.record_id, c.field);
    END IF;
    SELECT t.* INTO c FROM sync.conflict_entry t WHERE t.id = c.id FOR UPDATE;
    IF c.resolved_at IS NOT NULL THEN
        RAISE EXCEPTION 'conflict % is resolved already', c.id
            USING ERRCODE = 'SE062', DETAIL = format('The reason was: %s.', c.reason),
                  HINT = 'View sync.conflict lists what is open.';
    END IF;
    UPDATE sync.conflict_entry t
       SET resolved_at = clock_timestamp(), resolved_by = session_user, taken = args ->> 'take', reason = args ->> 'reason'
     WHERE t.id = c.id;
    IF c.kind = 'deleted' THEN
        PERFORM sync._resolve_deleted(c, take);
    ELSIF c.system_id IS NULL AND coalesce(c.field, 'lines') = 'lines' THEN
        taken := c.hub_value; -- an application's wish that is not granted
    ELSE
        taken := sync._resolve_field(c, take, args -> 'value', ours);
        UPDATE sync.conflict_entry t SET hub_value = ours WHERE t.id = c.id;
    END IF;
    UPDATE sync.conflict_entry t SET taken_value = taken WHERE t.id = c.id;
    PERFORM sync._audit('conflict.resolved', o.name, c.record_id, y.name,
                        jsonb_strip_nulls(jsonb_build_object('conflict', c.id, 'kind', c.kind, 'field', c.field, 'take', take,
                            'approval', approval))
                        || jsonb_build_object('hub', coalesce(ours, c.hub_value), 'remote', c.remote_value, 'value', taken),
                        args ->> 'reason')
       FROM sync.object o LEFT JOIN sync.system y ON y.id = c.system_id WHERE o.id = c.object_id;
    PERFORM sync._wake();
    RETURN taken;
END
$$;
COMMENT ON FUNCTION sync._approved_resolve_conflict(jsonb, bigint) IS 'Does what resolve_conflict() was asked for, by approval or because it needs none';

CREATE FUNCTION sync.resolve_conflict(id bigint, take text, reason text, value jsonb DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c sync.conflict_entry;
    p sync.pending;
    args jsonb;
    approval bigint;
BEGIN
    IF take IS NULL OR take NOT IN ('hub', 'remote', 'value') THEN
        RAISE EXCEPTION 'cannot take "%"', take
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Take ''hub'', ''remote'', or ''value'' with a value of your own.';
    ELSIF (take = 'value') <> (value IS NOT NULL) THEN
        RAISE EXCEPTION 'a value is given with take => ''value'', and only then'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'JSON null stands for SQL NULL.';
    ELSIF reason IS NULL OR btrim(reason) = '' THEN
        RAISE EXCEPTION 'a reason is required'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is kept with the conflict and in the audit trail.';
    END IF;
    SELECT t.* INTO c FROM sync.conflict_entry t WHERE t.id = resolve_conflict.id;
    IF NOT FOUND THEN
        SELECT t.* INTO p FROM sync.pending t WHERE t.id = resolve_conflict.id AND t.state = 'conflict';
        IF FOUND THEN
            RAISE EXCEPTION 'conflict % is a delivery', resolve_conflict.id
                USING ERRCODE = 'SE062', DETAIL = coalesce(p.message, p.code),
                      HINT = format('Correct the document, here or there, then sync.retry(%1$L); or sync.discard(%1$L, reason).',
                                    p.route_id || '/' || p.seq);
        END IF;
        RAISE EXCEPTION 'there is no conflict with id %', resolve_conflict.id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.conflict lists what is open.';
    ELSIF c.kind NOT IN ('field', 'violation', 'repeated', 'deleted') THEN
        RAISE EXCEPTION 'conflict % is not about a value', c.id
            USING ERRCODE = 'SE062', DETAIL = c.message, HINT = CASE c.kind WHEN 'match' THEN 'Say which record it is with sync.decide_match().'
                                                                 WHEN 'merged' THEN 'Merge the two with sync.merge_records(), or leave both with sync.keep_apart().'
                                                                 ELSE 'See doc/identity.md.' END;
    ELSIF take <> 'hub' AND c.system_id IS NULL AND coalesce(c.field, 'lines') = 'lines' THEN
        RAISE EXCEPTION 'what the application wanted in conflict % cannot be done for it', c.id
            USING ERRCODE = 'SE062', DETAIL = c.message,
                  HINT = 'Have it changed in the system that owns it, and close the conflict with take => ''hub''.';
    ELSIF c.kind = 'deleted' AND take = 'value' THEN
        RAISE EXCEPTION 'a deleted record has no value to take'
            USING ERRCODE = 'SE062',
                  HINT = 'hub: the record stays and is made anew in the system; remote: it is deleted here as well.';
    END IF;
    args := jsonb_strip_nulls(jsonb_build_object('id', c.id, 'take', take, 'reason', reason))
            || CASE WHEN value IS NULL THEN '{}' ELSE jsonb_build_object('value', value) END;
    approval := sync._approval('resolve_conflict', (SELECT o.name FROM sync.object o WHERE o.id = c.object_id),
                               c.record_id, NULL, NULL, args, reason);
    IF approval IS NULL THEN
        PERFORM sync._approved_resolve_conflict(args, NULL);
        RETURN NULL;
    END IF;
    RAISE NOTICE 'resolving conflict % waits for approval %', c.id, approval;
    RETURN approval;
END
$$;
COMMENT ON FUNCTION sync.resolve_conflict(bigint, text, text, jsonb) IS
    'Decides a conflict: take the hub''s value, the remote one, or another; NULL, or the id of the approval it waits for';
