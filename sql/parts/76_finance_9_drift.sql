-- What has changed in a period since it was certified.

-- Records of the period that were written since, as their tables and, for those that are gone or have left the period, the outbox tell.
CREATE FUNCTION sync._period_changes(period daterange, entity text, since timestamptz)
RETURNS TABLE (object text, record_id text, number text, change text, changed_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH e AS (SELECT t.id, t.timezone FROM canonical.legal_entity t WHERE t.code = $2),
        now_there AS (
            SELECT 'invoice' AS object, i.id, i.number, i.created_at, i.updated_at FROM canonical.invoice i JOIN canonical.customer c ON c.id = i.customer_id
              JOIN e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id) WHERE i.updated_at >= $3 AND sync._accounting_day(i.posting_date, i.issue_date) <@ $1
            UNION ALL
            SELECT 'credit_note', n.id, n.number, n.created_at, n.updated_at FROM canonical.credit_note n JOIN canonical.customer c ON c.id = n.customer_id
              LEFT JOIN canonical.invoice i ON i.id = n.invoice_id JOIN e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
             WHERE n.updated_at >= $3 AND sync._accounting_day(NULL, n.issue_date) <@ $1
            UNION ALL
            SELECT 'payment', p.id, p.processor_ref, p.created_at, p.updated_at FROM canonical.payment p LEFT JOIN canonical.customer c ON c.id = p.customer_id
              JOIN e ON e.id = coalesce(p.legal_entity_id, c.legal_entity_id)
             WHERE p.updated_at >= $3 AND sync._accounting_day(p.posting_date, NULL, NULL, p.settled_at, p.attempted_at, e.timezone) <@ $1
            UNION ALL
            SELECT 'payout', p.id, p.number, p.created_at, p.updated_at FROM canonical.payout p JOIN e ON e.id = p.legal_entity_id
             WHERE p.updated_at >= $3 AND sync._accounting_day(NULL, NULL, p.arrival_date) <@ $1
            UNION ALL
            SELECT 'gl_entry', g.id, g.number, g.created_at, g.updated_at FROM canonical.gl_entry g JOIN e ON e.id = g.legal_entity_id
             WHERE g.updated_at >= $3 AND sync._accounting_day(g.posting_date) <@ $1
            UNION ALL
            SELECT 'revenue_schedule_line', s.id, NULL, s.created_at, s.updated_at FROM canonical.revenue_schedule_line s
              JOIN canonical.revenue_schedule r ON r.id = s.schedule_id JOIN e ON e.id = r.legal_entity_id WHERE s.updated_at >= $3 AND s.period <@ $1
            UNION ALL
            SELECT 'amendment', a.id, s.number, a.created_at, a.updated_at FROM canonical.amendment a JOIN canonical.subscription s ON s.id = a.subscription_id
              JOIN canonical.customer c ON c.id = s.customer_id JOIN e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
             WHERE a.updated_at >= $3 AND (a.effective_at AT TIME ZONE e.timezone)::date <@ $1
        )
        SELECT t.object, t.id::text, t.number, CASE WHEN t.created_at >= $3 THEN 'added' ELSE 'changed' END, t.updated_at FROM now_there t
         ORDER BY 5, 1, 2 $q$)
    USING period, entity, since;
END
$$;
COMMENT ON FUNCTION sync._period_changes(daterange, text, timestamptz) IS 'Records of a period that were written since a moment';

CREATE FUNCTION sync._period_removals(period daterange, entity text, since timestamptz)
RETURNS TABLE (object text, record_id text, number text, change text, changed_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH left_it AS MATERIALIZED (
        SELECT o.name AS object, o.schema_name, x.record_id, x.body ->> o.number_column AS number, CASE x.op WHEN 'D' THEN 'deleted' ELSE 'moved' END AS change, x.at, w.was
          FROM sync._entity_of(entity) e
          JOIN sync.outbox x ON x.at >= since AND x.op IN ('D', 'U')
          JOIN sync.object o ON o.id = x.object_id AND o.schema_name = (SELECT sync._canonical_schema())
                            AND o.table_name IN ('invoice', 'credit_note', 'payment', 'payout', 'gl_entry')
         CROSS JOIN LATERAL (VALUES (x.body || coalesce(x.old, '{}'))) w (was)
         CROSS JOIN LATERAL (VALUES (sync._accounting_day(w.was, e.timezone), sync._accounting_day(x.body, e.timezone))) d (before, after)
         WHERE d.before <@ period AND (x.op = 'D' OR d.after IS NULL OR NOT d.after <@ period))
    SELECT l.object, l.record_id, l.number, l.change, l.at
      FROM left_it l
     CROSS JOIN (SELECT sync._places(max(n.schema_name::text)::name, array_agg(n.was)) FROM left_it n) k (places)
      JOIN sync._entity_of(entity) e ON coalesce(sync._entity(l.was, k.places), e.id) = e.id
     ORDER BY l.at, l.object, l.record_id
$$;
COMMENT ON FUNCTION sync._period_removals(daterange, text, timestamptz) IS 'Records that were deleted from a period or moved out of it since a moment, as far as the outbox reaches';

-- What has become of breaks: those that were certified as they were (open ones as warnings, explained, accepted) are
-- none of it. A break without a month stands against each month, if it is an error.
CREATE FUNCTION sync._break_changes(c sync.certificate)
RETURNS TABLE (object text, record_id text, number text, change text, changed_at timestamptz, currency text, at_risk numeric)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.object, b.record_id, b.record_number, CASE WHEN b.status = 'resolved' THEN 'break opened and resolved' ELSE 'break opened' END,
           coalesce(b.resolved_at, b.first_seen), b.currency, b.at_risk
      FROM sync.break_entry b
     WHERE b.first_seen >= c.certified_at AND b.as_of IS NULL AND (b.entity IS NULL OR b.entity = c.entity)
       AND CASE WHEN b.period IS NULL THEN b.severity = 'error' ELSE daterange(b.period, (b.period + interval '1 month')::date) && c.period END
    UNION ALL
    SELECT w.object, b.record_id, w.record_number,
           CASE WHEN b.id IS NULL OR b.status = 'resolved' THEN 'break resolved' WHEN w.status <> 'open' AND b.status = 'open' THEN 'break reopened' ELSE 'break changed' END,
           coalesce(b.resolved_at, b.last_seen), w.currency, coalesce(b.at_risk, w.at_risk)
      FROM jsonb_to_recordset(c.statement -> 'breaks') AS w (id bigint, object text, record_number text, status text, difference numeric, currency text, at_risk numeric)
      LEFT JOIN sync.break_entry b ON b.id = w.id
     WHERE b.id IS NULL OR b.status = 'resolved' OR w.status <> 'open' AND b.status = 'open' OR b.difference IS DISTINCT FROM w.difference
$$;
COMMENT ON FUNCTION sync._break_changes(sync.certificate) IS 'Breaks of a certified period that were opened, opened again or resolved since, or whose amount changed';

CREATE FUNCTION sync.certificate_changes(id bigint)
RETURNS TABLE (object text, record_id text, number text, change text, changed_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET jit = off
SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1
AS $$
DECLARE
    c sync.certificate := sync._certificate_of($1);
BEGIN
    RETURN QUERY
    SELECT r.object, r.record_id, r.number, r.change, r.changed_at
      FROM jsonb_to_recordset(sync._as_model_owner($q$
               SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]')
                 FROM sync._period_changes(($1[1] ->> 'period')::daterange, $1[1] ->> 'entity', ($1[1] ->> 'since')::timestamptz) t $q$,
               jsonb_build_object('period', c.period, 'entity', c.entity, 'since', c.changes_since)))
           AS r (object text, record_id text, number text, change text, changed_at timestamptz)
    UNION ALL
    SELECT m.* FROM sync._period_removals(c.period, c.entity, c.changes_since) m
    UNION ALL
    SELECT b.object, b.record_id, b.number, b.change, b.changed_at FROM sync._break_changes(c) b
     ORDER BY 5, 1, 2, 4;
END
$$;
COMMENT ON FUNCTION sync.certificate_changes(bigint) IS 'Records of a certified period that were added, changed, moved out of it or deleted since, and what became of its breaks';

CREATE FUNCTION sync._drift_since(certificate bigint)
RETURNS TABLE (object text, figure text, currency text, account text, certified numeric, now numeric)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c sync.certificate := sync._certificate_of($1);
BEGIN
    RETURN QUERY
    SELECT coalesce(a.object, b.object), coalesce(a.figure, b.figure), coalesce(a.currency, b.currency), coalesce(a.account, b.account), a.amount, b.amount
      FROM jsonb_to_recordset(c.statement -> 'figures') AS a (object text, figure text, currency text, account text, amount numeric)
      FULL JOIN jsonb_to_recordset(sync._figures_now(c.period, c.entity)) AS b (object text, figure text, currency text, account text, amount numeric)
        ON b.object = a.object AND b.figure = a.figure AND b.currency = a.currency AND coalesce(b.account, '') = coalesce(a.account, '')
     WHERE coalesce(a.amount, 0) <> coalesce(b.amount, 0)
    UNION ALL
    SELECT h.object, 'records ' || h.change, NULL, NULL, 0, count(*) FROM sync.certificate_changes($1) h WHERE h.change NOT LIKE 'break %' GROUP BY h.object, h.change
    UNION ALL
    SELECT f.object, f.figure, f.currency, NULL, 0, f.amount
      FROM (SELECT b.object, v.figure, v.currency, sum(v.amount) AS amount
              FROM sync._break_changes(c) b
             CROSS JOIN LATERAL (VALUES ('breaks ' || substr(b.change, 7), NULL, 1::numeric), ('at risk in breaks ' || substr(b.change, 7), b.currency, b.at_risk)) v (figure, currency, amount)
             -- What came and went left nothing behind; certificate_changes() tells of it.
             WHERE v.amount IS NOT NULL AND b.change <> 'break opened and resolved' GROUP BY 1, 2, 3) f
     ORDER BY 1, 2, 3, 4;
END
$$;
COMMENT ON FUNCTION sync._drift_since(bigint) IS 'What is not as it was certified: figures, records, breaks';

CREATE VIEW sync.period_drift AS
SELECT c.entity, c.period, c.id AS certificate, c.version, c.certified_at, c.certified_by, d.object, d.figure, d.currency, d.account,
       d.certified, d.now, coalesce(d.now, 0) - coalesce(d.certified, 0) AS difference
  FROM (SELECT DISTINCT ON (t.entity, t.period) t.* FROM sync.certificate t ORDER BY t.entity, t.period, t.version DESC) c
 CROSS JOIN LATERAL sync._drift_since(c.id) d;
COMMENT ON VIEW sync.period_drift IS 'What is not as it was certified, of the newest certificate of each period: figures then and now, how many records were written since, and what became of breaks';
COMMENT ON COLUMN sync.period_drift.certificate IS 'Id of the certificate';
COMMENT ON COLUMN sync.period_drift.version IS 'Its version';
COMMENT ON COLUMN sync.period_drift.figure IS 'What was counted or summed; records added, changed, moved, deleted: how many were written since; breaks opened, reopened, changed, resolved: how many, and what is at risk in them';
COMMENT ON COLUMN sync.period_drift.certified IS 'The figure as it was certified';
COMMENT ON COLUMN sync.period_drift.now IS 'The figure now';
COMMENT ON COLUMN sync.period_drift.difference IS 'now - certified';
COMMENT ON COLUMN sync.period_drift.period IS 'Accounting days that were certified';
COMMENT ON COLUMN sync.period_drift.certified_at IS 'When it was certified';
COMMENT ON COLUMN sync.period_drift.certified_by IS 'Who certified';
