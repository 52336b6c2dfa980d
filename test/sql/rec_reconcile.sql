-- The hub against a system, and two systems with each other: each kind of break, and what is none.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_reconcile;
DROP ROLE IF EXISTS rec_analyst;
CREATE DATABASE sync_rec_reconcile;
\c sync_rec_reconcile
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
CREATE ROLE rec_analyst LOGIN IN ROLE sync_analyst;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SELECT current_user AS me \gset
CREATE SCHEMA rec;
CREATE TABLE rec.legal_entity (id text PRIMARY KEY, code text);
CREATE TABLE rec.customer (id text PRIMARY KEY, number text, name text, legal_entity_id text, born date, seen_at timestamptz, vip boolean, score integer, address jsonb,
                           created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice (id uuid PRIMARY KEY, number text UNIQUE, customer_id text, legal_entity_id text, issue_date date, posting_date date, currency char(3),
                          total_amount numeric, tax_amount numeric, status text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice_line (invoice_id uuid REFERENCES rec.invoice ON DELETE CASCADE, line_no integer, net_amount numeric, PRIMARY KEY (invoice_id, line_no));
INSERT INTO rec.legal_entity VALUES ('e1', 'DE01'), ('e2', 'US01');
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {
      "push": {"operations": {"create": {"method": "POST", "path": "/c", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
      "pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true"},
        "fields": {"id": "$.key", "number": "$.number", "name": "$.name", "born": "$.born", "seen_at": "$.seen_at", "vip": "$.vip", "score": "$.score", "address": "$.address"}}},
    "invoice": {"pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true"},
      "fields": {"id": "$.key", "number": "$.number", "customer_id": "$.customer", "legal_entity_id": "$.entity", "issue_date": "$.date", "posting_date": "$.posted", "currency": "$.currency",
                 "total_amount": "$.total", "tax_amount": "$.tax", "status": "$.status"},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "net_amount": "$.net"}}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.customer', object => 'customer');
SELECT FROM sync.track('rec.invoice', object => 'invoice', financial => true, lines => 'rec.invoice_line');
SELECT sync.create_stream('billing', 'customer') AS customers \gset
SELECT sync.create_stream('billing', 'invoice') AS invoices \gset
SELECT sync.create_stream('erp', 'invoice') AS erp \gset
-- Nothing is known of a system that was never read.
\set VERBOSITY terse
SELECT sync.reconcile('billing', 'invoice');
\set VERBOSITY default
UPDATE sync.stream_cursor SET read_until = clock_timestamp();

-- What a test does behind the pull's back: another state of a mirror, as a fault would leave it.
CREATE FUNCTION rec.mirror(remote text, change jsonb, system text DEFAULT 'billing') RETURNS void LANGUAGE sql AS $$
    UPDATE sync.mirror m SET fields = m.fields || change FROM sync.system y WHERE y.id = m.system_id AND y.name = system AND m.remote_id = remote
$$;
CREATE VIEW rec.breaks AS
SELECT kind, severity, status, object, record_number AS number, customer, entity, period, system, other_system AS other, remote_id, field, ours, theirs, difference AS diff,
       currency AS cur, at_risk, detail, explanation FROM sync.reconciliation_break WHERE status <> 'resolved' ORDER BY id;
CREATE FUNCTION rec.run(object text, mode text DEFAULT 'mirror', period daterange DEFAULT NULL, other text DEFAULT NULL, system text DEFAULT 'billing', as_of timestamptz DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run bigint := sync.reconcile(system, object, period, mode, other, as_of);
BEGIN
    RETURN (SELECT format('%s: checked %s found %s opened %s closed %s in transit %s explained %s', r.state, r.checked, r.found, r.opened, r.closed, r.in_transit, r.explained)
              FROM sync.reconciliation_run r WHERE r.id = run);
END
$$;

SELECT applied FROM sync._apply_page(:customers, '[
  {"id": "c1", "key": "1", "number": "C-1", "name": "Ada", "born": "1815-12-10", "seen_at": "2026-10-01T10:00:00Z", "vip": true, "score": 7, "address": {"city": "London"}},
  {"id": "c2", "key": "2", "number": "C-2", "name": "Bob", "born": null, "seen_at": null, "vip": null, "score": null, "address": null},
  {"id": "c3", "key": "3", "number": "C-3", "name": "Cyd"}, {"id": "c4", "key": "4", "number": "C-4", "name": "Dan"}]');
UPDATE rec.customer SET legal_entity_id = 'e1';
SELECT applied FROM sync._apply_page(:invoices, '[
  {"id": "i1", "key": "00000000-0000-0000-0000-000000000001", "number": "R-1", "customer": "1", "entity": "e1", "date": "2026-10-05", "posted": "2026-10-05", "currency": "EUR", "total": 119.00, "tax": 19, "status": "open", "lines": [{"no": 1, "net": 60}, {"no": 2, "net": 40}]},
  {"id": "i2", "key": "00000000-0000-0000-0000-000000000002", "number": "R-2", "customer": "2", "entity": "e1", "date": "2026-10-06", "posted": "2026-10-06", "currency": "EUR", "total": 50, "tax": 0, "status": "open", "lines": []},
  {"id": "i3", "key": "00000000-0000-0000-0000-000000000003", "number": "R-3", "customer": "2", "entity": "e2", "date": "2026-11-06", "posted": "2026-11-06", "currency": "JPY", "total": 5000, "tax": 0, "status": "open", "lines": []}]');

-- Equal, and written otherwise: nothing.
SELECT rec.run('customer'), rec.run('invoice');
SELECT rec.mirror('i1', '{"total_amount": "119.0"}'), rec.mirror('c1', '{"seen_at": "2026-10-01T12:00:00+02:00"}');
SELECT rec.run('customer'), rec.run('invoice');
TABLE rec.breaks;

-- ---- kinds ----
SELECT rec.mirror('i1', '{"total_amount": 119.01}'), rec.mirror('i2', '{"status": "paid", "posting_date": "2026-11-01"}'),
       rec.mirror('i1', '{"lines": [{"line_no": 1, "net_amount": 60}, {"line_no": 2, "net_amount": 41}]}');
SELECT rec.mirror('c1', '{"name": "Eve", "address": {"city": "Paris"}, "vip": null}');
DELETE FROM rec.customer WHERE id = '2';
UPDATE sync.mirror SET deleted = true WHERE remote_id = 'c3';
DELETE FROM sync.mirror WHERE remote_id = 'c4';
INSERT INTO sync.mirror (system_id, object_id, remote_id, fields)
SELECT m.system_id, m.object_id, 'i9', m.fields || '{"number": "R-9", "total_amount": 7}' FROM sync.mirror m WHERE m.remote_id = 'i3'
UNION ALL SELECT m.system_id, m.object_id, 'i1b', m.fields FROM sync.mirror m WHERE m.remote_id = 'i1';
SELECT rec.run('customer'), rec.run('invoice');
\x on
TABLE rec.breaks;
\x off
-- once more: the same breaks, seen again
SELECT rec.run('customer'), rec.run('invoice');
SELECT count(*), min(times_seen), max(times_seen) FROM sync.reconciliation_break;
-- of one month
SELECT rec.run('invoice', period => '[2026-11-01,2026-12-01)');

-- ---- totals ----
SELECT entity, object, period, currency, system, our_count, our_amount, their_count, their_amount, difference_count, difference, in_transit, explained, unexplained
  FROM sync.reconciliation_summary ORDER BY object, entity, period, currency;
SELECT rec.run('invoice');
SELECT entity, object, period, currency, system, our_count, our_amount, their_count, their_amount, difference_count, difference, in_transit, explained, unexplained
  FROM sync.reconciliation_summary ORDER BY object, entity, period, currency;

-- ---- explained ----
SELECT sync.set_tolerance('billing', 'invoice', 0.02, 'eur', 'x');
SELECT sync.set_tolerance('billing', 'invoice', 0.02, 'EUR', '');
SELECT sync.set_tolerance('billing', 'invoice', 0.02, 'EUR', 'they round each line');
SELECT rec.run('invoice');
SELECT kind, status, number, field, diff, explanation FROM rec.breaks WHERE field = 'total_amount';
SELECT unexplained, explained FROM sync.reconciliation_summary WHERE entity = 'DE01' AND object = 'invoice' AND period = '2026-10-01';
SELECT sync.set_delete_policy('customer', 'billing', 'ignore');
SELECT rec.run('customer');
SELECT kind, status, number, explanation FROM rec.breaks WHERE object = 'customer' AND status = 'explained';

-- ---- settled by itself ----
SELECT rec.mirror('i1', '{"total_amount": 119, "lines": [{"line_no": 2, "net_amount": 40}, {"line_no": 1, "net_amount": 60}]}'), rec.mirror('i2', '{"status": "open", "posting_date": "2026-10-06"}');
DELETE FROM sync.mirror WHERE remote_id IN ('i9', 'i1b');
SELECT rec.run('invoice');
SELECT count(*) FROM rec.breaks WHERE object = 'invoice';

-- ---- in transit: a delivery on its way ----
UPDATE rec.customer SET name = 'Ada' WHERE id = '1';
SELECT sync.create_route('billing', 'customer') AS route \gset
SELECT rec.run('customer');
UPDATE rec.customer SET name = 'Ada Lovelace' WHERE id = '1';
INSERT INTO rec.customer (id, number, name) VALUES ('5', 'C-5', 'Eli');
SELECT rec.run('customer');
SELECT status, kind, number, field FROM rec.breaks WHERE object = 'customer';
-- what is dead settles nothing
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, code, message)
SELECT :route, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, 'dead', 'bad', 'refused' FROM sync.outbox e WHERE e.record_id = '5';
SELECT rec.run('customer');
SELECT status, kind, number, field, detail FROM rec.breaks WHERE object = 'customer' AND number = 'C-5';

-- ---- delta ----
SELECT rec.run('invoice', 'delta');
UPDATE rec.invoice SET status = 'void' WHERE number = 'R-3';
SELECT rec.run('invoice', 'delta');
SELECT rec.run('invoice', 'delta');
SELECT applied FROM sync._apply_page(:invoices, '[{"id": "i3", "key": "00000000-0000-0000-0000-000000000003", "number": "R-3", "customer": "2", "entity": "e2", "date": "2026-11-06", "posted": "2026-11-06", "currency": "JPY", "total": 5000, "tax": 0, "status": "void", "lines": []}]');
SELECT rec.run('invoice', 'delta');
SELECT rec.run('invoice', 'delta');

-- ---- two systems ----
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
SELECT y.id, o.id, i.id::text, 'e' || right(i.number, 1) FROM sync.system y, sync.object o, rec.invoice i WHERE y.name = 'erp' AND o.name = 'invoice' AND i.number IN ('R-1', 'R-2');
SELECT applied, bound, to_inbox FROM sync._apply_page(:erp, '[
  {"id": "e1", "key": "00000000-0000-0000-0000-000000000001", "number": "R-1", "customer": "1", "entity": "e1", "date": "2026-10-05", "posted": "2026-10-05", "currency": "EUR", "total": 119.00, "tax": 19, "status": "open", "lines": [{"no": 1, "net": 60}, {"no": 2, "net": 40}]},
  {"id": "e2", "key": "00000000-0000-0000-0000-000000000002", "number": "R-2", "customer": "2", "entity": "e1", "date": "2026-10-06", "posted": "2026-10-06", "currency": "EUR", "total": 50, "tax": 0, "status": "open", "lines": []}]');
SELECT clock_timestamp() AS good \gset
SELECT rec.run('invoice', other => 'erp');
SELECT rec.mirror('e2', '{"total_amount": 51, "currency": "USD"}', 'erp');
SELECT rec.run('invoice', other => 'erp');
SELECT kind, object, number, customer, entity, period, system, other, field, ours, theirs, diff, cur, detail FROM rec.breaks WHERE other IS NOT NULL;
SELECT entity, period, currency, system, other_system, our_count, our_amount, their_count, their_amount, difference, unexplained
  FROM sync.reconciliation_summary WHERE other_system IS NOT NULL ORDER BY 1, 2, 3;

-- ---- as of ----
SELECT applied FROM sync._apply_page(:erp, '[{"id": "e1", "key": "00000000-0000-0000-0000-000000000001", "number": "R-1", "customer": "1", "entity": "e1", "date": "2026-10-05", "posted": "2026-10-05", "currency": "EUR", "total": 120.00, "tax": 19, "status": "open", "lines": [{"no": 1, "net": 60}, {"no": 2, "net": 40}]}]');
SELECT rec.run('invoice', other => 'erp', as_of => :'good');
SELECT rec.run('invoice', other => 'erp');
SELECT rec.run('invoice', system => 'erp', as_of => :'good'), rec.run('invoice', system => 'erp');
\set VERBOSITY terse
-- However dates are written, a moment is the same comparison; and what differed then is nothing that stands open now.
BEGIN;
UPDATE sync.mirror_history SET fields = fields || '{"total_amount": 999999}' WHERE fields ? 'total_amount';
SELECT rec.run('invoice', system => 'erp', as_of => :'good') AS found;
SET LOCAL datestyle = 'German';
SELECT rec.run('invoice', system => 'erp', as_of => :'good') AS found_again;
RESET datestyle;
SELECT count(DISTINCT source) AS sources, count(*) > 0 AS some, bool_and(as_of = :'good') AS of_then FROM sync.break_entry WHERE status <> 'resolved' AND as_of IS NOT NULL;
SELECT (SELECT coalesce(sum(breaks), 0) FROM sync.break_aging) = (SELECT count(*) FROM sync.break_entry WHERE status <> 'resolved' AND as_of IS NULL) AS aging_leaves_them_out;
ROLLBACK;
SELECT sync.reconcile('billing', 'customer', as_of => '2026-01-01 UTC');
SELECT sync.reconcile('billing', 'invoice', as_of => '2020-01-01 UTC');
\set VERBOSITY default

-- ---- what cannot be ----
SELECT sync.reconcile('nowhere', 'invoice');
SELECT sync.reconcile('billing', 'nothing');
SELECT sync.reconcile('erp', 'customer');
SELECT sync.reconcile('billing', 'invoice', mode => 'quick');
SELECT sync.reconcile('billing', 'invoice', 'empty');
SELECT sync.reconcile('billing', 'invoice', other => 'billing');
SELECT sync.reconcile('billing', 'invoice', mode => 'delta', other => 'erp');
-- ---- what was never meant for the other system is on neither side: the route began after C-4 ----
SELECT sync.create_stream('erp', 'customer') > 0 AS stream;
SELECT sync.reconcile('erp', 'customer', other => 'billing');
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, '4', 'x4' FROM sync.system y, sync.object o WHERE y.name = 'erp' AND o.name = 'customer';
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields)
SELECT y.id, o.id, 'x4', '4', '{"name": "Dan"}' FROM sync.system y, sync.object o WHERE y.name = 'erp' AND o.name = 'customer';
DELETE FROM sync.external_id WHERE remote_id = 'c4';
SELECT rec.run('customer', other => 'billing', system => 'erp');
SELECT kind, number, detail FROM rec.breaks WHERE system = 'erp' AND other = 'billing';
SELECT entity, our_count, their_count, unexplained_count FROM sync.reconciliation_summary WHERE system = 'erp' AND object = 'customer' ORDER BY 1;
\c - rec_analyst
SELECT sync.reconcile('billing', 'invoice', mode => 'full');
SELECT sync.reconcile('billing', 'invoice') > 0 AS run;
SELECT count(*) > 0 AS breaks FROM sync.reconciliation_break;
SELECT count(*) FROM sync.break_entry;
\c - :me
-- personal values are for those who may read them
SELECT FROM sync.set_personal('customer', 'name');
SELECT ours, theirs, detail FROM sync.reconciliation_break WHERE field = 'name' AND object = 'customer' LIMIT 1;
\c - rec_analyst
SELECT ours, theirs, detail FROM sync.reconciliation_break WHERE field = 'name' AND object = 'customer' LIMIT 1;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_reconcile;
DROP ROLE rec_analyst;
