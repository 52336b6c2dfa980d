-- Declaring personal fields, letting history forget them, erasing a record's.

CREATE VIEW sync.personal WITH (security_barrier) AS
SELECT o.name AS object, p.field, p.retention, p.set_at, p.set_by, p.cleared_to
  FROM sync.personal_field p JOIN sync.object o ON o.id = p.object_id;
COMMENT ON VIEW sync.personal IS 'Fields that hold personal data, and how long history may hold them';
COMMENT ON COLUMN sync.personal.field IS 'A column of the object''s table, or "lines"';
COMMENT ON COLUMN sync.personal.set_at IS 'When it was declared';
COMMENT ON COLUMN sync.personal.set_by IS 'Who declared it';
COMMENT ON COLUMN sync.personal.retention IS 'NULL: as long as history is kept';
COMMENT ON COLUMN sync.personal.cleared_to IS 'History before this instant no longer holds the field';
GRANT SELECT ON sync.personal TO sync_admin, sync_operator, sync_auditor;

CREATE FUNCTION sync.set_personal(object text, field text, retention interval DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.id = sync._object_id(set_personal.object);
    IF field IS NULL OR field = ANY (o.key_columns)
       OR NOT (field = 'lines' AND o.line_oid IS NOT NULL OR sync._has_columns(o.table_oid, ARRAY[field::name])) THEN
        RAISE EXCEPTION '"%" is no field of object "%" that can be personal', field, object
            USING ERRCODE = 'undefined_column', HINT = 'Name a column of its table that is no key, or "lines" of a document.';
    END IF;
    -- Longer than a millennium is no instant to go back to.
    IF retention NOT BETWEEN interval '1 us' AND interval '1000 years' THEN
        RAISE EXCEPTION 'retention must be longer than nothing, and at most 1000 years'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It would be %s.', retention),
                  HINT = 'For instance ''90 days''; NULL: as long as history is kept.';
    END IF;
    INSERT INTO sync.personal_field AS p (object_id, field, retention)
    VALUES (o.id, set_personal.field, set_personal.retention)
    ON CONFLICT ON CONSTRAINT personal_field_pkey DO UPDATE
       SET retention = excluded.retention, set_at = excluded.set_at, set_by = excluded.set_by;
    PERFORM sync._audit('personal.set', object, detail => jsonb_build_object('personal_field', field, 'retention', retention));
END
$$;
COMMENT ON FUNCTION sync.set_personal(text, text, interval) IS
    'Declares a field personal: history, mirror and inbox show it only to who may read it in the table; retention: how long history may hold it';

CREATE FUNCTION sync.drop_personal(object text, field text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM sync.personal_field p WHERE p.object_id = sync._object_id(drop_personal.object) AND p.field = drop_personal.field;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'field "%" of object "%" is not personal', field, object
            USING ERRCODE = 'undefined_object', HINT = 'View sync.personal lists the fields.';
    END IF;
    PERFORM sync._audit('personal.dropped', object, detail => jsonb_build_object('personal_field', field));
END
$$;
COMMENT ON FUNCTION sync.drop_personal(text, text) IS 'Takes back that a field is personal';

-- ---- history forgets ----

-- A bounded piece of what is past its time; true when more may be left. Only partitions that no route needs
-- any more are touched: what is still to be sent must be whole. The log is append-only for everybody else.
CREATE FUNCTION sync._forget_personal(at_most integer DEFAULT 5000)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    part record;
    changed bigint;
BEGIN
    FOR p IN
        SELECT f.object_id, f.field, date_trunc('day', clock_timestamp() - f.retention, 'UTC') AS horizon, f.cleared_to
          FROM sync.personal_field f
         WHERE f.retention IS NOT NULL AND date_trunc('day', clock_timestamp() - f.retention, 'UTC') > coalesce(f.cleared_to, '-infinity')
         ORDER BY f.object_id, f.field
    LOOP
        FOR part IN
            SELECT c.relname AS child, l.parent
              FROM (VALUES ('outbox'), ('claim'), ('outcome')) l (parent)
             CROSS JOIN LATERAL sync._partitions(format('sync.%I', l.parent)::regclass) b
              JOIN pg_class c ON c.oid = b.partition
             WHERE NOT b.is_default AND b.upper_bound <= p.horizon AND b.upper_bound > coalesce(p.cleared_to, '-infinity')
             ORDER BY b.upper_bound, l.parent
        LOOP
            CONTINUE WHEN sync._is_pinned(part.parent, part.child);
            EXECUTE CASE part.parent
                WHEN 'outbox' THEN format(
                    'UPDATE sync.%1$I e SET body = e.body - $2, old = e.old - $2
                      WHERE e.ctid = ANY (ARRAY(SELECT t.ctid FROM sync.%1$I t WHERE t.object_id = $1 AND (t.body ? $2 OR t.old ? $2) LIMIT $3))', part.child)
                WHEN 'claim' THEN format(
                    'UPDATE sync.%1$I e SET request = NULL
                      WHERE e.ctid = ANY (ARRAY(SELECT t.ctid FROM sync.%1$I t WHERE t.object_id = $1 AND t.request IS NOT NULL LIMIT $3))', part.child)
                ELSE format(
                    'UPDATE sync.%1$I e SET response = NULL
                      WHERE e.ctid = ANY (ARRAY(SELECT t.ctid FROM sync.%1$I t
                                                 WHERE t.response IS NOT NULL AND t.route_id IN (SELECT r.id FROM sync.route r WHERE r.object_id = $1)
                                                 LIMIT $3))', part.child) END
              USING p.object_id, p.field, at_most;
            GET DIAGNOSTICS changed = ROW_COUNT;
            IF changed > 0 THEN
                RETURN true;
            END IF;
        END LOOP;
        -- Past states of financial records; the last one is what the mirror says, which is no history.
        UPDATE sync.mirror_history h SET fields = h.fields - p.field
         WHERE h.ctid = ANY (ARRAY(
             SELECT t.ctid FROM sync.mirror_history t
              WHERE t.object_id = p.object_id AND t.fields ? p.field AND t.at < p.horizon
                AND EXISTS (SELECT FROM sync.mirror_history n
                             WHERE n.system_id = t.system_id AND n.object_id = t.object_id AND n.remote_id = t.remote_id
                               AND n.fields IS NOT NULL AND n.at > t.at)
              LIMIT at_most));
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed > 0 THEN
            RETURN true;
        END IF;
        UPDATE sync.personal_field f SET cleared_to = p.horizon WHERE f.object_id = p.object_id AND f.field = p.field;
    END LOOP;
    RETURN false;
END
$$;
COMMENT ON FUNCTION sync._forget_personal(integer) IS 'Clears personal fields out of history that is past their retention, some thousand rows at a time';

-- ---- erasure ----

CREATE FUNCTION sync._erase_fields(object text, id text)
RETURNS TABLE (relation regclass, condition text, assignments text, columns name[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.id = sync._object_id(_erase_fields.object);
    IF NOT EXISTS (SELECT FROM sync.personal_field p WHERE p.object_id = o.id) THEN
        RAISE EXCEPTION 'object "%" has no personal fields', _erase_fields.object
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Declare them with sync.set_personal().';
    END IF;
    RETURN QUERY
    SELECT o.table_oid::regclass,
           (SELECT string_agg(format('t.%I = %s::%s', a.attname,
                                     CASE cardinality(o.key_columns) WHEN 1 THEN '$1' ELSE format('($1::jsonb ->> %s)', k.n - 1) END,
                                     format_type(a.atttypid, a.atttypmod)), ' AND ')
              FROM unnest(o.key_columns) WITH ORDINALITY k (name, n)
              JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = k.name),
           string_agg(format('%I = %s', a.attname,
                             CASE WHEN NOT a.attnotnull THEN 'NULL'
                                  WHEN a.atttypid = ANY ('{text,varchar,bpchar}'::regtype[]) THEN '''(erased)'''
                                  WHEN a.atttypid = 'jsonb'::regtype THEN '''{}''' ELSE 'DEFAULT' END), ', '),
           array_agg(a.attname)
      FROM sync.personal_field p
      JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = p.field AND NOT a.attisdropped
     WHERE p.object_id = o.id;
END
$$;
COMMENT ON FUNCTION sync._erase_fields(text, text) IS 'How the personal columns of a record are cleared in its table';

CREATE FUNCTION sync._erase(object text, id text, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted integer := sync._object_id(_erase.object);
    made bigint;
BEGIN
    INSERT INTO sync.erasure (object_id, record_id, fields, reason)
    SELECT wanted, _erase.id, array_agg(p.field ORDER BY p.field), _erase.reason FROM sync.personal_field p WHERE p.object_id = wanted
    RETURNING erasure.id INTO made;
    PERFORM sync._audit('personal.erase', object, id, NULL, jsonb_build_object('erasure', made), reason);
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync._erase(text, text, text) IS 'Notes that the personal data of a record is to be erased';

CREATE FUNCTION sync._erase_row(object text, id text, reason text)
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_erase_row';
COMMENT ON FUNCTION sync._erase_row(text, text, text) IS 'Clears the personal columns of a record as the caller, whoever owns them, and has the rest erased';

-- Not SECURITY DEFINER: whoever clears the record in its table needs the right to.
CREATE FUNCTION sync.erase(object text, id text, reason text, in_table boolean DEFAULT true)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whole_id text;
BEGIN
    IF reason IS NULL OR btrim(reason) = '' THEN
        RAISE EXCEPTION 'a reason is required'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is audited with the record''s id.';
    END IF;
    whole_id := sync._record_id(sync._object_id(erase.object), erase.id);
    PERFORM sync._erase_fields(object, whole_id);
    IF coalesce(in_table, true) THEN
        RETURN sync._erase_row(object, whole_id, reason);
    END IF;
    RETURN sync._erase(object, whole_id, reason);
END
$$;
COMMENT ON FUNCTION sync.erase(text, text, text, boolean) IS
    'Clears the personal fields of a record in its table (in_table), and then, once its deliveries have ended, everywhere in the hub; returns the erasure''s id';

-- What one erasure clears. The remote ids first: mirror and inbox know the record by them.
CREATE FUNCTION sync._erase_record(e sync.erasure)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    done jsonb := '{}';
    n bigint;
BEGIN
    UPDATE sync.outbox o SET body = o.body - e.fields, old = o.old - e.fields
     WHERE o.object_id = e.object_id AND o.record_id = e.record_id AND (o.body ?| e.fields OR o.old ?| e.fields);
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('outbox', n);
    UPDATE sync.outcome f SET response = NULL, message = CASE WHEN f.message IS NOT NULL THEN '(erased)' END
      FROM sync.claim c
     WHERE c.object_id = e.object_id AND c.record_id = e.record_id AND f.route_id = c.route_id AND f.seq = c.seq
       AND (f.response IS NOT NULL OR f.message IS NOT NULL);
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('outcome', n);
    UPDATE sync.claim c SET request = NULL, target = split_part(c.target, '?', 1)
     WHERE c.object_id = e.object_id AND c.record_id = e.record_id AND (c.request IS NOT NULL OR c.target LIKE '%?%');
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('claim', n);
    DELETE FROM sync.inbox i USING sync.external_id x
     WHERE x.object_id = e.object_id AND x.record_id = e.record_id
       AND i.system_id = x.system_id AND i.object_id = x.object_id AND i.remote_id = x.remote_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('inbox', n);
    -- Without raw and mapping the next walk reads the record anew.
    UPDATE sync.mirror m SET fields = m.fields - e.fields, agreed = nullif(m.agreed - e.fields, '{}'), raw = NULL, mapping = NULL
      FROM sync.external_id x
     WHERE x.object_id = e.object_id AND x.record_id = e.record_id
       AND m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
       AND (m.fields ?| e.fields OR m.agreed ?| e.fields OR m.raw IS NOT NULL);
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('mirror', n);
    UPDATE sync.mirror_history m SET fields = m.fields - e.fields
      FROM (SELECT x.system_id, x.remote_id FROM sync.external_id x WHERE x.object_id = e.object_id AND x.record_id = e.record_id
            UNION SELECT x.system_id, x.remote_id FROM sync.external_alias x WHERE x.object_id = e.object_id AND x.record_id = e.record_id) x
     WHERE m.system_id = x.system_id AND m.object_id = e.object_id AND m.remote_id = x.remote_id AND m.fields ?| e.fields;
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('mirror_history', n);
    -- A full listing that is under way reads it again.
    DELETE FROM sync.listed_record l
     USING sync.job j, (SELECT x.system_id, x.remote_id FROM sync.external_id x WHERE x.object_id = e.object_id AND x.record_id = e.record_id
                        UNION SELECT x.system_id, x.remote_id FROM sync.external_alias x WHERE x.object_id = e.object_id AND x.record_id = e.record_id) x
     WHERE j.id = l.job_id AND j.object_id = e.object_id AND j.system_id = x.system_id AND l.remote_id = x.remote_id;
    UPDATE sync.payload_edit d SET patch = d.patch - e.fields, before = d.before - e.fields
     WHERE d.object_id = e.object_id AND d.record_id = e.record_id AND (d.patch ?| e.fields OR d.before ?| e.fields);
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('payload_edit', n);
    UPDATE sync.conflict_entry c SET hub_value = NULL, remote_value = NULL, taken_value = NULL, message = '(erased)'
     WHERE c.object_id = e.object_id AND c.record_id = e.record_id AND (c.field IS NULL OR c.field = ANY (e.fields));
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('conflict_entry', n);
    UPDATE sync.break_entry b SET ours = NULL, theirs = NULL, detail = '(erased)'
      FROM sync.object o
     WHERE o.id = e.object_id AND b.object = o.name AND b.record_id = e.record_id AND b.field = ANY (e.fields);
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('break_entry', n);
    -- Remote records of one that was merged into this one, the row that was merged, and what was in doubt.
    UPDATE sync.mirror m SET fields = m.fields - e.fields, raw = NULL, mapping = NULL
      FROM sync.external_alias x
     WHERE x.object_id = e.object_id AND x.record_id = e.record_id
       AND m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
       AND (m.fields ?| e.fields OR m.raw IS NOT NULL);
    UPDATE sync.merge m SET loser_row = m.loser_row - e.fields
     WHERE m.object_id = e.object_id AND (m.loser = e.record_id OR m.survivor = e.record_id) AND m.loser_row ?| e.fields;
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('merge', n);
    UPDATE sync.conflict_entry c SET remote_value = NULL
      FROM sync.external_id x
     WHERE c.kind = 'match' AND c.object_id = e.object_id AND c.remote_value IS NOT NULL AND x.object_id = e.object_id
       AND x.record_id = e.record_id AND c.system_id = x.system_id AND c.remote_id = x.remote_id;
    -- What is still asked about the record has lapsed with it; a hash without salt could be guessed at.
    PERFORM sync._lapse(a.id, 'the record was erased') FROM sync.approval_request a
      WHERE a.object_id = e.object_id AND a.record_id = e.record_id AND a.state = 'open';
    UPDATE sync.approval_request a SET call = NULL, result = NULL, payload_hash = NULL
     WHERE a.object_id = e.object_id AND a.record_id = e.record_id AND a.state <> 'open';
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('approval_request', n);
    DELETE FROM sync.audit_salt a WHERE a.object_id = e.object_id AND a.record_id = e.record_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('audit_salt', n);
    UPDATE sync.drift_entry d SET got = '(erased)'
      FROM sync.external_id x
     WHERE x.object_id = e.object_id AND x.record_id = e.record_id
       AND d.system_id = x.system_id AND d.object_id = x.object_id AND d.sample_remote_id = x.remote_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    done := done || jsonb_build_object('drift_entry', n);
    RETURN done || jsonb_build_object('audit', sync._audit_erase((SELECT o.name FROM sync.object o WHERE o.id = e.object_id), e.record_id, e.fields));
END
$$;
COMMENT ON FUNCTION sync._erase_record(sync.erasure) IS 'Clears the personal data of a record out of history, mirror, inbox and conflicts';

-- Deliveries of the record that are on their way need what they send; the erasure waits for them.
CREATE FUNCTION sync._erase_due()
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e sync.erasure;
    n integer := 0;
BEGIN
    FOR e IN
        SELECT * FROM sync.erasure t
         WHERE t.done_at IS NULL
           AND NOT EXISTS (SELECT FROM sync._unfinished u WHERE u.object_id = t.object_id AND u.record_id = t.record_id)
         ORDER BY t.id LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE sync.erasure t SET erased = sync._erase_record(e), done_at = clock_timestamp() WHERE t.id = e.id;
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync._erase_due() IS 'Carries out the erasures whose records have no delivery on its way; returns how many';

CREATE FUNCTION sync._upkeep_personal()
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._erase_due();
    PERFORM sync._forget_personal();
END
$$;
COMMENT ON FUNCTION sync._upkeep_personal() IS 'Erases what was asked for and forgets what is past its retention; run by the hub with its upkeep';
REVOKE ALL ON FUNCTION sync._upkeep_personal() FROM PUBLIC;
