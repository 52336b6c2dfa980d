-- Full reconciliation, the comparing: what a listing said against the records as they stand.

CREATE FUNCTION sync._fields_differing(object_id integer, resolution_ms bigint, ours jsonb[], theirs jsonb[])
RETURNS jsonb[]
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_differing';
COMMENT ON FUNCTION sync._fields_differing(integer, bigint, jsonb[], jsonb[]) IS
    'For each pair of records their fields that differ from ours, as a pull sees it; NULL where none does, or one is missing';

-- The records of an object by id, as events have them: {"id": row with its lines}.
CREATE FUNCTION sync._bodies(object_id integer, ids text[])
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS $$
DECLARE
    t record := sync._identity_table(object_id);
    found_by text;
    query text;
BEGIN
    IF t.relation IS NULL OR ids IS NULL THEN
        RETURN '{}';
    END IF;
    SELECT string_agg(format('c.%I = CAST(%s AS %s)', t.key_columns[i],
                             CASE cardinality(t.key_columns) WHEN 1 THEN 'k.id' ELSE format('k.id::jsonb ->> %s', i - 1) END, t.key_types[i]), ' AND ')
      INTO found_by FROM generate_subscripts(t.key_columns, 1) i;
    query := format('SELECT coalesce(jsonb_object_agg(k.id, %s), ''{}'') FROM jsonb_array_elements_text($1) k (id) JOIN %s c ON %s AND %s = k.id',
                    sync._body_sql(object_id), t.relation, found_by, (sync._side(object_id)).record_sql);
    RETURN sync._as_owner(t.relation, query, to_jsonb(array_remove(ids, NULL)));
EXCEPTION WHEN data_exception THEN
    -- One that is no key of this table hides itself, and nobody else.
    IF cardinality(ids) > 1 THEN
        RETURN (SELECT coalesce(jsonb_object_agg(b.key, b.value), '{}') FROM unnest(ids) i CROSS JOIN LATERAL jsonb_each(sync._bodies(object_id, ARRAY[i])) b);
    END IF;
    RETURN '{}';
END
$$;
COMMENT ON FUNCTION sync._bodies(integer, text[]) IS 'Records as they stand, by id; those that there are';

-- The next n record ids behind one, in the order of the key; NULL: from the beginning.
CREATE FUNCTION sync._next_ids(object_id integer, after text, n integer)
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := sync._identity_table(object_id);
    columns text;
    begins text := '';
BEGIN
    IF t.relation IS NULL THEN
        RETURN '{}';
    END IF;
    SELECT string_agg(format('t.%I', k), ', ' ORDER BY i) INTO columns FROM unnest(t.key_columns) WITH ORDINALITY u (k, i);
    IF after IS NOT NULL THEN
        SELECT format(' WHERE (%s) > (%s)', columns, string_agg(format('CAST($1 ->> %s AS %s)', i - 1, t.key_types[i]), ', ' ORDER BY i))
          INTO begins FROM generate_subscripts(t.key_columns, 1) i;
    END IF;
    RETURN ARRAY(SELECT jsonb_array_elements_text(sync._as_owner(t.relation, format(
               'SELECT coalesce(jsonb_agg(x.id ORDER BY x.n), ''[]'') FROM (SELECT %s AS id, row_number() OVER () AS n
                  FROM (SELECT t.* FROM %s t%s ORDER BY %s LIMIT %s) t) x', t.record_sql, t.relation, begins, columns, n),
               CASE cardinality(t.key_columns) WHEN 1 THEN jsonb_build_array(after) ELSE after::jsonb END)));
END
$$;
COMMENT ON FUNCTION sync._next_ids(integer, text, integer) IS 'The next record ids of an object behind one';

-- Whether a route would have sent the record: by its condition and by when it starts. A record of before
-- the route that was not touched since is none of its.
CREATE FUNCTION sync._is_expected_there(route sync.route, body jsonb)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    made timestamptz := body ->> 'created_at';
    wanted record;
BEGIN
    IF route.id IS NULL OR route.state = 'dropped' OR 'insert' <> ALL (route.operations) OR body ->> 'merged_into_id' IS NOT NULL THEN
        RETURN false;
    END IF;
    IF route.start_kind = 'now' AND (made IS NULL OR made < route.created_at)
       OR route.start_kind = 'timestamp' AND (made IS NULL OR made < route.start_at) THEN
        RETURN false;
    END IF;
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = route.object_id;
    IF route.cutover_date IS NOT NULL
       AND coalesce((sync._accounting_date(o, body)).day, (made AT TIME ZONE 'UTC')::date) < route.cutover_date THEN
        RETURN false;
    END IF;
    wanted := sync._holds(route.object_id, route.condition, route.run_as, body, 'insert', NULL);
    RETURN wanted.holds IS TRUE OR wanted.error IS NOT NULL;
END
$$;
COMMENT ON FUNCTION sync._is_expected_there(sync.route, jsonb) IS 'Whether a record should stand in the system of a route';

-- What differs between the hub and a system about a record, each in words: nothing, when both agree.
-- theirs NULL: not there, or gone.
CREATE FUNCTION sync._record_differs(o sync.object, system_id integer, refs jsonb, resolution_ms bigint, bound text, ours jsonb, listed sync.listed_record, agreed jsonb,
                                     conflicts text[])
RETURNS TABLE (kind text, field text, our_value jsonb, their_value jsonb, class text, explanation text, detail text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    class := 'break';
    IF bound IS NULL THEN
        IF listed.job_id IS NOT NULL AND listed.expected AND NOT listed.deleted AND listed.as_of > '-infinity' THEN
            kind := 'missing_here';
            their_value := listed.fields;
            detail := coalesce('the system has it, the hub does not: ' || listed.problem, 'the system has it, the hub does not');
            RETURN NEXT;
        END IF;
    ELSIF ours IS NULL THEN
        IF NOT coalesce(listed.deleted, false) THEN -- else both have deleted it
            kind := 'orphan';
            detail := 'it is bound to a record that the hub no longer has';
            RETURN NEXT;
        END IF;
    ELSIF listed.job_id IS NULL OR listed.deleted OR listed.as_of = '-infinity' THEN
        kind := 'missing_there';
        our_value := ours;
        detail := CASE WHEN listed.deleted THEN 'the system says that it is gone' ELSE 'the system does not list it' END;
        RETURN NEXT;
    ELSIF listed.fields IS NULL THEN
        kind := 'stale';
        detail := listed.problem;
        RETURN NEXT;
    ELSE
        FOR field, their_value IN
            SELECT d.key, listed.fields -> d.key
              FROM jsonb_each((sync._differing(o.id, resolution_ms, ARRAY[ours], ARRAY[listed.fields], refs, system_id))[1]) d ORDER BY 1
        LOOP
            our_value := ours -> field;
            kind := CASE WHEN sync._is_amount(field) THEN 'amount_differs' ELSE 'field_differs' END;
            class := 'break';
            explanation := NULL;
            detail := CASE WHEN field = 'lines' THEN 'their lines differ'
                           ELSE format('the hub says %s, the system says %s', coalesce(our_value, 'null'), their_value) END;
            IF field = ANY (conflicts) THEN
                detail := detail || '; a conflict about it is open';
            ELSIF agreed ? field THEN
                class := 'explained';
                explanation := 'by ownership: the hub keeps its value, and knows that the system says another';
            END IF;
            RETURN NEXT;
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._record_differs(sync.object, integer, jsonb, bigint, text, jsonb, sync.listed_record, jsonb, text[]) IS
    'What a listing and the hub say differently about a record: kind of break, field, both values, whether a rule explains it';

-- What is on its way that will settle a difference, in words; NULL: nothing is. `known_at`: when the
-- system was asked; what was sent or read since is news to that answer.
CREATE FUNCTION sync._on_its_way(system_id integer, object_id integer, record_id text, remote_id text, known_at timestamptz, OUT delivery text, OUT why text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT r.id || '/' || p.seq, format('delivery %s/%s is %s', r.id, p.seq, p.state) INTO delivery, why
      FROM sync.route r JOIN sync.pending p ON p.route_id = r.id AND p.record_id = $3
     WHERE r.system_id = $1 AND r.object_id = $2 AND p.state NOT IN ('dead', 'conflict')
       AND NOT EXISTS (SELECT FROM sync.pending d WHERE d.route_id = p.route_id AND d.record_id = p.record_id AND d.state IN ('dead', 'conflict'))
     ORDER BY p.seq LIMIT 1;
    IF why IS NULL THEN
        SELECT q.route_id || '/' || q.seq, format('delivery %s/%s is queued', q.route_id, q.seq) INTO delivery, why
          FROM sync._queue q WHERE q.system_id = $1 AND q.object_id = $2 AND q.record_id = $3
                               AND NOT EXISTS (SELECT FROM sync.pending d WHERE d.route_id = q.route_id AND d.record_id = q.record_id) LIMIT 1;
    END IF;
    IF why IS NULL THEN
        SELECT c.route_id || '/' || c.seq, format('delivery %s/%s was sent meanwhile', c.route_id, c.seq) INTO delivery, why
          FROM sync.claim c JOIN sync.route r ON r.id = c.route_id
         WHERE c.record_id = $3 AND c.object_id = $2 AND r.system_id = $1 AND c.at >= $5 LIMIT 1;
    END IF;
    IF why IS NULL THEN
        SELECT NULL, 'it was read or sent meanwhile' INTO delivery, why FROM sync.mirror m
         WHERE m.system_id = $1 AND m.object_id = $2 AND m.remote_id = $4 AND greatest(m.pushed_at, m.seen_at) >= $5;
    END IF;
    IF why IS NULL THEN
        SELECT NULL, sync._inbox_way(i) INTO delivery, why FROM sync.inbox i
         WHERE i.system_id = $1 AND i.object_id = $2 AND i.remote_id = $4;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._on_its_way(integer, integer, text, text, timestamptz) IS
    'The delivery or inbound record that will settle a difference, or what went on since the system was asked';
