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

-- Pairs of records, each as jsonb; NULL: that side does not have it. Without an entity, day or currency of its
-- own a remote record counts where the record that it is bound to does.
CREATE FUNCTION sync._add_totals(run sync.reconciliation, ours jsonb[], theirs jsonb[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH side AS (
        SELECT u.body ->> 'legal_entity_id' AS entity, sync._day(u.body) AS day, u.body ->> 'currency' AS currency,
               1 AS our_count, sync._signed_amount(u.body) AS our_amount, 0 AS their_count, NULL::numeric AS their_amount
          FROM unnest(ours, theirs) u (body, fields) WHERE u.body IS NOT NULL
        UNION ALL
        SELECT coalesce(u.fields ->> 'legal_entity_id', u.body ->> 'legal_entity_id'), coalesce(sync._day(u.fields), sync._day(u.body)),
               coalesce(u.fields ->> 'currency', u.body ->> 'currency'), 0, NULL, 1, sync._signed_amount(u.fields)
          FROM unnest(ours, theirs) u (body, fields) WHERE u.fields IS NOT NULL)
    SELECT sync._add_sums(run, jsonb_agg(to_jsonb(g)))
      FROM (SELECT s.entity, date_trunc('month', s.day)::date AS period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount,
                   sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
              FROM side s WHERE run.period IS NULL OR s.day IS NULL OR s.day <@ run.period
             GROUP BY 1, 2, 3) g
$$;
COMMENT ON FUNCTION sync._add_totals(sync.reconciliation, jsonb[], jsonb[]) IS 'Adds pairs of records to the totals of a run; NULL: that side does not have it';

-- Of the hub against a system as it is now: what agreed is summed already, the suspects are added one by one.
-- Each side counts by its own fields; what they do not have is taken from the other's.
CREATE FUNCTION sync._write_hub_totals(run sync.reconciliation, sums jsonb)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH side AS (
        SELECT g.entity, g.period, g.currency, g.n AS our_count, g.amount AS our_amount, g.n AS their_count, g.told AS their_amount
          FROM jsonb_to_recordset(sums) g (entity text, period date, currency text, n bigint, amount numeric, told numeric)
        UNION ALL
        SELECT v.entity, date_trunc('month', v.day)::date, v.currency, v.ours, v.our_amount, 1 - v.ours, v.their_amount
          FROM pg_temp._sync_suspect s
         CROSS JOIN LATERAL (
               SELECT s.body ->> 'legal_entity_id', sync._day(s.body), s.body ->> 'currency', 1, sync._signed_amount(s.body), NULL::numeric
                WHERE s.bound AND s.body IS NOT NULL
               UNION ALL
               SELECT coalesce(s.fields ->> 'legal_entity_id', s.body ->> 'legal_entity_id'), coalesce(sync._day(s.fields), sync._day(s.body)),
                      coalesce(s.fields ->> 'currency', s.body ->> 'currency'), 0, NULL, sync._signed_amount(s.fields)
                WHERE (s.mirrored OR NOT s.bound) AND s.remote_id IS NOT NULL AND NOT s.deleted) v (entity, day, currency, ours, our_amount, their_amount)
         WHERE run.period IS NULL OR v.day IS NULL OR v.day <@ run.period)
    SELECT sync._add_sums(run, jsonb_agg(to_jsonb(s))) FROM side s
$$;
COMMENT ON FUNCTION sync._write_hub_totals(sync.reconciliation, jsonb) IS 'Writes counts and amounts of the hub and a system: of what agreed, and of the suspects';

-- ours: (record_id, entity, day, currency, amount) with counted; theirs: (remote_id, record_id, fields).
CREATE FUNCTION sync._write_totals(run sync.reconciliation, ours_sql text, theirs_sql text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sums jsonb;
BEGIN
    EXECUTE format($sql$
        WITH ours AS MATERIALIZED (SELECT * FROM %1$s u),
        side AS (
            SELECT u.entity, u.day, u.currency, 1 AS our_count, u.amount AS our_amount, 0 AS their_count, NULL::numeric AS their_amount FROM ours u WHERE u.counted
            UNION ALL
            SELECT coalesce(t.fields ->> 'legal_entity_id', u.entity), coalesce(sync._day(t.fields), u.day), coalesce(t.fields ->> 'currency', u.currency),
                   0, NULL, 1, sync._signed_amount(t.fields)
              FROM %2$s t LEFT JOIN ours u ON u.record_id = t.record_id)
        SELECT jsonb_agg(to_jsonb(g))
          FROM (SELECT s.entity, date_trunc('month', s.day)::date AS period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount,
                       sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
                  FROM side s WHERE %3$L::daterange IS NULL OR s.day IS NULL OR s.day <@ %3$L::daterange
                 GROUP BY 1, 2, 3) g
    $sql$, ours_sql, theirs_sql, run.period) INTO sums;
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
        RETURN format('(SELECT b.record_id, b.body ->> ''legal_entity_id'' AS entity, sync._day(b.body) AS day, b.body ->> ''currency'' AS currency,
                               sync._signed_amount(b.body) AS amount, x.record_id IS NOT NULL AS counted
                          FROM %s b LEFT JOIN sync.external_id x ON x.object_id = %s AND x.system_id = %s AND x.record_id = b.record_id AND x.bound_at <= %L)',
                      sync._body_as_of_sql(run.object_id, run.as_of), run.object_id, run.system_id, run.as_of);
    END IF;
    RETURN format('(SELECT a.record_id, coalesce(a.fields ->> ''legal_entity_id'', h.entity) AS entity, coalesce(sync._day(a.fields), h.day) AS day,
                           coalesce(a.fields ->> ''currency'', h.currency) AS currency, sync._signed_amount(a.fields) AS amount, true AS counted
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
