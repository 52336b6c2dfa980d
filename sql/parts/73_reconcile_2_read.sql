-- Reconciliation: reading both sides. One snapshot sees both sides and what is on its way between them,
-- so that a write that commits meanwhile is seen on all three or on none and cannot look like a
-- difference. What does not agree to the letter goes to pg_temp._sync_suspect:
--
--   record_id, remote_id, remote_number
--   other_remote_id   the first system's record, where two systems are compared
--   bound             whether record and remote record are bound to each other
--   body              the first side: the canonical row with its lines, or the first system's fields; NULL: not there
--   fields            the second side: what the system says; NULL: not there
--   mirrored          whether anything is known of the second side; deleted: whether it says that it is gone
--   agreed            as in sync.mirror
--   delivery, way     the delivery on its way, and that in words; NULL: nothing is
--   problem           why an inbound record could not be applied
--   sums              of one row that is no suspect: counts and amounts of all that agreed

-- The lines of a row as jsonb, as an expression over alias c; NULL: the object has none. Whole rows are c.* and l.*,
-- because a column may be named c or l.
CREATE FUNCTION sync._lines_sql(object_id integer)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('coalesce((SELECT jsonb_agg(to_jsonb(l.*) ORDER BY %s) FROM %I.%I l WHERE %s), ''[]'')',
                  (SELECT string_agg(format('l.%I', k), ', ' ORDER BY n) FROM unnest(o.line_key_columns) WITH ORDINALITY u (k, n)), o.line_schema, o.line_table,
                  (SELECT string_agg(format('l.%I = c.%I', o.line_parent_columns[i], o.key_columns[i]), ' AND ') FROM generate_subscripts(o.key_columns, 1) i))
      FROM sync.object o WHERE o.id = $1 AND o.line_table IS NOT NULL
$$;
COMMENT ON FUNCTION sync._lines_sql(integer) IS 'The lines of a canonical row as jsonb, as an expression over alias c; NULL: there are no lines';

-- The canonical row as jsonb with its lines, as an expression over alias c.
CREATE FUNCTION sync._body_sql(object_id integer)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN 'to_jsonb(c.*)' || coalesce(' || jsonb_build_object(''lines'', ' || sync._lines_sql($1) || ')', '');
END
$$;
COMMENT ON FUNCTION sync._body_sql(integer) IS 'A canonical row with its lines as jsonb, as an expression over alias c';

-- A delivery behind a dead one settles nothing until a person has seen to that.
CREATE FUNCTION sync._ways(system_id integer, object_id integer)
RETURNS TABLE (record_id text, delivery text, way text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT DISTINCT ON (u.record_id) u.record_id, u.route_id || '/' || u.seq, format('delivery %s/%s is %s', u.route_id, u.seq, replace(u.state, '_', ' '))
      FROM sync._unfinished u
     WHERE u.system_id = $1 AND u.object_id = $2
       AND NOT EXISTS (SELECT FROM sync.pending d WHERE d.route_id = u.route_id AND d.record_id = u.record_id AND d.state IN ('dead', 'conflict'))
     ORDER BY u.record_id, u.seq;
END
$$;
COMMENT ON FUNCTION sync._ways(integer, integer) IS 'The first unfinished delivery of each record of an object to a system: what will settle a difference';

-- An inbound record that is read again, or waits for another or for a decision, comes by itself; others need a person.
CREATE FUNCTION sync._inbox_way(i sync.inbox)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'it waits in the inbox: ' || i.reason WHERE i.item = 'null' OR i.wait_remote_id IS NOT NULL OR i.sqlstate = 'SE063'
$$;
COMMENT ON FUNCTION sync._inbox_way(sync.inbox) IS 'What an inbound record is on its way by, in words; NULL: it is not';

CREATE FUNCTION sync._route_of(system_id integer, object_id integer)
RETURNS sync.route
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT r FROM sync.route r WHERE r.system_id = $1 AND r.object_id = $2 AND r.state <> 'dropped' LIMIT 1);
END
$$;
COMMENT ON FUNCTION sync._route_of(integer, integer) IS 'The route of an object to a system, if there is one';

-- From when on records are a route's business, as a condition over alias c; a record of before the
-- route that was not sent by it is none.
CREATE FUNCTION sync._since_sql(route sync.route, made_sql text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN route.id IS NULL OR 'insert' <> ALL (route.operations) THEN 'false'
                WHEN route.start_kind = 'all' THEN 'true'
                ELSE format('%s >= %L', made_sql, CASE route.start_kind WHEN 'now' THEN route.created_at ELSE route.start_at END) END;
END
$$;
COMMENT ON FUNCTION sync._since_sql(sync.route, text) IS 'Which records a route may have sent by when they were made';

-- Bindings and mirrors that do not say the same of each other: bound and never read, read and unbound, bound
-- to another record. Mostly there are none, which sums of hashes tell in a tenth of the time of a join.
CREATE FUNCTION sync._unlike_bindings(system_id integer, object_id integer)
RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bindings record;
    mirrors record;
BEGIN
    -- EXECUTE, since SELECT INTO asks for one row, which no parallel worker gives.
    EXECUTE 'SELECT count(*) AS n, sum(hashtextextended(x.remote_id, hashtextextended(x.record_id, 0))) AS hash
               FROM sync.external_id x WHERE x.system_id = $1 AND x.object_id = $2' INTO bindings USING system_id, object_id;
    EXECUTE 'SELECT count(*) AS n, sum(hashtextextended(m.remote_id, hashtextextended(m.record_id, 0))) AS hash
               FROM sync.mirror m WHERE m.system_id = $1 AND m.object_id = $2 AND m.record_id IS NOT NULL' INTO mirrors USING system_id, object_id;
    IF bindings IS NOT DISTINCT FROM mirrors THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT coalesce(x.remote_id, m.remote_id)
                   FROM (SELECT e.remote_id, e.record_id FROM sync.external_id e WHERE e.system_id = $1 AND e.object_id = $2) x
                   FULL JOIN (SELECT i.remote_id, i.record_id FROM sync.mirror i WHERE i.system_id = $1 AND i.object_id = $2) m ON m.remote_id = x.remote_id
                  WHERE m.record_id IS DISTINCT FROM x.record_id);
END
$$;
COMMENT ON FUNCTION sync._unlike_bindings(integer, integer) IS 'Remote ids of which binding and mirror do not say the same';

-- Whether a row, alias c, agrees with its mirror, alias m, to the letter; lines are no column of a row.
CREATE FUNCTION sync._agrees_sql(object_id integer)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lines text := sync._lines_sql($1);
BEGIN
    RETURN CASE WHEN lines IS NULL THEN 'sync._row_agrees(c.*, m.fields)'
                ELSE format('sync._row_agrees(c.*, m.fields - ''lines'') AND (NOT m.fields ? ''lines'' OR sync._lines_agree(%s, m.fields -> ''lines''))', lines) END;
END
$$;
COMMENT ON FUNCTION sync._agrees_sql(integer) IS 'Whether a canonical row agrees with its mirror to the letter, as an expression over aliases c and m';

-- All mirrors against their rows, in one pass and with parallel workers. What agrees is counted at once, by the
-- row, for both sides; what does not is only named: odd. Remote ids `but` are looked at by themselves.
CREATE FUNCTION sync._compare_all(run sync.reconciliation, but text[], OUT odd text[], OUT sums jsonb, OUT bound bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_sort = off -- groups are some hundred days, which the planner cannot know, and takes for as many as there are rows
AS $$
DECLARE
    side record := sync._side(run.object_id);
    lines text := sync._lines_sql(run.object_id);
    agrees text := format('CASE WHEN %s IS NULL THEN m.record_id IS NULL AND m.deleted ELSE NOT m.deleted AND %s END', side.key_sql, sync._agrees_sql(run.object_id));
    look text := '';
BEGIN
    IF lines IS NOT NULL THEN
        -- Lines are read once for each document; OFFSET keeps the planner from writing it out at each mention.
        look := format('CROSS JOIN LATERAL (SELECT %s AS agrees OFFSET 0) g', agrees);
        agrees := 'g.agrees';
    END IF;
    EXECUTE format($sql$
        WITH seen AS MATERIALIZED (
            SELECT %1$s AS entity, %2$s AS day, %3$s AS currency, %6$s IS NOT NULL AS here, %7$s AS agrees,
                   count(*) AS n, sum(%4$s) AS amount, sum(%5$s) AS told, sync._texts(m.remote_id) FILTER (WHERE NOT (%7$s)) AS odd
              FROM sync.mirror m LEFT JOIN %8$s c ON %9$s %14$s
             WHERE m.system_id = %10$s AND m.object_id = %11$s %12$s
             GROUP BY 1, 2, 3, 4, 5),
        summed AS (
            SELECT s.entity, date_trunc('month', s.day)::date AS period, s.currency, sum(s.n) AS n, sum(s.amount) AS amount, sum(s.told) AS told
              FROM seen s WHERE s.here AND s.agrees AND (%13$L::daterange IS NULL OR s.day IS NULL OR s.day <@ %13$L::daterange) GROUP BY 1, 2, 3)
        SELECT ARRAY(SELECT u.id FROM seen s CROSS JOIN LATERAL unnest(s.odd) u (id)),
               (SELECT coalesce(jsonb_agg(to_jsonb(s)), '[]') FROM summed s), (SELECT coalesce(sum(s.n), 0) FROM seen s WHERE s.here)
    $sql$, side.entity_sql, side.day_sql, side.currency_sql, side.amount_sql, side.told_sql, side.key_sql, agrees, side.relation,
           format(side.found_sql, 'm.record_id'), run.system_id, run.object_id, CASE WHEN but <> '{}' THEN 'AND m.remote_id <> ALL ($1)' ELSE '' END, run.period, look)
       INTO odd, sums, bound USING but;
END
$$;
COMMENT ON FUNCTION sync._compare_all(sync.reconciliation, text[]) IS
    'Mirrors that do not agree to the letter with the row that they are bound to, and counts and amounts of the others; bound: of how many there is a row';

-- Records of ours that a route would have sent and that are bound to nothing.
CREATE FUNCTION sync._unsent(run sync.reconciliation, bound bigint)
RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side record := sync._side(run.object_id);
    since text := sync._since_sql(sync._route_of(run.system_id, run.object_id), side.made_sql);
    n bigint;
    result text[];
BEGIN
    IF since = 'true' THEN
        EXECUTE format('SELECT count(*) FROM %s', side.relation) INTO n;
    END IF;
    -- One record is bound to one remote record at most, so where as many are bound as there are, none is left.
    IF n IS NULL OR n IS DISTINCT FROM bound THEN
        EXECUTE format('SELECT array_agg(%1$s) FROM %2$s c WHERE %3$s
                           AND NOT EXISTS (SELECT FROM sync.external_id x WHERE x.object_id = %4$s AND x.system_id = %5$s AND x.record_id = %1$s)',
                       side.record_sql, side.relation, since, run.object_id, run.system_id) INTO result;
    END IF;
    RETURN coalesce(result, '{}');
END
$$;
COMMENT ON FUNCTION sync._unsent(sync.reconciliation, bigint) IS 'Records that a route would have sent by when they were made, and that are bound to nothing; bound: how many are, as far as known';

-- The hub against a system. `remotes`: only those; NULL: all. `records`: those of ours that may be bound to nothing.
-- STABLE, so that all that it reads is of one snapshot.
CREATE FUNCTION sync._look_at_hub_side(run sync.reconciliation, records text[], remotes text[])
RETURNS TABLE (record_id text, remote_id text, other_remote_id text, remote_number text, bound boolean, body jsonb, fields jsonb, mirrored boolean,
               deleted boolean, agreed jsonb, delivery text, way text, problem text, sums jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET random_page_cost = 1.1 -- what changed of late is looked up in memory, and not by reading all of a table
AS $$
DECLARE
    side record := sync._side(run.object_id);
    unlike text[];
    seen record;
BEGIN
    IF remotes IS NULL THEN
        SELECT f.* INTO seen FROM sync._compare_folded(run) f;
        IF seen.done THEN
            unlike := seen.unlike;
            records := seen.unsent;
        ELSE
            unlike := sync._unlike_bindings(run.system_id, run.object_id);
            SELECT a.* INTO seen FROM sync._compare_all(run, unlike) a;
            records := sync._unsent(run, CASE WHEN unlike = '{}' THEN seen.bound END);
        END IF;
        sums := seen.sums;
        RETURN NEXT;
        sums := NULL;
        remotes := ARRAY(SELECT unnest(unlike || seen.odd) UNION SELECT i.remote_id FROM sync.inbox i WHERE i.system_id = run.system_id AND i.object_id = run.object_id);
    END IF;
    RETURN QUERY EXECUTE format($sql$
        WITH way AS MATERIALIZED (SELECT w.* FROM sync._ways(%1$s, %2$s) w),
        pair AS (
            SELECT coalesce(x.record_id, m.record_id) AS record_id, k.id AS remote_id, x.remote_number, x.record_id IS NOT NULL AS bound, CASE WHEN %3$s IS NOT NULL THEN %4$s END AS body,
                   CASE WHEN m.remote_id IS NULL AND x.record_id IS NULL THEN i.mapped ELSE m.fields END AS fields, m.remote_id IS NOT NULL AS mirrored,
                   coalesce(m.deleted, false) AS deleted, m.agreed, i AS waiting
              FROM unnest($2) k (id)
              LEFT JOIN sync.mirror m ON m.system_id = %1$s AND m.object_id = %2$s AND m.remote_id = k.id
              LEFT JOIN sync.external_id x ON x.system_id = %1$s AND x.object_id = %2$s AND x.remote_id = k.id
              LEFT JOIN sync.inbox i ON i.system_id = %1$s AND i.object_id = %2$s AND i.remote_id = k.id
              LEFT JOIN %5$s c ON %6$s
             WHERE CASE WHEN m.remote_id IS NULL THEN x.record_id IS NOT NULL OR i.remote_id IS NOT NULL
                        WHEN %3$s IS NULL THEN x.record_id IS NOT NULL OR m.record_id IS NOT NULL OR NOT m.deleted
                        -- What is not summed with the others is a suspect in any case, for its part of the totals.
                        ELSE m.deleted OR x.record_id IS NULL OR k.id = ANY ($3) OR NOT (%10$s) END
               -- The second remote record of a merged one is none of its own.
               AND (x.record_id IS NOT NULL OR NOT EXISTS (SELECT FROM sync.external_alias a WHERE a.system_id = %1$s AND a.object_id = %2$s AND a.remote_id = k.id))
            UNION ALL
            SELECT %8$s, NULL, NULL, false, %4$s, NULL, false, false, NULL, NULL
              FROM unnest($1) k (id) JOIN %5$s c ON %9$s
             WHERE %7$s AND NOT EXISTS (SELECT FROM sync.external_id x WHERE x.object_id = %2$s AND x.system_id = %1$s AND x.record_id = k.id))
        SELECT p.record_id, p.remote_id, NULL::text, p.remote_number, p.bound, p.body, p.fields, p.mirrored, p.deleted, p.agreed, w.delivery,
               coalesce(w.way, CASE WHEN (p.waiting).remote_id IS NOT NULL THEN sync._inbox_way(p.waiting) END), (p.waiting).reason, NULL::jsonb
          FROM pair p LEFT JOIN way w ON w.record_id = p.record_id
    $sql$, run.system_id, run.object_id, side.key_sql, sync._body_sql(run.object_id), side.relation, format(side.found_sql, 'coalesce(x.record_id, m.record_id)'),
           sync._since_sql(sync._route_of(run.system_id, run.object_id), side.made_sql), side.record_sql, format(side.found_sql, 'k.id'), sync._agrees_sql(run.object_id))
      USING records, remotes, coalesce(unlike, '{}');
END
$$;
COMMENT ON FUNCTION sync._look_at_hub_side(sync.reconciliation, text[], text[]) IS
    'Canonical rows and mirrors of a system that do not agree to the letter; before them, of a look at all, a row with sums of those that do';

CREATE FUNCTION sync._read_hub_side(run sync.reconciliation, records text[], remotes text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sums jsonb;
BEGIN
    CREATE TEMPORARY TABLE _sync_suspect ON COMMIT DROP AS SELECT k.* FROM sync._look_at_hub_side(run, records, remotes) k;
    IF remotes IS NULL THEN
        DELETE FROM pg_temp._sync_suspect s WHERE s.sums IS NOT NULL RETURNING s.sums INTO sums;
        PERFORM sync._write_hub_totals(run, sums);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._read_hub_side(sync.reconciliation, text[], text[]) IS
    'Reads canonical rows and mirrors of a system; what does not agree to the letter goes to pg_temp._sync_suspect; of all, counts and amounts are written';

-- What the mirrors of a system said, as a relation: now, of the records that they are bound to, or as far as it was
-- known at a moment. The second remote record of a merged one is none of its own.
CREATE FUNCTION sync._mirror_sql(system_id integer, object_id integer, as_of timestamptz)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(CASE WHEN as_of IS NULL
           THEN '(SELECT m.remote_id, x.record_id, m.fields, m.deleted, m.agreed FROM sync.mirror m
                    LEFT JOIN sync.external_id x ON x.system_id = %1$s AND x.object_id = %2$s AND x.remote_id = m.remote_id
                   WHERE m.system_id = %1$s AND m.object_id = %2$s AND (x.record_id IS NOT NULL OR %4$s))'
           ELSE '(SELECT m.* FROM (SELECT DISTINCT ON (h.remote_id) h.remote_id, h.record_id, h.fields, h.deleted, NULL::jsonb AS agreed FROM sync.mirror_history h
                                    WHERE h.system_id = %1$s AND h.object_id = %2$s AND h.fields IS NOT NULL AND h.at <= %3$L
                                    ORDER BY h.remote_id, h.at DESC, h.xid DESC) m WHERE m.record_id IS NOT NULL OR %4$s)' END,
           $1, $2, $3, format('NOT EXISTS (SELECT FROM sync.external_alias a WHERE a.system_id = %s AND a.object_id = %s AND a.remote_id = m.remote_id)', $1, $2))
$$;
COMMENT ON FUNCTION sync._mirror_sql(integer, integer, timestamptz) IS 'The mirrors of a system as a relation, now or as of a moment';

-- The hub's records as they were at a moment: the row now, taken back by the first event since. Of lines that
-- changed an event does not say what they were, and one that is too large says nothing: then the last event
-- before tells; where there is none, the lines are not known, and the record has none.
CREATE FUNCTION sync._body_as_of_sql(object_id integer, as_of timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side record := sync._side(object_id);
BEGIN
    RETURN format($sql$(
        WITH next AS (SELECT DISTINCT ON (e.record_id) e.record_id, e.op, e.body, e.old FROM sync.outbox e
                       WHERE e.object_id = %1$s AND e.at > %2$L ORDER BY e.record_id, e.seq),
        before AS (SELECT DISTINCT ON (e.record_id) e.record_id, e.body FROM sync.outbox e
                    WHERE e.object_id = %1$s AND e.at <= %2$L AND e.op IN ('I', 'U')
                      AND e.record_id IN (SELECT n.record_id FROM next n WHERE n.op = 'K' OR n.old ? 'lines') ORDER BY e.record_id, e.seq DESC),
        later AS (SELECT n.record_id, n.op, coalesce(b.body, CASE WHEN n.op <> 'K' THEN (n.body || coalesce(n.old, '{}')) - CASE WHEN n.old ? 'lines' THEN 'lines' ELSE '' END END) AS body
                    FROM next n LEFT JOIN before b ON b.record_id = n.record_id)
        SELECT %3$s AS record_id, CASE WHEN l.body IS NULL THEN %4$s ELSE l.body END AS body
          FROM %5$s c LEFT JOIN later l ON l.record_id = %3$s WHERE l.op IS DISTINCT FROM 'I'
        UNION ALL
        SELECT l.record_id, l.body FROM later l
         WHERE l.op <> 'I' AND l.body IS NOT NULL AND NOT EXISTS (SELECT FROM %5$s c WHERE %6$s))$sql$,
        object_id, as_of, side.record_sql, sync._body_sql(object_id), side.relation, format(side.found_sql, 'l.record_id'));
END
$$;
COMMENT ON FUNCTION sync._body_as_of_sql(integer, timestamptz) IS 'The canonical records as of a moment that the outbox reaches back to, as a relation';

-- The hub as it was against a system as it was known. What was on its way then: captured by then, not ended by then.
CREATE FUNCTION sync._read_hub_side_as_of(run sync.reconciliation)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format($sql$
        CREATE TEMPORARY TABLE _sync_suspect ON COMMIT DROP AS
        WITH way AS MATERIALIZED (
            SELECT DISTINCT ON (c.record_id) c.record_id, c.route_id || '/' || c.seq AS delivery
              FROM sync.claim c JOIN sync.route r ON r.id = c.route_id AND r.system_id = %1$s AND r.object_id = %2$s
             WHERE c.event_at <= %5$L AND NOT EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = c.route_id AND f.seq = c.seq AND f.final AND f.at <= %5$L)
             ORDER BY c.record_id, c.seq)
        SELECT coalesce(m.record_id, b.record_id) AS record_id, coalesce(m.remote_id, x.remote_id) AS remote_id, NULL::text AS other_remote_id, x.remote_number,
               m.record_id IS NOT NULL OR x.record_id IS NOT NULL AS bound, b.body, m.fields, m.remote_id IS NOT NULL AS mirrored,
               coalesce(m.deleted, false) AS deleted, m.agreed, w.delivery, format('delivery %%s was on its way', w.delivery) AS way, NULL::text AS problem
          FROM %3$s m
          FULL JOIN %4$s b ON b.record_id = m.record_id
          LEFT JOIN sync.external_id x ON x.object_id = %2$s AND x.system_id = %1$s AND x.record_id = coalesce(m.record_id, b.record_id) AND x.bound_at <= %5$L
          LEFT JOIN way w ON w.record_id = coalesce(m.record_id, b.record_id)
         WHERE m.remote_id IS NOT NULL AND (m.record_id IS NOT NULL OR NOT m.deleted) AND NOT (b.body IS NULL AND m.deleted) OR x.record_id IS NOT NULL
    $sql$, run.system_id, run.object_id, sync._mirror_sql(run.system_id, run.object_id, run.as_of), sync._body_as_of_sql(run.object_id, run.as_of), run.as_of);
    UPDATE pg_temp._sync_suspect s SET way = NULL WHERE s.delivery IS NULL;
    UPDATE pg_temp._sync_suspect s SET fields = s.fields - 'lines' WHERE s.fields ? 'lines' AND NOT s.body ? 'lines'; -- as of then they are not known
END
$$;
COMMENT ON FUNCTION sync._read_hub_side_as_of(sync.reconciliation) IS 'As sync._read_hub_side(), both sides as of a moment';

-- Two systems through the hub: records of both that are bound to one of ours.
CREATE FUNCTION sync._read_pair(run sync.reconciliation)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format($sql$
        CREATE TEMPORARY TABLE _sync_suspect ON COMMIT DROP AS
        WITH way AS MATERIALIZED (
            SELECT DISTINCT ON (w.record_id) w.* FROM (SELECT * FROM sync._ways(%1$s, %3$s) UNION ALL SELECT * FROM sync._ways(%2$s, %3$s)) w
             WHERE %6$L::timestamptz IS NULL ORDER BY w.record_id, w.delivery)
        SELECT coalesce(a.record_id, b.record_id) AS record_id, b.remote_id, a.remote_id AS other_remote_id, NULL::text AS remote_number,
               coalesce(a.record_id, b.record_id) IS NOT NULL AS bound, CASE WHEN NOT a.deleted THEN a.fields END AS body,
               CASE WHEN NOT b.deleted THEN b.fields END AS fields, b.remote_id IS NOT NULL AS mirrored, coalesce(b.deleted, false) AS deleted,
               NULL::jsonb AS agreed, w.delivery, w.way, NULL::text AS problem
          FROM %4$s a
          FULL JOIN %5$s b ON b.record_id = a.record_id
          LEFT JOIN way w ON w.record_id = coalesce(a.record_id, b.record_id)
         WHERE NOT coalesce(a.deleted, true) OR NOT coalesce(b.deleted, true)
    $sql$, run.system_id, run.other_system_id, run.object_id, sync._mirror_sql(run.system_id, run.object_id, run.as_of),
           sync._mirror_sql(run.other_system_id, run.object_id, run.as_of), run.as_of);
    -- Fields that only one of the two knows are no difference between them.
    UPDATE pg_temp._sync_suspect s
       SET fields = (SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') FROM jsonb_each(s.fields) f WHERE s.body ? f.key)
     WHERE s.body IS NOT NULL AND s.fields IS NOT NULL;
END
$$;
COMMENT ON FUNCTION sync._read_pair(sync.reconciliation) IS 'Reads the mirrors of two systems; pg_temp._sync_suspect gets every pair, with the fields that both know';
