-- Repairs of the hub's own books and rights: found by the shipped rules, shown, approved, done, found no more.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_repair_books;
CREATE DATABASE sync_rec_repair_books;
\c sync_rec_repair_books
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT current_user AS super \gset
SELECT sync.create_canonical_model() IS NOT NULL AS model;
DROP ROLE IF EXISTS rec_second;
CREATE ROLE rec_second SUPERUSER LOGIN IN ROLE sync_approver;
RESET client_min_messages;
SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{legal_entity,customer,invoice,credit_note,payment,gl_entry,revenue_schedule,subscription}'::text[]) t;

CREATE SCHEMA rec;
-- A company whose January 2025 is closed.
INSERT INTO canonical.legal_entity (id, code, name, country, functional_currency, timezone)
    VALUES ('00000000-0000-4000-8000-0000000000e1', 'DE', 'Nord', 'DE', 'EUR', 'Europe/Berlin');
INSERT INTO canonical.accounting_period (legal_entity_id, start_date, end_date, status)
    SELECT e.id, m::date, (m + interval '1 month')::date - 1, CASE WHEN m < '2025-02-01' THEN 'closed' ELSE 'open' END
      FROM canonical.legal_entity e, generate_series('2025-01-01'::timestamp, '2025-12-01', '1 month') m;
INSERT INTO canonical.gl_account (code, name, class) VALUES ('1200', 'Receivables', 'asset'), ('1776', 'Tax', 'liability'), ('3900', 'Deferred', 'liability'), ('8400', 'Revenue', 'revenue');
INSERT INTO canonical.fx_rate (from_currency, to_currency, rate_date, rate, source) VALUES ('USD', 'EUR', '2025-01-01', 0.9, 'ECB');
INSERT INTO canonical.product (id, code, name, kind, revenue_account, deferred_account)
    VALUES ('00000000-0000-4000-8000-0000000000d1', 'SEAT', 'Seat', 'service', '8400', '3900');
INSERT INTO canonical.customer (id, number, name, status, legal_entity_id)
    VALUES ('00000000-0000-4000-8000-0000000000c1', 'C1', 'Ada', 'active', '00000000-0000-4000-8000-0000000000e1');
CREATE FUNCTION rec.id(kind text, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT md5(kind || n)::uuid$$;
-- Invoice n, of 2025-01-01 over three months: 90.00 net, 17.10 tax.
CREATE PROCEDURE rec.bill(n int, status text DEFAULT 'open', currency text DEFAULT 'EUR') LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO canonical.invoice (id, customer_id, legal_entity_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_due)
        VALUES (rec.id('invoice', n), '00000000-0000-4000-8000-0000000000c1', '00000000-0000-4000-8000-0000000000e1', 'I' || n, 'draft', '2025-01-01', currency, 90, 17.1, 107.1, 107.1);
    INSERT INTO canonical.invoice_line (id, invoice_id, line_no, product_id, description, quantity, unit_price, net_amount, tax_amount, service_start, service_end)
        VALUES (rec.id('line', n), rec.id('invoice', n), 1, '00000000-0000-4000-8000-0000000000d1', 'Seats', 3, 30, 90, 17.1, '2025-01-01', '2025-03-31');
    UPDATE canonical.invoice i SET status = bill.status WHERE i.id = rec.id('invoice', n);
END $$;
-- A journal of one month's revenue, and what the schedules of invoices say that it recognized.
CREATE PROCEDURE rec.recognize(n int, period date, amount numeric) LANGUAGE sql AS $$
    INSERT INTO canonical.gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, status, posted_at)
        VALUES (rec.id('journal', n), '00000000-0000-4000-8000-0000000000e1', 'R' || n, period + 20, period, 'EUR', 'posted', period + 20);
    INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit)
        VALUES (rec.id('journal', n), 1, '3900', amount, 0), (rec.id('journal', n), 2, '8400', 0, amount);
$$;
CREATE PROCEDURE rec.schedule(n int, VARIADIC amounts numeric[]) LANGUAGE sql AS $$
    INSERT INTO canonical.revenue_schedule (id, invoice_line_id, legal_entity_id, currency, total_amount, start_date, end_date, status)
        SELECT rec.id('schedule', n), rec.id('line', n), '00000000-0000-4000-8000-0000000000e1', 'EUR', sum(a), '2025-01-01', '2025-03-31', 'active' FROM unnest(amounts) a;
    INSERT INTO canonical.revenue_schedule_line (id, schedule_id, period, amount)
        SELECT rec.id('part' || n || '.', u.k::int), rec.id('schedule', n), ('2025-01-01'::date + (u.k - 1) * interval '1 month')::date, u.a FROM unnest(amounts) WITH ORDINALITY u (a, k);
$$;
CREATE FUNCTION rec.found(VARIADIC rules text[]) RETURNS TABLE (rule text, number text, detail text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM sync.run_rules(names => rules);
    RETURN QUERY SELECT b.kind, b.record_number, b.detail FROM sync.reconciliation_break b WHERE b.status = 'open' AND b.kind = ANY (rules) ORDER BY 1, 2, 3;
END $$;
CREATE FUNCTION rec.the(rule text, number text) RETURNS bigint LANGUAGE sql AS $$
    SELECT min(b.id) FROM sync.break_entry b WHERE b.kind = rule AND b.record_number = number AND b.status = 'open' $$;
CREATE VIEW rec.schedules AS
    SELECT i.number, r.status AS schedule, r.total_amount, p.period, p.amount, p.status, g.number AS journal FROM canonical.revenue_schedule r JOIN canonical.invoice_line l ON l.id = r.invoice_line_id
      JOIN canonical.invoice i ON i.id = l.invoice_id LEFT JOIN canonical.revenue_schedule_line p ON p.schedule_id = r.id LEFT JOIN canonical.gl_entry g ON g.id = p.gl_entry_id ORDER BY i.number, p.period, p.amount;

-- ---- revenue schedules ----

-- I1: no schedule, and February's journal has recognized its share. I2: a line lost a euro that the journal has. I3: planned over
-- 80. I4: recognized without a journal, before its time. I5: as it should be.
CALL rec.bill(1); CALL rec.bill(2); CALL rec.bill(3); CALL rec.bill(4); CALL rec.bill(5);
CALL rec.recognize(1, '2025-02-01', 28 + 28 + 28);
CALL rec.schedule(2, 31, 28, 31); CALL rec.schedule(3, 30, 20, 30); CALL rec.schedule(4, 31, 28, 31); CALL rec.schedule(5, 31, 28, 31);
UPDATE canonical.revenue_schedule_line SET status = 'recognized', gl_entry_id = rec.id('journal', 1), recognized_at = '2025-02-21' WHERE id IN (rec.id('part2.', 2), rec.id('part5.', 2));
UPDATE canonical.revenue_schedule_line SET status = 'recognized', recognized_at = '2024-12-20' WHERE id = rec.id('part4.', 3);
SET session_replication_role = replica;
UPDATE canonical.revenue_schedule_line SET amount = amount - 1 WHERE id = rec.id('part2.', 2);
RESET session_replication_role;
SELECT * FROM rec.found('schedules_complete', 'recognized_in_time');
SELECT rec.the('schedules_complete', 'I1/1') AS i1, rec.the('schedules_complete', 'I2/1') AS i2, rec.the('schedules_complete', 'I3/1') AS i3, rec.the('recognized_in_time', 'I4') AS i4 \gset
-- What is of January goes into February, which takes postings. Each is approved by somebody else.
SELECT step, action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request, detail FROM sync.repair(:i1, options => '{"day": "2025-02-01"}');
SELECT action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request FROM sync.repair(:i2, options => '{"day": "2025-02-10"}');
SELECT action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request FROM sync.repair(:i3, options => '{"day": "2025-01-10"}');
SELECT action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request FROM sync.repair(:i4, options => '{"day": "2025-02-01"}');
SELECT action FROM sync.repair(:i1, false, reason => 'lost', options => '{"day": "2025-02-10"}');
SELECT action FROM sync.repair(:i2, false, reason => 'altered', options => '{"day": "2025-02-10"}');
SELECT action FROM sync.repair(:i3, false, reason => 'forgotten', options => '{"day": "2025-02-10"}');
SELECT action FROM sync.repair(:i4, false, reason => 'too early', options => '{"day": "2025-02-10"}');
SELECT * FROM sync.repair(:i1, remedy => 'suspend');
SELECT * FROM sync.repair(:i1, options => '{"standard": "HGB"}');
SELECT * FROM sync.repair(:i1, options => '{"day": "yesterday"}');
-- What another system owns is corrected there.
SELECT sync.register_connector('{"manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "objects": {"customer": {"push": {"operations": {
    "create": {"method": "POST", "path": "/c", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}}}}}'::jsonb);
CREATE SERVER books FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
BEGIN;
INSERT INTO sync.owner (object_id, field, system_id, on_violation) VALUES (sync._object_id('revenue_schedule'), '*', sync._system_id('books'), 'reject');
SELECT * FROM sync.repair(:i1);
ROLLBACK;
\c - rec_second
SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo';
SELECT a.id, a.operation, a.policy, sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a ORDER BY a.id;
\c - :super
\pset null '-'
SELECT * FROM rec.schedules;
SELECT count(*) FROM sync.run_rules(names => '{schedules_complete,recognized_in_time}') WHERE found > 0;
SELECT action, detail ->> 'remedy' AS remedy, reason FROM sync.audit WHERE action = 'break.repaired' ORDER BY id;

-- ---- a voided invoice: revenue, journals, tax ----

-- I6 was booked, its January and February recognized, its tax committed; then billing voided it.
CALL rec.bill(6);
CALL rec.recognize(6, '2025-02-01', 59);
CALL rec.schedule(6, 31, 28, 31);
UPDATE canonical.revenue_schedule_line SET status = 'recognized', gl_entry_id = rec.id('journal', 6), recognized_at = '2025-02-21' WHERE id IN (rec.id('part6.', 1), rec.id('part6.', 2));
BEGIN;
INSERT INTO canonical.gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, source_object, source_id, status, posted_at)
    VALUES (rec.id('journal', 66), '00000000-0000-4000-8000-0000000000e1', 'B6', '2025-01-01', '2025-01-01', 'EUR', 'invoice', rec.id('invoice', 6), 'posted', '2025-01-01');
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit)
    VALUES (rec.id('journal', 66), 1, '1200', 107.1, 0), (rec.id('journal', 66), 2, '3900', 0, 90), (rec.id('journal', 66), 3, '1776', 0, 17.1);
COMMIT;
INSERT INTO canonical.tax_determination (id, invoice_id, provider, document_code, kind, status, tax_amount, currency)
    SELECT rec.id('tax', n), rec.id('invoice', n), 'avalara', 'I' || n, 'recorded', 'committed', CASE n WHEN 5 THEN 20 ELSE 17.1 END, 'EUR' FROM unnest('{1,2,3,4,5,6}'::int[]) n;
UPDATE canonical.invoice SET status = 'void', voided_at = '2025-03-03' WHERE number = 'I6';
SELECT * FROM rec.found('recognized_plus_deferred', 'committed_tax') WHERE number IN ('I5', 'I6');
SELECT rec.the('recognized_plus_deferred', 'I6') AS i6, rec.the('committed_tax', 'I6') AS t6, rec.the('committed_tax', 'I5') AS t5 \gset
SELECT step, action, regexp_replace(request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g') AS request, detail FROM sync.repair(:i6, options => '{"day": "2025-03-04"}');
SELECT step, action, regexp_replace(request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g') AS request, detail FROM sync.repair(:t6);
SELECT step, action, regexp_replace(request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g') AS request, detail FROM sync.repair(:t5);
SELECT action FROM sync.repair(:i6, false, reason => 'voided', options => '{"day": "2025-03-04"}');
SELECT action FROM sync.repair(:t6, false, reason => 'voided');
SELECT action FROM sync.repair(:t5, false, reason => 'the invoice is right');
-- Between request and approval somebody else has changed the tax.
UPDATE canonical.tax_determination SET tax_amount = 21 WHERE document_code = 'I5';
\c - rec_second
SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo';
SELECT sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a WHERE a.record_id = md5('invoice6')::uuid::text ORDER BY a.id;
SELECT sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a WHERE a.record_id = md5('invoice5')::uuid::text;
\c - :super
\pset null '-'
SELECT * FROM rec.schedules WHERE number = 'I6';
SELECT g.number, g.status, g.posting_date, g.accounting_period, r.number AS reverses, g.approved_by, g.posted_at IS NOT NULL AS posted, l.account_code, l.debit, l.credit
  FROM canonical.gl_entry g JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id LEFT JOIN canonical.gl_entry r ON r.id = g.reversal_of
 WHERE g.number LIKE 'B6%' OR g.number IS NULL ORDER BY g.posting_date, g.number, l.line_no;
SELECT document_code, status, tax_amount FROM canonical.tax_determination WHERE document_code IN ('I5', 'I6') ORDER BY 1;
SELECT entity, currency, billed, recognized, reversed, closing FROM sync.deferred_rollforward('[2025-01-01,2025-04-01)');

-- ---- rights and collections: nobody has to approve what takes nothing from the books ----

INSERT INTO canonical.subscription (id, customer_id, number, status, start_date, current_period_start, current_period_end, canceled_at, currency, mrr)
    SELECT md5('sub' || n)::uuid, '00000000-0000-4000-8000-0000000000c1', 'S' || n, s, '2025-01-01', '2025-01-01', '2025-02-01', CASE s WHEN 'canceled' THEN '2025-02-01'::timestamptz END, 'EUR', 30
      FROM unnest('{past_due,canceled}'::text[]) WITH ORDINALITY u (s, n);
INSERT INTO canonical.entitlement (subscription_id, customer_id, feature_code, status) SELECT id, customer_id, 'seats', 'active' FROM canonical.subscription;
INSERT INTO canonical.payment (id, customer_id, kind, status, amount, currency, processor_ref, failure_code, attempted_at)
    VALUES (md5('payment')::uuid, '00000000-0000-4000-8000-0000000000c1', 'charge', 'failed', 107.1, 'EUR', 'ch_1', 'card_declined', '2025-01-05');
SELECT * FROM rec.found('entitlement_paid', 'canceled_revoked', 'failure_collected');
SELECT b.id, r.action, regexp_replace(r.request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g') AS request, r.detail
  FROM sync.break_entry b CROSS JOIN LATERAL sync.repair(b.id) r WHERE b.status = 'open' AND b.kind IN ('entitlement_paid', 'canceled_revoked', 'failure_collected') ORDER BY 1;
SELECT b.kind, r.action, r.detail FROM sync.break_entry b CROSS JOIN LATERAL sync.repair(b.id, false, reason => 'nobody did') r
 WHERE b.status = 'open' AND b.kind IN ('entitlement_paid', 'canceled_revoked', 'failure_collected') ORDER BY b.kind, r.step;
SELECT s.number, n.status, n.reason FROM canonical.entitlement n JOIN canonical.subscription s ON s.id = n.subscription_id ORDER BY 1;
SELECT stage, closed_at, opened_at > now() - interval '1 minute' AS opened FROM canonical.collection_case;
-- Once is enough.
SELECT * FROM sync.repair((SELECT id FROM sync.break_entry WHERE kind = 'failure_collected'));
SELECT * FROM sync.repair((SELECT id FROM sync.break_entry WHERE kind = 'canceled_revoked'));
SELECT * FROM rec.found('entitlement_paid', 'canceled_revoked', 'failure_collected');

-- ---- a journal that somebody altered past its guards ----

SET session_replication_role = replica;
UPDATE canonical.gl_entry_line SET debit = debit + 5 WHERE gl_entry_id = rec.id('journal', 1) AND line_no = 1;
RESET session_replication_role;
SELECT * FROM rec.found('journals_balance');
SELECT rec.the('journals_balance', 'R1') AS r1 \gset
SELECT action, detail ~ '^lines as recorded at' AS detail, request ~ '"debit": 84' AS request FROM sync.repair(:r1);
SELECT action FROM sync.repair(:r1, false, reason => 'altered by a script');
\c - rec_second
SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo';
SELECT sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a WHERE a.object = 'gl_entry';
\c - :super
\pset null '-'
SELECT line_no, account_code, debit, credit FROM canonical.gl_entry_line WHERE gl_entry_id = md5('journal1')::uuid ORDER BY 1;
SELECT * FROM sync.repair(:r1);
SELECT count(*) FROM sync.run_rules(names => '{journals_balance}') WHERE found > 0;
-- An application still cannot.
UPDATE canonical.gl_entry_line SET debit = 1 WHERE gl_entry_id = md5('journal1')::uuid AND line_no = 1;

-- ---- credit notes and journals ----

CREATE FUNCTION rec.broken(kind text, number text, difference numeric) RETURNS bigint LANGUAGE sql AS
    $$INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_id, record_number, difference, currency)
      SELECT 'test', gen_random_uuid(), $1, 'invoice', i.id, i.number, $3, i.currency FROM canonical.invoice i WHERE i.number = $2 RETURNING id$$;
CALL rec.bill(7, currency => 'USD');
SELECT rec.broken('amount_differs', 'I7', 0.03) AS i7, rec.broken('voided_after_posting', 'I6', NULL) AS v6 \gset
-- All of it by its lines, a part with its share of tax.
SELECT regexp_replace(request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g') AS request, regexp_replace(detail, :'v6', '…') AS detail FROM sync.repair(:v6, options => '{"day": "2025-02-01", "number": "CN-6"}');
SELECT regexp_replace(regexp_replace(request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g'), :'i7', '…', 'g') AS request FROM sync.repair(:i7, remedy => 'credit_note', options => '{"day": "2025-03-05", "amount": "10.00"}');
SELECT regexp_replace(regexp_replace(request, '[0-9a-f]{8}-[0-9a-f-]{27}', '…', 'g'), :'i7', '…', 'g') AS request
  FROM sync.repair(:i7, remedy => 'adjustment', options => '{"day": "2025-03-05", "debit_account": "1200", "credit_account": "3900"}');
SELECT * FROM sync.repair(:i7, remedy => 'credit_note', options => '{"amount": "0.005"}');
SELECT * FROM sync.repair(:v6, options => '{"day": "2025-12-32"}');
-- Never on a day that takes no postings: of a closed month, of no period, still to come. The next one that does is named.
SELECT * FROM sync.repair(:v6, options => '{"day": "2025-01-31"}');
SELECT * FROM sync.repair(:v6, options => '{"day": "1900-01-01"}');
SELECT * FROM sync.repair(:v6, options => '{"day": "2999-01-01"}');
UPDATE canonical.accounting_period SET status = 'closed' WHERE start_date = '2025-12-01';
SELECT * FROM sync.repair(:v6, options => '{"day": "2025-12-31"}');
SELECT * FROM sync.repair(:v6);
-- Unless said otherwise it is of today; where today is closed, of the first day of what is open next, though that is still to come.
BEGIN;
INSERT INTO canonical.accounting_period (legal_entity_id, start_date, end_date, status)
    SELECT e.id, v.first, v.last, v.status FROM canonical.legal_entity e, (VALUES ('2026-01-01'::date, '2998-12-31'::date, 'closed'), ('2999-01-01', '2999-12-31', 'open')) v (first, last, status);
SELECT request::jsonb #>> '{row,issue_date}' AS day FROM sync.repair(:v6);
SELECT request::jsonb #>> '{row,issue_date}' AS day FROM sync.repair(:v6, options => '{"day": "2999-01-01"}');
ROLLBACK;
BEGIN;
UPDATE canonical.accounting_period SET end_date = '2998-12-31', status = 'open' WHERE start_date = '2025-12-01';
SELECT (request::jsonb #>> '{row,issue_date}')::date = (now() AT TIME ZONE 'Europe/Berlin')::date AS today FROM sync.repair(:v6);
ROLLBACK;
-- In the invoice's currency, within its total and what was credited before, over an amount; between two accounts.
SELECT * FROM sync.repair(:i7, remedy => 'credit_note', options => '{"day": "2025-03-05", "currency": "EUR", "amount": "1"}');
SELECT * FROM sync.repair(:i7, remedy => 'credit_note', options => '{"day": "2025-03-05", "amount": "107.11"}');
BEGIN;
INSERT INTO canonical.credit_note (customer_id, invoice_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount)
    SELECT i.customer_id, i.id, 'before' || n, s, '2025-03-01', c, a, 0, a
      FROM canonical.invoice i, (VALUES (1, 'posted', 'USD', 100), (2, 'void', 'USD', 50), (3, 'posted', 'EUR', 50)) v (n, s, c, a) WHERE i.number = 'I7';
SELECT * FROM sync.repair(:i7, remedy => 'credit_note', options => '{"day": "2025-03-05", "amount": "7.11"}');
ROLLBACK;
SELECT * FROM sync.repair(:i7, remedy => 'credit_note', options => '{"amount": "0"}');
SELECT * FROM sync.repair(:i7, remedy => 'credit_note', options => '{"amount": "NaN"}');
SELECT * FROM sync.repair(rec.broken('amount_differs', 'I7', 'NaN'), remedy => 'credit_note');
SELECT * FROM sync.repair(rec.broken('amount_differs', 'I7', 'Infinity'), remedy => 'adjustment', options => '{"debit_account": "1200", "credit_account": "3900"}');
SELECT * FROM sync.repair(:i7, remedy => 'adjustment', options => '{"day": "2025-03-05", "debit_account": "1200", "credit_account": "1200"}');
SELECT * FROM sync.repair(:i7, remedy => 'adjustment', options => '{"day": "2025-03-05", "debit_account": "1200", "credit_account": "3900", "currency": "dollars"}');
-- Who approves sees what is made, not the three cents that it is made for; and a policy goes by that.
BEGIN;
SELECT action FROM sync.repair(:i7, false, 'credit_note', 'all of it', '{"day": "2025-03-05", "amount": "107.10"}');
SELECT action FROM sync.repair(:i7, false, 'adjustment', 'a thousand', '{"day": "2025-03-05", "amount": "1000", "currency": "EUR", "debit_account": "1200", "credit_account": "3900"}');
SELECT amount, currency FROM sync.approval WHERE operation = 'repair' AND object = 'invoice' ORDER BY id DESC LIMIT 2;
ROLLBACK;
SELECT action FROM sync.repair(:v6, false, reason => 'voided', options => '{"day": "2025-03-05", "number": "CN-6"}');
SELECT action FROM sync.repair(:i7, false, 'adjustment', 'three cents', '{"day": "2025-03-05", "debit_account": "1200", "credit_account": "3900"}');
\c - rec_second
SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo';
SELECT a.amount, a.currency, sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a WHERE a.operation = 'repair' AND a.object = 'invoice' ORDER BY a.id DESC LIMIT 2;
\c - :super
\pset null '-'
SELECT c.number, c.status, c.issue_date, c.net_amount, c.tax_amount, c.total_amount, i.number AS invoice, l.line_no, l.quantity, l.net_amount AS net, l.tax_amount AS tax
  FROM canonical.credit_note c JOIN canonical.credit_note_line l ON l.credit_note_id = c.id JOIN canonical.invoice i ON i.id = c.invoice_id;
SELECT regexp_replace(g.number, '[0-9]+', '…') AS number, g.status, g.posting_date, g.accounting_period, g.currency, g.fx_rate, g.approved_by, e.code AS entity, l.account_code, l.debit, l.credit
  FROM canonical.gl_entry g JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id JOIN canonical.legal_entity e ON e.id = g.legal_entity_id WHERE g.number LIKE 'ADJ-%' ORDER BY l.line_no;
-- The journal explains the difference that stays; twice it is not made.
SELECT kind, status, regexp_replace(explanation, '[0-9]+', '…') AS explanation FROM sync.break_entry WHERE id IN (:i7, :v6) ORDER BY kind;
SELECT * FROM sync.repair(:v6, options => '{"day": "2025-03-05", "number": "CN-6"}');

-- ---- what one journal recognized is one schedule's ----

CREATE FUNCTION rec.rewritten(break_id bigint) RETURNS TABLE (detail text, what text, period text, amount text, status text, journal text) LANGUAGE sql AS $$
    SELECT r.detail, k.key, l.value ->> 'period', concat_ws(' -> ', l.value #>> '{was,amount}', l.value ->> 'amount'), coalesce(l.value ->> 'status', l.value #>> '{was,status}'),
           (SELECT g.number FROM canonical.gl_entry g WHERE g.id = (l.value ->> 'gl_entry_id')::uuid)
      FROM sync.repair(break_id, options => '{"day": "2025-03-05"}') r CROSS JOIN LATERAL jsonb_each(r.request::jsonb) k CROSS JOIN LATERAL jsonb_array_elements(k.value) l
     WHERE k.key IN ('lines', 'add', 'change') ORDER BY r.step, k.key, 3 $$;
-- I8: February of one of two lines is in a journal.
CALL rec.bill(8, 'draft');
INSERT INTO canonical.invoice_line (id, invoice_id, line_no, product_id, description, quantity, unit_price, net_amount, tax_amount, service_start, service_end)
    VALUES (rec.id('line', 88), rec.id('invoice', 8), 2, '00000000-0000-4000-8000-0000000000d1', 'Seats', 3, 30, 90, 17.1, '2025-01-01', '2025-03-31');
UPDATE canonical.invoice SET status = 'open', net_amount = 180, tax_amount = 34.2, total_amount = 214.2, amount_due = 214.2 WHERE number = 'I8';
CALL rec.recognize(8, '2025-02-01', 28);
SELECT * FROM rec.rewritten(rec.broken('schedules_complete', 'I8', NULL));
-- I9 has both standards. Their journal of February holds half a euro that no line says, of March neither has a line.
CALL rec.bill(9); CALL rec.schedule(9, 31, 28, 31);
INSERT INTO canonical.revenue_schedule (id, invoice_line_id, legal_entity_id, currency, total_amount, start_date, end_date, status, standard)
    SELECT rec.id('schedule', 99), s.invoice_line_id, s.legal_entity_id, s.currency, s.total_amount, s.start_date, s.end_date, s.status, 'ASC606' FROM canonical.revenue_schedule s WHERE s.id = rec.id('schedule', 9);
INSERT INTO canonical.revenue_schedule_line (schedule_id, period, amount) SELECT rec.id('schedule', 99), l.period, l.amount FROM canonical.revenue_schedule_line l WHERE l.schedule_id = rec.id('schedule', 9);
CALL rec.recognize(9, '2025-03-01', 31);
CALL rec.recognize(10, '2025-02-01', 55.5);
SET session_replication_role = replica;
DELETE FROM canonical.revenue_schedule_line WHERE schedule_id IN (rec.id('schedule', 9), rec.id('schedule', 99)) AND period = '2025-03-01';
UPDATE canonical.revenue_schedule_line SET amount = 27.5, status = 'recognized', gl_entry_id = rec.id('journal', 10), recognized_at = '2025-02-21'
 WHERE schedule_id IN (rec.id('schedule', 9), rec.id('schedule', 99)) AND period = '2025-02-01';
RESET session_replication_role;
SELECT rec.broken('schedules_complete', 'I9', NULL) AS i9 \gset
SELECT * FROM rec.rewritten(:i9);
SELECT action FROM sync.repair(:i9, false, reason => 'lost', options => '{"day": "2025-03-05"}');
\c - rec_second
SELECT sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a WHERE a.record_id = md5('invoice9')::uuid::text;
\c - :super
\pset null '-'
SELECT r.standard, p.period, p.amount, p.status, g.number AS journal FROM canonical.revenue_schedule r JOIN canonical.revenue_schedule_line p ON p.schedule_id = r.id LEFT JOIN canonical.gl_entry g ON g.id = p.gl_entry_id
 WHERE r.invoice_line_id = rec.id('line', 9) ORDER BY r.standard, p.period;
-- Who may not read the books sees no repair of them.
SET client_min_messages = warning;
DROP ROLE IF EXISTS rec_ops;
CREATE ROLE rec_ops IN ROLE sync_operator;
RESET client_min_messages;
SET ROLE rec_ops;
SELECT * FROM sync.repair(:v6);
RESET ROLE;
\c regression :super
DROP DATABASE sync_rec_repair_books;
DROP ROLE rec_second, rec_ops;
