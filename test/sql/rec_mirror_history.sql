-- What is kept of changes of mirrors: states of financial records, the mere fact for others.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_history;
CREATE DATABASE sync_rec_history;
\c sync_rec_history
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA rec;
CREATE TABLE rec.customer (id text PRIMARY KEY, name text);
CREATE TABLE rec.bill (id text PRIMARY KEY, total numeric, payer text);
CREATE TABLE rec.bill_line (bill_id text REFERENCES rec.bill, line_no integer, amount numeric, PRIMARY KEY (bill_id, line_no));
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {"pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id", "deleted": "$.deleted == true"},
      "fields": {"id": "$.key", "name": "$.name"}, "on_delete": "delete"}},
    "bill": {"pull": {"list": {"path": "/b", "items": "$.data"}, "record": {"id": "$.id", "deleted": "$.deleted == true"},
      "fields": {"id": "$.key", "total": "$.total", "payer": "$.payer"},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "amount": "$.amount"}}, "on_delete": "ignore"}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.customer', object => 'customer');
SELECT FROM sync.track('rec.bill', object => 'bill', financial => true, lines => 'rec.bill_line');
SELECT sync.create_stream('billing', 'customer') AS customers \gset
SELECT sync.create_stream('billing', 'bill') AS bills \gset
CREATE VIEW rec.history AS
SELECT o.name AS object, h.remote_id, h.record_id, h.fields, h.deleted FROM sync.mirror_history h JOIN sync.object o ON o.id = h.object_id ORDER BY h.at, h.ctid;

-- ---- pages ----
SELECT applied FROM sync._apply_page(:customers, '[{"id": "c1", "key": "1", "name": "Ada"}, {"id": "c2", "key": "2", "name": "Bob"}]');
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b1", "key": "1", "total": 10.0, "payer": "Ada", "lines": [{"no": 1, "amount": 10}]}, {"id": "b2", "key": "2", "total": 5}]');
-- nothing new; another version of itself; a number written otherwise
SELECT unchanged FROM sync._apply_page(:customers, '[{"id": "c1", "key": "1", "name": "Ada"}]');
SELECT mirrored, unchanged FROM sync._apply_page(:bills, '[{"id": "b1", "key": "1", "total": 10.00, "payer": "Ada", "lines": [{"no": 1, "amount": 10}], "etag": 7}]');
SELECT * FROM rec.history;
-- changes: of a field, of a line alone
SELECT applied FROM sync._apply_page(:customers, '[{"id": "c1", "key": "1", "name": "Ada L."}, {"id": "c2", "key": "2", "name": "Bob"}]');
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b1", "key": "1", "total": 10, "payer": "Ada", "lines": [{"no": 1, "amount": 11}]}]');
SELECT * FROM rec.history OFFSET 4;
-- gone, once, and back
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b1", "key": "1", "deleted": true}]');
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b1", "key": "1", "deleted": true}]');
SELECT applied FROM sync._apply_page(:customers, '[{"id": "c2", "key": "2", "deleted": true}]');
SELECT applied, mirrored FROM sync._apply_page(:bills, '[{"id": "b1", "key": "1", "total": 10, "payer": "Ada", "lines": [{"no": 1, "amount": 11}]}]');
SELECT * FROM rec.history OFFSET 6;
SELECT count(*) FROM sync.mirror_history WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) OR incarnation <> sync._writer_incarnation();
-- what was known at a moment
SELECT max(at) AS moment FROM sync.mirror_history WHERE deleted AND fields IS NOT NULL \gset
SELECT DISTINCT ON (h.remote_id) h.remote_id, h.fields -> 'lines' -> 0 ->> 'amount' AS amount, h.deleted
  FROM sync.mirror_history h WHERE h.fields IS NOT NULL AND h.at < :'moment' ORDER BY h.remote_id, h.at DESC;
-- a page that fails leaves nothing
BEGIN;
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b3", "key": "3", "total": 1}]');
ROLLBACK;
SELECT applied, to_inbox FROM sync._apply_page(:bills, '[{"id": "b4", "key": "4", "total": 1, "lines": [{"amount": 1}]}, {"id": "b5", "key": "5", "total": 2}]');
SELECT * FROM rec.history OFFSET 9;
SELECT * FROM sync.check_invariants();

-- ---- an object that becomes financial, and one that no longer is ----
SELECT FROM sync.track('rec.customer', object => 'customer', financial => true);
SELECT * FROM rec.history WHERE object = 'customer' AND fields IS NOT NULL;
SELECT * FROM sync.check_invariants();
SELECT FROM sync.track('rec.customer', object => 'customer', financial => false);
SELECT applied FROM sync._apply_page(:customers, '[{"id": "c1", "key": "1", "name": "Ada Lovelace"}]');
SELECT * FROM rec.history WHERE object = 'customer' OFFSET 6;

-- ---- erased data go from there, too ----
SELECT sync.set_personal('bill', 'payer');
SELECT count(*) FROM sync.mirror_history WHERE fields ->> 'payer' = 'Ada';
SELECT FROM sync.erase('bill', '1', 'asked by the payer');
SELECT sync._erase_due();
SELECT count(*) FILTER (WHERE fields ? 'payer') AS with_payer, count(*) FROM sync.mirror_history WHERE remote_id = 'b1';
SELECT erased -> 'mirror_history' AS rows FROM sync.erasure;
SELECT * FROM sync.check_invariants();

-- and past states with the retention of the field
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b5", "key": "5", "total": 2, "payer": "Eve"}]');
SELECT applied FROM sync._apply_page(:bills, '[{"id": "b5", "key": "5", "total": 2, "payer": "Eva"}]');
UPDATE sync.mirror_history SET at = at - interval '40 days' WHERE remote_id = 'b5';
SELECT sync.set_personal('bill', 'payer', interval '30 days');
SELECT sync._forget_personal(), sync._forget_personal();
SELECT fields FROM sync.mirror_history WHERE remote_id = 'b5' ORDER BY at;
SELECT * FROM sync.check_invariants();
UPDATE sync.mirror_history SET at = at + interval '40 days' WHERE remote_id = 'b5';

-- ---- retention ----
SELECT sync._prune_mirror_history();
SELECT count(*) FILTER (WHERE fields IS NULL) AS changes, count(*) FILTER (WHERE fields IS NOT NULL) AS states FROM sync.mirror_history;
UPDATE sync.mirror_history SET at = at - interval '8 days' WHERE remote_id IN ('c1', 'c2');
SELECT sync._prune_mirror_history(1) AS more, sync._prune_mirror_history(1) AS more, sync._prune_mirror_history(10) AS more;
SELECT count(*) FILTER (WHERE fields IS NULL) AS changes, count(*) FILTER (WHERE fields IS NOT NULL) AS states FROM sync.mirror_history;
-- of ten-year-old states the last one stays
UPDATE sync.mirror_history SET at = at - interval '11 years' WHERE remote_id IN ('b1', 'b2');
SELECT sync._prune_mirror_history();
SELECT * FROM rec.history WHERE object = 'bill';

-- ---- who forgets the object or the system forgets this ----
SELECT sync.drop_stream('billing', 'customer'), sync.drop_stream('billing', 'bill');
SELECT FROM sync.untrack('customer', force => true);
SELECT DISTINCT object_id = (SELECT id FROM sync.object) AS bills FROM sync.mirror_history;
SELECT sync.forget_system('billing');
SELECT count(*) FROM sync.mirror_history;
\c regression
DROP DATABASE sync_rec_history;
