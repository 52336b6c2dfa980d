-- One accounting day, and one legal entity, wherever they are asked for: findings, totals of each mode, rules, certificates and
-- the gate. A payment half an hour before midnight in London is of the next month in Berlin; it does not say whose it is, its
-- customer does; and a credit note goes with its invoice.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_day;
CREATE DATABASE sync_rec_day;
\c sync_rec_day
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';
SET TimeZone = 'America/New_York';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT sync.create_canonical_model();
SET search_path = canonical, public;
CREATE FUNCTION u(what text) RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT md5($1)::uuid';
SELECT count(sync.track(('canonical.' || t)::regclass)) AS tracked FROM unnest('{customer,invoice,credit_note,payment}'::text[]) t;
INSERT INTO legal_entity (id, code, name, functional_currency, timezone)
VALUES (u('DE'), 'DE', 'Nordstern GmbH', 'EUR', 'Europe/Berlin'), (u('US'), 'US', 'Nordstern Inc', 'USD', 'America/New_York');
INSERT INTO customer (id, number, name, legal_entity_id) VALUES (u('A'), 'A', 'Customer A', u('DE')), (u('B'), 'B', 'Customer B', u('US'));
INSERT INTO invoice (id, customer_id, legal_entity_id, number, status, issue_date, posting_date, currency, net_amount, total_amount)
VALUES (u('I1'), u('A'), u('US'), 'I1', 'open', '2026-10-31', '2026-11-02', 'EUR', 100, 100);
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "payment": {"pull": {"list": {"path": "/p", "items": "$.data"}, "record": {"id": "$.id", "number": "$.ref"},
      "fields": {"id": "$.key", "customer_id": "$.customer", "kind": "$.kind", "status": "$.status", "amount": "$.amount", "currency": "$.currency", "settled_at": "$.settled", "posting_date": "$.posted"}}},
    "credit_note": {"pull": {"list": {"path": "/n", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number"},
      "fields": {"id": "$.key", "number": "$.number", "customer_id": "$.customer", "invoice_id": "$.invoice", "issue_date": "$.date", "currency": "$.currency", "net_amount": "$.total", "total_amount": "$.total"}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT sync.create_stream('billing', 'payment') AS payments, sync.create_stream('billing', 'credit_note') AS notes, sync.create_stream('erp', 'payment') AS theirs \gset
UPDATE sync.stream_cursor SET read_until = clock_timestamp();

-- P1 to P3 are settled at the end of October in Berlin's and New York's sense; P4 is posted; P5 was attempted only; P6 says its entity.
CREATE TABLE page AS
SELECT jsonb_agg(jsonb_build_object('id', 'p' || v.n, 'ref', 'P' || v.n, 'key', u('P' || v.n), 'customer', u(v.customer), 'kind', 'charge', 'status', 'succeeded', 'amount', 10 * v.n, 'currency', 'EUR',
                                    'settled', v.settled, 'posted', v.posted) ORDER BY v.n) AS items
  FROM (VALUES (1, 'A', '2026-10-31T23:30:00Z', NULL), (2, 'A', '2026-10-31T22:30:00Z', NULL), (3, 'B', '2026-11-01T03:30:00Z', NULL), (4, 'A', '2026-10-31T23:30:00Z', '2026-10-31'),
               (5, 'A', NULL, NULL), (6, 'A', '2026-11-01T02:00:00Z', NULL)) v (n, customer, settled, posted);
SELECT p.applied FROM page, sync._apply_page(:payments, items) p;
UPDATE payment SET attempted_at = '2026-10-31 23:15+00' WHERE id = u('P5');
UPDATE payment SET legal_entity_id = u('US') WHERE id = u('P6');
SELECT applied FROM sync._apply_page(:notes, jsonb_build_array(jsonb_build_object('id', 'n1', 'number', 'N1', 'key', u('N1'), 'customer', u('A'), 'invoice', u('I1'), 'date', '2026-10-15', 'currency', 'EUR', 'total', 5)));

-- What a body says by itself, and what no date can be made of.
SELECT b ->> 'settled_at' AS settled, sync._accounting_day(b::jsonb, 'Europe/Berlin') AS berlin, sync._accounting_day(b::jsonb, NULL) AS utc
  FROM unnest(ARRAY['{"settled_at": "2026-10-31T23:30:00Z"}', '{"settled_at": "2026-11-01T00:30:00+01:00"}', '{"settled_at": "2026-10-31 23:30:00.123456+00"}', '{"settled_at": "2026-10-31T23:30"}', '{"settled_at": "2026-10-31"}',
                    '{"settled_at": "2026-02-29"}', '{"settled_at": "2100-02-29"}', '{"settled_at": "2000-02-29"}', '{"settled_at": "0000-01-01"}', '{"settled_at": "2026-10-00"}', '{"settled_at": "2026-10-31T99:00:00Z"}', '{"settled_at": 7}', '{"settled_at": "soon"}',
                    '{"settled_at": "2026-10-31T23:30:00Z", "posting_date": "2026-09-30"}', '{"settled_at": "2026-10-31T23:30:00Z", "posting_date": "tomorrow"}', '{"attempted_at": "2026-10-31T23:30:00Z", "arrival_date": "2026-11-03"}']) WITH ORDINALITY t (j, n)
 CROSS JOIN LATERAL (SELECT j::json) x (b) ORDER BY n;

CREATE VIEW total AS
SELECT object, entity, period, currency, our_count AS ours, our_amount, their_count AS theirs, their_amount, unexplained FROM sync.reconciliation_summary WHERE other_system IS NULL ORDER BY object, entity, period, currency;
-- What breaks and totals say of the same: nothing, if it is the same.
CREATE VIEW disagrees AS
SELECT t.object, t.entity, t.period, t.currency, t.unexplained, b.difference
  FROM (SELECT object, entity, period, currency, sum(unexplained) AS unexplained FROM sync.reconciliation_summary WHERE unexplained <> 0 GROUP BY 1, 2, 3, 4) t
  FULL JOIN (SELECT object, entity, period, currency, sum(difference) AS difference FROM sync.reconciliation_break WHERE status = 'open' AND source NOT LIKE 'rule:%' GROUP BY 1, 2, 3, 4) b
    ON t.object = b.object AND t.entity = b.entity AND t.period = b.period AND t.currency = b.currency
 WHERE t.unexplained IS DISTINCT FROM b.difference;

-- All agree: each where it belongs.
SELECT sync.reconcile('billing', 'payment') > 0 AS payments, sync.reconcile('billing', 'credit_note') > 0 AS notes;
TABLE total;
-- Each differs by a cent, and one is not here.
UPDATE sync.mirror SET fields = jsonb_set(fields, CASE WHEN fields ? 'amount' THEN '{amount}' ELSE '{total_amount}' END::text[], to_jsonb(coalesce(fields ->> 'amount', fields ->> 'total_amount')::numeric + 0.01));
INSERT INTO sync.mirror (system_id, object_id, remote_id, fields)
SELECT m.system_id, m.object_id, 'p9', m.fields || '{"id": "00000000-0000-0000-0000-000000000009", "amount": 90}' FROM sync.mirror m WHERE m.remote_id = 'p1';
SELECT sync.reconcile('billing', 'payment') > 0 AS payments, sync.reconcile('billing', 'credit_note') > 0 AS notes;
TABLE total;
SELECT object, kind, remote_id, entity, period, difference FROM sync.reconciliation_break ORDER BY object, remote_id, field;
TABLE disagrees;
-- Within a month, by both.
SELECT sync.reconcile('billing', 'payment', '[2026-11-01,2026-12-01)') AS run \gset
SELECT found, closed FROM sync.reconciliation WHERE id = :run;
SELECT entity, period, our_count, their_count, unexplained_amount FROM sync.reconciliation_total WHERE reconciliation_id = :run ORDER BY 1, 2;

-- As of a moment, and beside another system.
SELECT clock_timestamp() AS then \gset
SELECT sync.reconcile('billing', 'payment', as_of => :'then') AS run \gset
SELECT entity, period, our_count, their_count, their_amount - our_amount AS difference FROM sync.reconciliation_total WHERE reconciliation_id = :run ORDER BY 1, 2;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT sync._system_id('erp'), x.object_id, x.record_id, 'e' || x.remote_id FROM sync.external_id x WHERE x.remote_id LIKE 'p%';
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields) SELECT sync._system_id('erp'), m.object_id, 'e' || m.remote_id, m.record_id, m.fields FROM sync.mirror m WHERE m.remote_id LIKE 'p%' AND m.record_id IS NOT NULL;
UPDATE sync.mirror SET fields = fields || '{"amount": 1}' WHERE remote_id = 'ep1';
SELECT sync.reconcile('billing', 'payment', other => 'erp') AS run \gset
SELECT entity, period, our_count, their_count, unexplained_amount FROM sync.reconciliation_total WHERE reconciliation_id = :run ORDER BY 1, 2;
SELECT entity, period, difference FROM sync.break_entry WHERE source LIKE 'pair:%';

-- Rules, certificates and the gate.
INSERT INTO payment_allocation (payment_id, invoice_id, amount) VALUES (u('P1'), u('I1'), 10), (u('P3'), u('I1'), 30);
SET session_replication_role = replica;
UPDATE payment SET status = 'failed' WHERE id IN (u('P1'), u('P3'));
SELECT count(*) FROM sync.run_rules(NULL, '{allocations_within_payment,line_sums,credits_within_invoice}') WHERE error IS NOT NULL;
SELECT kind, record_number, entity, period FROM sync.break_entry WHERE source LIKE 'rule:%' ORDER BY 1, 2, field;
UPDATE payment SET status = 'succeeded';
RESET session_replication_role;
SELECT e.code, m.month, f.object, f.amount FROM (VALUES ('DE'), ('US')) e (code), (VALUES ('2026-10-01'::date), ('2026-11-01')) m (month),
       sync._certificate_figures(daterange(m.month, (m.month + interval '1 month')::date), e.code) f WHERE f.figure LIKE '%count' AND f.object IN ('payment', 'credit_note', 'invoice') ORDER BY 1, 2, 3;
SELECT i.number, t.code, d.day FROM sync.object o, LATERAL (SELECT 'I1', to_jsonb(i) FROM invoice i WHERE o.name = 'invoice' UNION ALL SELECT 'N1', to_jsonb(n) FROM credit_note n WHERE o.name = 'credit_note'
       UNION ALL SELECT 'P' || (p.amount / 10)::integer, to_jsonb(p) FROM payment p WHERE o.name = 'payment') i (number, body), LATERAL sync._accounting_date(o, i.body) d JOIN legal_entity t ON t.id::text = d.entity ORDER BY 1;

-- It is part of the query that calls it.
EXPLAIN (COSTS OFF, VERBOSE) SELECT sync._accounting_day(p.posting_date, NULL, NULL, p.settled_at, p.attempted_at, 'UTC') FROM payment p;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_day;
