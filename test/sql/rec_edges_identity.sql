-- Comparisons where identity is not plain: records that were merged and their aliases, documents that refer to
-- them, bindings and mirrors that contradict each other, what both sides have deleted, what was erased.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_edges_identity;
CREATE DATABASE sync_rec_edges_identity;
\c sync_rec_edges_identity
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA rec;
CREATE TABLE rec.customer (id text PRIMARY KEY, number text, name text, parent_id text REFERENCES rec.customer, merged_into_id text REFERENCES rec.customer, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice (id text PRIMARY KEY, number text, customer_id text REFERENCES rec.customer, issue_date date, currency char(3), total_amount numeric, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice_line (invoice_id text REFERENCES rec.invoice, line_no integer, payer_id text REFERENCES rec.customer, net_amount numeric, PRIMARY KEY (invoice_id, line_no));
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {
      "push": {"operations": {"create": {"method": "POST", "path": "/c", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
      "pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true", "merged_into": "$.merged", "our_id": "$.key"},
        "fields": {"number": "$.number", "name": "$.name"}}},
    "invoice": {"pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true", "our_id": "$.key"},
      "fields": {"number": "$.number", "customer_id": {"$": "$.customer", "ref": "customer"}, "issue_date": "$.date", "currency": "$.currency", "total_amount": "$.total"},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "payer_id": {"$": "$.payer", "ref": "customer", "unbound": "null"}, "net_amount": "$.net"}}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.customer', object => 'customer');
SELECT FROM sync.track('rec.invoice', object => 'invoice', financial => true, lines => 'rec.invoice_line');
SELECT sync.create_stream('billing', 'customer') AS customers \gset
SELECT sync.create_stream('billing', 'invoice') AS invoices \gset
SELECT sync.create_stream('erp', 'customer') AS erp_customers \gset
SELECT sync.create_stream('erp', 'invoice') AS erp_invoices \gset
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/include/rec_run.sql'
\i :file
CREATE VIEW rec.breaks AS
SELECT kind, status, object, record_id, system, other_system AS other, remote_id, field, ours, theirs, difference AS diff, detail FROM sync.reconciliation_break WHERE status <> 'resolved' ORDER BY source, kind, record_id, remote_id, field;
CREATE VIEW rec.totals AS
SELECT object, period, currency, system, other_system AS other, our_count, our_amount, their_count, their_amount, unexplained_count, unexplained FROM sync.reconciliation_summary s WHERE (SELECT r.as_of FROM sync.reconciliation r WHERE r.id = s.reconciliation) IS NULL ORDER BY 1, 2, 3, 4, 5;

\set customers_page '[{"id": "c1", "key": "A", "number": "C-1", "name": "Ada"}, {"id": "c2", "key": "B", "number": "C-2", "name": "Ada L."}, {"id": "c3", "key": "D", "number": "C-3", "name": "Dan"}]'
\set invoices_page '[{"id": "i1", "key": "1", "number": "R-1", "customer": "c1", "date": "2026-10-05", "currency": "EUR", "total": 10, "lines": [{"no": 1, "payer": "c2", "net": 10}]}, {"id": "i2", "key": "2", "number": "R-2", "customer": "c2", "date": "2026-10-06", "currency": "EUR", "total": 20, "lines": [{"no": 1, "payer": "c1", "net": 20}]}, {"id": "i3", "key": "3", "number": "R-3", "customer": "c3", "date": "2026-10-07", "currency": "EUR", "total": 30, "lines": []}]'
SELECT applied, bound FROM sync._apply_page(:customers, :'customers_page');
SELECT applied, bound FROM sync._apply_page(:invoices, :'invoices_page');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, x.object_id, x.record_id, 'e' || x.remote_id FROM sync.external_id x, sync.system y WHERE y.name = 'erp';
SELECT applied, bound FROM sync._apply_page(:erp_customers, (SELECT jsonb_agg(c || jsonb_build_object('id', 'e' || (c ->> 'id'))) FROM jsonb_array_elements(:'customers_page') c));
SELECT applied, bound FROM sync._apply_page(:erp_invoices, regexp_replace(:'invoices_page', '"([ic])([0-9])"', '"e\1\2"', 'g')::jsonb);
INSERT INTO rec.customer (id, number, name) VALUES ('C', 'C-4', 'Dan the other');
SELECT rec.run('customer'), rec.run('invoice'), rec.run('customer', other => 'erp'), rec.run('invoice', other => 'erp');
SELECT clock_timestamp() AS before_merge \gset

-- ---- merged: B into A, which is bound, too; D into C, which was bound to nothing ----
SELECT sync.merge_records('customer', 'A', 'B', 'one party'), sync.merge_records('customer', 'C', 'D', 'one party');
SELECT record_id, remote_id FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id AND y.name = 'billing' JOIN sync.object o ON o.id = x.object_id AND o.name = 'customer' ORDER BY 2;
SELECT record_id, remote_id FROM sync.external_alias ORDER BY 2;
-- The alias is no record of its own: neither missing here nor counted. What its documents say of it, they say of the survivor.
SELECT rec.run('customer', 'delta'), rec.run('invoice', 'delta');
SELECT rec.run('customer'), rec.run('invoice'), rec.run('customer', other => 'erp'), rec.run('invoice', other => 'erp');
SELECT rec.full('customer'), rec.full('invoice');
SELECT * FROM rec.breaks;
SELECT * FROM rec.totals;
SELECT rec.run('invoice', as_of => :'before_merge'), rec.run('invoice', as_of => clock_timestamp()), rec.run('invoice', other => 'erp', as_of => clock_timestamp());
SELECT * FROM rec.breaks WHERE object = 'invoice';
-- Another customer, really: that is found, beside a merge.
INSERT INTO rec.customer (id, number, name) VALUES ('E', 'C-5', 'Eve');
UPDATE rec.invoice SET customer_id = 'E' WHERE id = '2';
UPDATE rec.invoice_line SET payer_id = 'E' WHERE invoice_id = '1';
SELECT rec.run('invoice', 'delta'), rec.run('invoice'), rec.full('invoice');
SELECT * FROM rec.breaks WHERE object = 'invoice';
UPDATE rec.invoice SET customer_id = 'A' WHERE id = '2';
UPDATE rec.invoice_line SET payer_id = 'A' WHERE invoice_id = '1';
-- A merge into one that is merged then.
SELECT sync.merge_records('customer', 'E', 'A', 'one party');
SELECT rec.run('invoice', 'delta'), rec.run('invoice');
SELECT * FROM rec.breaks WHERE object = 'invoice';
SELECT sync.undo_merge(m.id, 'no') FROM (SELECT max(id) AS id FROM sync.merge) m;
-- Undone: two again.
SELECT sync.undo_merge(m.id, 'two after all') FROM (SELECT id FROM sync.merge WHERE loser = 'B') m;
SELECT sync.undo_merge(m.id, 'two after all') FROM (SELECT id FROM sync.merge WHERE loser = 'D') m;
SELECT rec.run('customer', 'delta'), rec.run('invoice', 'delta');
SELECT rec.run('customer'), rec.run('invoice'), rec.run('customer', other => 'erp'), rec.run('invoice', other => 'erp');
SELECT * FROM rec.breaks;
SELECT * FROM rec.totals;

-- ---- the system merges two, of which the one that stays is not known yet: its id is replaced ----
SELECT applied, bound, to_inbox FROM sync._apply_page(:customers, '[{"id": "c9", "key": "D", "number": "C-3", "name": "Dan"}, {"id": "c3", "merged": "c9"}]');
SELECT record_id, remote_id FROM sync.external_alias ORDER BY 2;
SELECT rec.run('customer', 'delta'), rec.run('customer');
SELECT * FROM rec.breaks WHERE object = 'customer';
SELECT * FROM rec.totals WHERE object = 'customer';

-- ---- binding and mirror contradict each other: the binding counts ----
UPDATE sync.mirror m SET record_id = 'A' FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'c2';
SELECT rec.run('customer');
SELECT * FROM rec.breaks WHERE object = 'customer' AND other IS NULL;
SELECT * FROM rec.totals WHERE object = 'customer' AND other IS NULL;
UPDATE sync.mirror m SET record_id = 'nobody' FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'c2';
SELECT rec.run('customer');
SELECT * FROM rec.breaks WHERE object = 'customer' AND other IS NULL;
UPDATE sync.mirror m SET record_id = NULL FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'c2';
SELECT rec.run('customer'), rec.run('customer', other => 'erp'), rec.run('customer', other => 'billing', system => 'erp');
SELECT * FROM rec.breaks WHERE object = 'customer';
SELECT * FROM rec.totals WHERE object = 'customer';
-- swapped: each is compared with the row that it is bound to
UPDATE sync.external_id x SET remote_id = CASE x.remote_id WHEN 'c1' THEN 'x' ELSE 'c1' END FROM sync.system y WHERE y.id = x.system_id AND y.name = 'billing' AND x.remote_id = 'c1';
UPDATE sync.external_id x SET remote_id = 'c1' FROM sync.system y WHERE y.id = x.system_id AND y.name = 'billing' AND x.remote_id = 'c2';
UPDATE sync.external_id x SET remote_id = 'c2' FROM sync.system y WHERE y.id = x.system_id AND y.name = 'billing' AND x.remote_id = 'x';
UPDATE sync.mirror m SET record_id = 'B' FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'c2';
SELECT rec.run('customer');
SELECT kind, record_id, remote_id, field, ours, theirs FROM rec.breaks WHERE object = 'customer' AND other IS NULL;
UPDATE sync.external_id x SET remote_id = 'x' FROM sync.system y WHERE y.id = x.system_id AND y.name = 'billing' AND x.remote_id = 'c2';
UPDATE sync.external_id x SET remote_id = 'c2' FROM sync.system y WHERE y.id = x.system_id AND y.name = 'billing' AND x.remote_id = 'c1';
UPDATE sync.external_id x SET remote_id = 'c1' FROM sync.system y WHERE y.id = x.system_id AND y.name = 'billing' AND x.remote_id = 'x';
SELECT rec.run('customer'), (SELECT count(*) FROM rec.breaks WHERE object = 'customer' AND other IS NULL);
-- neither side can be bound twice
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT x.system_id, x.object_id, 'Z', x.remote_id FROM sync.external_id x WHERE x.remote_id = 'i1';
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT x.system_id, x.object_id, x.record_id, 'z' FROM sync.external_id x WHERE x.remote_id = 'i1';
-- a second mirror that believes to be A, and is bound to nothing, is one that we do not have
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields) SELECT m.system_id, m.object_id, 'c8', m.record_id, m.fields FROM sync.mirror m JOIN sync.system y ON y.id = m.system_id AND y.name = 'billing' WHERE m.remote_id = 'c1';
SELECT rec.run('customer');
SELECT * FROM rec.breaks WHERE object = 'customer' AND other IS NULL;
SELECT * FROM rec.totals WHERE object = 'customer' AND other IS NULL;
DELETE FROM sync.mirror WHERE remote_id = 'c8';

-- ---- deleted on both sides, on one, erased ----
SELECT rec.run('customer');
DELETE FROM rec.invoice_line WHERE invoice_id = '3';
DELETE FROM rec.invoice WHERE id = '3';
SELECT rec.run('invoice', 'delta'), rec.run('invoice');
SELECT * FROM rec.breaks WHERE object = 'invoice' AND other IS NULL;
SELECT * FROM rec.totals WHERE object = 'invoice' AND other IS NULL;
SELECT applied FROM sync._apply_page(:invoices, '[{"id": "i3", "deleted": true}]');
SELECT rec.run('invoice', 'delta'), rec.run('invoice');
SELECT * FROM rec.breaks WHERE object = 'invoice' AND other IS NULL;
SELECT * FROM rec.totals WHERE object = 'invoice' AND other IS NULL;
UPDATE sync.mirror m SET deleted = true FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'i2';
SELECT rec.run('invoice'), rec.run('invoice', other => 'erp');
SELECT * FROM rec.breaks WHERE object = 'invoice';
SELECT * FROM rec.totals WHERE object = 'invoice';
UPDATE sync.mirror m SET deleted = false FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'i2';
SELECT FROM sync.set_personal('customer', 'name');
UPDATE sync.mirror m SET fields = m.fields || '{"name": "Secret"}' FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = 'c1';
SELECT rec.run('customer');
SELECT * FROM rec.breaks WHERE object = 'customer' AND other IS NULL;
SELECT sync.erase('customer', 'A', 'asked for', in_table => true) > 0 AS erased, sync._erase_due() >= 0 AS due;
SELECT rec.run('customer', 'delta'), rec.run('customer');
SELECT * FROM rec.breaks WHERE object = 'customer' AND other IS NULL;
SELECT count(*) FROM sync.break_entry b WHERE b::text LIKE '%Secret%';

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_edges_identity;
