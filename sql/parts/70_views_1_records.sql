-- What a person looks at: records, deliveries, attempts. Business numbers stand beside ids, systems
-- and objects by name. Views run with their owner's rights on the tables of sync; what they read of
-- canonical tables they read as the caller.
--
-- Admin, operator and auditor see everything. Others see states of records whose table they may read,
-- and no bodies: these views are security barriers, so that no function in a query sees more.

CREATE FUNCTION sync._sees_all()
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_has_role('sync_admin', 'USAGE') OR pg_has_role('sync_operator', 'USAGE') OR pg_has_role('sync_auditor', 'USAGE')
$$;
COMMENT ON FUNCTION sync._sees_all() IS 'Whether the caller may see bodies, and records of all tables';

-- Where row security shows somebody some rows only, a list of all record ids would show him more.
CREATE VIEW sync._visible_object AS
SELECT o.id, o.name, o.number_column,
       EXISTS (SELECT FROM sync._hidden_field h WHERE h.object_id = o.id) AS hides
  FROM sync.object o
 WHERE (SELECT sync._sees_all())
    OR pg_catalog.has_table_privilege(o.table_oid, 'SELECT') AND NOT pg_catalog.row_security_active(o.table_oid);
COMMENT ON VIEW sync._visible_object IS 'Objects whose records the caller may list';
COMMENT ON COLUMN sync._visible_object.hides IS 'Whether it has personal fields that the caller may not see';

CREATE VIEW sync._object_columns AS
SELECT o.id, o.name, o.schema_name, o.table_name, o.table_oid, o.key_columns, o.number_column
  FROM sync.object o
  JOIN pg_catalog.pg_class c ON c.oid = o.table_oid AND c.relkind IN ('r', 'p');
COMMENT ON VIEW sync._object_columns IS 'Tables of objects with their key and number columns';

-- Business number of a record from its canonical row, as the caller; NULL when the caller may not
-- read it. Only built-in types are compared and shown, and policies are not evaluated (row_security),
-- so that no code of a table's owner runs with the rights of whoever looks.
CREATE FUNCTION sync._record_number(object_id integer, record_id text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    o record;
    matches text;
    number text;
BEGIN
    SELECT t.* INTO o FROM sync._object_columns t WHERE t.id = _record_number.object_id;
    IF o.number_column IS NULL OR NOT has_schema_privilege(o.schema_name, 'USAGE')
       OR NOT has_table_privilege(o.table_oid, 'SELECT') THEN
        RETURN NULL;
    END IF;
    SELECT string_agg(format('t.%I = %s::%s', a.attname,
                             CASE cardinality(o.key_columns) WHEN 1 THEN '$1' ELSE format('($1::jsonb ->> %s)', k.n - 1) END,
                             format_type(b.oid, -1)), ' AND ')
      INTO matches
      FROM unnest(o.key_columns) WITH ORDINALITY k (name, n)
      JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = k.name
      JOIN pg_type y ON y.oid = a.atttypid
      JOIN pg_type b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END
                    AND b.typnamespace = 'pg_catalog'::regnamespace
    HAVING count(*) = cardinality(o.key_columns);
    IF matches IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT format(''%%s'', t.%I) FROM %I.%I t WHERE %s', o.number_column, o.schema_name, o.table_name, matches)
       INTO number USING record_id;
    RETURN nullif(number, '');
EXCEPTION WHEN insufficient_privilege OR data_exception OR undefined_table OR undefined_column THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._record_number(integer, text) IS 'Business number of a record, when the caller may read it';

CREATE VIEW sync.record_status WITH (security_barrier) AS
SELECT o.name AS object, h.record_id,
       coalesce(p.body ->> o.number_column, m.fields ->> o.number_column,
                sync._record_number(o.id, h.record_id)) AS record_number,
       y.name AS system, h.state,
       CASE WHEN p.state = 'waiting'
            THEN concat_ws(' ', w.name, coalesce(sync._record_number(w.id, p.wait_record_id), p.wait_record_id),
                           'to be ' || coalesce(p.wait_state, 'bound'))
            WHEN p.state = 'held' THEN p.message
            WHEN p.state = 'behind' THEN 'an earlier change of the record' END AS waiting_for,
       x.remote_id, x.remote_number, CASE WHEN o.hides THEN sync._shown_message(o.id, p.message, p.body) ELSE p.message END AS last_error,
       p.next_attempt_at,
       h.last_event_at, m.pushed_at AS last_done_at, h.route_id || '/' || h.seq AS delivery
  FROM (SELECT DISTINCT ON (u.route_id, u.record_id)
               u.route_id, u.record_id, u.system_id, u.object_id, u.seq, u.state, u.pending_id,
               max(u.event_at) OVER (PARTITION BY u.route_id, u.record_id) AS last_event_at
          FROM sync._unfinished u
         ORDER BY u.route_id, u.record_id, u.seq) h
  JOIN sync._visible_object o ON o.id = h.object_id
  JOIN sync.system y ON y.id = h.system_id
  LEFT JOIN sync.pending p ON p.id = h.pending_id
  LEFT JOIN sync.object w ON w.id = p.wait_object_id
  LEFT JOIN sync.external_id x ON x.system_id = h.system_id AND x.object_id = h.object_id AND x.record_id = h.record_id
  LEFT JOIN sync.mirror m ON m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
UNION ALL
SELECT o.name, x.record_id, coalesce(m.fields ->> o.number_column, sync._record_number(o.id, x.record_id)),
       y.name, CASE WHEN m.deleted THEN 'unsynced' ELSE 'synced' END,
       NULL, x.remote_id, x.remote_number, NULL, NULL, NULL, m.pushed_at, NULL
  FROM sync.external_id x
  JOIN sync._visible_object o ON o.id = x.object_id
  JOIN sync.system y ON y.id = x.system_id
  LEFT JOIN sync.mirror m ON m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
 WHERE NOT EXISTS (SELECT FROM sync._unfinished u
                    WHERE u.system_id = x.system_id AND u.object_id = x.object_id AND u.record_id = x.record_id);
COMMENT ON VIEW sync.record_status IS 'Where each record stands in each system: queued, in_flight, retry, waiting, held, ambiguous, behind, dead, conflict, synced, or unsynced when the system deleted it';

CREATE VIEW sync.delivery WITH (security_barrier) AS
SELECT d.route_id || '/' || d.seq AS delivery, r.name AS route, y.name AS system, o.name AS object,
       d.record_id, coalesce(e.body ->> o.number_column, sync._record_number(o.id, d.record_id)) AS record_number,
       d.state, d.issue, d.attempts, d.code,
       CASE WHEN o.hides THEN sync._shown_message(o.id, d.message, e.body) ELSE d.message END AS message, d.next_attempt_at,
       CASE e.op WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' WHEN 'D' THEN 'delete' WHEN 'T' THEN 'truncate'
                 WHEN 'K' THEN 'key only' END AS operation,
       d.event_at, d.ended_at, d.route_id, d.seq
  FROM (SELECT u.route_id, u.seq, u.record_id, u.state, coalesce(p.issue, 1) AS issue, coalesce(p.attempts, 0) AS attempts,
               p.code, p.message, p.next_attempt_at, u.event_at, NULL::timestamptz AS ended_at
          FROM sync._unfinished u
          LEFT JOIN sync.pending p ON p.id = u.pending_id
        UNION ALL
        SELECT f.route_id, f.seq, coalesce(c.record_id, b.record_id), f.state, coalesce(c.issue, 1), coalesce(c.attempt, 0),
               f.code, f.message, NULL, coalesce(c.event_at, b.at), f.at
          FROM sync.outcome f
          LEFT JOIN LATERAL (SELECT k.record_id, k.issue, k.attempt, k.event_at FROM sync.claim k
                              WHERE k.route_id = f.route_id AND k.seq = f.seq AND k.at <= f.at
                              ORDER BY k.attempt_id DESC LIMIT 1) c ON true
          LEFT JOIN LATERAL (SELECT b.record_id, b.at FROM sync.outbox b WHERE b.seq = f.seq LIMIT 1) b
                 ON c.record_id IS NULL
         WHERE f.final) d
  JOIN sync.route r ON r.id = d.route_id
  JOIN sync.system y ON y.id = r.system_id
  JOIN sync._visible_object o ON o.id = r.object_id
  LEFT JOIN LATERAL (SELECT b.op, b.body FROM sync.outbox b WHERE b.seq = d.seq AND b.at = d.event_at LIMIT 1) e ON true;
COMMENT ON VIEW sync.delivery IS 'Deliveries, unfinished and ended, as far as history is kept';

CREATE VIEW sync.delivery_attempt AS
SELECT c.route_id || '/' || c.seq AS delivery, r.name AS route, y.name AS system, o.name AS object, c.record_id,
       coalesce(e.body ->> o.number_column, sync._record_number(o.id, c.record_id)) AS record_number,
       c.attempt_id, c.issue, c.attempt, c.step, c.method, CASE WHEN h.hides THEN split_part(c.target, '?', 1) ELSE c.target END AS target,
       CASE WHEN h.hides THEN sync._shown_raw(o.id, c.request) ELSE c.request END AS request, c.idempotency_key,
       c.at AS sent_at, f.at AS answered_at, coalesce(f.outcome, 'open') AS outcome, f.state, f.status,
       round(f.latency_us / 1000.0, 3) AS latency_ms, f.code,
       CASE WHEN h.hides THEN sync._shown_message(o.id, f.message, e.body) ELSE f.message END AS message, f.request_id,
       CASE WHEN h.hides THEN sync._shown_raw(o.id, f.response) ELSE f.response END AS response,
       n.name || ' ' || n.version AS connector, c.batch_id AS batch, c.route_id, c.seq
  FROM sync.claim c
  JOIN sync.route r ON r.id = c.route_id
  JOIN sync.system y ON y.id = r.system_id
  JOIN sync.object o ON o.id = c.object_id
 CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM sync._hidden_field i WHERE i.object_id = o.id) AS hides) h
  LEFT JOIN sync.connector n ON n.id = c.connector_id
  LEFT JOIN sync.outcome f ON f.route_id = c.route_id AND f.seq = c.seq AND f.attempt_id = c.attempt_id AND f.at >= c.at
  LEFT JOIN LATERAL (SELECT b.body FROM sync.outbox b WHERE b.seq = c.seq AND b.at = c.event_at LIMIT 1) e ON true;
COMMENT ON VIEW sync.delivery_attempt IS 'Each HTTP try with its request and answer; secrets are not in it, long bodies are cut';

CREATE VIEW sync._held WITH (security_barrier) AS
SELECT p.id, p.route_id || '/' || p.seq AS delivery, r.name AS route, y.name AS system, o.name AS object, p.record_id,
       coalesce(p.body ->> o.number_column, sync._record_number(o.id, p.record_id)) AS record_number,
       p.state, p.code, CASE WHEN o.hides THEN sync._shown_message(o.id, p.message, p.body) ELSE p.message END AS message,
       p.step, p.attempts, p.issue, c.method, CASE WHEN o.hides THEN split_part(c.target, '?', 1) ELSE c.target END AS target,
       CASE WHEN a.sees_all THEN sync._shown_raw(o.id, coalesce(c.request, p.frozen ->> 'body')) END AS request,
       f.status, CASE WHEN a.sees_all THEN sync._shown_raw(o.id, f.response) END AS response, f.request_id,
       p.event_at, f.at AS failed_at,
       (SELECT count(*) FROM sync.pending b WHERE b.route_id = p.route_id AND b.record_id = p.record_id AND b.id <> p.id)
           AS behind,
       format('SELECT sync.retry(%L)', p.route_id || '/' || p.seq) AS how_to_retry
  FROM sync.pending p
 CROSS JOIN (SELECT sync._sees_all() AS sees_all) a
  JOIN sync.route r ON r.id = p.route_id
  JOIN sync.system y ON y.id = r.system_id
  JOIN sync._visible_object o ON o.id = p.object_id
  LEFT JOIN LATERAL (SELECT k.attempt_id, k.method, k.target, k.request FROM sync.claim k
                      WHERE k.route_id = p.route_id AND k.seq = p.seq AND k.attempt_id = p.last_attempt_id LIMIT 1) c ON true
  LEFT JOIN LATERAL (SELECT k.status, k.response, k.request_id, k.at FROM sync.outcome k
                      WHERE k.route_id = p.route_id AND k.seq = p.seq AND k.attempt_id = p.last_attempt_id
                      ORDER BY k.at DESC LIMIT 1) f ON true
 WHERE p.state IN ('dead', 'conflict');
COMMENT ON VIEW sync._held IS 'Deliveries that need a person';

CREATE VIEW sync.dead_letter AS
SELECT h.id, h.delivery, h.system, h.object, h.record_id, h.record_number, h.code, h.message, h.step, h.attempts, h.issue,
       h.method, h.target, h.request, h.status, h.response, h.request_id, h.event_at, h.failed_at, h.behind, h.how_to_retry
  FROM sync._held h
 WHERE h.state = 'dead';
COMMENT ON VIEW sync.dead_letter IS 'Deliveries that failed for good, with the system''s own message; behind counts later changes that wait for it';

-- Runs as the caller: canonical tables that the caller may not read, or that have policies for the
-- caller, are not searched. Every look-up has an index, but for number columns that have none of
-- their own.
CREATE FUNCTION sync.find(text text)
RETURNS TABLE (object text, record_id text, record_number text, system text, remote_id text, found_by text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET intervalstyle = 'postgres' SET extra_float_digits = 1
AS $$
#variable_conflict use_column
DECLARE
    o record;
    objects integer[];
    records text[];
    hows text[];
    more text[];
BEGIN
    WITH spelled AS MATERIALIZED (
        SELECT b.id, sync._record_id(b.id, find.text, false) AS record_id FROM sync.object b)
    SELECT array_agg(f.object_id), array_agg(f.record_id), array_agg(f.how) INTO objects, records, hows
      FROM (SELECT x.object_id, x.record_id, 'id' AS how
              FROM spelled b JOIN sync.external_id x ON x.object_id = b.id AND x.record_id = b.record_id
            UNION ALL
            SELECT p.object_id, p.record_id, 'id'
              FROM sync.route r JOIN spelled b ON b.id = r.object_id JOIN sync.pending p ON p.route_id = r.id AND p.record_id = b.record_id
            UNION ALL
            SELECT x.object_id, x.record_id, 'remote id'
              FROM sync.object b CROSS JOIN sync.system y
              JOIN sync.external_id x ON x.system_id = y.id AND x.object_id = b.id AND x.remote_id = find.text
            UNION ALL
            SELECT x.object_id, x.record_id, 'remote number' FROM sync.external_id x WHERE x.remote_number = find.text) f;

    FOR o IN SELECT c.* FROM sync._object_columns c WHERE c.number_column IS NOT NULL ORDER BY c.name LOOP
        CONTINUE WHEN NOT (has_schema_privilege(o.schema_name, 'USAGE') AND has_table_privilege(o.table_oid, 'SELECT'))
                      OR row_security_active(o.table_oid);
        -- A textual number column is compared as it is, so that its index serves.
        EXECUTE format('SELECT array_agg(%1$s) FROM %2$I.%3$I t WHERE %4$s = $1',
            sync._key_sql(o.table_oid, o.key_columns, 't'), o.schema_name, o.table_name,
            CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = o.table_oid AND a.attname = o.number_column
                                 AND a.atttypid IN ('text'::regtype, 'varchar'::regtype))
                 THEN format('t.%I', o.number_column) ELSE format('format(''%%s'', t.%I)', o.number_column) END)
           INTO more USING find.text;
        objects := objects || array_fill(o.id, ARRAY[coalesce(cardinality(more), 0)]);
        records := records || more;
        hows := hows || array_fill('number'::text, ARRAY[coalesce(cardinality(more), 0)]);
    END LOOP;

    RETURN QUERY
    SELECT b.name, f.record_id, sync._record_number(b.id, f.record_id), y.name, x.remote_id, f.how
      FROM (SELECT u.object_id, u.record_id, min(u.how) AS how
              FROM unnest(objects, records, hows) u (object_id, record_id, how) GROUP BY u.object_id, u.record_id) f
      JOIN sync.object b ON b.id = f.object_id
      LEFT JOIN sync.external_id x ON x.object_id = f.object_id AND x.record_id = f.record_id
      LEFT JOIN sync.system y ON y.id = x.system_id
     ORDER BY b.name, f.record_id, y.name;
END
$$;
COMMENT ON FUNCTION sync.find(text) IS 'Finds records by id, business number, remote id or remote number; a row for each system that a record is bound in';
