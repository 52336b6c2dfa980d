-- Rules about revenue, the ledger and tax, over the hub's own tables.

CREATE FUNCTION sync._rules_revenue()
RETURNS TABLE (name text, severity text, description text, remedy text, query text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $rules$
VALUES
    ('schedules_complete', 'error',
     'Every line of an issued invoice that has a service period has a revenue schedule of its net amount, and the schedule''s lines sum to it; lines of today and yesterday have time',
     'Make it what the invoice says (sync.repair: reschedule); sync.build_revenue_schedules() makes all that are missing.',
     $query$
WITH line AS (
    SELECT l.id, l.line_no, l.net_amount, i.number, i.currency, i.issue_date, sync._accounting_day(i.posting_date, i.issue_date) AS day, i.legal_entity_id, i.customer_id,
           i.total_amount <= (SELECT coalesce(sum(n.total_amount), 0) FROM canonical.credit_note n WHERE n.invoice_id = i.id AND n.status IN ('posted', 'applied')) AS credited
      FROM canonical.invoice_line l
      JOIN canonical.invoice i ON i.id = l.invoice_id
     WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void')
       AND l.service_start IS NOT NULL AND l.service_end IS NOT NULL AND round(l.net_amount, canonical.minor_units(i.currency)) <> 0
), part AS (
    SELECT p.schedule_id, sum(p.amount) AS amount FROM canonical.revenue_schedule_line p GROUP BY p.schedule_id
), schedule AS (
    -- The books of each standard stand on their own.
    SELECT s.invoice_line_id, s.standard, sum(s.total_amount) AS total
      FROM canonical.revenue_schedule s WHERE s.status <> 'canceled' AND s.invoice_line_id IS NOT NULL GROUP BY s.invoice_line_id, s.standard
), wrong AS (
    SELECT 'invoice_line' AS object, l.id, l.number, l.line_no, s.standard AS field, round(l.net_amount, canonical.minor_units(l.currency)) AS ours, s.total AS theirs, l.currency,
           l.day, l.legal_entity_id, l.customer_id, s.standard IS NULL AND l.issue_date >= current_date - 1 AS young,
           CASE WHEN s.standard IS NULL THEN 'has no schedule' ELSE 'its schedule is of another amount' END AS detail
      FROM line l
      LEFT JOIN schedule s ON s.invoice_line_id = l.id
     WHERE s.total IS DISTINCT FROM round(l.net_amount, canonical.minor_units(l.currency)) AND NOT (l.credited AND s.standard IS NULL)
    UNION ALL
    SELECT 'revenue_schedule', s.id, i.number, l.line_no, 'total_amount', s.total_amount, p.amount, s.currency, sync._accounting_day(i.posting_date, coalesce(i.issue_date, s.start_date)), s.legal_entity_id,
           i.customer_id, false, CASE WHEN p.amount IS NULL THEN 'the schedule has no lines' ELSE 'the schedule''s lines have another sum' END
      FROM canonical.revenue_schedule s
      LEFT JOIN part p ON p.schedule_id = s.id
      LEFT JOIN canonical.invoice_line l ON l.id = s.invoice_line_id
      LEFT JOIN canonical.invoice i ON i.id = l.invoice_id
     WHERE s.status <> 'canceled' AND p.amount IS DISTINCT FROM s.total_amount AND (p.amount IS NOT NULL OR s.total_amount <> 0)
)
SELECT w.object, w.id AS record_id, w.number || '/' || w.line_no AS record_number, w.field, to_jsonb(w.ours) AS ours, to_jsonb(w.theirs) AS theirs,
       coalesce(w.theirs, 0) - w.ours AS difference, w.currency, abs(coalesce(w.theirs, 0) - w.ours) AS at_risk, e.code AS entity, w.day AS period, c.number AS customer,
       w.detail, CASE WHEN w.young THEN 'timing' ELSE 'break' END AS class
  FROM wrong w
  LEFT JOIN canonical.customer c ON c.id = w.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(w.legal_entity_id, c.legal_entity_id)
$query$),
    ('recognized_plus_deferred', 'error',
     'Of each invoice, what is recognized and what is still deferred make what was billed, nothing of a voided one; and what a journal recognized is what the schedules say it did',
     'Make the schedules what the invoice says (sync.repair: reschedule); what the ledger lacks is posted or taken back by an adjustment.',
     $query$
WITH part AS (
    SELECT s.invoice_line_id, s.standard, sum(p.amount) FILTER (WHERE p.status <> 'planned') AS recognized, sum(p.amount) FILTER (WHERE p.status = 'planned' AND s.status <> 'canceled') AS deferred
      FROM canonical.revenue_schedule s JOIN canonical.revenue_schedule_line p ON p.schedule_id = s.id
     WHERE s.invoice_line_id IS NOT NULL GROUP BY s.invoice_line_id, s.standard
), invoice AS (
    SELECT l.invoice_id, p.standard, sum(round(l.net_amount, canonical.minor_units(i.currency))) AS billed, sum(coalesce(p.recognized, 0)) AS recognized, sum(coalesce(p.deferred, 0)) AS deferred
      FROM canonical.invoice i
      JOIN canonical.invoice_line l ON l.invoice_id = i.id
      JOIN part p ON p.invoice_line_id = l.id
     WHERE i.type = 'standard' AND i.status <> 'draft'
     GROUP BY l.invoice_id, p.standard
), journal AS (
    SELECT p.gl_entry_id, s.currency, sum(p.amount) AS recognized
      FROM canonical.revenue_schedule_line p JOIN canonical.revenue_schedule s ON s.id = p.schedule_id
     WHERE p.status <> 'planned' AND p.gl_entry_id IS NOT NULL GROUP BY p.gl_entry_id, s.currency
), ledger AS (
    SELECT g.id, g.number, g.currency, g.posting_date, g.legal_entity_id, j.recognized, j.currency AS schedules, sum(l.credit - l.debit) AS posted
      FROM journal j
      JOIN canonical.gl_entry g ON g.id = j.gl_entry_id
      JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id
      JOIN canonical.gl_account a ON a.code = l.account_code AND a.class = 'revenue'
     GROUP BY g.id, j.recognized, j.currency
)
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, n.standard AS field, to_jsonb(v.billed) AS ours, to_jsonb(n.recognized + n.deferred) AS theirs,
       n.recognized + n.deferred - v.billed AS difference, i.currency, abs(n.recognized + n.deferred - v.billed) AS at_risk, e.code AS entity, sync._accounting_day(i.posting_date, i.issue_date) AS period, c.number AS customer,
       format('recognized %s, deferred %s, billed %s', n.recognized, n.deferred, v.billed) AS detail
  FROM invoice n
  JOIN canonical.invoice i ON i.id = n.invoice_id
 CROSS JOIN LATERAL (SELECT CASE WHEN i.status = 'void' THEN 0 ELSE n.billed END) v (billed)
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
 WHERE n.recognized + n.deferred <> v.billed
   -- Credited in full, the rest of it may have been taken back.
   AND NOT (n.recognized + n.deferred = 0 AND i.total_amount <= (SELECT coalesce(sum(k.total_amount), 0) FROM canonical.credit_note k WHERE k.invoice_id = i.id AND k.status IN ('posted', 'applied')))
UNION ALL
SELECT 'gl_entry', l.id, l.number, 'revenue in ' || l.schedules, to_jsonb(l.recognized), to_jsonb(l.posted), l.posted - l.recognized, l.currency, abs(l.posted - l.recognized), e.code, l.posting_date, NULL,
       format('schedules say that it recognizes %s %s, its revenue is %s %s', l.recognized, l.schedules, l.posted, l.currency)
  FROM ledger l
  LEFT JOIN canonical.legal_entity e ON e.id = l.legal_entity_id
 WHERE l.posted <> l.recognized OR l.currency <> l.schedules
UNION ALL
SELECT 'revenue_schedule', s.id, i.number, 'gl_entry_id', to_jsonb(sum(p.amount)), NULL, -sum(p.amount), s.currency, abs(sum(p.amount)), e.code, sync._accounting_day(i.posting_date, coalesce(i.issue_date, s.start_date)), c.number,
       'recognized without a posted journal: ' || string_agg(to_char(p.period, 'YYYY-MM'), ', ' ORDER BY p.period)
  FROM canonical.revenue_schedule_line p
  JOIN canonical.revenue_schedule s ON s.id = p.schedule_id
  LEFT JOIN canonical.gl_entry g ON g.id = p.gl_entry_id
  LEFT JOIN canonical.invoice_line l ON l.id = s.invoice_line_id
  LEFT JOIN canonical.invoice i ON i.id = l.invoice_id
  LEFT JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, i.legal_entity_id)
 WHERE p.status = 'recognized' AND coalesce(g.status, 'none') NOT IN ('posted', 'reversed')
   -- Only where journals are in the hub at all.
   AND EXISTS (SELECT FROM canonical.gl_entry o WHERE o.legal_entity_id = s.legal_entity_id)
 GROUP BY s.id, i.id, c.number, e.code
$query$),
    ('recognized_in_time', 'error',
     'No revenue is recognized before its service begins or before its month does, nor in a period while that was closed',
     'Without a posted journal: plan it again (sync.repair: reschedule). With one: have the journal reversed first. What belongs into a closed period goes into the next open one.',
     $query$
SELECT 'revenue_schedule' AS object, s.id AS record_id, i.number AS record_number, v.field, to_jsonb(min(v.allowed)) AS ours, to_jsonb(min(v.done)) AS theirs, s.currency,
       sum(p.amount) AS at_risk, e.code AS entity, min(p.period) AS period, c.number AS customer,
       v.detail || ': ' || string_agg(to_char(p.period, 'YYYY-MM'), ', ' ORDER BY p.period) AS detail
  FROM canonical.revenue_schedule_line p
  JOIN canonical.revenue_schedule s ON s.id = p.schedule_id
  LEFT JOIN canonical.invoice_line l ON l.id = s.invoice_line_id
  LEFT JOIN canonical.invoice i ON i.id = l.invoice_id
  LEFT JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, i.legal_entity_id)
  LEFT JOIN canonical.gl_entry g ON g.id = p.gl_entry_id
  LEFT JOIN canonical.accounting_period a ON a.legal_entity_id = coalesce(g.legal_entity_id, e.id) AND coalesce(g.posting_date, p.period) BETWEEN a.start_date AND a.end_date
 CROSS JOIN LATERAL (SELECT (p.recognized_at AT TIME ZONE coalesce(e.timezone, 'UTC'))::date) t (day)
 CROSS JOIN LATERAL (
       SELECT 'start_date' AS field, s.start_date AS allowed, least(t.day, (p.period + interval '1 month')::date - 1) AS done, 'recognized before the service began' AS detail
        WHERE t.day < s.start_date OR (p.period + interval '1 month')::date <= s.start_date
       UNION ALL
       SELECT 'period', p.period, least(t.day, current_date), 'recognized before its month'
        WHERE NOT (t.day < s.start_date) AND (t.day < p.period OR p.period > current_date)
       UNION ALL
       SELECT 'accounting_period', a.end_date, coalesce(g.posting_date, p.period), 'recognized in a period that was closed already'
        WHERE coalesce(g.posted_at, p.recognized_at) > a.closed_at OR a.was_closed @> coalesce(g.posted_at, p.recognized_at)) v
 WHERE p.status = 'recognized'
 GROUP BY s.id, i.number, v.field, v.detail, e.code, c.number
$query$),
    ('journals_balance', 'error',
     'Debits equal credits in each posted journal, which has lines',
     'Altered here: put it back as it was recorded (sync.repair: restore). Else have the system that owns it reverse it and post it again.',
     $query$
SELECT 'gl_entry' AS object, g.id AS record_id, g.number AS record_number, 'debit' AS field, to_jsonb(coalesce(l.debits, 0)) AS ours, to_jsonb(coalesce(l.credits, 0)) AS theirs,
       coalesce(l.credits - l.debits, 0) AS difference, g.currency, abs(coalesce(l.credits - l.debits, 0)) AS at_risk, e.code AS entity, g.posting_date AS period,
       CASE WHEN l.gl_entry_id IS NULL THEN 'has no lines' ELSE format('debits %s, credits %s', l.debits, l.credits) END AS detail
  FROM canonical.gl_entry g
  LEFT JOIN (SELECT t.gl_entry_id, sum(t.debit) AS debits, sum(t.credit) AS credits FROM canonical.gl_entry_line t GROUP BY t.gl_entry_id) l ON l.gl_entry_id = g.id
  LEFT JOIN canonical.legal_entity e ON e.id = g.legal_entity_id
 WHERE g.status IN ('posted', 'reversed') AND (l.gl_entry_id IS NULL OR l.debits <> l.credits)
$query$),
    ('committed_tax', 'error',
     'The tax committed with the tax system is the tax of the invoice, in its currency; none is committed for a voided invoice, and where tax is committed at all, it is for every issued invoice that has tax',
     'Make what is committed what the invoice says (sync.repair: correct_tax), or have the tax system do so; where none is, commit it there; where the invoice is wrong, credit and reissue it.',
     $query$
WITH tax AS (
    SELECT d.invoice_id, sum(d.tax_amount) AS amount, string_agg(DISTINCT d.currency::text, ', ') AS currency, string_agg(d.document_code, ', ' ORDER BY d.document_code) AS codes
      FROM canonical.tax_determination d
     WHERE d.kind = 'recorded' AND d.status = 'committed' AND d.invoice_id IS NOT NULL GROUP BY d.invoice_id
), entity AS (
    SELECT DISTINCT i.legal_entity_id FROM tax t JOIN canonical.invoice i ON i.id = t.invoice_id
)
SELECT 'invoice' AS object, i.id AS record_id, i.number AS record_number, v.field, v.ours, v.theirs, v.difference, i.currency, v.at_risk, e.code AS entity,
       sync._accounting_day(i.posting_date, i.issue_date) AS period, c.number AS customer, v.detail, CASE WHEN v.young THEN 'timing' ELSE 'break' END AS class
  FROM canonical.invoice i
  LEFT JOIN tax t ON t.invoice_id = i.id
  LEFT JOIN entity n ON n.legal_entity_id = i.legal_entity_id
 CROSS JOIN LATERAL (
       SELECT 'currency' AS field, to_jsonb(i.currency) AS ours, to_jsonb(t.currency) AS theirs, NULL::numeric AS difference, abs(i.tax_amount) AS at_risk,
              'tax is committed in another currency' AS detail, false AS young
        WHERE i.status <> 'void' AND t.currency <> i.currency
       UNION ALL
       SELECT 'tax_amount', to_jsonb(i.tax_amount), to_jsonb(t.amount), t.amount - i.tax_amount, abs(t.amount - i.tax_amount), 'another tax is committed', false
        WHERE i.status <> 'void' AND t.amount <> i.tax_amount
       UNION ALL
       SELECT 'status', to_jsonb(i.status), to_jsonb('committed'::text), t.amount, abs(t.amount), 'was voided, and its tax is committed', false
        WHERE i.status = 'void' AND t.amount <> 0
       UNION ALL
       SELECT 'status', to_jsonb(i.tax_amount), NULL, -i.tax_amount, abs(i.tax_amount), 'its tax is not committed', i.issue_date >= current_date - 1
        WHERE i.status NOT IN ('draft', 'void') AND i.tax_amount <> 0 AND t.invoice_id IS NULL
          AND n.legal_entity_id IS NOT NULL) v
  JOIN canonical.customer c ON c.id = i.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
 WHERE i.type = 'standard'
$query$)
$rules$;
COMMENT ON FUNCTION sync._rules_revenue() IS 'Rules about revenue, journals and tax';
