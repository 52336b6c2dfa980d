-- Comparisons of documents with lines: in another order, removed, added, twice; what only the hub fills in; a cent.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_edges_lines;
CREATE DATABASE sync_rec_edges_lines;
\c sync_rec_edges_lines
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA rec;
CREATE TABLE rec.product (id text PRIMARY KEY, name text);
CREATE TABLE rec.invoice (id text PRIMARY KEY, number text, agent_id text REFERENCES rec.product, currency char(3), total_amount numeric, note text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice_line (invoice_id text REFERENCES rec.invoice, line_no integer, product_id text REFERENCES rec.product, description text, quantity numeric, net_amount numeric, ours_only text, PRIMARY KEY (invoice_id, line_no));
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "product": {"pull": {"list": {"path": "/p", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"id": "$.key", "name": "$.name"}}},
    "invoice": {"pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true"},
      "fields": {"id": "$.key", "number": "$.number", "currency": {"$": "$.currency", "omit": "null"}, "total_amount": "$.total", "agent_id": {"$": "$.agent", "ref": "product", "unbound": "null"}},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "product_id": {"$": "$.product", "ref": "product", "unbound": "null"}, "description": "$.text", "quantity": {"$": "$.quantity", "default": 1}, "net_amount": "$.net"}}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.product', object => 'product');
SELECT FROM sync.track('rec.invoice', object => 'invoice', financial => true, lines => 'rec.invoice_line');
SELECT sync.create_stream('billing', 'product') AS products \gset
SELECT sync.create_stream('billing', 'invoice') AS invoices \gset
SELECT sync.create_stream('erp', 'invoice') AS erp \gset
SELECT sync.create_stream('erp', 'product') AS erp_products \gset
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/include/rec_run.sql'
\i :file
CREATE FUNCTION rec.mirror(remote text, change jsonb) RETURNS void LANGUAGE sql AS $$
    UPDATE sync.mirror m SET fields = m.fields || change FROM sync.system y WHERE y.id = m.system_id AND y.name = 'billing' AND m.remote_id = remote
$$;
-- Their lines made of what they are now, by an expression over each (l) and its place (n).
CREATE FUNCTION rec.lines(remote text, made text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE sync.mirror m SET fields = m.fields || jsonb_build_object(''lines'', (SELECT coalesce(jsonb_agg(r.l ORDER BY r.o), ''[]'') FROM jsonb_array_elements(m.fields -> ''lines'') WITH ORDINALITY e (l, n) CROSS JOIN LATERAL (%s) r (l, o)))
                      FROM sync.system y WHERE y.id = m.system_id AND y.name = ''billing'' AND m.remote_id = %L', made, remote);
END
$$;
CREATE VIEW rec.breaks AS SELECT kind, severity, status, record_id, other_system AS other, field, ours, theirs, detail, explanation FROM sync.reconciliation_break WHERE status <> 'resolved' ORDER BY source, record_id, field;
SELECT applied FROM sync._apply_page(:products, '[{"id": "p1", "key": "P1", "name": "Seat"}]');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, x.object_id, x.record_id, x.remote_id FROM sync.external_id x, sync.system y WHERE y.name = 'erp';
\set page '[{"id": "i1", "key": "1", "number": "R-1", "currency": "EUR", "total": 100, "lines": [{"no": 1, "product": "p1", "text": "a", "net": 60.00}, {"no": 2, "text": "b", "net": 30}, {"no": 3, "text": "b", "net": 10}]}, {"id": "i2", "key": "2", "number": "R-2", "total": 5, "lines": []}, {"id": "i3", "key": "3", "number": "R-3", "currency": "EUR", "total": 7, "lines": [{"no": 1, "product": "px", "text": "c", "net": 7}]}]'
SELECT applied FROM sync._apply_page(:invoices, :'page');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, x.object_id, x.record_id, 'e' || x.remote_id FROM sync.external_id x, sync.system y WHERE y.name = 'erp' AND x.remote_id LIKE 'i%';
SELECT applied FROM sync._apply_page(:erp, regexp_replace(:'page', '"i([0-9])"', '"ei\1"', 'g')::jsonb);
SELECT rec.run(), rec.run(other => 'erp');

-- One that agrees and waits in the inbox as well counts once.
CREATE VIEW rec.counted AS SELECT DISTINCT ON (t.period, t.currency) t.our_count, t.their_count, t.our_amount, t.their_amount, t.currency FROM sync.reconciliation_total t
    JOIN sync.reconciliation r ON r.id = t.reconciliation_id WHERE r.source = 'record:billing:invoice' ORDER BY t.period, t.currency, r.id DESC;
SELECT rec.run();
SELECT * FROM rec.counted;
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, reason) SELECT m.system_id, m.object_id, m.remote_id, '{"id": "i1"}', 'a later state was refused' FROM sync.mirror m JOIN sync.system y ON y.id = m.system_id AND y.name = 'billing' WHERE m.remote_id = 'i1';
SELECT rec.run();
SELECT * FROM rec.counted;
DELETE FROM sync.inbox;

-- Written otherwise, in another order: the same.
SELECT rec.lines('i1', 'SELECT l || ''{"net_amount": "60.0", "quantity": "1.00"}'', -n WHERE n = 1 UNION ALL SELECT l, -n WHERE n > 1');
SELECT rec.run(), rec.run(other => 'erp');
-- Removed, added, one twice instead of another, a cent, another text, nothing at all.
CREATE TABLE rec.was AS SELECT * FROM sync.mirror WHERE remote_id = 'i1';
CREATE FUNCTION rec.back() RETURNS void LANGUAGE sql AS $$ UPDATE sync.mirror m SET fields = w.fields FROM rec.was w WHERE (m.system_id, m.object_id, m.remote_id) = (w.system_id, w.object_id, w.remote_id) $$;
SELECT rec.lines('i1', 'SELECT l, n WHERE n <> 2');
SELECT rec.run(), rec.run(other => 'erp');
SELECT kind, severity, record_id, other, field, jsonb_array_length(ours) AS ours, jsonb_array_length(theirs) AS theirs, detail FROM rec.breaks;
SELECT rec.back(), rec.lines('i1', 'SELECT l, n UNION ALL SELECT l || ''{"line_no": 4}'', 9 WHERE n = 1');
SELECT rec.run(), rec.run(other => 'erp');
SELECT rec.back(), rec.lines('i1', 'SELECT l, n WHERE n < 3 UNION ALL SELECT l, 9 WHERE n = 2');
SELECT rec.run(), rec.run(other => 'erp');
SELECT rec.back(), rec.lines('i1', 'SELECT l || ''{"net_amount": 30.01}'', n WHERE n = 2 UNION ALL SELECT l, n WHERE n <> 2');
SELECT rec.run(), rec.run(other => 'erp');
-- ... which a tolerance explains, of one system or of either of two; nothing but amounts
SELECT sync.set_tolerance('erp', 'invoice', 0.01, 'EUR', 'they round each line');
SELECT rec.run(), rec.run(other => 'erp');
SELECT sync.set_tolerance('billing', 'invoice', 0.02, 'EUR', 'they round each line'), sync.set_tolerance('erp', 'invoice', 0, 'EUR', 'no more');
SELECT rec.run(), rec.run(other => 'erp');
SELECT status, record_id, other, field, explanation FROM rec.breaks;
SELECT rec.lines('i1', 'SELECT l || ''{"quantity": 2}'', n WHERE n = 2 UNION ALL SELECT l, n WHERE n <> 2');
SELECT rec.run(), rec.run(other => 'erp');
SELECT sync.set_tolerance('billing', 'invoice', 0, 'EUR', 'no more');
SELECT rec.back(), rec.lines('i1', 'SELECT l || ''{"description": "A"}'', n');
SELECT rec.run(), rec.run(other => 'erp');
SELECT rec.back(), rec.mirror('i1', '{"lines": []}');
SELECT rec.run(), rec.run(other => 'erp');
SELECT rec.back(), rec.mirror('i1', '{"lines": null}');
SELECT rec.run(), rec.run(other => 'erp');
SELECT kind, record_id, other, field, jsonb_typeof(ours) AS ours, theirs FROM rec.breaks;
-- Less than the currency has: the same, also where only we know which currency it is.
SELECT rec.back(), rec.lines('i1', 'SELECT l || ''{"net_amount": 60.004}'', n WHERE n = 1 UNION ALL SELECT l, n WHERE n <> 1'), rec.mirror('i1', '{"total_amount": 99.9999999}');
SELECT rec.run(), rec.run(other => 'erp');
UPDATE sync.mirror SET fields = fields - 'currency' WHERE remote_id = 'i1';
SELECT rec.run(), rec.run(other => 'erp');
SELECT rec.back();
-- A mirror that was never told of lines: nothing to compare.
UPDATE sync.mirror SET fields = fields - 'lines' WHERE remote_id = 'i1';
SELECT rec.run(), rec.run(other => 'erp');
SELECT rec.back();
SELECT rec.run(), rec.run(other => 'erp'), count(*) FROM rec.breaks;

-- ---- what only the hub fills in ----
INSERT INTO rec.product VALUES ('P2', 'Only ours');
UPDATE rec.invoice_line SET ours_only = 'x';
UPDATE rec.invoice_line SET product_id = 'P2' WHERE product_id IS NULL AND (invoice_id, line_no) IN (('1', 2), ('3', 1));
UPDATE rec.invoice SET agent_id = 'P2' WHERE id = '1';
-- The system has no P2, so it cannot say whether the line is of it.
SELECT rec.run(mode => 'delta'), rec.run(), rec.full(), rec.run(other => 'erp');
SELECT * FROM rec.breaks;
-- It has P1, and does not say that the line is of it; which one it says instead is unknown of px.
UPDATE rec.invoice_line SET product_id = 'P1' WHERE (invoice_id, line_no) IN (('1', 2), ('3', 1));
UPDATE rec.invoice SET agent_id = 'P1' WHERE id = '1';
SELECT rec.run(mode => 'delta'), rec.run(), rec.full();
SELECT kind, record_id, field FROM rec.breaks;
-- What it does say is compared.
UPDATE rec.invoice_line SET product_id = NULL WHERE (invoice_id, line_no) IN (('1', 2), ('3', 1));
UPDATE rec.invoice SET agent_id = NULL WHERE id = '1';
SELECT rec.run(mode => 'delta'), rec.run(), (SELECT count(*) FROM rec.breaks);
UPDATE rec.invoice_line SET product_id = 'P2' WHERE (invoice_id, line_no) = ('1', 1);
SELECT rec.run(mode => 'delta'), rec.run();
SELECT kind, record_id, field FROM rec.breaks;
UPDATE rec.invoice_line SET product_id = NULL WHERE (invoice_id, line_no) = ('1', 1);
SELECT rec.run(mode => 'delta'), rec.run();
SELECT kind, record_id, field FROM rec.breaks;
UPDATE rec.invoice_line SET product_id = 'P1' WHERE (invoice_id, line_no) = ('1', 1);
SELECT rec.run(mode => 'delta'), rec.run(), (SELECT count(*) FROM rec.breaks);

-- ---- our own lines change: a delta sees it ----
UPDATE rec.invoice_line SET net_amount = 31 WHERE (invoice_id, line_no) = ('1', 2);
SELECT rec.run(mode => 'delta'), rec.run();
INSERT INTO rec.invoice_line VALUES ('2', 1, NULL, 'new', 1, 5);
DELETE FROM rec.invoice_line WHERE (invoice_id, line_no) = ('1', 3);
SELECT rec.run(mode => 'delta'), rec.run();
SELECT kind, record_id, field, jsonb_array_length(ours) AS ours, jsonb_array_length(theirs) AS theirs FROM rec.breaks;
UPDATE rec.invoice_line SET net_amount = 30 WHERE (invoice_id, line_no) = ('1', 2);
DELETE FROM rec.invoice_line WHERE invoice_id = '2';
INSERT INTO rec.invoice_line VALUES ('1', 3, NULL, 'b', 1, 10);
SELECT rec.run(mode => 'delta'), rec.run(), (SELECT count(*) FROM rec.breaks);

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_edges_lines;
