-- The books that the company keeps in the hub, derived from what billing said: tax, journals, revenue
-- schedules and their recognition up to the last full month, rights of use, collections. Run again it
-- books the invoices that have come since. Variable: first, whether it is the first time.
\set ON_ERROR_STOP on
SET synchronous_commit = off;

CREATE TEMPORARY TABLE bill AS
SELECT i.*, e.code AS entity, coalesce(f.rate, 1) AS rate
  FROM canonical.invoice i JOIN canonical.legal_entity e ON e.id = i.legal_entity_id
  LEFT JOIN canonical.fx_rate f ON f.from_currency = i.currency AND f.to_currency = e.functional_currency
 WHERE i.status IN ('open', 'posted', 'paid', 'partially_paid', 'uncollectible')
   AND NOT EXISTS (SELECT FROM canonical.tax_determination d WHERE d.invoice_id = i.id);
CREATE UNIQUE INDEX ON bill (id);
ANALYZE bill;

INSERT INTO canonical.tax_determination (invoice_id, provider, document_code, kind, status, tax_date, taxable_amount, exempt_amount, tax_amount, currency)
SELECT i.id, 'avalara', i.number, 'recorded', CASE i.status WHEN 'void' THEN 'voided' ELSE 'committed' END, i.issue_date,
       CASE WHEN i.tax_amount <> 0 THEN i.net_amount ELSE 0 END, CASE WHEN i.tax_amount = 0 THEN i.net_amount ELSE 0 END, i.tax_amount, i.currency
  FROM canonical.invoice i
 WHERE i.status <> 'draft' AND NOT EXISTS (SELECT FROM canonical.tax_determination d WHERE d.invoice_id = i.id);

-- What is billed is owed by the customer, deferred, and tax.
BEGIN;
INSERT INTO canonical.gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, fx_rate, source_object, source_id, memo, status, posted_at)
SELECT md5('billed ' || b.id)::uuid, b.legal_entity_id, 'B-' || b.number, b.issue_date, date_trunc('month', b.issue_date), b.currency, b.rate,
       'invoice', b.id, 'Billed', 'posted', b.issue_date + interval '20 hours'
  FROM bill b WHERE b.total_amount <> 0;
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit, customer_id, description)
SELECT md5('billed ' || b.id)::uuid, l.line_no, l.account, greatest(l.amount, 0), greatest(-l.amount, 0), CASE l.line_no WHEN 1 THEN b.customer_id END, l.text
  FROM bill b,
       LATERAL (VALUES (1, '1200', b.total_amount, 'Receivable'), (2, '3900', -b.net_amount, 'Deferred'), (3, '1776', -b.tax_amount, 'Tax')) l (line_no, account, amount, text)
 WHERE b.total_amount <> 0 AND l.amount <> 0;
COMMIT;

-- Evenly over the days of service; the last month takes what rounding leaves.
CREATE TEMPORARY TABLE schedule AS
SELECT md5('schedule ' || l.id)::uuid AS id, l.id AS line, b.contract_id, b.legal_entity_id, b.entity, b.currency, b.rate, l.net_amount AS total, l.service_start AS first, l.service_end AS last,
       canonical.minor_units(b.currency) AS digits
  FROM bill b JOIN canonical.invoice_line l ON l.invoice_id = b.id
 WHERE l.service_start IS NOT NULL AND l.net_amount <> 0;
CREATE TEMPORARY TABLE share AS
WITH part AS (
    SELECT s.id, s.entity, s.legal_entity_id, s.currency, s.rate, s.total, m::date AS period, lead(m) OVER w IS NULL AS newest,
           round(s.total * (least(s.last, (m + interval '1 month')::date - 1) - greatest(s.first, m::date) + 1) / (s.last - s.first + 1), s.digits) AS even
      FROM schedule s, generate_series(date_trunc('month', s.first), s.last, '1 month') m
    WINDOW w AS (PARTITION BY s.id ORDER BY m)
)
SELECT p.id, p.entity, p.legal_entity_id, p.currency, p.rate, p.period,
       CASE WHEN p.newest THEN p.total - sum(p.even) OVER (PARTITION BY p.id) + p.even ELSE p.even END AS amount,
       p.period < date_trunc('month', month.today()) AS recognized
  FROM part p;
-- One journal of recognition for each entity, currency and month.
BEGIN;
CREATE TEMPORARY TABLE recognition AS
SELECT md5(concat_ws(' ', 'recognized', s.entity, s.currency, s.period))::uuid AS id, s.entity, s.legal_entity_id, s.currency, s.rate, s.period, sum(s.amount) AS amount
  FROM share s WHERE s.recognized GROUP BY s.entity, s.legal_entity_id, s.currency, s.rate, s.period;
INSERT INTO canonical.gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, fx_rate, memo, status, posted_at)
SELECT r.id, r.legal_entity_id, concat_ws('-', 'R', to_char(r.period, 'YYYYMM'), r.currency), (r.period + interval '1 month')::date - 1, r.period, r.currency, r.rate,
       'Revenue recognized', 'posted', r.period + interval '1 month'
  FROM recognition r;
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit, description)
SELECT r.id, l.line_no, l.account, greatest(l.amount, 0), greatest(-l.amount, 0), l.text
  FROM recognition r, LATERAL (VALUES (1, '3900', r.amount, 'Deferred'), (2, '8400', -r.amount, 'Revenue')) l (line_no, account, amount, text)
 WHERE l.amount <> 0;
INSERT INTO canonical.revenue_schedule (id, invoice_line_id, contract_id, legal_entity_id, method, currency, total_amount, start_date, end_date, status)
SELECT s.id, s.line, s.contract_id, s.legal_entity_id, CASE WHEN s.first = s.last THEN 'point_in_time' ELSE 'straight_line' END, s.currency, s.total, s.first, s.last,
       CASE WHEN s.last < date_trunc('month', month.today()) THEN 'completed' ELSE 'active' END
  FROM schedule s;
INSERT INTO canonical.revenue_schedule_line (schedule_id, period, amount, status, gl_entry_id, recognized_at)
SELECT s.id, s.period, s.amount, CASE WHEN s.recognized THEN 'recognized' ELSE 'planned' END, r.id, CASE WHEN s.recognized THEN s.period + interval '1 month' END
  FROM share s LEFT JOIN recognition r ON s.recognized AND r.entity = s.entity AND r.currency = s.currency AND r.period = s.period;
COMMIT;

\if :first
-- A right for each item: usable while the subscription runs, withheld while a payment is missing.
INSERT INTO canonical.entitlement (subscription_id, customer_id, feature_code, quantity, status, valid_from, valid_to, activated_at, reason)
SELECT s.id, s.customer_id, f.code, t.quantity,
       CASE s.status WHEN 'canceled' THEN 'revoked' WHEN 'past_due' THEN 'suspended' ELSE 'active' END, s.start_date::timestamptz,
       CASE s.status WHEN 'canceled' THEN s.canceled_at WHEN 'trialing' THEN s.trial_end END, s.start_date::timestamptz,
       CASE s.status WHEN 'canceled' THEN 'canceled' WHEN 'past_due' THEN 'payment failed' WHEN 'trialing' THEN 'trial' END
  FROM canonical.subscription s JOIN canonical.subscription_item t ON t.subscription_id = s.id
  JOIN canonical.price p ON p.id = t.price_id JOIN canonical.product f ON f.id = p.product_id;

INSERT INTO canonical.collection_case (customer_id, invoice_id, payment_id, stage, opened_at, closed_at, outcome)
SELECT p.customer_id, i.id, p.id, 'reminder', p.attempted_at + interval '1 hour', CASE i.status WHEN 'paid' THEN p.attempted_at + interval '20 days' END,
       CASE i.status WHEN 'paid' THEN 'paid' END
  FROM month.payment f JOIN month.invoice b ON b.id = f.invoice JOIN canonical.invoice i ON i.number = b.number
  JOIN sync.external_id x ON x.remote_id = f.remote JOIN sync.object o ON o.id = x.object_id AND o.name = 'payment'
  JOIN canonical.payment p ON p.id::text = x.record_id
 WHERE f.state = 'failed';
ANALYZE;
\endif
