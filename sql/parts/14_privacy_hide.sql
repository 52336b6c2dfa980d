-- Who may see personal fields: whoever may read the column of the object's own table. The views of bodies
-- run as their owner, but the functions in them as the caller, and that is whose right counts.

CREATE VIEW sync._hidden_field AS
SELECT p.object_id, p.field
  FROM sync.personal_field p
  JOIN sync.object o ON o.id = p.object_id
 WHERE o.table_oid IS NULL
    OR pg_catalog.row_security_active(o.table_oid)
    OR NOT CASE WHEN p.field = 'lines' AND o.line_oid IS NOT NULL THEN pg_catalog.has_table_privilege(o.line_oid, 'SELECT')
                WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute a
                              WHERE a.attrelid = o.table_oid AND a.attname = p.field AND NOT a.attisdropped)
                THEN pg_catalog.has_column_privilege(o.table_oid, p.field, 'SELECT')
                ELSE false END;
COMMENT ON VIEW sync._hidden_field IS 'Personal fields that the caller may not see';
COMMENT ON COLUMN sync._hidden_field.field IS 'A column of the object''s table, or "lines"';

CREATE FUNCTION sync._hides(object_id integer)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM sync._hidden_field h WHERE h.object_id = $1)
$$;
COMMENT ON FUNCTION sync._hides(integer) IS 'Whether an object has personal fields that the caller may not see';

-- A body by canonical fields: the personal ones are replaced, so that one sees that they were there.
CREATE FUNCTION sync._shown(object_id integer, body jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $2 IS NULL OR h.fields IS NULL OR jsonb_typeof($2) <> 'object' OR NOT $2 ?| h.fields THEN $2
                ELSE (SELECT jsonb_object_agg(m.key, CASE WHEN m.key = ANY (h.fields) AND m.value <> 'null' THEN '"(personal)"' ELSE m.value END)
                        FROM jsonb_each($2) m) END
      FROM (SELECT array_agg(f.field) AS fields FROM sync._hidden_field f WHERE f.object_id = $1) h
$$;
COMMENT ON FUNCTION sync._shown(integer, jsonb) IS 'A body as the caller may see it: personal fields that he may not read are replaced';

-- In a vendor's words nobody can tell which member holds what, so the whole is withheld.
CREATE FUNCTION sync._shown_raw(object_id integer, raw text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $2 IS NULL OR NOT sync._hides($1) THEN $2 ELSE '(personal)' END
$$;
COMMENT ON FUNCTION sync._shown_raw(integer, text) IS 'A request, answer or remote record as the caller may see it: whole, or not at all';

-- A message may quote a value: of a constraint, of an enum.
CREATE FUNCTION sync._shown_message(object_id integer, message text, body jsonb)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    value text;
BEGIN
    IF message IS NULL OR NOT sync._hides(object_id) THEN
        RETURN message;
    END IF;
    IF body IS NULL THEN
        RETURN '(personal)';
    END IF;
    FOR value IN
        SELECT DISTINCT v.value #>> '{}'
          FROM sync._hidden_field f
         CROSS JOIN LATERAL jsonb_path_query(body -> f.field, '$.** ? (@.type() == "string" || @.type() == "number")') v (value)
         WHERE f.object_id = _shown_message.object_id AND length(v.value #>> '{}') > 1
    LOOP
        message := replace(message, value, '(personal)');
    END LOOP;
    RETURN message;
END
$$;
COMMENT ON FUNCTION sync._shown_message(integer, text, jsonb) IS 'A message as the caller may see it: values of personal fields in it are replaced';

CREATE VIEW sync.event WITH (security_barrier) AS
SELECT e.seq, e.at, o.name AS object, e.record_id,
       CASE e.op WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' WHEN 'D' THEN 'delete' WHEN 'T' THEN 'truncate'
                 WHEN 'K' THEN 'key only' END AS operation,
       coalesce(y.name, CASE WHEN e.origin = 0 THEN 'app' WHEN e.origin < 0 THEN 'hub' END) AS origin,
       sync._shown(e.object_id, e.body) AS body, sync._shown(e.object_id, e.old) AS old, e.context
  FROM sync.outbox e
  JOIN sync.object o ON o.id = e.object_id
  LEFT JOIN sync.system y ON y.id = e.origin;
COMMENT ON VIEW sync.event IS 'Changes as they were captured, as far as the outbox is kept; personal fields only for who may read them in the table';
COMMENT ON COLUMN sync.event.origin IS 'The system whose pull made the change; app; or hub, for what it tells one system again';
COMMENT ON COLUMN sync.event.old IS 'Old values of the columns that an update changed';
COMMENT ON COLUMN sync.event.body IS 'The row after the change; before it, of a delete';
COMMENT ON COLUMN sync.event.context IS 'actor, reason, correlation and causation id, session user';

CREATE VIEW sync.remote_record WITH (security_barrier) AS
SELECT y.name AS system, o.name AS object, m.remote_id, m.record_id, sync._shown(m.object_id, m.fields) AS fields,
       CASE WHEN sync._hides(m.object_id) THEN '"(personal)"' ELSE m.raw END AS raw,
       m.version, m.version_at, m.pushed_at, m.seen_at, m.deleted
  FROM sync.mirror m
  JOIN sync.system y ON y.id = m.system_id
  JOIN sync.object o ON o.id = m.object_id;
COMMENT ON VIEW sync.remote_record IS 'The last known state of each remote record; personal fields only for who may read them in the table';
COMMENT ON COLUMN sync.remote_record.fields IS 'Canonical fields as the connector reads them from the remote record';
COMMENT ON COLUMN sync.remote_record.raw IS 'The remote record itself';
COMMENT ON COLUMN sync.remote_record.version IS 'The vendor''s own version of it';
COMMENT ON COLUMN sync.remote_record.version_at IS 'When the vendor says that it changed';
COMMENT ON COLUMN sync.remote_record.pushed_at IS 'When our last push of it ended, or our last read of it by id began';
COMMENT ON COLUMN sync.remote_record.seen_at IS 'When it was last written here';
COMMENT ON COLUMN sync.remote_record.deleted IS 'Whether it is gone at the other side';
GRANT SELECT ON sync._hidden_field TO sync_admin, sync_operator, sync_auditor, sync_analyst, sync_approver, sync_app;
GRANT SELECT ON sync.event, sync.remote_record TO sync_admin, sync_operator, sync_auditor;

-- Members named like a personal field; and where the detail is about one field, what it says of its values.
CREATE FUNCTION sync._hash_personal(detail jsonb, fields text[], salt bytea)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    about_one constant boolean := coalesce(detail ->> 'field' = ANY (fields), false);
BEGIN
    IF jsonb_typeof(detail) = 'array' THEN
        RETURN (SELECT coalesce(jsonb_agg(sync._hash_personal(e.value, fields, salt) ORDER BY e.n), '[]')
                  FROM jsonb_array_elements(detail) WITH ORDINALITY e (value, n));
    ELSIF jsonb_typeof(detail) IS DISTINCT FROM 'object' THEN
        RETURN detail;
    END IF;
    RETURN (SELECT coalesce(jsonb_object_agg(m.key, CASE
                       WHEN m.value = 'null' THEN m.value
                       WHEN m.key = ANY (fields) OR about_one AND m.key ~ '(^|_)(value|old|new|hub|remote|wanted|kept)$'
                       THEN jsonb_build_object('sha256', encode(sha256(salt || convert_to(m.value::text, 'UTF8')), 'hex'))
                       ELSE sync._hash_personal(m.value, fields, salt) END), '{}')
              FROM jsonb_each(detail) m);
END
$$;
COMMENT ON FUNCTION sync._hash_personal(jsonb, text[], bytea) IS 'The detail of an audit row with salted hashes in place of personal values';
