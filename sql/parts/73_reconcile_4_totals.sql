-- Reconciliation: counts and amounts of both sides.

-- What was summed, by the id of an entity, month and currency, is added to what a run has already.
CREATE FUNCTION sync._add_sums(run sync.reconciliation, sums jsonb)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH summed AS (
        SELECT s.* FROM jsonb_to_recordset(sums) s (entity text, period date, currency text, our_count bigint, our_amount numeric, their_count bigint, their_amount numeric)),
    code AS MATERIALIZED (
        SELECT e.entity, sync._look_up(o.schema_name, 'legal_entity', 'code', e.entity) AS code, o.name AS object
          FROM (SELECT DISTINCT s.entity FROM summed s) e JOIN sync.object o ON o.id = run.object_id),
    named AS (
        SELECT c.code, c.object, s.period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount, sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
          FROM summed s JOIN code c ON c.entity IS NOT DISTINCT FROM s.entity GROUP BY 1, 2, 3, 4),
    added AS (
        UPDATE sync.reconciliation_total t
           SET our_count = t.our_count + n.our_count, our_amount = CASE WHEN n.our_amount IS NULL THEN t.our_amount ELSE coalesce(t.our_amount, 0) + n.our_amount END,
               their_count = t.their_count + n.their_count,
               their_amount = CASE WHEN n.their_amount IS NULL THEN t.their_amount ELSE coalesce(t.their_amount, 0) + n.their_amount END
          FROM named n
         WHERE t.reconciliation_id = run.id AND (t.entity, t.period, t.currency) IS NOT DISTINCT FROM (n.code, n.period, n.currency))
    INSERT INTO sync.reconciliation_total (reconciliation_id, entity, object, period, currency, our_count, our_amount, their_count, their_amount)
    SELECT run.id, n.code, n.object, n.period, n.currency, n.our_count, n.our_amount, n.their_count, n.their_amount
      FROM named n
     WHERE NOT EXISTS (SELECT FROM sync.reconciliation_total t
                        WHERE t.reconciliation_id = run.id AND (t.entity, t.period, t.currency) IS NOT DISTINCT FROM (n.code, n.period, n.currency))
$$;
COMMENT ON FUNCTION sync._add_sums(sync.reconciliation, jsonb) IS 'Adds counts and amounts to the totals of a run: an array of objects with the id of the entity, the month, the currency and both sides';

-- Pairs of records, each as jsonb; NULL: that side does not have it. Each side counts by its own fields; without an
-- entity, day or currency of its own a remote record counts where the record that it is bound to does.
CREATE FUNCTION sync._add_totals(run sync.reconciliation, ours jsonb[], theirs jsonb[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH known AS MATERIALIZED (
        SELECT sync._places(o.schema_name, ours || theirs) AS places FROM sync.object o WHERE o.id = run.object_id),
    pair AS (
        SELECT u.body, u.fields, k.places -> 'zone' AS zone, e.entity, coalesce(u.fields ->> 'legal_entity_id', e.entity, sync._entity(u.fields, k.places)) AS their_entity
          FROM unnest(ours, theirs) u (body, fields) CROSS JOIN known k CROSS JOIN LATERAL (SELECT sync._entity(u.body, k.places)) e (entity)),
    side AS (
        SELECT p.entity, sync._accounting_day(p.body, p.zone ->> p.entity) AS day, p.body ->> 'currency' AS currency,
               1 AS our_count, sync._signed_amount(p.body) AS our_amount, 0 AS their_count, NULL::numeric AS their_amount
          FROM pair p WHERE p.body IS NOT NULL
        UNION ALL
        SELECT p.their_entity, coalesce(sync._accounting_day(p.fields, p.zone ->> p.their_entity), sync._accounting_day(p.body, p.zone ->> p.entity)),
               coalesce(p.fields ->> 'currency', p.body ->> 'currency'), 0, NULL, 1, sync._signed_amount(p.fields)
          FROM pair p WHERE p.fields IS NOT NULL)
    SELECT sync._add_sums(run, jsonb_agg(to_jsonb(g)))
      FROM (SELECT s.entity, date_trunc('month', s.day)::date AS period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount,
                   sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
              FROM side s WHERE run.period IS NULL OR s.day IS NULL OR s.day <@ run.period
             GROUP BY 1, 2, 3) g
$$;
COMMENT ON FUNCTION sync._add_totals(sync.reconciliation, jsonb[], jsonb[]) IS 'Adds pairs of records to the totals of a run; NULL: that side does not have it';

-- Of the hub against a system as it is now: what agreed is summed already, the suspects are added one by one.
CREATE FUNCTION sync._write_hub_totals(run sync.reconciliation, sums jsonb)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._add_sums(run, (SELECT jsonb_agg(jsonb_build_object('entity', g.entity, 'period', g.period, 'currency', g.currency, 'our_count', g.n, 'our_amount', g.amount,
                                                                   'their_count', g.n, 'their_amount', g.told))
                                  FROM jsonb_to_recordset(sums) g (entity text, period date, currency text, n bigint, amount numeric, told numeric)));
    SELECT sync._add_totals(run, array_agg(v.ours), array_agg(v.theirs))
      FROM (SELECT CASE WHEN s.bound THEN s.body END AS ours, row_number() OVER () / 1000 AS piece,
                   CASE WHEN (s.mirrored OR NOT s.bound) AND s.remote_id IS NOT NULL AND NOT s.deleted THEN coalesce(s.fields, '{}') END AS theirs
              FROM pg_temp._sync_suspect s) v
     WHERE v.ours IS NOT NULL OR v.theirs IS NOT NULL
     GROUP BY v.piece
$$;
COMMENT ON FUNCTION sync._write_hub_totals(sync.reconciliation, jsonb) IS 'Writes counts and amounts of the hub and a system: of what agreed, and of the suspects';

-- ours: (record_id, fields) with entity, day and currency of the record itself where fields do not say, and counted;
-- theirs: (remote_id, record_id, fields).
CREATE FUNCTION sync._write_totals(run sync.reconciliation, ours_sql text, theirs_sql text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    places jsonb;
    sums jsonb;
BEGIN
    EXECUTE format('SELECT sync._places((SELECT o.schema_name FROM sync.object o WHERE o.id = %s), CASE WHEN %L THEN ''{}'' ELSE
                               ARRAY(SELECT u.fields FROM %s u WHERE u.fields ->> ''legal_entity_id'' IS NULL) || ARRAY(SELECT t.fields FROM %s t WHERE t.fields ->> ''legal_entity_id'' IS NULL) END)',
                   run.object_id, run.other_system_id IS NOT NULL, ours_sql, theirs_sql) INTO places;
    EXECUTE format($sql$
        WITH ours AS MATERIALIZED (
            SELECT u.record_id, u.counted, sync._signed_amount(u.fields) AS amount, coalesce(u.fields ->> 'currency', u.currency) AS currency, e.entity,
                   coalesce(sync._accounting_day(u.fields, $1 -> 'zone' ->> e.entity), u.day) AS day
              FROM %1$s u CROSS JOIN LATERAL (SELECT coalesce(u.fields ->> 'legal_entity_id', u.entity, sync._entity(u.fields, $1))) e (entity)),
        side AS (
            SELECT u.entity, u.day, u.currency, 1 AS our_count, u.amount AS our_amount, 0 AS their_count, NULL::numeric AS their_amount FROM ours u WHERE u.counted
            UNION ALL
            SELECT e.entity, coalesce(sync._accounting_day(t.fields, $1 -> 'zone' ->> e.entity), u.day), coalesce(t.fields ->> 'currency', u.currency),
                   0, NULL, 1, sync._signed_amount(t.fields)
              FROM %2$s t LEFT JOIN ours u ON u.record_id = t.record_id
             CROSS JOIN LATERAL (SELECT coalesce(t.fields ->> 'legal_entity_id', u.entity, sync._entity(t.fields, $1))) e (entity))
        SELECT jsonb_agg(to_jsonb(g))
          FROM (SELECT s.entity, date_trunc('month', s.day)::date AS period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount,
                       sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
                  FROM side s WHERE %3$L::daterange IS NULL OR s.day IS NULL OR s.day <@ %3$L::daterange
                 GROUP BY 1, 2, 3) g
    $sql$, ours_sql, theirs_sql, run.period) INTO sums USING places;
    PERFORM sync._add_sums(run, sums);
END
$$;
COMMENT ON FUNCTION sync._write_totals(sync.reconciliation, text, text) IS 'Writes counts and amounts of both sides of a run';

-- Of the differences that findings are about, only the record's amount counts, not each of its parts.
-- Records that only the hub has and that were never sent stand on our side, too: they are missing there. Of
-- two systems, what only one has counts only as a difference: a document that was never meant for the
-- other, such as one voided before it was sent, is on neither side of the comparison.
CREATE FUNCTION sync._explain_totals(reconciliation bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CREATE TEMPORARY TABLE _sync_moved ON COMMIT DROP AS
    SELECT f.object, f.entity, f.period, f.currency,
           count(*) FILTER (WHERE f.kind = 'missing_there' AND (f.remote_id IS NULL OR f.other_system IS NOT NULL)) AS unsent_count,
           - sum(f.difference) FILTER (WHERE f.kind = 'missing_there' AND (f.remote_id IS NULL OR f.other_system IS NOT NULL)) AS unsent_amount,
           count(*) FILTER (WHERE f.kind = 'missing_here' AND f.other_system IS NOT NULL) AS unknown_count,
           sum(f.difference) FILTER (WHERE f.kind = 'missing_here' AND f.other_system IS NOT NULL) AS unknown_amount,
           count(*) FILTER (WHERE f.class IN ('in_transit', 'timing')) AS transit_count,
           sum(f.difference) FILTER (WHERE f.class IN ('in_transit', 'timing')) AS transit_amount,
           count(*) FILTER (WHERE f.class = 'explained') AS explained_count,
           sum(f.difference) FILTER (WHERE f.class = 'explained') AS explained_amount,
           count(*) FILTER (WHERE f.class = 'break') AS break_count
      FROM sync.finding f
     WHERE f.reconciliation_id = $1
       AND (f.kind IN ('missing_here', 'missing_there', 'duplicate', 'orphan', 'stale') OR f.kind = 'amount_differs' AND f.field IN ('total_amount', 'amount', 'total_value', 'gross_amount'))
     GROUP BY 1, 2, 3, 4;
    INSERT INTO sync.reconciliation_total (reconciliation_id, entity, object, period, currency)
    SELECT $1, m.entity, m.object, m.period, m.currency FROM pg_temp._sync_moved m
     WHERE NOT EXISTS (SELECT FROM sync.reconciliation_total t
                        WHERE t.reconciliation_id = $1 AND (t.entity, t.period, t.currency) IS NOT DISTINCT FROM (m.entity, m.period, m.currency));
    UPDATE sync.reconciliation_total t
       SET our_count = t.our_count + m.unsent_count, our_amount = CASE WHEN m.unsent_amount IS NULL THEN t.our_amount ELSE coalesce(t.our_amount, 0) + m.unsent_amount END,
           their_count = t.their_count + m.unknown_count,
           their_amount = CASE WHEN m.unknown_amount IS NULL THEN t.their_amount ELSE coalesce(t.their_amount, 0) + m.unknown_amount END,
           in_transit_count = m.transit_count, in_transit_amount = m.transit_amount,
           explained_count = m.explained_count, explained_amount = m.explained_amount, unexplained_count = m.break_count
      FROM pg_temp._sync_moved m
     WHERE t.reconciliation_id = $1 AND (t.entity, t.period, t.currency) IS NOT DISTINCT FROM (m.entity, m.period, m.currency);
    UPDATE sync.reconciliation_total t
       SET unexplained_amount = coalesce(t.their_amount, 0) - coalesce(t.our_amount, 0) - coalesce(t.in_transit_amount, 0) - coalesce(t.explained_amount, 0)
     WHERE t.reconciliation_id = $1 AND (t.our_amount IS NOT NULL OR t.their_amount IS NOT NULL);
    DROP TABLE pg_temp._sync_moved;
END
$$;
COMMENT ON FUNCTION sync._explain_totals(bigint) IS 'Says of the totals of a run what its findings explain of the difference';

-- The first side of totals of two systems, or of the hub as of a moment: its records that were bound in the system.
CREATE FUNCTION sync._ours_sql(run sync.reconciliation)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side record := sync._side(run.object_id);
BEGIN
    IF run.other_system_id IS NULL THEN
        RETURN format('(SELECT b.record_id, b.body AS fields, NULL::text AS entity, NULL::date AS day, NULL::text AS currency, x.record_id IS NOT NULL AS counted
                          FROM %s b LEFT JOIN sync.external_id x ON x.object_id = %s AND x.system_id = %s AND x.record_id = b.record_id AND x.bound_at <= %L)',
                      sync._body_as_of_sql(run.object_id, run.as_of), run.object_id, run.system_id, run.as_of);
    END IF;
    RETURN format('(SELECT a.record_id, a.fields, h.entity, h.day, h.currency, true AS counted
                      FROM %s a JOIN %s b ON b.record_id = a.record_id AND NOT b.deleted
                      LEFT JOIN (SELECT %s AS record_id, %s AS entity, %s AS day, %s AS currency FROM %s c) h ON h.record_id = a.record_id WHERE NOT a.deleted)',
                  sync._mirror_sql(run.system_id, run.object_id, run.as_of), sync._mirror_sql(run.other_system_id, run.object_id, run.as_of),
                  side.record_sql, side.entity_sql, side.day_sql, side.currency_sql, side.relation);
END
$$;
COMMENT ON FUNCTION sync._ours_sql(sync.reconciliation) IS 'The first side of a run of two systems or as of a moment, for its totals';

CREATE FUNCTION sync._theirs_sql(run sync.reconciliation)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(SELECT m.remote_id, m.record_id, m.fields FROM %s m%s WHERE NOT m.deleted)',
                  sync._mirror_sql(coalesce(run.other_system_id, run.system_id), run.object_id, run.as_of),
                  CASE WHEN run.other_system_id IS NOT NULL
                       THEN format(' JOIN %s a ON a.record_id = m.record_id AND NOT a.deleted', sync._mirror_sql(run.system_id, run.object_id, run.as_of)) ELSE '' END)
$$;
COMMENT ON FUNCTION sync._theirs_sql(sync.reconciliation) IS 'The second side of a run of two systems or as of a moment, for its totals';
