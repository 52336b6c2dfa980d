-- The reports of the month end, with figures worked out by hand: the model stands in a schema of another
-- name, in two entities, three currencies and a leap year.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_finance;
CREATE DATABASE sync_rec_finance;
\c sync_rec_finance
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';
SET TimeZone = 'UTC';
SET client_min_messages = warning;

-- Without a model, and with one that nobody has told the hub of.
DO $$
DECLARE
    call text;
    said text;
    hint text;
BEGIN
    FOREACH call IN ARRAY ARRAY['ar_aging(''2024-03-31'')', 'ar_aging_tie_out(''2024-03-31'')', 'payout_reconciliation(''[2024-01-01,2024-02-01)'')',
        'deferred_rollforward(''[2024-01-01,2024-02-01)'')', 'mrr_waterfall(''[2024-01-01,2024-02-01)'')', '_churn_exposure()',
        'customer_profitability(''[2024-01-01,2024-02-01)'')', 'build_revenue_schedules(''[2024-01-01,2024-02-01)'')', 'recognize_revenue(''[2024-01-01,2024-02-01)'')'] LOOP
        BEGIN
            EXECUTE 'SELECT * FROM sync.' || call;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
            RAISE WARNING '%: % % (%)', call, SQLSTATE, said, hint;
        END;
    END LOOP;
END
$$;
SELECT sync.create_canonical_model('My books');
SET search_path = "My books", public;
SELECT sync.track('"My books".invoice', financial => true) IS NOT NULL AS tracked;
SELECT * FROM sync.ar_aging('2024-03-31');
SELECT * FROM sync.ar_aging('2024-03-31', 'nowhere');
SELECT * FROM sync.payout_reconciliation('[2024-01-01,)');
SELECT * FROM sync.deferred_rollforward('empty');
SELECT * FROM sync.deferred_rollforward('[2024-01-01,2024-02-01)', 'HGB');
SELECT * FROM sync.deferred_rollforward('[2024-01-02,2024-01-16)');
SELECT * FROM sync.recognize_revenue('[2024-01-01,2024-02-01)', 'DE', 'ifrs15');
SELECT * FROM sync.recognize_revenue('[2024-01-01,2024-02-01)', 'DE', NULL);

-- u('customer A'): a fixed id.
CREATE FUNCTION u(what text) RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT md5($1)::uuid';
INSERT INTO legal_entity (id, code, name, functional_currency, timezone)
VALUES (u('DE'), 'DE', 'Nordstern GmbH', 'EUR', 'Europe/Berlin'), (u('US'), 'US', 'Nordstern Inc', 'USD', 'America/New_York');
INSERT INTO customer (id, number, name, legal_entity_id)
SELECT u(c), c, 'Customer ' || c, u(CASE c WHEN 'B' THEN 'US' ELSE 'DE' END) FROM unnest('{A,B,C,D,E,F}'::text[]) c;
INSERT INTO product (id, code, name, kind, revenue_account, deferred_account)
VALUES (u('seat'), 'SEAT', 'Seat', 'service', '8400', '3900'), (u('setup'), 'SETUP', 'Set-up', 'fee', '8410', NULL);
INSERT INTO price (id, product_id, code, currency, model, unit_price, billing_interval)
VALUES (u('month'), u('seat'), 'M', 'EUR', 'per_unit', 10, 'month'), (u('usage'), u('seat'), 'U', 'USD', 'usage', 1, 'month');
INSERT INTO accounting_period (legal_entity_id, start_date, end_date, status)
SELECT u(e), m::date, (m + interval '1 month')::date - 1, CASE WHEN e = 'US' AND m = '2024-03-01' THEN 'soft_closed' ELSE 'open' END
  FROM unnest('{DE,US}'::text[]) e, generate_series('2024-01-01'::timestamp, '2024-12-01', '1 month') m;
INSERT INTO fx_rate (from_currency, to_currency, rate_date, rate, source)
VALUES ('USD', 'EUR', '2024-01-01', 0.9, 'ECB'), ('USD', 'EUR', '2024-02-15', 0.8, 'ECB'), ('JPY', 'EUR', '2024-01-01', 0.0062, 'ECB');

-- What is owed. JPY has no minor units.
INSERT INTO invoice (id, customer_id, legal_entity_id, number, status, issue_date, due_date, currency, fx_rate, net_amount, tax_amount, total_amount)
VALUES (u('I1'), u('A'), u('DE'), 'I1', 'open', '2024-01-15', '2024-02-14', 'EUR', NULL, 100, 19, 119),
       (u('I2'), u('B'), u('US'), 'I2', 'open', '2024-02-01', '2024-03-31', 'USD', NULL, 30, 0, 30),
       (u('I3'), u('C'), u('DE'), 'I3', 'open', '2024-01-01', '2024-01-01', 'JPY', NULL, 7, 0, 7),
       (u('I4'), u('A'), u('DE'), 'I4', 'open', '2024-02-01', '2024-02-29', 'USD', 0.9, 60, 0, 60),
       (u('I5'), u('A'), u('DE'), 'I5', 'open', '2024-01-20', '2024-01-20', 'EUR', NULL, 50, 0, 50),
       (u('I6'), u('D'), u('DE'), 'I6', 'open', '2023-11-01', '2023-11-15', 'EUR', NULL, 12, 0, 12),
       (u('I7'), u('D'), u('DE'), 'I7', 'open', '2023-12-01', '2023-12-31', 'EUR', NULL, 8, 0, 8),
       (u('I8'), u('E'), u('DE'), 'I8', 'draft', '2024-02-01', '2024-02-01', 'EUR', NULL, 5, 0, 5);
INSERT INTO invoice_line (id, invoice_id, line_no, product_id, price_id, net_amount, service_start, service_end)
VALUES (u('L1'), u('I1'), 1, u('seat'), NULL, 100, '2024-01-15', '2024-04-14'),
       (u('L2'), u('I2'), 1, u('seat'), u('usage'), 30, '2024-01-01', '2024-02-29'),
       (u('L3'), u('I3'), 1, u('seat'), NULL, 7, '2024-01-01', '2024-12-31'),
       (u('L4'), u('I4'), 1, u('seat'), NULL, 60, '2024-02-01', '2024-03-31'),
       (u('L5'), u('I5'), 1, u('seat'), NULL, 50, '2024-01-20', '2024-01-31'),
       (u('L6'), u('I6'), 1, u('setup'), NULL, 12, NULL, NULL),
       (u('L7'), u('I7'), 1, u('setup'), NULL, 8, NULL, NULL);
UPDATE invoice SET status = 'void', voided_at = '2024-02-10 12:00+00' WHERE number = 'I5';
UPDATE invoice SET status = 'uncollectible' WHERE number = 'I6';
-- Half past midnight in Berlin is still the day before in UTC. A payment that failed settles nothing.
INSERT INTO payment (id, customer_id, legal_entity_id, kind, status, amount, currency, settled_at)
VALUES (u('P1'), u('A'), u('DE'), 'charge', 'succeeded', 50, 'EUR', '2024-02-29 23:30+00'),
       (u('P2'), u('B'), u('US'), 'charge', 'failed', 30, 'USD', NULL),
       (u('P3'), u('A'), u('DE'), 'charge', 'succeeded', 36, 'EUR', '2024-03-10 10:00+00');
INSERT INTO payment_allocation (payment_id, invoice_id, amount, applied_at)
VALUES (u('P1'), u('I1'), 50, '2024-02-29 23:30+00'), (u('P2'), u('I2'), 30, '2024-02-20 10:00+00'),
       -- Euros for an invoice in dollars: no rate from EUR to USD is known, so it does not count.
       (u('P3'), u('I4'), 36, '2024-03-10 10:00+00');
INSERT INTO credit_note (id, customer_id, invoice_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_applied)
VALUES (u('N1'), u('A'), u('I1'), 'N1', 'applied', '2024-03-20', 'EUR', 16, 3, 19, 19), (u('N2'), u('D'), u('I7'), 'N2', 'applied', '2024-03-21', 'EUR', 3, 0, 3, 3);
INSERT INTO payment_allocation (credit_note_id, invoice_id, amount, applied_at) VALUES (u('N2'), u('I7'), 3, '2024-03-22 10:00+00');

-- What the ERP says: a cent less of I2, nothing of I3, I4 without an amount, of I6 not what is still owed, I7 not posted.
INSERT INTO sync.system (name) VALUES ('erp');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
SELECT y.id, o.id, i.id::text, 'r' || i.number FROM sync.system y, sync.object o, invoice i WHERE i.number IN ('I1', 'I2', 'I4', 'I6', 'I7');
INSERT INTO sync.mirror (system_id, object_id, remote_id, fields)
SELECT y.id, o.id, m.id, m.fields::jsonb
  FROM sync.system y, sync.object o,
       (VALUES ('rI1', '{"posting_status": "posted", "total_amount": 119}'), ('rI2', '{"posting_status": "posted", "total_amount": 30, "amount_due": 29.99}'),
               ('rI4', '{"posting_status": "posted"}'), ('rI6', '{"posting_status": "posted", "total_amount": 12}'), ('rI7', '{"posting_status": "draft", "total_amount": 8}')) m (id, fields);
\x
SELECT * FROM sync.ar_aging('2024-02-29');
\x
SELECT entity, customer, currency, not_due, days_1_30 AS "1-30", days_31_60 AS "31-60", days_61_90 AS "61-90", days_over_90 AS "> 90", total, written_off AS off, erp_amount AS erp, difference AS diff, erp_unknown AS unknown
  FROM sync.ar_aging('2024-03-31');
SELECT entity, customer, currency, total FROM sync.ar_aging('2024-02-10') WHERE customer = 'A';
SELECT entity, customer, currency, total FROM sync.ar_aging('2024-02-09') WHERE customer = 'A';
-- As of a moment: what was known then.
INSERT INTO sync.mirror_history (system_id, object_id, remote_id, at, fields)
SELECT m.system_id, m.object_id, m.remote_id, h.at::timestamptz, m.fields || h.said::jsonb
  FROM sync.mirror m, (VALUES ('2024-02-15', '{"amount_due": 25}'), ('2024-03-15', '{"amount_due": 20}')) h (at, said) WHERE m.remote_id = 'rI2';
SELECT d AS as_of, a.total, a.erp_amount, a.difference FROM unnest('{2024-02-10,2024-02-29,2024-03-31}'::date[]) d, sync.ar_aging(d) a WHERE a.customer = 'B';
SELECT total, erp_amount, difference FROM sync.ar_aging(current_date) WHERE customer = 'B';
SELECT total, erp_amount, difference FROM sync.ar_aging(current_date, 'erp') WHERE customer = 'B';

-- Schedules. I1: 17, 29, 31 and 14 of 91 days. I2: used 10 and 5 in January where the entity is, 15 in February.
INSERT INTO subscription (id, customer_id, legal_entity_id, number, status, start_date, currency, mrr) VALUES (u('SB'), u('B'), u('US'), 'SB', 'draft', '2024-01-01', 'USD', 0);
INSERT INTO subscription_item (id, subscription_id, price_id) VALUES (u('TB'), u('SB'), u('usage'));
INSERT INTO usage_record (subscription_item_id, meter_code, quantity, occurred_at, transaction_id, rated_amount, invoice_line_id)
VALUES (u('TB'), 'm', 10, '2024-01-10 10:00+00', 't1', 10, u('L2')), (u('TB'), 'm', 5, '2024-02-01 03:00+00', 't2', 5, u('L2')), (u('TB'), 'm', 15, '2024-02-15 10:00+00', 't3', 15, u('L2'));
SELECT sync.build_revenue_schedules('[2024-01-01,2024-02-01)') AS january, sync.build_revenue_schedules('[2024-01-01,2024-03-01)') AS rest,
       sync.build_revenue_schedules('[2023-01-01,2025-01-01)') AS again;
SELECT i.number, s.method, s.total_amount, array_agg(to_char(l.period, 'MM') || ':' || l.amount ORDER BY l.period) AS parts, sum(l.amount) = s.total_amount AS whole
  FROM revenue_schedule s JOIN revenue_schedule_line l ON l.schedule_id = s.id JOIN invoice_line n ON n.id = s.invoice_line_id JOIN invoice i ON i.id = n.invoice_id
 GROUP BY i.number, s.id ORDER BY i.number;
-- Seven of anything in twelve months, one cent, what is taken back, a leap day.
SELECT total, array_agg(amount ORDER BY period) AS parts, sum(amount) = total AS whole
  FROM (VALUES (0.07, '2023-01-01'::date, '2023-12-31'::date), (0.01, '2024-01-31', '2024-03-01'), (-100, '2024-01-15', '2024-04-14'), (29, '2024-02-01', '2024-02-29'), (100, '2024-02-29', '2024-02-29')) v (total, f, l),
       sync._straight_line(total, f, l, 2) GROUP BY total, f ORDER BY f, total;

-- What was booked when it was billed: I1, I3 and I4 as they should be, I2 not at all.
BEGIN;
INSERT INTO gl_entry (id, legal_entity_id, number, posting_date, currency, fx_rate, status, source_object, source_id)
SELECT u('B' || i.number), i.legal_entity_id, 'B' || i.number, i.issue_date, i.currency, coalesce(i.fx_rate, CASE i.currency WHEN 'JPY' THEN 0.0062 END), 'posted', 'invoice', i.id FROM invoice i WHERE i.number IN ('I1', 'I3', 'I4');
INSERT INTO gl_entry_line (gl_entry_id, line_no, account_code, debit, credit, customer_id)
SELECT u('B' || i.number), v.n, v.account, greatest(v.amount, 0), greatest(-v.amount, 0), CASE v.n WHEN 1 THEN i.customer_id END
  FROM invoice i, LATERAL (VALUES (1, '1200', i.total_amount), (2, '3900', -i.net_amount), (3, '1776', -i.tax_amount)) v (n, account, amount)
 WHERE i.number IN ('I1', 'I3', 'I4') AND v.amount <> 0;
COMMIT;
-- I5 was billed in January, recognized before it was voided in February.
ALTER TABLE revenue_schedule_line DISABLE TRIGGER revenue_schedule_sum;
INSERT INTO revenue_schedule (id, invoice_line_id, legal_entity_id, currency, total_amount, start_date, end_date) VALUES (u('S5'), u('L5'), u('DE'), 'EUR', 50, '2024-01-20', '2024-01-31');
INSERT INTO revenue_schedule_line (schedule_id, period, amount, status) VALUES (u('S5'), '2024-01-01', 50, 'reversed'), (u('S5'), '2024-02-01', -50, 'recognized');

SELECT * FROM sync.deferred_rollforward('[2024-01-01,2024-02-01)');
-- Closed and soft-closed periods take nothing, months to come neither; of the other entity they do.
UPDATE accounting_period SET status = 'closed' WHERE start_date = '2024-01-01' AND legal_entity_id = u('DE');
UPDATE accounting_period SET attrs = '{"note": 1}', closed_at = NULL WHERE start_date = '2024-01-01' AND legal_entity_id = u('DE');
SELECT closed_at BETWEEN now() - interval '1 min' AND now() AS closed_then, was_closed FROM accounting_period WHERE status = 'closed';
SELECT * FROM sync.recognize_revenue('[2024-01-01,2024-02-01)');
SELECT * FROM sync.recognize_revenue('[2024-03-01,2024-04-01)', 'US');
SELECT * FROM sync.recognize_revenue('[2024-01-01,2024-02-01)', 'FR');
-- A month is recognized as a whole, once it has ended where the entity is.
SELECT * FROM sync.recognize_revenue('[2024-03-01,2024-03-02)', 'DE');
SELECT * FROM sync.recognize_revenue('[2024-02-15,2024-04-01)', 'DE');
\set VERBOSITY terse
SELECT sync.recognize_revenue(daterange('2024-01-01', (date_trunc('month', now() AT TIME ZONE 'Europe/Berlin') + interval '1 month')::date), 'DE');
\set VERBOSITY default
SELECT sync._check_months_ended('[2024-01-01,2024-02-01)', 'DE', '2024-01-31 22:59+00');
SELECT sync._check_months_ended('[2024-01-01,2024-02-01)', 'DE', '2024-01-31 23:00+00');
SELECT sync._check_months_ended('[2024-01-01,2024-02-01)', NULL, '2024-02-01 04:59+00');
SELECT sync._check_months_ended('[2024-01-01,2024-02-01)', NULL, '2024-02-01 05:00+00');
-- The period that counts is the one of the day on which it is posted.
BEGIN;
UPDATE accounting_period SET end_date = '2024-03-30', status = 'closed' WHERE start_date = '2024-03-01' AND legal_entity_id = u('DE');
UPDATE accounting_period SET start_date = '2024-03-31' WHERE start_date = '2024-04-01' AND legal_entity_id = u('DE');
SELECT month, currency, amount FROM sync.recognize_revenue('[2024-03-01,2024-04-01)', 'DE');
SELECT currency, posting_date, accounting_period FROM gl_entry WHERE posting_date = '2024-03-31' ORDER BY 1;
UPDATE accounting_period SET status = 'closed' WHERE start_date = '2024-03-31' AND legal_entity_id = u('DE');
SELECT * FROM sync.recognize_revenue('[2024-03-01,2024-04-01)', 'DE');
ROLLBACK;
SELECT legal_entity, currency, month, deferred_account, revenue_account, amount, lines FROM sync.recognize_revenue('[2024-01-01,2024-02-01)', 'US');
SELECT closed_at FROM accounting_period WHERE status = 'closed' \gset
UPDATE accounting_period SET status = 'open' WHERE start_date = '2024-01-01';
SELECT e.code, p.closed_at, lower(p.was_closed) = :'closed_at' AS from_then, upper(p.was_closed) BETWEEN now() - interval '1 min' AND clock_timestamp() AS until_now
  FROM accounting_period p JOIN legal_entity e ON e.id = p.legal_entity_id WHERE p.start_date = '2024-01-01' ORDER BY 1;
BEGIN;
UPDATE accounting_period SET status = 'closed', closed_at = '2024-02-03 10:00+00' WHERE start_date = '2024-01-01' AND legal_entity_id = u('DE') RETURNING closed_at;
UPDATE accounting_period SET status = 'soft_closed' WHERE start_date = '2024-01-01' AND legal_entity_id = u('DE') RETURNING closed_at, was_closed @> timestamptz '2024-02-04' AS was_closed;
ROLLBACK;
SELECT legal_entity, currency, month, deferred_account, revenue_account, amount, lines FROM sync.recognize_revenue('[2024-01-01,2024-03-01)');
SELECT * FROM sync.recognize_revenue('[2024-01-01,2024-03-01)');
SELECT e.code, g.posting_date, g.accounting_period, g.currency, g.fx_rate, g.status, l.account_code, l.debit, l.credit
  FROM gl_entry g JOIN legal_entity e ON e.id = g.legal_entity_id JOIN gl_entry_line l ON l.gl_entry_id = g.id WHERE g.memo LIKE 'Revenue recognized%'
 ORDER BY 1, 2, 4, l.line_no;
SELECT i.number, s.status FROM revenue_schedule s JOIN invoice_line n ON n.id = s.invoice_line_id JOIN invoice i ON i.id = n.invoice_id WHERE i.number <> 'I5' ORDER BY 1;

SELECT * FROM sync.deferred_rollforward('[2024-01-01,2024-02-01)');
SELECT * FROM sync.deferred_rollforward('[2024-02-01,2024-03-01)');
-- In the books' currency: I4 was billed at 0.9 and recognized at 0.8.
SELECT * FROM sync.deferred_rollforward('[2024-02-01,2024-03-01)', functional => true);
-- A rate that is missing is an error, of what was billed, of the ledger and of what is recognized; a journal without one counts at that of its day.
CREATE FUNCTION translated() RETURNS TABLE (currency text, recognized numeric, fx numeric, closing numeric, ledger numeric) LANGUAGE sql AS $$
    SELECT d.currency, d.recognized, d.fx, d.closing, d.ledger_balance FROM sync.deferred_rollforward('[2024-02-01,2024-03-01)', functional => true) d WHERE d.entity = 'DE' $$;
BEGIN;
SELECT * FROM translated();
SAVEPOINT here;
DELETE FROM fx_rate WHERE from_currency = 'JPY';
SELECT * FROM translated();
ROLLBACK TO here;
SET LOCAL session_replication_role = replica;
UPDATE gl_entry SET fx_rate = NULL WHERE currency <> 'EUR' AND memo LIKE 'Revenue recognized%';
SELECT * FROM translated();
SAVEPOINT here;
UPDATE invoice SET fx_rate = 0.0062 WHERE currency = 'JPY';
DELETE FROM fx_rate WHERE from_currency = 'JPY';
SELECT * FROM translated();
ROLLBACK TO here;
SET LOCAL session_replication_role = origin;
DELETE FROM fx_rate WHERE from_currency = 'JPY';
SELECT * FROM sync.recognize_revenue('[2024-03-01,2024-04-01)', 'DE');
ROLLBACK;
-- The closing of a month is the opening of the next, however it is cut.
SELECT count(*) AS rows, bool_and(a.closing = b.opening) AS ties, bool_and(w.closing = b.closing AND w.billed = a.billed + b.billed AND w.recognized = a.recognized + b.recognized) AS adds_up
  FROM sync.deferred_rollforward('[2024-01-01,2024-02-01)') a JOIN sync.deferred_rollforward('[2024-02-01,2024-03-01)') b USING (entity, currency, account)
  JOIN sync.deferred_rollforward('[2024-01-01,2024-03-01)') w USING (entity, currency, account);
-- A second schedule under the other standard counts once.
SELECT sync.build_revenue_schedules('[2024-01-01,2024-02-01)', 'ASC606') AS made;
SELECT billed, recognized, closing FROM sync.deferred_rollforward('[2024-01-01,2024-02-01)') WHERE currency = 'EUR';
SELECT billed, recognized, closing FROM sync.deferred_rollforward('[2024-01-01,2024-02-01)', 'ASC606') WHERE currency = 'EUR';
SELECT entity, currency, customers, invoices, total, erp_amount, difference, erp_unknown, ledger, ledger_difference FROM sync.ar_aging_tie_out('2024-02-29');

-- Payouts. O1: 100 - 40 - 20 less fees of 3.20 and 15. O2: dollars at 0.91 that are 0.90 by our rate; fifty cents short. O3 is still on its way.
INSERT INTO payout (id, legal_entity_id, number, currency, amount, arrival_date, bank_account_code, status)
VALUES (u('O1'), u('DE'), 'O1', 'EUR', 21.80, '2024-02-05', '1400', 'paid'), (u('O2'), u('DE'), 'O2', 'EUR', 44.00, '2024-02-12', '1400', 'paid'),
       (u('O3'), u('US'), 'O3', 'USD', 9.70, '2024-02-29', '1400', 'in_transit'), (u('O4'), u('DE'), 'O4', 'EUR', 1, '2024-03-01', '1400', 'paid');
INSERT INTO payment (id, customer_id, legal_entity_id, kind, status, amount, currency, settled_at)
VALUES (u('P4'), u('A'), u('DE'), 'charge', 'succeeded', 50, 'USD', '2024-02-08 10:00+00'), (u('P5'), u('A'), u('DE'), 'refund', 'succeeded', 40, 'EUR', '2024-02-02 10:00+00');
INSERT INTO balance_transaction (payout_id, payment_id, kind, gross_amount, fee_amount, net_amount, currency, fx_rate, occurred_at)
VALUES (u('O1'), u('P1'), 'charge', 100, 3.20, 96.80, 'EUR', NULL, '2024-02-01 10:00+00'), (u('O1'), u('P5'), 'refund', -40, 0, -40, 'EUR', NULL, '2024-02-02 10:00+00'),
       (u('O1'), u('P1'), 'dispute', -20, 15, -35, 'EUR', NULL, '2024-02-03 10:00+00'), (u('O2'), u('P4'), 'charge', 45.50, 0, 45.50, 'EUR', 0.91, '2024-02-08 10:00+00'),
       (u('O2'), NULL, 'fee', -1.50, 0, -1.50, 'EUR', NULL, '2024-02-09 10:00+00'), (u('O2'), NULL, 'adjustment', 0.50, 0, 0.50, 'EUR', NULL, '2024-02-09 10:00+00'),
       (u('O3'), NULL, 'charge', 10, 0.30, 9.70, 'USD', NULL, '2024-02-20 10:00+00');
BEGIN;
INSERT INTO gl_entry (id, legal_entity_id, number, posting_date, currency, status, source_object, source_id)
VALUES (u('GO1'), u('DE'), 'GO1', '2024-02-05', 'EUR', 'posted', 'payout', u('O1')), (u('GO2'), u('DE'), 'GO2', '2024-02-12', 'EUR', 'posted', 'payout', u('O2'));
INSERT INTO gl_entry_line (gl_entry_id, line_no, account_code, debit, credit)
VALUES (u('GO1'), 1, '1400', 21.79, 0), (u('GO1'), 2, '1360', 0, 21.79), (u('GO2'), 1, '1400', 44, 0), (u('GO2'), 2, '1360', 0, 44);
COMMIT;
SELECT entity, number, currency, status, transactions AS n, gross, refunds, disputes, adjustments, fx, fees, net, amount, difference, ledger, ledger_difference,
       gross + refunds + disputes + adjustments + fx - fees = net AS adds_up
  FROM sync.payout_reconciliation('[2024-02-01,2024-03-01)');

-- MRR. A: 100 from 10 January, 120 from 15 February; 30 from 20 January that 40 replaces on 20 February, ended with no rate.
-- D: 50, canceled at the end of February in UTC, in March in Berlin. E: 10, paused from 10 February to 5 March. F: 90, then 60.
INSERT INTO subscription (id, customer_id, legal_entity_id, number, status, start_date, canceled_at, currency, mrr)
VALUES (u('S1'), u('A'), u('DE'), 'S1', 'active', '2024-01-10', NULL, 'EUR', 120), (u('S2'), u('A'), u('DE'), 'S2', 'canceled', '2024-01-20', '2024-02-20 09:00+00', 'EUR', 0),
       (u('S3'), u('A'), u('DE'), 'S3', 'past_due', '2024-02-20', NULL, 'EUR', 40), (u('SD'), u('D'), u('DE'), 'SD', 'canceled', '2023-12-01', '2024-02-29 23:30+00', 'EUR', 50),
       (u('SE'), u('E'), u('DE'), 'SE', 'active', '2023-12-01', NULL, 'EUR', 10), (u('SF'), u('F'), u('DE'), 'SF', 'active', '2023-12-01', NULL, 'EUR', 60),
       (u('SU'), u('B'), u('US'), 'SU', 'active', '2024-01-05', NULL, 'USD', 33.333333), (u('ST'), u('C'), u('DE'), 'ST', 'trialing', '2024-01-05', NULL, 'EUR', 99);
INSERT INTO subscription_item (subscription_id, price_id, quantity) VALUES (u('S2'), u('month'), 3);
INSERT INTO amendment (subscription_id, kind, effective_at, status, delta_mrr)
VALUES (u('S1'), 'upgrade', '2024-02-15 09:00+00', 'applied', 20), (u('SE'), 'pause', '2024-02-10 09:00+00', 'applied', -10), (u('SE'), 'resume', '2024-03-05 09:00+00', 'applied', 10),
       (u('SF'), 'downgrade', '2024-02-20 09:00+00', 'applied', -30), (u('SF'), 'upgrade', '2024-02-21 09:00+00', 'rejected', 500);
SELECT lower(p) AS month, entity, currency, opening_mrr AS opening, new, expansion, contraction, churn, reactivation, fx, closing_mrr AS closing, closing_arr AS arr, customers AS n, invoiced_mrr AS invoiced, difference, subscription_mrr AS subs
  FROM unnest('{"[2024-01-01,2024-02-01)","[2024-02-01,2024-03-01)","[2024-03-01,2024-04-01)"}'::daterange[]) p, sync.mrr_waterfall(p) ORDER BY 1, 2, 3;
-- Today's rates of subscriptions are what the waterfall comes to.
SELECT entity, currency, closing_mrr = subscription_mrr AS ties FROM sync.mrr_waterfall(daterange(current_date, current_date + 1));
-- In one currency: dollars were 0.9 on the last of January, 0.8 on the last of February.
SELECT * FROM sync.mrr_waterfall('[2024-02-01,2024-03-01)', 'EUR') \gx
SELECT * FROM sync.mrr_waterfall('[2024-02-01,2024-03-01)', 'USD');
-- Invoices: a month of S1 at 100, and from 15 February the rest of it (24 of 29 days) at 120 instead.
INSERT INTO invoice (id, customer_id, legal_entity_id, subscription_id, number, status, issue_date, currency, net_amount, total_amount)
VALUES (u('I9'), u('A'), u('DE'), u('S1'), 'I9', 'open', '2024-02-10', 'EUR', 100, 100), (u('I10'), u('A'), u('DE'), u('S1'), 'I10', 'open', '2024-02-15', 'EUR', 16.55, 16.55);
INSERT INTO invoice_line (invoice_id, line_no, product_id, price_id, net_amount, service_start, service_end, proration)
VALUES (u('I9'), 1, u('seat'), u('month'), 100, '2024-02-10', '2024-03-09', false), (u('I10'), 1, u('seat'), u('month'), -82.76, '2024-02-15', '2024-03-09', true),
       (u('I10'), 2, u('seat'), u('month'), 99.31, '2024-02-15', '2024-03-09', true);
SELECT closing_mrr, invoiced_mrr, difference FROM sync.mrr_waterfall('[2024-02-01,2024-03-01)') WHERE currency = 'EUR';

-- Customers. A owes and has a past-due subscription; E has an urgent case, F a cancellation planned.
INSERT INTO support_case (customer_id, number, status, priority, opened_at) VALUES (u('E'), 'K1', 'open', 'urgent', '2024-02-05 10:00+00'), (u('F'), 'K2', 'open', 'low', '2024-02-05 10:00+00');
INSERT INTO service_status (customer_id, subscription_id, service_code, status) VALUES (u('B'), u('SU'), 'api', 'degraded');
UPDATE subscription SET cancel_at = '2099-01-01' WHERE number = 'SF';
SELECT entity, customer, currency, mrr, mrr_at_risk AS risk, past_due_mrr AS late, canceling_mrr AS canceling, overdue, support_cases AS cases, services_down AS down, reasons FROM sync.churn_exposure;
SELECT entity, customer, currency, revenue, credited, refunded, fees, contribution, mrr, support_cases AS cases FROM sync.customer_profitability('[2024-02-01,2024-03-01)') ORDER BY 1, 2, 3;

-- Figures are those of the entity's days, in whatever time zone somebody asks: what the ERP said at 06:00 UTC of 1 March came before
-- midnight in Los Angeles and after it in Berlin and New York, and 22:30 UTC of 2 May is 3 May in Berlin.
BEGIN;
INSERT INTO fx_rate (from_currency, to_currency, rate_date, rate, source) VALUES ('USD', 'EUR', '2024-05-02', 0.5, 'ECB'), ('USD', 'EUR', '2024-05-03', 0.4, 'ECB');
INSERT INTO legal_entity (id, code, name, functional_currency, timezone) VALUES (u('W'), 'W', 'Nordstern West', 'EUR', 'America/Los_Angeles');
INSERT INTO customer (id, number, name, legal_entity_id) VALUES (u('W'), 'W', 'Customer W', u('W'));
INSERT INTO invoice (id, customer_id, legal_entity_id, number, status, issue_date, due_date, currency, net_amount, total_amount)
VALUES (u('W1'), u('W'), u('W'), 'W1', 'open', '2024-02-20', '2024-05-31', 'EUR', 70, 70), (u('D1'), u('C'), u('DE'), 'D1', 'open', '2024-02-20', '2024-05-31', 'EUR', 80, 80);
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
SELECT y.id, o.id, i.id::text, 'r' || i.number FROM sync.system y, sync.object o, invoice i WHERE i.number IN ('W1', 'D1') AND o.name = 'invoice';
INSERT INTO sync.mirror_history (system_id, object_id, remote_id, at, fields)
SELECT y.id, o.id, r, t, jsonb_build_object('posting_status', 'posted', 'total_amount', 1000, 'amount_due', a)
  FROM sync.system y, sync.object o, unnest('{rW1,rD1}'::text[]) r, (VALUES ('2024-02-21 10:00+00'::timestamptz, 60), ('2024-03-01 06:00+00', 50)) h (t, a) WHERE o.name = 'invoice';
INSERT INTO payment (id, customer_id, legal_entity_id, kind, status, amount, currency, settled_at) VALUES (u('PX'), u('C'), u('DE'), 'charge', 'succeeded', 100, 'USD', '2024-05-02 22:30+00');
INSERT INTO payment_allocation (payment_id, invoice_id, amount, applied_at) VALUES (u('PX'), u('D1'), 100, '2024-05-02 22:30+00');
INSERT INTO payout (id, legal_entity_id, number, currency, amount, arrival_date, status) VALUES (u('OX'), u('DE'), 'OX', 'EUR', 41, '2024-05-06', 'in_transit');
INSERT INTO balance_transaction (payout_id, payment_id, kind, gross_amount, fee_amount, net_amount, currency, fx_rate, occurred_at)
VALUES (u('OX'), u('PX'), 'charge', 41, 0, 41, 'EUR', 0.41, '2024-05-02 22:30+00');
CREATE VIEW asked AS
SELECT (SELECT string_agg(concat_ws(' ', a.entity, a.customer, a.total, a.erp_amount), ', ' ORDER BY a.entity, a.customer) FROM sync.ar_aging('2024-02-29', 'erp') a WHERE a.customer IN ('W', 'C') AND a.currency = 'EUR') AS aged,
       (SELECT a.total FROM sync.ar_aging('2024-05-03') a WHERE a.customer = 'C' AND a.currency = 'EUR') AS open, (SELECT p.gross FROM sync.payout_reconciliation('[2024-05-01,2024-06-01)') p) AS gross;
SELECT * FROM asked;
SET TimeZone = 'Pacific/Kiritimati';
SELECT * FROM asked;
SET TimeZone = 'America/Los_Angeles';
SELECT * FROM asked;
ROLLBACK;

-- Who may ask: an analyst with the rights that the model gives him; nobody else.
SET client_min_messages = error;
CREATE ROLE rec_finance_analyst IN ROLE sync_analyst;
CREATE ROLE rec_finance_nobody;
RESET client_min_messages;
SET ROLE rec_finance_analyst;
SELECT count(*) AS aged FROM sync.ar_aging('2024-03-31');
SELECT count(*) AS tied FROM sync.ar_aging_tie_out('2024-03-31');
SELECT count(*) AS payouts FROM sync.payout_reconciliation('[2024-02-01,2024-03-01)');
SELECT count(*) AS accounts FROM sync.deferred_rollforward('[2024-02-01,2024-03-01)');
SELECT count(*) AS currencies FROM sync.mrr_waterfall('[2024-02-01,2024-03-01)', 'EUR');
SELECT count(*) AS exposed FROM sync.churn_exposure;
SELECT count(*) AS customers FROM sync.customer_profitability('[2024-02-01,2024-03-01)');
SELECT sync.build_revenue_schedules('[2024-02-01,2024-03-01)');
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'mine');
SELECT count(*) > 0 AS told FROM sync._mirrored_invoices(NULL, now());
-- where row security hides invoices, what the ERP said of them is hidden, too
RESET ROLE;
ALTER TABLE invoice ENABLE ROW LEVEL SECURITY;
SET ROLE rec_finance_analyst;
SELECT count(*) FROM sync._mirrored_invoices(NULL, now());
RESET ROLE;
ALTER TABLE invoice DISABLE ROW LEVEL SECURITY;
SET ROLE rec_finance_nobody;
SELECT count(*) FROM sync.ar_aging('2024-03-31');
RESET ROLE;
DROP ROLE rec_finance_analyst;
DROP ROLE rec_finance_nobody;
