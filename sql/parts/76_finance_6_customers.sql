-- Customers: what may be lost with them, and what they bring. Breaks: how old they are, and how many there were.

CREATE FUNCTION sync._churn_exposure()
RETURNS TABLE (entity text, customer text, customer_name text, currency text, mrr numeric, mrr_at_risk numeric, past_due_mrr numeric, canceling_mrr numeric,
               next_cancel_at timestamptz, overdue numeric, collection_cases bigint, support_cases bigint, services_down bigint, reasons text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH late AS (
            SELECT o.entity, o.customer_id, o.currency, sum(o.open) AS amount FROM sync._open_invoices(current_date) o
             WHERE o.due < current_date AND o.open > 0 GROUP BY 1, 2, 3
        ), pursued AS (
            SELECT x.customer_id, count(*) AS n FROM canonical.collection_case x WHERE x.closed_at IS NULL GROUP BY 1
        ), asked AS (
            SELECT x.customer_id, count(*) AS n FROM canonical.support_case x
             WHERE x.status NOT IN ('solved', 'closed') AND x.priority IN ('high', 'urgent') GROUP BY 1
        ), down AS (
            SELECT x.customer_id, count(*) AS n, array_agg(x.subscription_id) AS subscriptions, bool_or(x.subscription_id IS NULL) AS whole
              FROM canonical.service_status x WHERE x.status IN ('degraded', 'down') GROUP BY 1
        ), sub AS (
            SELECT e.code, s.customer_id, s.currency::text, coalesce(s.mrr, 0) AS mrr, s.cancel_at, s.status = 'past_due' AS late, s.cancel_at IS NOT NULL AS canceling,
                   coalesce(d.whole OR s.id = ANY (d.subscriptions), false) AS degraded
              FROM canonical.subscription s
              JOIN canonical.customer c ON c.id = s.customer_id
              LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
              LEFT JOIN down d ON d.customer_id = s.customer_id
             WHERE s.status IN ('active', 'past_due')
        )
        SELECT s.code, c.number, c.name, s.currency, sum(s.mrr), sum(s.mrr) FILTER (WHERE s.late OR s.canceling OR s.degraded OR w.whole),
               coalesce(sum(s.mrr) FILTER (WHERE s.late), 0), coalesce(sum(s.mrr) FILTER (WHERE s.canceling), 0), min(s.cancel_at), coalesce(max(l.amount), 0),
               coalesce(max(p.n), 0), coalesce(max(a.n), 0), coalesce(max(d.n), 0),
               array_remove(ARRAY[CASE WHEN bool_or(s.late) THEN 'past_due' END, CASE WHEN bool_or(s.canceling) THEN 'canceling' END,
                                  CASE WHEN c.status IN ('delinquent', 'suspended') THEN c.status END, CASE WHEN max(p.n) > 0 THEN 'in_collection' END,
                                  CASE WHEN max(a.n) > 0 THEN 'support' END, CASE WHEN bool_or(s.degraded) THEN 'service' END], NULL)
          FROM sub s
          JOIN canonical.customer c ON c.id = s.customer_id
          LEFT JOIN late l ON l.customer_id = c.id AND l.currency = s.currency AND l.entity IS NOT DISTINCT FROM s.code
          LEFT JOIN pursued p ON p.customer_id = c.id
          LEFT JOIN asked a ON a.customer_id = c.id
          LEFT JOIN down d ON d.customer_id = c.id
         -- What concerns the customer puts all of his subscriptions at risk.
         CROSS JOIN LATERAL (SELECT c.status IN ('delinquent', 'suspended') OR p.n > 0 IS TRUE OR a.n > 0 IS TRUE) w (whole)
         GROUP BY s.code, c.id, c.number, c.name, c.status, s.currency
        HAVING bool_or(s.late OR s.canceling OR s.degraded OR w.whole)
         ORDER BY 6 DESC, 1, 2, 4 $q$);
END
$$;
COMMENT ON FUNCTION sync._churn_exposure() IS 'Rows of sync.churn_exposure, read as the caller';

CREATE VIEW sync.churn_exposure AS SELECT x.* FROM sync._churn_exposure() x;
COMMENT ON VIEW sync.churn_exposure IS 'Customers whose recurring revenue is at risk now, how much, and why';
COMMENT ON COLUMN sync.churn_exposure.customer_name IS 'Name of the customer';
COMMENT ON COLUMN sync.churn_exposure.mrr IS 'Monthly recurring revenue of all that runs, in currency';
COMMENT ON COLUMN sync.churn_exposure.mrr_at_risk IS 'Part of it that a reason concerns';
COMMENT ON COLUMN sync.churn_exposure.past_due_mrr IS 'Part of subscriptions that a payment is missing for';
COMMENT ON COLUMN sync.churn_exposure.canceling_mrr IS 'Part of subscriptions that a cancellation is planned for';
COMMENT ON COLUMN sync.churn_exposure.next_cancel_at IS 'When the first of these ends';
COMMENT ON COLUMN sync.churn_exposure.overdue IS 'Amount past its due date, in currency';
COMMENT ON COLUMN sync.churn_exposure.collection_cases IS 'Open cases of collection';
COMMENT ON COLUMN sync.churn_exposure.support_cases IS 'Open support cases of high or urgent priority';
COMMENT ON COLUMN sync.churn_exposure.services_down IS 'Services that are degraded or down';
COMMENT ON COLUMN sync.churn_exposure.reasons IS 'past_due, canceling, delinquent, suspended, in_collection, support, service';

-- Earned: what schedules recognized in the period, and lines without schedule when they are billed. A refund
-- that a credit note stands for is taken off once, as the credit note.
CREATE FUNCTION sync.customer_profitability(period daterange)
RETURNS TABLE (entity text, customer text, customer_name text, currency text, revenue numeric, credited numeric, refunded numeric, fees numeric,
               contribution numeric, mrr numeric, support_cases bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
AS $$
BEGIN
    PERFORM sync._check_period(period);
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH plan AS MATERIALIZED (
            SELECT s.id, s.invoice_line_id FROM (
                SELECT r.id, r.invoice_line_id, r.standard, max(r.standard) OVER (PARTITION BY r.invoice_line_id) AS followed
                  FROM canonical.revenue_schedule r WHERE r.invoice_line_id IS NOT NULL) s
             WHERE s.standard = s.followed
        ), line AS MATERIALIZED (
            SELECT l.id, i.customer_id, coalesce(i.legal_entity_id, c.legal_entity_id) AS entity_id, i.currency::text, l.net_amount,
                   coalesce(i.posting_date, i.issue_date) AS day, i.status = 'void' AS void
              FROM canonical.invoice_line l JOIN canonical.invoice i ON i.id = l.invoice_id AND i.type = 'standard' AND i.status <> 'draft'
              JOIN canonical.customer c ON c.id = i.customer_id
        ), part AS (
            SELECT l.customer_id, l.entity_id, l.currency, 'revenue' AS kind, s.amount
              FROM line l JOIN plan p ON p.invoice_line_id = l.id
              JOIN canonical.revenue_schedule_line s ON s.schedule_id = p.id AND s.status IN ('recognized', 'reversed') AND s.period <@ $1
            UNION ALL
            SELECT l.customer_id, l.entity_id, l.currency, 'revenue', l.net_amount
              FROM line l WHERE l.day <@ $1 AND NOT l.void AND NOT EXISTS (SELECT FROM plan p WHERE p.invoice_line_id = l.id)
            UNION ALL
            SELECT n.customer_id, coalesce(i.legal_entity_id, c.legal_entity_id), n.currency::text, v.kind, v.amount
              FROM canonical.credit_note n JOIN canonical.customer c ON c.id = n.customer_id LEFT JOIN canonical.invoice i ON i.id = n.invoice_id
             CROSS JOIN LATERAL (VALUES ('credited', n.net_amount), ('credited gross', n.total_amount)) v (kind, amount)
             WHERE n.status IN ('posted', 'applied') AND n.issue_date <@ $1
            UNION ALL
            SELECT p.customer_id, e.id, p.currency::text, 'refunded', p.amount
              FROM canonical.payment p JOIN canonical.customer c ON c.id = p.customer_id
              LEFT JOIN canonical.legal_entity e ON e.id = coalesce(p.legal_entity_id, c.legal_entity_id)
             WHERE p.kind IN ('refund', 'chargeback') AND p.status = 'succeeded'
               AND (coalesce(p.settled_at, p.attempted_at, p.created_at) AT TIME ZONE coalesce(e.timezone, 'UTC'))::date <@ $1
            UNION ALL
            SELECT p.customer_id, e.id, b.currency::text, 'fees', b.fee_amount
              FROM canonical.balance_transaction b JOIN canonical.payment p ON p.id = b.payment_id JOIN canonical.customer c ON c.id = p.customer_id
              LEFT JOIN canonical.legal_entity e ON e.id = coalesce(p.legal_entity_id, c.legal_entity_id)
             WHERE (b.occurred_at AT TIME ZONE coalesce(e.timezone, 'UTC'))::date <@ $1
            UNION ALL
            SELECT s.customer_id, coalesce(s.legal_entity_id, c.legal_entity_id), s.currency::text, 'mrr', s.mrr
              FROM canonical.subscription s JOIN canonical.customer c ON c.id = s.customer_id WHERE s.status IN ('active', 'past_due')
        ), summed AS (
            SELECT p.customer_id, p.entity_id, p.currency, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'revenue'), 0) AS revenue,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'credited'), 0) AS credited, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'credited gross'), 0) AS gross,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'refunded'), 0) AS refunded, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'fees'), 0) AS fees,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'mrr'), 0) AS mrr
              FROM part p GROUP BY p.customer_id, p.entity_id, p.currency
        )
        SELECT e.code, c.number, c.name, s.currency, s.revenue, s.credited, s.refunded, s.fees,
               s.revenue - s.credited - greatest(0, s.refunded - s.gross) - s.fees, s.mrr,
               (SELECT count(*) FROM canonical.support_case x
                 WHERE x.customer_id = c.id AND (x.opened_at AT TIME ZONE coalesce(e.timezone, 'UTC'))::date <@ $1)
          FROM summed s JOIN canonical.customer c ON c.id = s.customer_id LEFT JOIN canonical.legal_entity e ON e.id = s.entity_id
         ORDER BY 9 DESC, 1, 2, 4 $q$)
    USING period;
END
$$;
COMMENT ON FUNCTION sync.customer_profitability(daterange) IS
    'What customers brought in a period: revenue less credits, refunds that no credit note stands for, and fees; support cases beside it';

CREATE VIEW sync.break_aging AS
SELECT b.entity, b.severity, b.status, b.currency,
       count(*) FILTER (WHERE b.first_seen > now() - interval '1 day') AS to_1_day,
       count(*) FILTER (WHERE b.first_seen <= now() - interval '1 day' AND b.first_seen > now() - interval '7 days') AS to_7_days,
       count(*) FILTER (WHERE b.first_seen <= now() - interval '7 days' AND b.first_seen > now() - interval '30 days') AS to_30_days,
       count(*) FILTER (WHERE b.first_seen <= now() - interval '30 days') AS over_30_days,
       count(*) AS breaks, sum(b.at_risk) AS at_risk, min(b.first_seen) AS oldest
  FROM sync.break_entry b
 WHERE b.status <> 'resolved' AND b.as_of IS NULL
 GROUP BY b.entity, b.severity, b.status, b.currency;
COMMENT ON VIEW sync.break_aging IS 'Breaks of the present that are not resolved, by age, per entity, severity, status and currency';
COMMENT ON COLUMN sync.break_aging.severity IS 'info, warning or error';
COMMENT ON COLUMN sync.break_aging.status IS 'open, explained or accepted';
COMMENT ON COLUMN sync.break_aging.to_1_day IS 'How many were found in the last day';
COMMENT ON COLUMN sync.break_aging.to_7_days IS 'How many are older, up to seven days';
COMMENT ON COLUMN sync.break_aging.to_30_days IS 'How many are older, up to thirty days';
COMMENT ON COLUMN sync.break_aging.over_30_days IS 'How many are older still';
COMMENT ON COLUMN sync.break_aging.breaks IS 'How many there are';
COMMENT ON COLUMN sync.break_aging.at_risk IS 'Their amounts at risk, in currency';
COMMENT ON COLUMN sync.break_aging.oldest IS 'When the oldest was found';

CREATE VIEW sync.break_trend AS
SELECT t.day, t.entity, t.currency, t.opened, t.resolved,
       sum(t.opened - t.resolved) OVER w AS open_breaks, sum(t.risk) OVER w AS at_risk
  FROM (SELECT m.day, m.entity, m.currency, count(*) FILTER (WHERE m.sign > 0) AS opened, count(*) FILTER (WHERE m.sign < 0) AS resolved,
               sum(m.sign * coalesce(m.at_risk, 0)) AS risk
          FROM (SELECT b.first_seen::date AS day, b.entity, b.currency, b.at_risk, 1 AS sign FROM sync.break_entry b WHERE b.as_of IS NULL
                UNION ALL
                SELECT b.resolved_at::date, b.entity, b.currency, b.at_risk, -1 FROM sync.break_entry b WHERE b.status = 'resolved' AND b.as_of IS NULL) m
         GROUP BY m.day, m.entity, m.currency) t
WINDOW w AS (PARTITION BY t.entity, t.currency ORDER BY t.day);
COMMENT ON VIEW sync.break_trend IS 'Days on which breaks were found or resolved, and what stood open at the end of each, by entity and currency';
COMMENT ON COLUMN sync.break_trend.day IS 'The day, in the session''s time zone';
COMMENT ON COLUMN sync.break_trend.opened IS 'How many were found';
COMMENT ON COLUMN sync.break_trend.resolved IS 'How many occurred no longer';
COMMENT ON COLUMN sync.break_trend.open_breaks IS 'How many stood at the end of the day, explained and accepted ones included';
COMMENT ON COLUMN sync.break_trend.at_risk IS 'Their amounts at risk as last known, in currency';
