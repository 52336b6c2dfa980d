-- Reconciliation: counts and amounts of both sides.

-- ours: (record_id, entity, day, currency, amount) with counted; theirs: (remote_id, record_id, fields). Without
-- a day of its own a remote record counts where the record that it is bound to does.
CREATE FUNCTION sync._write_totals(run sync.reconciliation, ours_sql text, theirs_sql text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = run.object_id;
    EXECUTE format($sql$
        WITH ours AS MATERIALIZED (SELECT * FROM %1$s u),
        side AS (
            SELECT u.entity, u.day, u.currency, 1 AS our_count, u.amount AS our_amount, 0 AS their_count, NULL::numeric AS their_amount FROM ours u WHERE u.counted
            UNION ALL
            SELECT coalesce(t.fields ->> 'legal_entity_id', u.entity), coalesce(sync._day(t.fields), u.day), coalesce(t.fields ->> 'currency', u.currency),
                   0, NULL, 1, sync._signed_amount(t.fields)
              FROM %2$s t LEFT JOIN ours u ON u.record_id = t.record_id),
        summed AS (
            SELECT s.entity, date_trunc('month', s.day)::date AS period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount,
                   sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
              FROM side s WHERE %3$L::daterange IS NULL OR s.day IS NULL OR s.day <@ %3$L::daterange
             GROUP BY 1, 2, 3),
        named AS (
            SELECT e.entity AS id, sync._look_up(%4$L, 'legal_entity', 'code', e.entity) AS code FROM (SELECT DISTINCT s.entity FROM summed s) e)
        INSERT INTO sync.reconciliation_total (reconciliation_id, entity, object, period, currency, our_count, our_amount, their_count, their_amount)
        SELECT %5$s, n.code, %6$L, s.period, s.currency, s.our_count, s.our_amount, s.their_count, s.their_amount
          FROM summed s LEFT JOIN named n ON n.id IS NOT DISTINCT FROM s.entity
    $sql$, ours_sql, theirs_sql, run.period, o.schema_name, run.id, o.name);
END
$$;
COMMENT ON FUNCTION sync._write_totals(sync.reconciliation, text, text) IS 'Writes counts and amounts of both sides of a run';

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
         WHERE run.period IS NULL OR v.day IS NULL OR v.day <@ run.period),
    summed AS (
        SELECT s.entity, s.period, s.currency, sum(s.our_count) AS our_count, sum(s.our_amount) AS our_amount, sum(s.their_count) AS their_count, sum(s.their_amount) AS their_amount
          FROM side s GROUP BY 1, 2, 3),
    named AS (
        SELECT e.entity AS id, sync._look_up(o.schema_name, 'legal_entity', 'code', e.entity) AS code
          FROM (SELECT DISTINCT s.entity FROM summed s) e JOIN sync.object o ON o.id = run.object_id)
    INSERT INTO sync.reconciliation_total (reconciliation_id, entity, object, period, currency, our_count, our_amount, their_count, their_amount)
    SELECT run.id, n.code, o.name, s.period, s.currency, s.our_count, s.our_amount, s.their_count, s.their_amount
      FROM summed s JOIN sync.object o ON o.id = run.object_id LEFT JOIN named n ON n.id IS NOT DISTINCT FROM s.entity
$$;
COMMENT ON FUNCTION sync._write_hub_totals(sync.reconciliation, jsonb) IS 'Writes counts and amounts of the hub and a system: of what agreed, and of the suspects';

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
       AND (f.kind IN ('missing_here', 'missing_there', 'duplicate') OR f.kind = 'amount_differs' AND f.field IN ('total_amount', 'amount', 'total_value', 'gross_amount'))
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

-- The first side of totals: the hub's records that are bound in the system, as a relation.
CREATE FUNCTION sync._ours_sql(run sync.reconciliation)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side record := sync._side(run.object_id);
    hub text;
BEGIN
    hub := CASE WHEN run.as_of IS NULL OR run.other_system_id IS NOT NULL
                THEN format('(SELECT %s AS record_id, %s AS entity, %s AS day, %s AS currency, %s AS amount FROM %s c)', side.record_sql, side.entity_sql,
                            side.day_sql, side.currency_sql, side.amount_sql, side.relation)
                ELSE format('(SELECT b.record_id, b.body ->> ''legal_entity_id'' AS entity, sync._day(b.body) AS day, b.body ->> ''currency'' AS currency,
                                     sync._signed_amount(b.body) AS amount FROM %s b)', sync._body_as_of_sql(run.object_id, run.as_of)) END;
    IF run.other_system_id IS NULL THEN
        RETURN format('(SELECT h.*, x.record_id IS NOT NULL AS counted FROM %s h LEFT JOIN sync.external_id x
                          ON x.object_id = %s AND x.system_id = %s AND x.record_id = h.record_id %s)', hub, run.object_id, run.system_id,
                      CASE WHEN run.as_of IS NOT NULL THEN format('AND x.bound_at <= %L', run.as_of) ELSE '' END);
    END IF;
    RETURN format('(SELECT a.record_id, coalesce(a.fields ->> ''legal_entity_id'', h.entity) AS entity, coalesce(sync._day(a.fields), h.day) AS day,
                           coalesce(a.fields ->> ''currency'', h.currency) AS currency, sync._signed_amount(a.fields) AS amount, true AS counted
                      FROM %s a JOIN %s b ON b.record_id = a.record_id AND NOT b.deleted LEFT JOIN %s h ON h.record_id = a.record_id WHERE NOT a.deleted)',
                  sync._mirror_sql(run.system_id, run.object_id, run.as_of), sync._mirror_sql(run.other_system_id, run.object_id, run.as_of), hub);
END
$$;
COMMENT ON FUNCTION sync._ours_sql(sync.reconciliation) IS 'The first side of a run, for its totals';

CREATE FUNCTION sync._theirs_sql(run sync.reconciliation)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(SELECT m.remote_id, m.record_id, m.fields FROM %s m%s WHERE NOT m.deleted%s)',
                  sync._mirror_sql(coalesce(run.other_system_id, run.system_id), run.object_id, run.as_of),
                  CASE WHEN run.other_system_id IS NOT NULL
                       THEN format(' JOIN %s a ON a.record_id = m.record_id AND NOT a.deleted', sync._mirror_sql(run.system_id, run.object_id, run.as_of)) ELSE '' END,
                  CASE WHEN run.other_system_id IS NULL AND run.as_of IS NULL THEN format('
                    UNION ALL SELECT i.remote_id, NULL, i.mapped FROM sync.inbox i WHERE i.system_id = %s AND i.object_id = %s
                       AND NOT EXISTS (SELECT FROM sync.mirror m WHERE m.system_id = i.system_id AND m.object_id = i.object_id AND m.remote_id = i.remote_id)
                       AND NOT EXISTS (SELECT FROM sync.external_id x WHERE x.system_id = i.system_id AND x.object_id = i.object_id AND x.remote_id = i.remote_id)',
                    run.system_id, run.object_id) ELSE '' END)
$$;
COMMENT ON FUNCTION sync._theirs_sql(sync.reconciliation) IS 'The second side of a run, for its totals';
