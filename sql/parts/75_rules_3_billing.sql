-- Rules about what is billed and paid, over the hub's own tables.

CREATE FUNCTION sync._rules_billing()
RETURNS TABLE (name text, severity text, description text, remedy text, query text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $rules$
VALUES
    ('period_billed', 'error',
     'Every period of a subscription that has ended was billed: the days from its start, or the end of its trial, to the running period are covered by invoices that were issued and not voided',
     'Bill the period in the billing system, or correct the subscription''s start there; where it was free on purpose, explain the break.',
     $query$
WITH step AS (
    SELECT i.subscription_id, min(r.interval_count * ('1 ' || r.billing_interval)::interval) AS step
      FROM canonical.subscription_item i JOIN canonical.price r ON r.id = i.price_id
     WHERE r.billing_interval IS NOT NULL GROUP BY i.subscription_id
), known AS (
    -- What was before the first bill that the hub knows of is not its history; without any bill, what was before it knew of the subscription.
    SELECT coalesce(i.legal_entity_id, c.legal_entity_id) AS entity, min(i.service_start) AS since
      FROM canonical.invoice i JOIN canonical.customer c ON c.id = i.customer_id
     WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void') GROUP BY 1
), rest AS (
    -- From a pause to the resume that follows it nothing is due.
    SELECT p.subscription_id, range_agg(tstzrange(p.effective_at, p.until)) AS paused
      FROM (SELECT a.subscription_id, a.kind, a.effective_at, lead(a.effective_at) OVER (PARTITION BY a.subscription_id ORDER BY a.effective_at, a.id) AS until
              FROM canonical.amendment a WHERE a.status = 'applied' AND a.kind IN ('pause', 'resume') AND a.effective_at IS NOT NULL) p
     WHERE p.kind = 'pause' GROUP BY p.subscription_id
), span AS (
    SELECT s.id, s.number, s.currency, s.mrr, c.number AS customer, e.code AS entity, z.zone, p.step,
           greatest(s.start_date, (s.trial_end AT TIME ZONE z.zone)::date, coalesce(k.since, (s.created_at AT TIME ZONE z.zone)::date)) AS first,
           least((now() AT TIME ZONE z.zone)::date - 1, (s.current_period_start AT TIME ZONE z.zone)::date,
                 (CASE WHEN s.status IN ('canceled', 'expired') THEN s.canceled_at END AT TIME ZONE z.zone)::date) AS ends
      FROM canonical.subscription s
      JOIN step p ON p.subscription_id = s.id
      JOIN canonical.customer c ON c.id = s.customer_id
      LEFT JOIN known k ON k.entity IS NOT DISTINCT FROM coalesce(s.legal_entity_id, c.legal_entity_id)
      LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
     CROSS JOIN LATERAL (SELECT coalesce(e.timezone, 'UTC')) z (zone)
     WHERE s.status IN ('active', 'past_due', 'canceled', 'expired') AND EXISTS (SELECT FROM known)
), need AS MATERIALIZED (
    SELECT s.*, datemultirange(daterange(s.first, s.ends))
                - coalesce((SELECT range_agg(daterange((lower(r) AT TIME ZONE s.zone)::date, (upper(r) AT TIME ZONE s.zone)::date)) FROM unnest(t.paused) r), '{}') AS days
      FROM span s LEFT JOIN rest t ON t.subscription_id = s.id WHERE s.first < s.ends
), part AS (
    SELECT i.subscription_id, i.service_start AS first, i.service_end AS last
      FROM canonical.invoice i
     WHERE i.subscription_id IS NOT NULL AND i.type = 'standard' AND i.status NOT IN ('draft', 'void')
       -- One that only exchanges a part of a period, a credit for a charge, bills no period.
       AND NOT coalesce((SELECT bool_and(l.proration) AND bool_or(l.net_amount < 0) FROM canonical.invoice_line l WHERE l.invoice_id = i.id), false)
    UNION ALL
    SELECT t.subscription_id, l.service_start, l.service_end
      FROM canonical.invoice_line l JOIN canonical.invoice i ON i.id = l.invoice_id JOIN canonical.subscription_item t ON t.id = l.subscription_item_id
     WHERE l.net_amount >= 0 AND NOT l.proration AND i.type = 'standard' AND i.status NOT IN ('draft', 'void')
), billed AS (
    SELECT p.subscription_id, range_agg(daterange(p.first, p.last, '[]')) AS days FROM part p WHERE p.first <= p.last GROUP BY p.subscription_id
)
SELECT 'subscription' AS object, n.id AS record_id, n.number AS record_number, 'service from ' || g.first AS field, to_jsonb(g.first) AS ours,
       n.currency, round(n.mrr * g.share, canonical.minor_units(n.currency)) AS at_risk,
       n.entity, g.first AS period, n.customer,
       format('%s to %s was not billed', g.first, g.last) AS detail
  FROM need n
  LEFT JOIN billed b ON b.subscription_id = n.id
 CROSS JOIN LATERAL unnest(n.days - coalesce(b.days, '{}')) gap
 CROSS JOIN LATERAL (SELECT d::date AS first, least((d + n.step)::date, upper(gap)) - 1 AS last,
                            -- In months; of a period that is billed in part, the days that are not.
                            (extract(year FROM n.step) * 12 + extract(month FROM n.step) + extract(day FROM n.step) / 30)
                                * (least((d + n.step)::date, upper(gap)) - d::date) / ((d + n.step)::date - d::date) AS share
                       FROM generate_series(lower(gap)::timestamp, upper(gap)::timestamp - interval '1 day', n.step) d) g
$query$),
    ('billed_once', 'error',
     'No subscription is billed twice for the same period: no two issued invoices have a line, prorations apart, for the same item and days',
     'Void the later invoice in billing, or credit it.',
     $query$
WITH line AS (
    SELECT i.id, i.number, i.currency, i.issue_date, sync._accounting_day(i.posting_date, i.issue_date) AS day, i.created_at, i.legal_entity_id, i.customer_id,
           coalesce(i.subscription_id, t.subscription_id) AS subscription, coalesce(l.subscription_item_id, l.price_id, l.product_id) AS item,
           l.service_start, l.service_end, l.net_amount
      FROM canonical.invoice i
      JOIN canonical.invoice_line l ON l.invoice_id = i.id
      LEFT JOIN canonical.subscription_item t ON t.id = l.subscription_item_id
     WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void') AND NOT l.proration AND l.net_amount > 0 AND l.service_end > l.service_start
       -- One that was credited in full made room for another.
       AND i.total_amount > (SELECT coalesce(sum(n.total_amount), 0) FROM canonical.credit_note n WHERE n.invoice_id = i.id AND n.currency = i.currency AND n.status IN ('posted', 'applied'))
), again AS (
    SELECT l.*, first_value(l.number) OVER w AS before, first_value(l.id) OVER w AS before_id
      FROM line l WHERE l.subscription IS NOT NULL AND l.item IS NOT NULL
    WINDOW w AS (PARTITION BY l.subscription, l.item, l.service_start, l.service_end ORDER BY l.issue_date, l.created_at, l.id)
)
SELECT 'invoice' AS object, a.id AS record_id, a.number AS record_number, to_jsonb(a.number) AS ours, to_jsonb(string_agg(DISTINCT a.before, ', ')) AS theirs, a.currency,
       sum(a.net_amount) AS at_risk, e.code AS entity, a.day AS period, c.number AS customer,
       string_agg(DISTINCT format('subscription %s was billed for %s to %s by %s already', s.number, a.service_start, a.service_end, a.before), '; ') AS detail
  FROM again a
  JOIN canonical.subscription s ON s.id = a.subscription
  JOIN canonical.customer c ON c.id = a.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(a.legal_entity_id, c.legal_entity_id)
 WHERE a.id <> a.before_id
 GROUP BY a.id, a.number, a.currency, e.code, a.day, c.number
$query$),
    ('line_sums', 'error',
     'The lines of each issued invoice and posted credit note sum to its header: net, tax where lines have any, and net + tax = total',
     'Read the document again from the system that owns it (sync.repair); where that system is wrong itself, credit and reissue it there.',
     $query$
WITH document AS (
    SELECT 'invoice' AS object, i.id, i.number, i.currency, i.net_amount, i.tax_amount, i.total_amount, sync._accounting_day(i.posting_date, i.issue_date) AS day,
           i.legal_entity_id, i.customer_id, s.*
      FROM canonical.invoice i
      LEFT JOIN (SELECT l.invoice_id AS doc, sum(l.net_amount) AS net, sum(l.tax_amount) AS tax, bool_or(l.tax_amount <> 0) AS taxed
                   FROM canonical.invoice_line l GROUP BY l.invoice_id) s ON s.doc = i.id
     WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void')
    UNION ALL
    SELECT 'credit_note', n.id, n.number, n.currency, n.net_amount, n.tax_amount, n.total_amount, n.issue_date,
           (SELECT i.legal_entity_id FROM canonical.invoice i WHERE i.id = n.invoice_id), n.customer_id, s.*
      FROM canonical.credit_note n
      LEFT JOIN (SELECT l.credit_note_id, sum(l.net_amount), sum(l.tax_amount), bool_or(l.tax_amount <> 0)
                   FROM canonical.credit_note_line l GROUP BY l.credit_note_id) s ON s.credit_note_id = n.id
     WHERE n.status NOT IN ('draft', 'void')
)
SELECT d.object, d.id AS record_id, d.number AS record_number, v.field, to_jsonb(v.header) AS ours, to_jsonb(v.lines) AS theirs, v.lines - v.header AS difference,
       d.currency, abs(v.lines - v.header) AS at_risk, e.code AS entity, d.day AS period, c.number AS customer, v.detail
  FROM document d
 CROSS JOIN LATERAL (
       SELECT 'net_amount' AS field, d.net_amount AS header, round(coalesce(d.net, 0), canonical.minor_units(d.currency)) AS lines, 'the lines have another sum' AS detail
       UNION ALL
       SELECT 'tax_amount', d.tax_amount, round(d.tax, canonical.minor_units(d.currency)), 'the lines have another tax' WHERE d.taxed
       UNION ALL
       SELECT 'total_amount', d.total_amount, d.net_amount + d.tax_amount, 'net and tax make another total') v
  JOIN canonical.customer c ON c.id = d.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(d.legal_entity_id, c.legal_entity_id)
 WHERE v.header <> v.lines
$query$),
    ('allocations_within_payment', 'error',
     'What is allocated of a payment or credit note is no more than its amount, and nothing is of one that failed, was canceled or voided',
     'Read the allocations again from billing (sync.repair), or take back the one that is too much.',
     $query$
SELECT v.object, v.id AS record_id, v.number AS record_number, 'amount' AS field, to_jsonb(v.available) AS ours, to_jsonb(v.used) AS theirs,
       v.used - v.available AS difference, v.currency, v.used - v.available AS at_risk, e.code AS entity,
       sync._accounting_day(v.day, NULL, NULL, v.at, NULL, e.timezone) AS period, c.number AS customer, v.detail
  FROM (SELECT 'payment' AS object, p.id, p.processor_ref AS number, p.currency, CASE WHEN p.status IN ('failed', 'canceled') THEN 0 ELSE p.amount END AS available, a.used,
               p.posting_date AS day, coalesce(p.settled_at, p.attempted_at, p.created_at) AS at, p.legal_entity_id, p.customer_id,
               CASE WHEN p.status IN ('failed', 'canceled') THEN 'invoices are settled by a payment that ' || CASE p.status WHEN 'failed' THEN 'failed' ELSE 'was canceled' END
                    ELSE 'more is allocated than was paid' END AS detail
          FROM canonical.payment p
          JOIN (SELECT l.payment_id, sum(l.amount) AS used FROM canonical.payment_allocation l GROUP BY l.payment_id) a ON a.payment_id = p.id
        UNION ALL
        SELECT 'credit_note', n.id, n.number, n.currency, CASE WHEN n.status IN ('draft', 'void') THEN 0 ELSE n.total_amount END, a.used, n.issue_date, NULL, i.legal_entity_id, n.customer_id,
               CASE WHEN n.status IN ('draft', 'void') THEN 'invoices are settled by a credit note that does not count' ELSE 'more is allocated than was credited' END
          FROM canonical.credit_note n
          JOIN (SELECT l.credit_note_id, sum(l.amount) AS used FROM canonical.payment_allocation l WHERE l.payment_id IS NULL GROUP BY l.credit_note_id) a ON a.credit_note_id = n.id
          LEFT JOIN canonical.invoice i ON i.id = n.invoice_id) v
  LEFT JOIN canonical.customer c ON c.id = v.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(v.legal_entity_id, c.legal_entity_id)
 WHERE v.used > v.available
$query$),
    ('invoice_paid', 'error',
     'What an invoice says it was paid is what payments are allocated to it, and no more than its total',
     'Read invoice and allocations again from billing (sync.repair). More than its total: refund it, or allocate it to another invoice.',
     $query$
WITH paid AS (
    SELECT a.invoice_id, sum(a.amount) AS amount, max(a.updated_at) AS changed
      FROM canonical.payment_allocation a WHERE a.payment_id IS NOT NULL AND a.invoice_id IS NOT NULL GROUP BY a.invoice_id
)
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, 'amount_paid' AS field, to_jsonb(i.amount_paid) AS ours, to_jsonb(coalesce(p.amount, 0)) AS theirs,
       coalesce(p.amount, 0) - i.amount_paid AS difference, i.currency, greatest(abs(coalesce(p.amount, 0) - i.amount_paid), p.amount - i.total_amount) AS at_risk,
       e.code AS entity, sync._accounting_day(i.posting_date, i.issue_date) AS period, c.number AS customer,
       CASE WHEN p.amount > greatest(i.total_amount, 0) THEN 'more was allocated to it than its total' ELSE 'payments allocated to it sum to something else' END AS detail,
       -- The allocation may stand on a page that is not read yet.
       CASE WHEN EXISTS (SELECT FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id AND o.table_oid = 'canonical.invoice'::regclass
                           JOIN sync._read_until r ON r.system_id = x.system_id AND r.table_oid = 'canonical.payment_allocation'::regclass
                          WHERE x.record_id = i.id::text AND (r.at IS NULL OR r.at < i.updated_at)) AND p.amount IS NOT DISTINCT FROM NULL
            THEN 'timing' ELSE 'break' END AS class
  FROM canonical.invoice i
  LEFT JOIN paid p ON p.invoice_id = i.id
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
 WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void')
   AND (coalesce(p.amount, 0) <> i.amount_paid OR p.amount > greatest(i.total_amount, 0))
$query$),
    ('amount_due', 'error',
     'What is due of an invoice is its total less what was paid and credited, and nothing is due of a paid one',
     'Read the invoice again from billing (sync.repair).',
     $query$
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, 'amount_due' AS field, to_jsonb(i.amount_due) AS ours, to_jsonb(v.due) AS theirs,
       v.due - i.amount_due AS difference, i.currency, greatest(abs(v.due - i.amount_due), abs(i.amount_due) * (i.status = 'paid')::integer) AS at_risk, e.code AS entity,
       sync._accounting_day(i.posting_date, i.issue_date) AS period, c.number AS customer,
       CASE WHEN v.due <> i.amount_due THEN 'total, paid and credited make another amount due' ELSE 'it is paid, and something is due' END AS detail
  FROM canonical.invoice i
 CROSS JOIN LATERAL (SELECT i.total_amount - i.amount_paid - i.amount_credited) v (due)
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
 WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void') AND i.total_amount >= 0
   AND (v.due <> i.amount_due OR i.status = 'paid' AND i.amount_due <> 0)
$query$),
    ('credits_within_invoice', 'error',
     'Posted credit notes for an invoice are together no more than its total',
     'Void the credit note that is too much in billing.',
     $query$
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, 'total_amount' AS field, to_jsonb(i.total_amount) AS ours, to_jsonb(n.credited) AS theirs,
       n.credited - i.total_amount AS difference, i.currency, n.credited - i.total_amount AS at_risk, e.code AS entity, n.day AS period, c.number AS customer,
       'more was credited than billed, by ' || n.numbers AS detail
  FROM (SELECT m.invoice_id, m.currency, sum(m.total_amount) AS credited, max(m.issue_date) AS day, string_agg(m.number, ', ' ORDER BY m.issue_date, m.number) AS numbers
          FROM canonical.credit_note m WHERE m.status IN ('posted', 'applied') GROUP BY m.invoice_id, m.currency) n
  JOIN canonical.invoice i ON i.id = n.invoice_id AND i.currency = n.currency
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
 WHERE n.credited > i.total_amount
$query$),
    ('refunds_within_payment', 'error',
     'Refunds and chargebacks of a payment are together no more than it, in its currency',
     'Claim back what was given too much; correct the record where it is one only.',
     $query$
SELECT 'payment' AS object, p.id AS record_id, p.processor_ref AS record_number, 'amount' AS field, to_jsonb(p.amount) AS ours, to_jsonb(r.amount) AS theirs,
       r.amount - p.amount AS difference, p.currency, r.amount - p.amount AS at_risk, e.code AS entity, sync._accounting_day(r.day, NULL, NULL, r.at, NULL, e.timezone) AS period,
       c.number AS customer,
       CASE WHEN r.foreign THEN 'was given back in another currency' ELSE 'more was given back than was paid' END AS detail
  FROM (SELECT b.original_payment_id, sum(b.amount) AS amount, bool_or(b.currency <> o.currency) AS foreign,
               max(b.posting_date) AS day, max(coalesce(b.settled_at, b.attempted_at, b.created_at)) AS at
          FROM canonical.payment b JOIN canonical.payment o ON o.id = b.original_payment_id
         WHERE b.kind IN ('refund', 'chargeback') AND b.status = 'succeeded' GROUP BY b.original_payment_id) r
  JOIN canonical.payment p ON p.id = r.original_payment_id
  LEFT JOIN canonical.customer c ON c.id = p.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(p.legal_entity_id, c.legal_entity_id)
 WHERE r.amount > p.amount OR r.foreign
$query$),
    ('payout_sums', 'error',
     'Each payout is the sum of its balance transactions, charges, refunds, disputes, fees and adjustments, all in its currency',
     'Read payout and movements again (sync.repair); ask the processor where they still differ.',
     $query$
WITH moved AS (
    SELECT b.payout_id, sum(b.net_amount) AS net, count(*) AS n, bool_or(b.currency <> p.currency) AS foreign
      FROM canonical.balance_transaction b JOIN canonical.payout p ON p.id = b.payout_id GROUP BY b.payout_id
)
SELECT 'payout' AS object, p.id AS record_id, p.number AS record_number, CASE WHEN m.foreign THEN 'currency' ELSE 'amount' END AS field, to_jsonb(p.amount) AS ours,
       to_jsonb(m.net) AS theirs, coalesce(m.net, 0) - p.amount AS difference, p.currency, CASE WHEN m.foreign THEN abs(p.amount) ELSE abs(coalesce(m.net, 0) - p.amount) END AS at_risk,
       e.code AS entity, sync._accounting_day(NULL, NULL, p.arrival_date, p.created_at, NULL, e.timezone) AS period,
       CASE WHEN m.foreign THEN 'has movements in another currency' WHEN m.n IS NULL THEN 'has no movements' ELSE 'its ' || m.n || ' movements make another amount' END AS detail,
       CASE WHEN EXISTS (SELECT FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id AND o.table_oid = 'canonical.payout'::regclass
                           JOIN sync._read_until r ON r.system_id = x.system_id AND r.table_oid = 'canonical.balance_transaction'::regclass
                          WHERE x.record_id = p.id::text AND (r.at IS NULL OR r.at < p.updated_at))
            THEN 'timing' ELSE 'break' END AS class
  FROM canonical.payout p
  LEFT JOIN moved m ON m.payout_id = p.id
  LEFT JOIN canonical.legal_entity e ON e.id = p.legal_entity_id
 WHERE p.status NOT IN ('failed', 'canceled') AND (m.net IS DISTINCT FROM p.amount OR m.foreign) AND (m.n IS NOT NULL OR p.status <> 'pending' AND p.amount <> 0)
$query$),
    ('currency_agrees', 'error',
     'A payment and the invoice it settles, an invoice and its subscription, a schedule and its invoice have one currency',
     'Find out which side was changed, and read it again from its owner (sync.repair).',
     $query$
SELECT v.object, v.id AS record_id, v.number AS record_number, v.field, to_jsonb(v.ours) AS ours, to_jsonb(string_agg(DISTINCT v.theirs::text, ', ')) AS theirs, v.amount_in AS currency,
       sum(v.amount) AS at_risk, e.code AS entity, v.day AS period, c.number AS customer, v.detail
  FROM (SELECT 'invoice' AS object, 'payments' AS field, i.id, i.number, i.currency AS ours, p.currency AS theirs, a.amount, p.currency AS amount_in, sync._accounting_day(i.posting_date, i.issue_date) AS day, i.legal_entity_id, i.customer_id,
               'was paid in another currency' AS detail
          FROM canonical.payment_allocation a JOIN canonical.payment p ON p.id = a.payment_id JOIN canonical.invoice i ON i.id = a.invoice_id WHERE p.currency <> i.currency
        UNION ALL
        SELECT 'invoice', 'credit_notes', i.id, i.number, i.currency, n.currency, n.total_amount, n.currency, n.issue_date, i.legal_entity_id, i.customer_id, 'was credited in another currency'
          FROM canonical.credit_note n JOIN canonical.invoice i ON i.id = n.invoice_id WHERE n.status <> 'void' AND n.currency <> i.currency
        UNION ALL
        SELECT 'invoice', 'subscription_id', i.id, i.number, i.currency, s.currency, i.total_amount, i.currency, sync._accounting_day(i.posting_date, i.issue_date), i.legal_entity_id, i.customer_id,
               'its subscription ' || coalesce(s.number, s.id::text) || ' has another currency'
          FROM canonical.invoice i JOIN canonical.subscription s ON s.id = i.subscription_id WHERE i.status NOT IN ('draft', 'void') AND i.currency <> s.currency
        UNION ALL
        SELECT 'revenue_schedule', 'currency', r.id, i.number, r.currency, i.currency, r.total_amount, r.currency, r.start_date, r.legal_entity_id, i.customer_id, 'invoice ' || i.number || ' has another currency'
          FROM canonical.revenue_schedule r JOIN canonical.invoice_line l ON l.id = r.invoice_line_id JOIN canonical.invoice i ON i.id = l.invoice_id
         WHERE r.status <> 'canceled' AND r.currency <> i.currency) v
  LEFT JOIN canonical.customer c ON c.id = v.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(v.legal_entity_id, c.legal_entity_id)
 GROUP BY v.object, v.id, v.number, v.field, v.ours, v.amount_in, e.code, v.day, c.number, v.detail
$query$),
    ('voided_after_posting', 'error',
     'An invoice that billing voided does not go on standing posted in the ERP, unless credit notes took all of it back',
     'Credit all of it (sync.repair: credit_note), or have the ERP reverse the posting (sync.repair: call_there).',
     $query$
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, m.system, m.remote_id, 'posting_status' AS field, to_jsonb(i.status) AS ours, to_jsonb('posted'::text) AS theirs,
       i.currency, i.total_amount AS at_risk, e.code AS entity, sync._accounting_day(i.posting_date, i.issue_date) AS period, c.number AS customer,
       'was voided in billing on ' || coalesce((i.voided_at AT TIME ZONE coalesce(e.timezone, 'UTC'))::date::text, 'a day unknown') || ' and stands posted in the ERP'
           || CASE f.state WHEN 'dead' THEN '; its delivery failed' WHEN 'conflict' THEN '; its delivery is in conflict' ELSE '' END AS detail,
       CASE WHEN f.state NOT IN ('dead', 'conflict') AND f.event_at > now() - interval '7 days' THEN 'in_transit' ELSE 'break' END AS class, f.delivery
  FROM canonical.invoice i
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
  LEFT JOIN (SELECT x.record_id, y.system, y.system_id, y.object_id, x.remote_id, r.fields ->> 'posting_status' AS status
               FROM sync._ledger y JOIN sync.external_id x ON x.system_id = y.system_id AND x.object_id = y.object_id
               JOIN sync.mirror r ON r.system_id = x.system_id AND r.object_id = x.object_id AND r.remote_id = x.remote_id AND NOT r.deleted
              WHERE y.table_oid = 'canonical.invoice'::regclass) m ON m.record_id = i.id::text
  LEFT JOIN LATERAL (SELECT u.route_id || '/' || u.seq AS delivery, u.state, u.event_at FROM sync._unfinished u
                      WHERE u.system_id = m.system_id AND u.object_id = m.object_id AND u.record_id = m.record_id ORDER BY u.seq LIMIT 1) f ON true
 WHERE i.type = 'standard' AND i.status = 'void' AND i.total_amount <> 0 AND coalesce(m.status, i.posting_status) = 'posted'
   AND i.total_amount > (SELECT coalesce(sum(n.total_amount), 0) FROM canonical.credit_note n WHERE n.invoice_id = i.id AND n.currency = i.currency AND n.status IN ('posted', 'applied'))
$query$),
    ('paid_before_posted', 'error',
     'No payment stands in the ERP against an invoice that is not posted there, or that is posted later than it',
     'Not posted: have the ERP post it (sync.repair: call_there, of invoice_in_erp). Posted later: have it reversed there and push it again, or its date corrected.',
     $query$
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, 'posting_date' AS field, to_jsonb(min(i.posting_date)) AS ours, to_jsonb(min(p.posting_date)) AS theirs,
       i.currency, sum(a.amount) AS at_risk, e.code AS entity, sync._accounting_day(i.posting_date, i.issue_date) AS period, c.number AS customer,
       CASE WHEN i.posting_status = 'posted' THEN 'was posted on ' || i.posting_date || ', its payment on ' || min(p.posting_date)
            ELSE 'its payment is posted, and it is not' END AS detail
  FROM canonical.payment_allocation a
  JOIN canonical.payment p ON p.id = a.payment_id AND p.posting_status = 'posted' AND p.kind = 'charge'
  JOIN canonical.invoice i ON i.id = a.invoice_id
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
 WHERE i.type = 'standard' AND (i.posting_status NOT IN ('posted', 'reversed') OR p.posting_date < i.posting_date)
 GROUP BY i.id, e.code, c.number
$query$)
$rules$;
COMMENT ON FUNCTION sync._rules_billing() IS 'Rules about invoices, payments and payouts';
