-- The rules that come with the extension: over a healthy company each is silent; each fault that is planted
-- is found by its rule, with number, entity, month, currency, amount at risk and customer, and by no rule that
-- has nothing to say about it. The model stands in a schema of another name; its owner is no superuser.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_shipped;
DROP ROLE IF EXISTS shipped_owner;
CREATE DATABASE sync_rec_shipped;
\c sync_rec_shipped
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION sync_ext;
CREATE ROLE shipped_owner LOGIN IN ROLE sync_admin;
GRANT CREATE ON DATABASE sync_rec_shipped TO shipped_owner;
\set SHOW_CONTEXT never
\pset null '-'
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SET ROLE shipped_owner;
SELECT sync.create_canonical_model('My Books');
SELECT count(sync.track(format('"My Books".%I', t)::regclass))
  FROM unnest('{customer,subscription,invoice,credit_note,payment,payment_allocation,payout,balance_transaction,gl_entry,revenue_schedule}'::text[]) t;
RESET ROLE;
SELECT sync.register_connector('tryton') = 'tryton' AS registered;
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'tryton', base_url 'http://127.0.0.1:1/x', legal_entity 'DE', company '1', journal '1',
    receivable_account '1', revenue_account '1', tax_account '1');
SELECT count(sync.create_stream('erp', o)) FROM unnest('{invoice,credit_note,payment}'::text[]) o;
SET search_path = "My Books", pg_catalog;

-- ---- a healthy company ----
-- Ids by name, so that they can be told apart when something fails.
CREATE FUNCTION public.k(name text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT md5(name)::uuid$$;
SET search_path = "My Books", public, pg_catalog;
BEGIN;
INSERT INTO legal_entity (id, code, name, country, functional_currency, timezone) VALUES (k('DE'), 'DE', 'Nord GmbH', 'DE', 'EUR', 'Europe/Berlin'), (k('US'), 'US', 'Nord Inc', 'US', 'USD', 'America/New_York');
INSERT INTO accounting_period (legal_entity_id, start_date, end_date, status, closed_at) VALUES
    (k('DE'), '2026-06-01', '2026-06-30', 'closed', '2026-07-05 12:00+00'), (k('DE'), '2026-07-01', '2026-07-31', 'open', NULL);
INSERT INTO gl_account (code, name, class) VALUES ('1200', 'Receivables', 'asset'), ('3900', 'Deferred', 'liability'), ('8400', 'Revenue', 'revenue'), ('1776', 'Tax', 'liability');
INSERT INTO customer (id, number, name, currency, legal_entity_id) VALUES (k('C-1'), 'C-1', 'Aster', 'EUR', k('DE')), (k('C-2'), 'C-2', 'Birch', 'JPY', k('US'));
INSERT INTO product (id, code, name) VALUES (k('SEAT'), 'SEAT', 'Seat');
INSERT INTO price (id, product_id, code, currency, unit_price, billing_interval) VALUES (k('SEAT-EUR'), k('SEAT'), 'SEAT-EUR', 'EUR', 100, 'month');
-- S-1 runs since May, S-2 is in trial, S-3 was canceled at the end of May, S-4 is past due.
INSERT INTO subscription (id, customer_id, legal_entity_id, number, status, start_date, trial_end, current_period_start, current_period_end, canceled_at, currency, mrr)
SELECT k(v.number), k('C-1'), k('DE'), v.number, v.status, v.starts::date, v.trial::timestamptz, v.period::timestamptz, v.ends::timestamptz, v.canceled::timestamptz, 'EUR', 100
  FROM (VALUES ('S-1', 'active', '2026-05-01', NULL, '2026-07-01 Europe/Berlin', '2026-08-01 Europe/Berlin', NULL),
               ('S-2', 'trialing', '2026-06-01', '2099-01-01', '2026-06-01', '2099-01-01', NULL),
               ('S-3', 'canceled', '2026-05-01', NULL, '2026-05-01 Europe/Berlin', '2026-06-01 Europe/Berlin', '2026-06-01 Europe/Berlin'),
               ('S-4', 'past_due', '2026-05-01', NULL, '2026-05-01 Europe/Berlin', '2026-06-01 Europe/Berlin', NULL)) v (number, status, starts, trial, period, ends, canceled);
INSERT INTO subscription_item (id, subscription_id, price_id, quantity) SELECT k('item ' || s.number), s.id, k('SEAT-EUR'), 1 FROM subscription s;
-- I-1 to I-3: S-1 by the month; I-4 its upgrade in the middle of June; I-5 of S-3; I-6 in yen with an odd tax; P-1 proforma, D-1 a draft, V-1 voided: whatever
-- they say is nobody's business.
INSERT INTO invoice (id, customer_id, legal_entity_id, subscription_id, number, type, status, issue_date, due_date, service_start, service_end, posting_status, posting_date, currency,
                     net_amount, tax_amount, total_amount, amount_paid, amount_due)
SELECT k(v.number), k(v.customer), k(v.entity), k(v.subscription), v.number, v.type, v.status, v.starts::date, v.starts::date + 30, v.starts::date, v.ends::date, v.posting,
       CASE v.posting WHEN 'posted' THEN v.starts::date END, v.currency, v.net, v.tax, v.net + v.tax, CASE v.status WHEN 'paid' THEN v.net + v.tax ELSE 0 END, CASE v.status WHEN 'paid' THEN 0 ELSE v.net + v.tax END
  FROM (VALUES ('I-1', 'C-1', 'DE', 'S-1', 'standard', 'paid', '2026-05-01', '2026-05-31', 'posted', 'EUR', 100, 19),
               ('I-2', 'C-1', 'DE', 'S-1', 'standard', 'paid', '2026-06-01', '2026-06-30', 'posted', 'EUR', 100, 19),
               ('I-3', 'C-1', 'DE', 'S-1', 'standard', 'paid', '2026-07-01', '2026-07-31', 'posted', 'EUR', 200, 38),
               ('I-4', 'C-1', 'DE', 'S-1', 'standard', 'paid', '2026-06-16', '2026-06-30', 'posted', 'EUR', 50, 9.5),
               ('I-5', 'C-1', 'DE', 'S-3', 'standard', 'paid', '2026-05-01', '2026-05-31', 'posted', 'EUR', 100, 19),
               ('I-6', 'C-2', 'US', NULL, 'standard', 'paid', '2026-06-10', '2026-06-10', 'none', 'JPY', 1001, 100),
               ('P-1', 'C-1', 'DE', 'S-1', 'proforma', 'open', '2026-06-01', '2026-06-30', 'none', 'EUR', 7, 0),
               ('D-1', 'C-1', 'DE', 'S-1', 'standard', 'draft', '2026-06-01', '2026-06-30', 'none', 'EUR', 7, 0),
               ('V-1', 'C-1', 'DE', 'S-1', 'standard', 'void', '2026-06-01', '2026-06-30', 'none', 'EUR', 7, 0)) v (number, customer, entity, subscription, type, status, starts, ends, posting, currency, net, tax);
INSERT INTO invoice_line (id, invoice_id, line_no, product_id, price_id, quantity, net_amount, tax_amount, service_start, service_end, proration)
SELECT k('line ' || i.number), i.id, 1, k('SEAT'), k('SEAT-EUR'), 1, l.net, i.tax_amount, i.service_start, i.service_end, i.number = 'I-4'
  FROM invoice i, LATERAL (SELECT i.net_amount + CASE i.number WHEN 'I-4' THEN 50 ELSE 0 END) l (net) WHERE i.number LIKE 'I-%';
INSERT INTO invoice_line (id, invoice_id, line_no, net_amount, proration, description) VALUES (k('line I-4/2'), k('I-4'), 2, -50, true, 'unused time');
INSERT INTO payment (id, customer_id, legal_entity_id, kind, status, amount, currency, processor_ref, failure_code, attempted_at, settled_at, original_payment_id, posting_status, posting_date)
SELECT k('pay ' || i.number), i.customer_id, i.legal_entity_id, 'charge', 'succeeded', i.total_amount, i.currency, 'ch ' || i.number, NULL::text, i.issue_date + interval '12 hours', i.issue_date + interval '12 hours', NULL::uuid,
       i.posting_status, i.posting_date FROM invoice i WHERE i.status = 'paid'
UNION ALL SELECT k('try I-2'), k('C-1'), k('DE'), 'charge', 'failed', 119, 'EUR', 'ch try', 'card_declined', '2026-06-01 08:00', NULL, NULL, 'none', NULL
UNION ALL SELECT k('back I-2'), k('C-1'), k('DE'), 'refund', 'succeeded', 11.90, 'EUR', 're I-2', NULL, '2026-06-20 12:00', '2026-06-20 12:00', k('pay I-2'), 'posted', '2026-06-20';
INSERT INTO payment_allocation (id, payment_id, invoice_id, amount) SELECT k('use ' || i.number), k('pay ' || i.number), i.id, i.total_amount FROM invoice i WHERE i.status = 'paid';
INSERT INTO credit_note (id, invoice_id, customer_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_applied)
VALUES (k('N-1'), k('I-2'), k('C-1'), 'N-1', 'applied', '2026-06-20', 'EUR', 10, 1.90, 11.90, 11.90);
INSERT INTO credit_note_line (credit_note_id, line_no, net_amount, tax_amount) VALUES (k('N-1'), 1, 10, 1.90);
INSERT INTO payment_allocation (id, payment_id, credit_note_id, amount) VALUES (k('use N-1'), k('back I-2'), k('N-1'), 11.90);
INSERT INTO collection_case (id, customer_id, invoice_id, payment_id, opened_at) VALUES (k('case'), k('C-1'), k('I-2'), k('try I-2'), '2026-06-01 09:00');
INSERT INTO payout (id, legal_entity_id, number, currency, amount, arrival_date, status) VALUES (k('O-1'), k('DE'), 'O-1', 'EUR', 224.10, '2026-06-22', 'paid');
INSERT INTO balance_transaction (id, payout_id, payment_id, kind, gross_amount, fee_amount, net_amount, currency, occurred_at)
VALUES (k('T-1'), k('O-1'), k('pay I-1'), 'charge', 119, 1, 118, 'EUR', '2026-05-01'), (k('T-2'), k('O-1'), k('pay I-2'), 'charge', 119, 1, 118, 'EUR', '2026-06-01'), (k('T-3'), k('O-1'), k('back I-2'), 'refund', -11.90, 0, -11.90, 'EUR', '2026-06-20');
INSERT INTO tax_determination (id, invoice_id, provider, document_code, kind, status, tax_amount, currency)
SELECT k('tax ' || i.number), i.id, 'avalara', i.number, 'recorded', 'committed', i.tax_amount, i.currency FROM invoice i WHERE i.number LIKE 'I-%';
-- May and June are recognized, July is not.
INSERT INTO gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, status, posted_at) VALUES
    (k('R-5'), k('DE'), 'R-5', '2026-05-31', '2026-05-01', 'EUR', 'posted', '2026-06-01'), (k('R-6'), k('DE'), 'R-6', '2026-06-30', '2026-06-01', 'EUR', 'posted', '2026-07-01');
INSERT INTO gl_entry_line (gl_entry_id, line_no, account_code, debit, credit) VALUES (k('R-5'), 1, '3900', 200, 0), (k('R-5'), 2, '8400', 0, 200), (k('R-6'), 1, '3900', 200, 0), (k('R-6'), 2, '8400', 0, 200);
INSERT INTO revenue_schedule (id, invoice_line_id, legal_entity_id, method, currency, total_amount, start_date, end_date, status)
SELECT k('plan ' || i.number), l.id, i.legal_entity_id, 'straight_line', i.currency, l.net_amount, i.service_start, i.service_end, 'active' FROM invoice_line l JOIN invoice i ON i.id = l.invoice_id WHERE l.line_no = 1;
INSERT INTO revenue_schedule_line (id, schedule_id, period, amount, status, gl_entry_id, recognized_at)
SELECT k('part ' || i.number), k('plan ' || i.number), date_trunc('month', i.issue_date)::date, l.net_amount, CASE WHEN i.number IN ('I-3', 'I-6') THEN 'planned' ELSE 'recognized' END,
       CASE WHEN i.number IN ('I-3', 'I-6') THEN NULL WHEN i.issue_date < '2026-06-01' THEN k('R-5') ELSE k('R-6') END,
       CASE WHEN i.number NOT IN ('I-3', 'I-6') THEN date_trunc('month', i.issue_date) + interval '1 month' END FROM invoice i JOIN invoice_line l ON l.invoice_id = i.id AND l.line_no = 1;
INSERT INTO entitlement (id, subscription_id, customer_id, feature_code, status, valid_from, reason)
SELECT k('right ' || s.number), s.id, s.customer_id, 'seats', CASE s.status WHEN 'canceled' THEN 'revoked' WHEN 'past_due' THEN 'suspended' ELSE 'active' END, s.start_date, NULL FROM subscription s;
INSERT INTO entitlement (id, customer_id, feature_code, status, reason) VALUES (k('right by hand'), k('C-2'), 'beta', 'active', 'a favour');
INSERT INTO amendment (id, subscription_id, kind, effective_at, status, before, after, delta_mrr) VALUES (k('A-1'), k('S-1'), 'upgrade', '2026-06-16 10:00 Europe/Berlin', 'applied', '{"quantity": 1}', '{"quantity": 2}', 100);
-- What the ERP was last known to hold.
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id, remote_number)
SELECT sync._system_id('erp'), sync._object_id(d.object), d.id::text, d.remote, d.number
  FROM (SELECT 'invoice', i.id, 'i' || i.number, 'E' || i.number FROM invoice i WHERE i.legal_entity_id = k('DE') AND i.status = 'paid'
        UNION ALL SELECT 'payment', p.id, 'p' || p.processor_ref, NULL FROM payment p WHERE p.legal_entity_id = k('DE') AND p.status = 'succeeded'
        UNION ALL SELECT 'credit_note', n.id, 'n' || n.number, 'E' || n.number FROM credit_note n) d (object, id, remote, number);
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields)
SELECT x.system_id, x.object_id, x.remote_id, x.record_id,
       coalesce((SELECT jsonb_build_object('number', i.number, 'total_amount', i.total_amount, 'currency', i.currency, 'posting_status', 'posted', 'posting_date', i.issue_date, 'issue_date', i.issue_date) FROM invoice i WHERE i.id::text = x.record_id),
                (SELECT jsonb_build_object('amount', p.amount, 'currency', p.currency, 'posting_status', 'posted', 'posting_date', p.posting_date) FROM payment p WHERE p.id::text = x.record_id),
                (SELECT jsonb_build_object('number', n.number, 'total_amount', n.total_amount, 'currency', n.currency, 'status', 'posted', 'issue_date', n.issue_date) FROM credit_note n WHERE n.id::text = x.record_id))
  FROM sync.external_id x;
COMMIT;

-- ---- nothing is wrong ----
SELECT rule, found, error FROM sync.run_rules() WHERE found > 0 OR error IS NOT NULL;
SELECT count(*) AS silent, bool_and(r.state = 'done' AND r.in_transit = 0 AND r.explained = 0) AS all_done FROM sync.reconciliation r;
SELECT run_as, count(*) = (SELECT count(*) FROM sync.reconciliation) AS all_ran FROM sync.rule WHERE shipped GROUP BY run_as;
SELECT rule, lacks FROM sync.rule WHERE lacks IS NOT NULL;

-- ---- each fault ----
-- All rules over the fault; what they find. Nothing of it stays.
CREATE FUNCTION public.found() RETURNS TABLE (rule text, object text, number text, system text, remote text, field text, ours jsonb, theirs jsonb, difference numeric, currency text, at_risk numeric,
                                              entity text, period date, customer text, detail text)
LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT string_agg(format('%s: %s', r.rule, r.error), '; ') INTO wrong FROM sync.run_rules() r WHERE r.error IS NOT NULL;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', wrong;
    END IF;
    RETURN QUERY SELECT b.kind, b.object, b.record_number, b.system, b.remote_id, b.field, b.ours, b.theirs, b.difference, b.currency, b.at_risk, b.entity, b.period, b.customer, b.detail
                   FROM sync.break_entry b WHERE b.status = 'open' ORDER BY b.kind, b.record_number, b.field, b.period, b.remote_id;
END
$$;
-- Past all triggers, as a restore or a script would.
\set plant 'BEGIN; SET LOCAL session_replication_role = replica;'
\set look 'SELECT * FROM found(); ROLLBACK;'
\pset expanded auto
\pset columns 1000

-- period_billed: a month in the middle and the end are missing; a month before the first; the trial counts for nothing.
:plant DELETE FROM payment_allocation WHERE invoice_id = k('I-2'); UPDATE invoice SET status = 'void' WHERE number = 'I-2'; SELECT rule, number, field, currency, at_risk, entity, period, customer, detail FROM found() WHERE rule = 'period_billed'; ROLLBACK;
:plant UPDATE invoice SET service_start = '2026-02-01' WHERE number = 'I-5'; UPDATE subscription SET start_date = '2026-02-15' WHERE number = 'S-1'; :look
:plant UPDATE subscription SET start_date = '2026-02-15' WHERE number = 'S-1'; :look
:plant UPDATE invoice SET service_start = '2026-02-01' WHERE number = 'I-5'; UPDATE subscription SET start_date = '2026-02-15', trial_end = '2026-05-01 Europe/Berlin' WHERE number = 'S-1'; :look
-- What was before the first bill that is known is not seen; a gap after it is, wherever the start is said to be.
:plant UPDATE invoice SET status = 'void' WHERE number = 'I-1'; UPDATE subscription SET start_date = '2026-02-15' WHERE number = 'S-1'; SELECT rule, number, field, currency, at_risk, entity, period, customer, detail FROM found() WHERE rule = 'period_billed'; ROLLBACK;
-- Of an entity without any bill, what has passed since the hub knows of the subscription.
:plant INSERT INTO legal_entity (id, code, name, functional_currency, timezone) VALUES (k('FR'), 'FR', 'Nord SARL', 'EUR', 'Europe/Paris');
INSERT INTO subscription (id, customer_id, legal_entity_id, number, status, start_date, current_period_start, current_period_end, currency, mrr, created_at)
VALUES (k('S-9'), k('C-1'), k('FR'), 'S-9', 'active', '2026-04-15', '2026-07-15 Europe/Paris', '2026-08-15 Europe/Paris', 'EUR', 100, '2026-06-15 12:00 Europe/Paris');
INSERT INTO subscription_item (subscription_id, price_id, quantity) VALUES (k('S-9'), k('SEAT-EUR'), 1);
SELECT rule, number, field, currency, at_risk, entity, period, customer, detail FROM found() WHERE rule = 'period_billed'; ROLLBACK;
-- Nothing is due while it rests, nor for what was before the first bill that is known.
:plant DELETE FROM payment_allocation WHERE invoice_id IN (k('I-2'), k('I-4')); DELETE FROM invoice_line WHERE invoice_id IN (k('I-2'), k('I-4')); DELETE FROM invoice WHERE number IN ('I-2', 'I-4');
INSERT INTO amendment (subscription_id, kind, effective_at, status, attrs) VALUES (k('S-1'), 'pause', '2026-06-01 00:00 Europe/Berlin', 'applied', '{"origin": "billing"}'), (k('S-1'), 'resume', '2026-06-21 00:00 Europe/Berlin', 'applied', '{"origin": "billing"}');
SELECT rule, number, field, at_risk, detail FROM found() WHERE rule = 'period_billed'; ROLLBACK;
-- billed_once, unless the first was credited in full.
:plant INSERT INTO invoice SELECT (jsonb_populate_record(i, '{"id": "00000000-0000-0000-0000-000000000001", "number": "I-2B", "issue_date": "2026-06-03"}')).* FROM invoice i WHERE i.number = 'I-2';
INSERT INTO invoice_line SELECT (jsonb_populate_record(l, '{"id": "00000000-0000-0000-0000-000000000002", "invoice_id": "00000000-0000-0000-0000-000000000001"}')).* FROM invoice_line l WHERE l.id = k('line I-2');
SELECT rule, number, ours, theirs, currency, at_risk, entity, period, customer, detail FROM found() WHERE rule = 'billed_once';
UPDATE credit_note SET total_amount = 119 WHERE number = 'N-1';
SELECT count(*) FROM found() WHERE rule = 'billed_once'; ROLLBACK;
-- line_sums: net, tax, total, no lines at all; yen have no cents; of a credit note, too.
:plant UPDATE invoice_line SET net_amount = net_amount + 0.01 WHERE id = k('line I-2'); :look
:plant UPDATE invoice_line SET net_amount = net_amount + 0.004 WHERE id = k('line I-6'); :look
:plant UPDATE invoice_line SET tax_amount = tax_amount - 1 WHERE id = k('line I-6'); :look
:plant UPDATE invoice SET total_amount = total_amount + 0.01, amount_due = 0.01 WHERE number = 'I-2'; :look
:plant DELETE FROM credit_note_line; :look
-- allocations_within_payment: too much, of one that failed, of a credit note.
:plant UPDATE payment_allocation SET amount = amount + 100 WHERE id = k('use I-1'); :look
:plant UPDATE payment SET status = 'failed' WHERE id = k('pay I-1'); :look
:plant INSERT INTO payment_allocation (credit_note_id, invoice_id, amount) VALUES (k('N-1'), k('I-3'), 12); :look
-- invoice_paid and amount_due
:plant DELETE FROM payment_allocation WHERE id = k('use I-1'); :look
:plant UPDATE invoice SET amount_due = 1 WHERE number = 'I-1'; :look
-- credits_within_invoice, refunds_within_payment
:plant UPDATE credit_note SET total_amount = 119.01, net_amount = 117.11 WHERE number = 'N-1'; UPDATE credit_note_line SET net_amount = 117.11; UPDATE sync.mirror SET fields = fields || '{"total_amount": 119.01}' WHERE remote_id = 'nN-1'; :look
:plant UPDATE payment SET amount = 120 WHERE id = k('back I-2'); UPDATE sync.mirror SET fields = fields || '{"amount": 120}' WHERE remote_id = 'pre I-2'; :look
-- payout_sums: short, a movement lost, another currency; one that failed is none.
:plant UPDATE payout SET amount = amount - 10; :look
:plant DELETE FROM balance_transaction; :look
:plant UPDATE balance_transaction SET currency = 'USD' WHERE id = k('T-1'); :look
:plant UPDATE payout SET amount = amount - 10, status = 'failed'; :look
-- currency_agrees
:plant UPDATE invoice SET currency = 'USD' WHERE number = 'I-1'; :look
-- What was credited or paid in another currency is told in that one, and added to nothing.
:plant INSERT INTO credit_note (id, invoice_id, customer_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount)
SELECT k(v.number), i.id, i.customer_id, v.number, 'posted', '2026-06-02', v.currency, v.amount, 0, v.amount
  FROM invoice i, (VALUES ('N-7', 'EUR', 110), ('N-8', 'USD', 5), ('N-9', 'JPY', 500)) v (number, currency, amount) WHERE i.number = 'I-2';
SELECT rule, number, field, ours, theirs, difference, currency, at_risk, detail FROM found() WHERE rule IN ('credits_within_invoice', 'currency_agrees'); ROLLBACK;
-- voided_after_posting: unless it was credited.
:plant UPDATE invoice SET status = 'void', voided_at = '2026-05-20' WHERE number = 'I-5'; UPDATE tax_determination SET status = 'voided' WHERE invoice_id = k('I-5'); DELETE FROM revenue_schedule WHERE id = k('plan I-5');
UPDATE revenue_schedule_line SET schedule_id = k('plan I-1') WHERE id = k('part I-5'); UPDATE revenue_schedule SET total_amount = 200 WHERE id = k('plan I-1'); UPDATE invoice_line SET net_amount = 200 WHERE id = k('line I-1');
SELECT rule, number, system, remote, field, ours, theirs, currency, at_risk, entity, period, customer, detail FROM found() WHERE rule IN ('voided_after_posting', 'invoice_in_erp', 'committed_tax'); ROLLBACK;
-- paid_before_posted
:plant UPDATE invoice SET posting_status = 'draft', posting_date = NULL WHERE number = 'I-1'; :look
:plant UPDATE invoice SET posting_date = '2026-05-03' WHERE number = 'I-1'; :look

-- invoice_in_erp: gone there, never there, another amount, currency, state, period.
:plant UPDATE sync.mirror SET deleted = true WHERE remote_id = 'iI-1'; :look
:plant DELETE FROM sync.external_id WHERE remote_id = 'iI-1'; DELETE FROM sync.mirror WHERE remote_id = 'iI-1'; :look
:plant UPDATE sync.mirror SET fields = fields || '{"total_amount": 119.01}' WHERE remote_id = 'iI-1'; :look
:plant UPDATE sync.mirror SET fields = fields || '{"currency": "USD"}' WHERE remote_id = 'iI-1'; :look
:plant UPDATE sync.mirror SET fields = fields || '{"posting_status": "draft", "posting_date": null}' WHERE remote_id = 'iI-1'; :look
:plant UPDATE sync.mirror SET fields = fields || '{"posting_date": "2026-06-02"}' WHERE remote_id = 'iI-1'; :look
-- Bound, and never read; read up to before that, it may come.
:plant UPDATE sync.mirror SET fields = '{}' WHERE remote_id = 'iI-1'; UPDATE sync.stream_cursor SET read_until = clock_timestamp(); :look
:plant UPDATE sync.mirror SET fields = '{}' WHERE remote_id = 'iI-1'; :look
-- A move that was approved explains it, and nothing else.
:plant UPDATE sync.mirror SET fields = fields || '{"posting_date": "2026-06-02", "total_amount": 120}' WHERE remote_id = 'iI-1';
INSERT INTO sync.period_move (object_id, record_id, original_date, original_period, posted_date, posted_period, approval_id)
SELECT sync._object_id('invoice'), k('I-1'), '2026-05-01', '2026-05-01', '2026-06-01', '2026-06-01', 77; SELECT * FROM found();
SELECT field, status, explanation FROM sync.break_entry WHERE kind = 'invoice_in_erp' ORDER BY 1; ROLLBACK;
-- payment_in_erp, credit_note_in_erp
:plant DELETE FROM sync.external_id WHERE remote_id IN ('pch I-1', 'nN-1'); DELETE FROM sync.mirror WHERE remote_id IN ('pch I-1', 'nN-1'); :look
:plant UPDATE sync.mirror SET fields = fields || '{"amount": 1}' WHERE remote_id = 'pre I-2'; :look

-- schedules_complete: none, of another amount, lines short. One of yesterday has time.
:plant DELETE FROM revenue_schedule_line WHERE id = k('part I-3'); DELETE FROM revenue_schedule WHERE id = k('plan I-3'); :look
:plant UPDATE invoice SET issue_date = current_date - 1 WHERE number = 'I-6'; DELETE FROM revenue_schedule_line WHERE id = k('part I-6'); DELETE FROM revenue_schedule WHERE id = k('plan I-6'); :look
:plant UPDATE revenue_schedule_line SET amount = amount - 1 WHERE id = k('part I-3'); :look
-- recognized_plus_deferred: a journal of another amount; recognized without a journal.
:plant UPDATE gl_entry_line SET debit = debit * 2, credit = credit * 2 WHERE gl_entry_id = k('R-5'); :look
:plant UPDATE revenue_schedule_line SET gl_entry_id = NULL WHERE id = k('part I-5'); :look
-- recognized_in_time: before the service, before its month, after the close.
:plant UPDATE revenue_schedule_line SET recognized_at = '2026-04-20' WHERE id = k('part I-1'); :look
:plant UPDATE revenue_schedule_line SET recognized_at = '2026-06-20', status = 'recognized', gl_entry_id = k('R-5') WHERE id = k('part I-3'); UPDATE gl_entry_line SET debit = debit * 2, credit = credit * 2 WHERE gl_entry_id = k('R-5'); :look
:plant UPDATE revenue_schedule_line SET period = '2026-07-01' WHERE id = k('part I-1'); :look
:plant UPDATE gl_entry SET posted_at = '2026-07-20' WHERE id = k('R-6'); :look
-- Whatever else was written to the period since. Between its opening and its closing again it was open, before and after it was not.
:plant UPDATE gl_entry SET posted_at = '2026-07-20' WHERE id = k('R-6'); UPDATE accounting_period SET attrs = '{"note": 1}', updated_at = '2026-08-01' WHERE status = 'closed'; SELECT rule, number, period FROM found(); ROLLBACK;
\set reopened 'UPDATE accounting_period SET closed_at = ''2026-07-21'', was_closed = ''{[2026-07-05 12:00+00,2026-07-19)}'' WHERE start_date = ''2026-06-01'';'
:plant UPDATE gl_entry SET posted_at = '2026-07-20' WHERE id = k('R-6'); :reopened SELECT rule, number, period FROM found(); ROLLBACK;
:plant UPDATE gl_entry SET posted_at = '2026-07-18' WHERE id = k('R-6'); :reopened SELECT rule, number, period FROM found(); ROLLBACK;
:plant UPDATE gl_entry SET posted_at = '2026-07-22' WHERE id = k('R-6'); :reopened UPDATE accounting_period SET status = 'open', closed_at = NULL; SELECT rule, number, period FROM found(); ROLLBACK;
:plant UPDATE revenue_schedule_line SET gl_entry_id = NULL, recognized_at = '2026-07-20' WHERE id = k('part I-2'); SELECT rule, number, field, period, detail FROM found() WHERE rule = 'recognized_in_time'; ROLLBACK;
-- Two standards are two books; credited in full, a schedule may be gone.
:plant INSERT INTO revenue_schedule SELECT (jsonb_populate_record(s, '{"id": "00000000-0000-0000-0000-000000000003", "standard": "ASC606"}')).* FROM revenue_schedule s WHERE s.id = k('plan I-3');
INSERT INTO revenue_schedule_line (schedule_id, period, amount) VALUES ('00000000-0000-0000-0000-000000000003', '2026-07-01', 200); SELECT * FROM found();
UPDATE revenue_schedule_line SET amount = 150 WHERE schedule_id = '00000000-0000-0000-0000-000000000003'; :look
:plant INSERT INTO credit_note (invoice_id, customer_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount) VALUES (k('I-3'), k('C-1'), 'N-3', 'posted', '2026-07-02', 'EUR', 200, 38, 238);
UPDATE revenue_schedule SET status = 'canceled' WHERE id = k('plan I-3'); SELECT rule, object, number FROM found(); ROLLBACK;
-- journals_balance
:plant UPDATE gl_entry_line SET debit = debit + 5 WHERE gl_entry_id = k('R-5') AND line_no = 1; :look
-- committed_tax: another amount, none, voided and committed.
:plant UPDATE tax_determination SET tax_amount = 20 WHERE invoice_id = k('I-1'); :look
:plant UPDATE tax_determination SET status = 'saved' WHERE invoice_id = k('I-1'); :look
:plant UPDATE tax_determination SET currency = 'USD' WHERE invoice_id = k('I-1'); :look

-- entitlement_paid: past due, overdue; allowed until.
:plant UPDATE entitlement SET status = 'active' WHERE id = k('right S-4'); :look
:plant UPDATE entitlement SET status = 'active', attrs = '{"allowed_until": "2099-12-31"}' WHERE id = k('right S-4'); :look
:plant UPDATE entitlement SET status = 'active', attrs = '{"allowed_until": "2020-12-31"}' WHERE id = k('right S-4'); :look
:plant UPDATE invoice SET status = 'partially_paid', amount_paid = 100, amount_due = 19 WHERE number = 'I-1'; UPDATE payment_allocation SET amount = 100 WHERE id = k('use I-1'); :look
-- canceled_revoked
:plant UPDATE entitlement SET status = 'active' WHERE id = k('right S-3'); :look
-- failure_collected
:plant DELETE FROM collection_case; :look
-- amendment_arrived: in force, no line since, not sent.
:plant INSERT INTO amendment (id, subscription_id, kind, effective_at, status, before, after, delta_mrr) VALUES (k('A-2'), k('S-1'), 'downgrade', '2026-07-20', 'applied', '{"quantity": 2}', '{"quantity": 1}', -100); :look
-- bound_once: two of ours share a number; the mirror knows another.
:plant UPDATE sync.external_id SET remote_number = 'EI-2' WHERE remote_id = 'iI-1'; :look
:plant UPDATE sync.mirror SET record_id = k('I-2')::text WHERE remote_id = 'iI-1'; :look
-- no_orphans: ours is gone; nobody's is there.
:plant DELETE FROM payment_allocation WHERE payment_id = k('pay I-6'); DELETE FROM payment WHERE id = k('pay I-6'); UPDATE invoice SET amount_paid = 0, amount_due = 1101, status = 'open' WHERE number = 'I-6';
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) VALUES (sync._system_id('erp'), sync._object_id('payment'), k('pay I-6'), 'p9');
INSERT INTO sync.mirror (system_id, object_id, remote_id, fields) VALUES (sync._system_id('erp'), sync._object_id('invoice'), 'i9', '{"number": "X-9", "total_amount": 5, "currency": "EUR", "issue_date": "2026-05-09"}'); :look

-- ---- nothing is wrong any more ----
SELECT rule, found, error FROM sync.run_rules() WHERE found > 0 OR error IS NOT NULL;
-- A period looks at its months only.
:plant UPDATE invoice_line SET net_amount = net_amount + 1 WHERE id IN (k('line I-1'), k('line I-3'));
SELECT rule, found FROM sync.run_rules('[2026-05-01,2026-06-01)', '{line_sums}'); SELECT rule, found FROM sync.run_rules(names => '{line_sums}'); ROLLBACK;

-- On its way is no break, and what the route leaves out is none either. A delivery that failed is not on its way.
DELETE FROM sync.external_id WHERE remote_id IN ('iI-1', 'iI-5');
DELETE FROM sync.mirror WHERE remote_id IN ('iI-1', 'iI-5');
SELECT sync.create_route('erp', 'invoice', $$number <> 'I-5'$$) AS route \gset
UPDATE invoice SET po_number = 'PO 1' WHERE number = 'I-1';
SELECT * FROM found();
SELECT in_transit FROM sync.reconciliation WHERE source = 'rule:invoice_in_erp' ORDER BY id DESC LIMIT 1;
SELECT query FROM sync.rule WHERE rule = 'invoice_in_erp' \gset
SELECT record_number, class, delivery = :'route' || '/' || (SELECT max(seq) FROM sync.outbox) AS named FROM (:query) q;
INSERT INTO sync.pending (route_id, seq, event_at, object_id, record_id, op, origin, state, incarnation)
SELECT :route, e.seq, e.at, e.object_id, e.record_id, e.op, e.origin, 'dead', e.incarnation FROM sync.outbox e WHERE e.record_id = k('I-1')::text ORDER BY e.seq DESC LIMIT 1;
SELECT record_number, class, delivery IS NOT NULL AS named, detail FROM (:query) q;
-- Nor what was before the cut-over.
UPDATE sync.route SET condition = NULL, cutover_date = '2026-05-02';
SELECT record_number, class FROM (:query) q;

-- Rights: the owner of the tables must be able to read what systems say.
REVOKE sync_admin FROM shipped_owner;
SELECT rule, error FROM sync.run_rules(names => '{invoice_in_erp,line_sums}');

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_shipped;
DROP ROLE shipped_owner;
