-- The history of a record, and of all that belongs together, as rows and as a tree.

CREATE TYPE sync.lineage_row AS (
    at              timestamptz,
    kind            text,
    object          text,
    record_id       text,
    record_number   text,
    system          text,
    what            text,
    actor           text,
    status          integer,
    latency_ms      numeric,
    remote_id       text,
    request_id      text,
    correlation_id  text,
    causation_id    text,
    delivery        text,
    reason          text,
    depth           integer,
    path            text
);
COMMENT ON TYPE sync.lineage_row IS 'A line of sync.lineage() and sync.trace()';
COMMENT ON COLUMN sync.lineage_row.at IS 'When it happened; of another record: when that was made';
COMMENT ON COLUMN sync.lineage_row.kind IS 'event, attempt, outcome, delivery, replay, edit, bound, remote, inbox, conflict, approval, audit, break, merge, period; of another record: caused, caused by';
COMMENT ON COLUMN sync.lineage_row.object IS 'Kind of record';
COMMENT ON COLUMN sync.lineage_row.record_id IS 'Which one';
COMMENT ON COLUMN sync.lineage_row.record_number IS 'Its business number';
COMMENT ON COLUMN sync.lineage_row.system IS 'The system that it is about; NULL: none';
COMMENT ON COLUMN sync.lineage_row.reason IS 'Why it was done; of another record, what connects it';
COMMENT ON COLUMN sync.lineage_row.what IS 'What happened, in words; names of fields, never their values';
COMMENT ON COLUMN sync.lineage_row.actor IS 'Who did it: sync_ext.actor, else the session user, where that is on record';
COMMENT ON COLUMN sync.lineage_row.status IS 'HTTP status of the answer';
COMMENT ON COLUMN sync.lineage_row.latency_ms IS 'From the first byte sent to the last one read';
COMMENT ON COLUMN sync.lineage_row.remote_id IS 'What the record is over there';
COMMENT ON COLUMN sync.lineage_row.request_id IS 'The vendor''s own id of the request';
COMMENT ON COLUMN sync.lineage_row.correlation_id IS 'What the application set; else the id of the event itself, which what it causes carries on';
COMMENT ON COLUMN sync.lineage_row.causation_id IS 'Id of the event that caused this one';
COMMENT ON COLUMN sync.lineage_row.delivery IS 'route/seq, as in sync.delivery';
COMMENT ON COLUMN sync.lineage_row.depth IS '0: the record; above: what it caused; below: what caused it. Of trace(): how many causes stand before it';
COMMENT ON COLUMN sync.lineage_row.path IS 'The records on the way, the cause first';

-- A record by its id or, when nothing is known of that, by its business number.
CREATE FUNCTION sync._find_record(object text, id text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET intervalstyle = 'postgres' SET extra_float_digits = 1
AS $$
DECLARE
    o sync.object;
    numbered text[];
    whole_id text;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.name = _find_record.object;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" is not tracked', _find_record.object
            USING ERRCODE = 'SE011', HINT = 'The tracked objects stand in sync.object.';
    END IF;
    -- What is no id may be a number.
    whole_id := sync._record_id(o.id, $2, $2 IS NULL);
    IF (sync._record_label(o.id, whole_id)).label IS NOT NULL THEN
        RETURN whole_id;
    END IF;
    IF o.number_column IS NOT NULL AND cardinality(o.key_columns) = 1 AND sync._may_read(o.table_oid) THEN
        EXECUTE format('SELECT array_agg(%s) FROM (SELECT * FROM %I.%I t WHERE t.%I::text = $1 LIMIT 2) t',
                       sync._key_sql(o.table_oid, o.key_columns, 't'), o.schema_name, o.table_name, o.number_column) INTO numbered USING $2;
        IF cardinality(numbered) = 1 THEN
            RETURN numbered[1];
        END IF;
    ELSE
        -- Who may not read the table may read under which number the systems have the record.
        SELECT array_agg(DISTINCT x.record_id) INTO numbered FROM sync.external_id x WHERE x.object_id = o.id AND x.remote_number = $2;
        IF cardinality(numbered) = 1 THEN
            RETURN numbered[1];
        END IF;
    END IF;
    -- No row, or none that the caller may read; there may be a history all the same.
    IF EXISTS (SELECT FROM sync._lineage_entries(o.id, whole_id)) THEN
        RETURN whole_id;
    END IF;
    RAISE EXCEPTION 'nothing is known of % "%"', $1, $2
        USING ERRCODE = 'SE087',
              DETAIL = CASE WHEN cardinality(numbered) > 1 THEN 'Several records have that number.' ELSE 'No event, delivery or remote record of it is on record, and no row that you may read has that id or number.' END,
              HINT = format('SELECT * FROM sync.find(%L) looks for it by remote id and number, in all objects.', $2);
END
$$;
COMMENT ON FUNCTION sync._find_record(text, text) IS 'Id of a record that is given by id or business number';

-- Where a record stands in each system that has it, or is to get it.
CREATE VIEW sync._record_place WITH (security_barrier) AS
SELECT x.object_id, x.record_id, y.name AS system, x.remote_id, x.remote_number,
       CASE WHEN m.deleted THEN 'deleted there' ELSE coalesce((SELECT min(p.state) FROM sync.pending p JOIN sync.route r ON r.id = p.route_id
            WHERE r.system_id = x.system_id AND r.object_id = x.object_id AND p.record_id = x.record_id AND p.state <> 'behind'), 'synced') END AS state
  FROM sync.external_id x
  JOIN sync._visible_object o ON o.id = x.object_id
  JOIN sync.system y ON y.id = x.system_id
  LEFT JOIN sync.mirror m ON m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
UNION ALL
SELECT r.object_id, p.record_id, y.name, NULL, NULL, p.state
  FROM sync.route r
  JOIN sync._visible_object o ON o.id = r.object_id
  JOIN sync.system y ON y.id = r.system_id
  JOIN sync.pending p ON p.route_id = r.id AND p.state <> 'behind'
 WHERE NOT EXISTS (SELECT FROM sync.external_id x WHERE x.system_id = r.system_id AND x.object_id = r.object_id AND x.record_id = p.record_id);
COMMENT ON VIEW sync._record_place IS 'Where a record stands in each system; to be read for one record';

-- Events that carry a correlation id, as far as they are kept; their attempts are kept longer.
CREATE VIEW sync._correlated_event WITH (security_barrier) AS
SELECT e.context ->> 'correlation_id' AS correlation_id, e.object_id, e.record_id, e.at
  FROM sync.outbox e JOIN sync._visible_object o ON o.id = e.object_id
 WHERE e.context ? 'correlation_id';
COMMENT ON VIEW sync._correlated_event IS 'Events by correlation id, as far as they are kept';
COMMENT ON COLUMN sync._correlated_event.correlation_id IS 'As the application set it, or as it was carried on';

CREATE FUNCTION sync._correlated(correlation_ids text[])
RETURNS TABLE (object_id integer, record_id text, at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT t.object_id, t.record_id, min(t.at)
      FROM (SELECT e.object_id, e.record_id, e.at FROM sync._correlated_event e WHERE e.correlation_id = ANY ($1)
            UNION ALL
            SELECT c.the_object, c.the_record, c.event_at FROM sync._attempts(NULL, NULL, $1) c) t
     GROUP BY t.object_id, t.record_id;
END
$$;
COMMENT ON FUNCTION sync._correlated(text[]) IS 'Records whose events carry one of some correlation ids, and since when';

-- All records around one: itself (depth 0), what it caused (above 0), what caused it (below 0).
CREATE FUNCTION sync._family(the_object integer, the_record text, max_depth integer, at_most integer, ids text[], began timestamptz)
RETURNS TABLE (object_id integer, record_id text, number text, label text, created_at timestamptz, depth integer, via text, parent text, node text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    root record;
    known text[] := ARRAY[the_object || ' ' || the_record];
    references_known constant sync._reference[] := ARRAY(SELECT f FROM sync._reference f ORDER BY f.holder, f.column_name, f.referred);
    sources constant sync.object[] := ARRAY(
        SELECT o FROM sync.object o JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = 'source_object' WHERE cardinality(o.key_columns) = 1 ORDER BY o.name);
    w record;
BEGIN
    SELECT l.* INTO root FROM sync._record_label(the_object, the_record) l;
    RETURN QUERY SELECT the_object, the_record, root.number, nullif(root.label, ''), root.created_at, 0, NULL::text, NULL::text, known[1];
    FOR w IN SELECT t.* FROM sync._walk(the_object, the_record, true, max_depth, at_most, references_known, sources) t
             UNION ALL SELECT t.* FROM sync._walk(the_object, the_record, false, max_depth, at_most, references_known, sources) t LOOP
        CONTINUE WHEN w.node = ANY (known);
        known := known || w.node;
        RETURN QUERY SELECT w.object_id, w.record_id, w.number, w.label, w.created_at, w.depth, w.via, w.parent, w.node;
    END LOOP;
    IF max_depth = 0 THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT c.object_id, c.record_id, l.number, nullif(l.label, ''), coalesce(l.created_at, c.at), CASE WHEN c.at < began THEN -1 ELSE 1 END, 'correlation'::text,
           the_object || ' ' || the_record, c.object_id || ' ' || c.record_id
      FROM (SELECT t.* FROM sync._correlated(ids) t WHERE t.object_id || ' ' || t.record_id <> ALL (known) ORDER BY t.at LIMIT at_most) c
     CROSS JOIN LATERAL sync._record_label(c.object_id, c.record_id) l;
END
$$;
COMMENT ON FUNCTION sync._family(integer, text, integer, integer, text[], timestamptz) IS 'A record with those that it caused and that caused it, by references and correlation';

CREATE FUNCTION sync.lineage(object text, id text, depth integer DEFAULT 6)
RETURNS SETOF sync.lineage_row
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    the_object integer;
    the_record text;
BEGIN
    IF $3 IS NULL OR $3 NOT BETWEEN 0 AND 20 THEN
        RAISE EXCEPTION 'depth must be between 0 and 20' USING ERRCODE = 'invalid_parameter_value', HINT = '0: the record alone.';
    END IF;
    the_record := sync._find_record($1, $2);
    SELECT o.id INTO the_object FROM sync.object o WHERE o.name = $1;
    RETURN QUERY
    WITH RECURSIVE entry AS MATERIALIZED (
        SELECT e.* FROM sync._lineage_entries(the_object, the_record) e
    ), family AS MATERIALIZED (
        SELECT f.*
          FROM (SELECT array_agg(DISTINCT e.correlation_id) AS ids, min(e.at) AS began FROM entry e
                 WHERE e.kind IN ('event', 'attempt', 'delivery') AND e.correlation_id IS NOT NULL) c
         CROSS JOIN LATERAL sync._family(the_object, the_record, $3, 1000, c.ids, c.began) f
    ), way AS (
        SELECT f.*, concat_ws(' ', o.name, coalesce(f.number, f.record_id)) AS path FROM family f JOIN sync.object o ON o.id = f.object_id WHERE f.depth = 0
        UNION ALL
        SELECT f.*, CASE WHEN f.depth > 0 THEN w.path || ' > ' || concat_ws(' ', o.name, coalesce(f.number, f.record_id))
                         ELSE concat_ws(' ', o.name, coalesce(f.number, f.record_id)) || ' > ' || w.path END
          FROM way w JOIN family f ON f.parent = w.node JOIN sync.object o ON o.id = f.object_id)
    SELECT e.at, e.kind, $1, the_record, w.number, e.system, e.what, e.actor, e.status, e.latency_ms, e.remote_id, e.request_id,
           e.correlation_id, e.causation_id, e.delivery, e.reason, 0, w.path
      FROM way w CROSS JOIN entry e
     WHERE w.depth = 0
    UNION ALL
    SELECT w.created_at, CASE WHEN w.depth > 0 THEN 'caused' ELSE 'caused by' END, o.name, w.record_id, w.number, p.system,
           nullif(concat_ws(', ', w.label, p.state), ''), NULL, NULL, NULL, p.remote_id, NULL, NULL, NULL, NULL, 'by ' || w.via, w.depth, w.path
      FROM way w
      JOIN sync.object o ON o.id = w.object_id
      LEFT JOIN sync._record_place p ON p.object_id = w.object_id AND p.record_id = w.record_id
     WHERE w.depth <> 0
     ORDER BY 1 NULLS LAST, 17, 3, 4, 2, 6;
END
$$;
COMMENT ON FUNCTION sync.lineage(text, text, integer) IS 'All that is on record about a record, in order of time, with the records that it caused and that caused it; id is an id or a business number';

-- Where a record is, in a line.
CREATE FUNCTION sync._places_text(object_id integer, record_id text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ' [' || string_agg(concat_ws(' ', p.system || ':', coalesce(p.remote_number, p.remote_id), nullif(p.state, 'synced')), '; ' ORDER BY p.system) || ']'
      FROM sync._record_place p WHERE p.object_id = $1 AND p.record_id = $2
$$;
COMMENT ON FUNCTION sync._places_text(integer, text) IS 'Systems that a record is in, with its ids there, in a line';

-- What of a record's own history a tree shows: everything but what merely says where it is.
CREATE FUNCTION sync._tree_details(the_object integer, the_record text, indent text)
RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT $3 || concat_ws(' ', to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), rpad(e.kind, 8),
               e.system || ':', e.what, '(' || nullif(concat_ws(', ', e.status, e.latency_ms || ' ms', 'request ' || e.request_id), '') || ')',
               'by ' || e.actor, 'because ' || e.reason)
      FROM sync._lineage_entries($1, $2) e
     WHERE e.kind NOT IN ('bound', 'audit')
     ORDER BY e.at, e.kind, e.system, e.what;
END
$$;
COMMENT ON FUNCTION sync._tree_details(integer, text, text) IS 'A record''s own history, a line each, times in UTC';

CREATE FUNCTION sync.lineage_tree(object text, id text, depth integer DEFAULT 6)
RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
DECLARE
    the_object integer;
    the_record text := sync._find_record($1, $2);
    nodes jsonb := '{}';
    w record;
    line record;
BEGIN
    IF $3 IS NULL OR $3 NOT BETWEEN 0 AND 20 THEN
        RAISE EXCEPTION 'depth must be between 0 and 20' USING ERRCODE = 'invalid_parameter_value', HINT = '0: the record alone.';
    END IF;
    SELECT o.id INTO the_object FROM sync.object o WHERE o.name = $1;
    FOR w IN
        SELECT f.*, concat_ws(' ', o.name, coalesce(f.number, f.record_id), ' ' || f.label) || coalesce(sync._places_text(f.object_id, f.record_id), '') AS title
          FROM (SELECT array_agg(DISTINCT e.correlation_id) AS ids, min(e.at) AS began FROM sync._lineage_entries(the_object, the_record) e
                 WHERE e.kind IN ('event', 'attempt', 'delivery') AND e.correlation_id IS NOT NULL) c
         CROSS JOIN LATERAL sync._family(the_object, the_record, $3, 1000, c.ids, c.began) f
          JOIN sync.object o ON o.id = f.object_id
    LOOP
        nodes := nodes || jsonb_build_object(w.node, to_jsonb(w));
    END LOOP;
    -- Causes first, the farthest on top; then the record; then what followed, each below what it follows from.
    FOR line IN SELECT n.value AS v FROM jsonb_each(nodes) n WHERE (n.value ->> 'depth')::integer < 0
                 ORDER BY (n.value ->> 'depth')::integer, n.value ->> 'created_at', n.value ->> 'title' LOOP
        RETURN NEXT 'after ' || (line.v ->> 'title') || CASE WHEN line.v ->> 'via' = 'correlation' THEN ' (same correlation id)' ELSE '' END;
    END LOOP;
    FOR line IN
        WITH RECURSIVE child AS (
            SELECT n.value ->> 'node' AS node, n.value ->> 'parent' AS parent, n.value ->> 'title' AS title, n.value ->> 'via' AS via,
                   row_number() OVER siblings AS place, row_number() OVER siblings = count(*) OVER (PARTITION BY n.value ->> 'parent') AS is_last
              FROM jsonb_each(nodes) n WHERE (n.value ->> 'depth')::integer >= 0
            WINDOW siblings AS (PARTITION BY n.value ->> 'parent' ORDER BY n.value ->> 'created_at', n.value ->> 'title')
        ), tree AS (
            SELECT c.*, 0 AS level, ARRAY[c.place] AS places, '' AS branch, '' AS below FROM child c WHERE c.parent IS NULL
            UNION ALL
            SELECT c.*, t.level + 1, t.places || c.place, t.below || CASE WHEN c.is_last THEN '└─ ' ELSE '├─ ' END,
                   t.below || CASE WHEN c.is_last THEN '   ' ELSE '│  ' END
              FROM tree t JOIN child c ON c.parent = t.node)
        SELECT t.branch || t.title || CASE WHEN t.via = 'correlation' THEN ' (same correlation id)' ELSE '' END AS text, t.level FROM tree t ORDER BY t.places
    LOOP
        RETURN NEXT line.text;
        IF line.level = 0 THEN
            RETURN QUERY SELECT d FROM sync._tree_details(the_object, the_record, '│  ') d;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.lineage_tree(text, text, integer) IS 'What a record follows from, its own history and what followed from it, as a tree to read';

CREATE FUNCTION sync.trace(correlation_id text)
RETURNS SETOF sync.lineage_row
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    own text[] := regexp_match($1, '^([0-9a-f]{8})-([0-9]{1,9})-([0-9]{1,18})$');
    own_seq bigint;
    own_incarnation integer;
    objects integer[];
    records text[];
BEGIN
    IF own[1] = (SELECT h.mark FROM sync._hub_mark h) THEN
        own_incarnation := own[2]::integer;
        own_seq := own[3]::bigint;
    END IF;
    SELECT array_agg(c.object_id), array_agg(c.record_id) INTO objects, records
      FROM (SELECT t.object_id, t.record_id FROM sync._correlated(ARRAY[$1]) t
            UNION
            SELECT q.object_id, q.record_id FROM sync._event_record q WHERE q.seq = own_seq AND q.incarnation = own_incarnation
            UNION
            SELECT q.the_object, q.the_record FROM sync._attempt_place p CROSS JOIN LATERAL sync._attempts(NULL, NULL, NULL, p.route_id, own_seq) q
             WHERE q.incarnation = own_incarnation) c;
    RETURN QUERY
    WITH RECURSIVE entry AS MATERIALIZED (
        SELECT e.*, o.name AS object, (sync._record_label(r.object_id, r.record_id)).number AS number
          FROM unnest(objects, records) r (object_id, record_id)
          JOIN sync.object o ON o.id = r.object_id
         CROSS JOIN LATERAL sync._lineage_entries(r.object_id, r.record_id) e
         WHERE e.correlation_id = $1
    ), event AS (
        SELECT DISTINCT ON (t.event_id) t.event_id, t.causation_id, concat_ws(' ', t.object, coalesce(t.number, t.record_id)) AS name
          FROM entry t WHERE t.event_id IS NOT NULL ORDER BY t.event_id, t.causation_id
    ), way AS (
        SELECT v.event_id, 0 AS depth, v.name AS path FROM event v
         WHERE v.causation_id IS NULL OR NOT EXISTS (SELECT FROM event c WHERE c.event_id = v.causation_id)
        UNION ALL
        SELECT v.event_id, w.depth + 1, w.path || ' > ' || v.name FROM way w JOIN event v ON v.causation_id = w.event_id WHERE w.depth < 50)
    SELECT t.at, t.kind, t.object, t.record_id, t.number, t.system, t.what, t.actor, t.status, t.latency_ms, t.remote_id, t.request_id,
           t.correlation_id, t.causation_id, t.delivery, t.reason, coalesce(w.depth, 0), coalesce(w.path, concat_ws(' ', t.object, coalesce(t.number, t.record_id)))
      FROM entry t LEFT JOIN way w ON w.event_id = t.event_id
    UNION ALL
    -- acts that were about no record, or about one that has no event of this id
    SELECT a.at, 'audit', a.object, a.record_id, a.record_number, a.system, a.action, coalesce(a.actor, a.login::text), NULL, NULL, NULL, NULL,
           a.correlation_id, NULL, NULL, a.reason, 0, concat_ws(' ', a.object, coalesce(a.record_number, a.record_id))
      FROM sync.audit_trail a
     WHERE a.correlation_id = $1
       AND NOT EXISTS (SELECT FROM entry t WHERE t.object = a.object AND t.record_id = a.record_id AND t.kind IN ('audit', 'attempt', 'outcome'))
     ORDER BY 1 NULLS LAST, 17, 3, 4, 2, 6;
END
$$;
COMMENT ON FUNCTION sync.trace(text) IS 'Everything that carries a correlation id, across records and systems, in order of time; an event''s own id is one, too';

CREATE VIEW sync._event_record WITH (security_barrier) AS
SELECT e.seq, e.incarnation, e.object_id, e.record_id FROM sync.outbox e JOIN sync._visible_object o ON o.id = e.object_id;
COMMENT ON VIEW sync._event_record IS 'Which record an event is about, as far as it is kept';
