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
CREATE FUNCTION pg_temp.id(kind text, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT md5(kind || n)::uuid$$;
-- Invoice n, of 2025-01-01 over three months: 90.00 net, 17.10 tax.
CREATE PROCEDURE pg_temp.bill(n int, status text DEFAULT 'open', currency text DEFAULT 'EUR') LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO canonical.invoice (id, customer_id, legal_entity_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_due)
        VALUES (pg_temp.id('invoice', n), '00000000-0000-4000-8000-0000000000c1', '00000000-0000-4000-8000-0000000000e1', 'I' || n, 'draft', '2025-01-01', currency, 90, 17.1, 107.1, 107.1);
    INSERT INTO canonical.invoice_line (id, invoice_id, line_no, product_id, description, quantity, unit_price, net_amount, tax_amount, service_start, service_end)
        VALUES (pg_temp.id('line', n), pg_temp.id('invoice', n), 1, '00000000-0000-4000-8000-0000000000d1', 'Seats', 3, 30, 90, 17.1, '2025-01-01', '2025-03-31');
    UPDATE canonical.invoice i SET status = bill.status WHERE i.id = pg_temp.id('invoice', n);
END $$;
-- A journal of one month's revenue, and what the schedules of invoices say that it recognized.
CREATE PROCEDURE pg_temp.recognize(n int, period date, amount numeric) LANGUAGE sql AS $$
    INSERT INTO canonical.gl_entry (id, legal_entity_id, number, posting_date, accounting_period, currency, status, posted_at)
        VALUES (pg_temp.id('journal', n), '00000000-0000-4000-8000-0000000000e1', 'R' || n, period + 20, period, 'EUR', 'posted', period + 20);
    INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit)
        VALUES (pg_temp.id('journal', n), 1, '3900', amount, 0), (pg_temp.id('journal', n), 2, '8400', 0, amount);
$$;
CREATE PROCEDURE pg_temp.schedule(n int, VARIADIC amounts numeric[]) LANGUAGE sql AS $$
    INSERT INTO canonical.revenue_schedule (id, invoice_line_id, legal_entity_id, currency, total_amount, start_date, end_date, status)
        SELECT pg_temp.id('schedule', n), pg_temp.id('line', n), '00000000-0000-4000-8000-0000000000e1', 'EUR', sum(a), '2025-01-01', '2025-03-31', 'active' FROM unnest(amounts) a;
    INSERT INTO canonical.revenue_schedule_line (id, schedule_id, period, amount)
        SELECT pg_temp.id('part' || n || '.', u.k::int), pg_temp.id('schedule', n), ('2025-01-01'::date + (u.k - 1) * interval '1 month')::date, u.a FROM unnest(amounts) WITH ORDINALITY u (a, k);
$$;
CREATE FUNCTION pg_temp.found(VARIADIC rules text[]) RETURNS TABLE (rule text, number text, detail text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM sync.run_rules(names => rules);
    RETURN QUERY SELECT b.kind, b.record_number, b.detail FROM sync.reconciliation_break b WHERE b.status = 'open' AND b.kind = ANY (rules) ORDER BY 1, 2, 3;
END $$;
CREATE FUNCTION pg_temp.the(rule text, number text) RETURNS bigint LANGUAGE sql AS $$
    SELECT min(b.id) FROM sync.break_entry b WHERE b.kind = rule AND b.record_number = number AND b.status = 'open' $$;
CREATE VIEW public.schedule AS
    SELECT i.number, r.status AS schedule, r.total_amount, p.period, p.amount, p.status, g.number AS journal FROM canonical.revenue_schedule r JOIN canonical.invoice_line l ON l.id = r.invoice_line_id
      JOIN canonical.invoice i ON i.id = l.invoice_id LEFT JOIN canonical.revenue_schedule_line p ON p.schedule_id = r.id LEFT JOIN canonical.gl_entry g ON g.id = p.gl_entry_id ORDER BY i.number, p.period, p.amount;

-- ---- revenue schedules ----

-- I1: no schedule, and February's journal has recognized its share. I2: a line lost a euro that the journal has. I3: planned over
-- 80. I4: recognized without a journal, before its time. I5: as it should be.
CALL pg_temp.bill(1); CALL pg_temp.bill(2); CALL pg_temp.bill(3); CALL pg_temp.bill(4); CALL pg_temp.bill(5);
CALL pg_temp.recognize(1, '2025-02-01', 28 + 28 + 28);
CALL pg_temp.schedule(2, 31, 28, 31); CALL pg_temp.schedule(3, 30, 20, 30); CALL pg_temp.schedule(4, 31, 28, 31); CALL pg_temp.schedule(5, 31, 28, 31);
UPDATE canonical.revenue_schedule_line SET status = 'recognized', gl_entry_id = pg_temp.id('journal', 1), recognized_at = '2025-02-21' WHERE id IN (pg_temp.id('part2.', 2), pg_temp.id('part5.', 2));
UPDATE canonical.revenue_schedule_line SET status = 'recognized', recognized_at = '2024-12-20' WHERE id = pg_temp.id('part4.', 3);
SET session_replication_role = replica;
UPDATE canonical.revenue_schedule_line SET amount = amount - 1 WHERE id = pg_temp.id('part2.', 2);
RESET session_replication_role;
SELECT * FROM pg_temp.found('schedules_complete', 'recognized_in_time');
SELECT pg_temp.the('schedules_complete', 'I1/1') AS i1, pg_temp.the('schedules_complete', 'I2/1') AS i2, pg_temp.the('schedules_complete', 'I3/1') AS i3, pg_temp.the('recognized_in_time', 'I4') AS i4 \gset
-- What is of January goes into February, which takes postings. Each is approved by somebody else.
SELECT step, action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request, detail FROM sync.repair(:i1);
SELECT action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request FROM sync.repair(:i2, options => '{"day": "2025-02-10"}');
SELECT action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request FROM sync.repair(:i3, options => '{"day": "2025-01-10"}');
SELECT action, regexp_replace(request, '[0-9a-f-]{36}', '…', 'g') AS request FROM sync.repair(:i4);
SELECT action FROM sync.repair(:i1, false, reason => 'lost', options => '{"day": "2025-02-10"}');
SELECT action FROM sync.repair(:i2, false, reason => 'altered', options => '{"day": "2025-02-10"}');
SELECT action FROM sync.repair(:i3, false, reason => 'forgotten', options => '{"day": "2025-02-10"}');
SELECT action FROM sync.repair(:i4, false, reason => 'too early', options => '{"day": "2025-02-10"}');
SELECT * FROM sync.repair(:i1, remedy => 'suspend');
SELECT * FROM sync.repair(:i1, options => '{"standard": "HGB"}');
SELECT * FROM sync.repair(:i1, options => '{"day": "yesterday"}');
\c - rec_second
SELECT a.id, a.operation, a.policy, sync.approve(a.id, 'seen') -> 'state' AS state FROM sync.approval a ORDER BY a.id;
\c - :super
\pset null '-'
SELECT * FROM public.schedule;
SELECT count(*) FROM sync.run_rules(names => '{schedules_complete,recognized_in_time}') WHERE found > 0;
SELECT action, detail ->> 'remedy' AS remedy, reason FROM sync.audit WHERE action = 'break.repaired' ORDER BY id;
DROP DATABASE IF EXISTS nothing_of_the_kind;
\c regression :super
DROP DATABASE sync_rec_repair_books;
DROP ROLE rec_second;
