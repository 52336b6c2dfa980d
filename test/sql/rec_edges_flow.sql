-- Comparisons while things are on their way, held, dead or not meant for a system; of periods, drafts, deleted
-- records and owned fields; of systems that are paused, or forgotten.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_edges_flow;
CREATE DATABASE sync_rec_edges_flow;
\c sync_rec_edges_flow
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA rec;
CREATE TABLE rec.legal_entity (id text PRIMARY KEY, code text, timezone text);
CREATE TABLE rec.invoice (id text PRIMARY KEY, number text, legal_entity_id text, issue_date date, posting_date date, settled_at timestamptz, currency char(3), total_amount numeric, tax_amount numeric, status text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.note (id integer PRIMARY KEY, title text, body text, done boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL DEFAULT now());
INSERT INTO rec.legal_entity VALUES ('e1', 'DE01', 'Europe/Berlin');
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "note": {
      "push": {"operations": {"create": {"method": "POST", "path": "/n", "body": {"title": "$.new.title"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"], "update": []}},
      "pull": {"list": {"path": "/n", "items": "$.data"}, "record": {"id": "$.id", "deleted": "$.deleted == true"}, "fields": {"id": "$.key", "title": "$.title", "body": "$.body"}}},
    "invoice": {"pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true"},
      "fields": {"id": "$.key", "number": "$.number", "legal_entity_id": "$.entity", "issue_date": "$.date", "posting_date": "$.posted", "settled_at": "$.settled", "currency": "$.currency", "total_amount": "$.total", "tax_amount": "$.tax", "status": "$.status"}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.note', object => 'note');
SELECT FROM sync.track('rec.invoice', object => 'invoice', financial => true);
SELECT sync.create_stream('billing', 'invoice') AS invoices \gset
SELECT sync.create_stream('billing', 'note') AS notes \gset
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/include/rec_run.sql'
\i :file
CREATE FUNCTION rec.mirror(remote text, change jsonb, system text DEFAULT 'billing') RETURNS void LANGUAGE sql AS $$
    UPDATE sync.mirror m SET fields = m.fields || change FROM sync.system y WHERE y.id = m.system_id AND y.name = system AND m.remote_id = remote
$$;
CREATE VIEW rec.breaks AS
SELECT kind, status, system, object, record_id, remote_id, field, ours, theirs, difference AS diff, currency AS cur, at_risk, period, detail, explanation FROM sync.reconciliation_break WHERE status <> 'resolved' ORDER BY source, kind, record_id, remote_id, field;
CREATE VIEW rec.totals AS
SELECT object, system, period, currency, our_count, our_amount, their_count, their_amount, difference, in_transit_count AS transit, in_transit, explained_count AS explains, explained, unexplained_count AS unexplains, unexplained
  FROM sync.reconciliation_summary ORDER BY 1, 2, 3, 4;

SELECT applied FROM sync._apply_page(:invoices, (SELECT jsonb_agg(jsonb_build_object('id', 'i' || n, 'key', n::text, 'number', 'R-' || n, 'entity', 'e1', 'date', '2026-10-05', 'posted', '2026-10-05', 'currency', (ARRAY['EUR', 'JPY', 'KWD'])[n], 'total', 100 * n, 'tax', n, 'status', 'open')) FROM generate_series(1, 3) n));
SELECT applied FROM sync._apply_page(:notes, '[{"id": "n1", "key": 1, "title": "one", "body": "b"}, {"id": "n2", "key": 2, "title": "two", "body": "b"}, {"id": "n3", "key": 3, "title": "three", "body": "b"}]');
SELECT rec.run('invoice'), rec.run('note');

-- ---- tolerance: by currency, up to and with the amount, of each amount by itself ----
SELECT sync.set_tolerance('billing', 'invoice', 0.02, 'EUR', 'they round'), sync.set_tolerance('billing', 'invoice', 1, 'JPY', 'they round');
SELECT rec.mirror('i1', '{"total_amount": 100.02, "tax_amount": 0.98}'), rec.mirror('i2', '{"total_amount": 201}'), rec.mirror('i3', '{"total_amount": 300.001}');
SELECT rec.run('invoice');
SELECT kind, status, record_id, field, diff, cur, explanation FROM rec.breaks;
SELECT * FROM rec.totals WHERE object = 'invoice';
SELECT rec.mirror('i1', '{"total_amount": 100.03, "tax_amount": null}'), rec.mirror('i2', '{"total_amount": 198.6}'), rec.mirror('i3', '{"total_amount": 300.0004}');
SELECT rec.run('invoice');
SELECT kind, status, record_id, field, ours, theirs, diff, cur, at_risk FROM rec.breaks;
-- Another currency there: that is the difference, and the whole amount is at risk.
SELECT rec.mirror('i1', '{"total_amount": 100.01, "tax_amount": 1, "currency": "JPY"}'), rec.mirror('i2', '{"total_amount": 200}'), rec.mirror('i3', '{"total_amount": 300}');
SELECT rec.run('invoice');
SELECT kind, status, record_id, field, ours, theirs, diff, cur, at_risk FROM rec.breaks;
SELECT * FROM rec.totals WHERE object = 'invoice';
SELECT rec.mirror('i1', '{"total_amount": 100, "currency": "EUR"}'), rec.run('invoice');

-- ---- periods: a document that moved is a difference of both months ----
SELECT rec.mirror('i1', '{"posting_date": "2026-11-01"}');
SELECT rec.run('invoice'), rec.run('invoice', period => '[2026-10-01,2026-11-01)'), rec.run('invoice', period => '[2026-11-01,2026-12-01)'), rec.run('invoice', period => '[2026-12-01,2027-01-01)');
SELECT kind, status, record_id, field, ours, theirs, period, at_risk FROM rec.breaks;
SELECT * FROM rec.totals WHERE object = 'invoice';
SELECT rec.mirror('i1', '{"posting_date": "2026-10-05"}'), rec.run('invoice');
-- a day that is none
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, mapped, reason) SELECT y.id, o.id, 'i7', '{}', '{"number": "R-7", "issue_date": "soon", "settled_at": "2026-13-45", "total_amount": "much", "currency": "EUR"}', 'invalid input syntax for type date: "soon"' FROM sync.system y, sync.object o WHERE y.name = 'billing' AND o.name = 'invoice';
SELECT rec.run('invoice'), rec.run('invoice', 'delta'), rec.run('invoice', period => '[2026-10-01,2026-11-01)');
SELECT kind, status, record_id, remote_id, diff, period, detail FROM rec.breaks;
SELECT * FROM rec.totals WHERE object = 'invoice';
SELECT FROM sync.inbox i CROSS JOIN LATERAL sync.discard_inbox(i.id, 'nonsense');
SELECT rec.run('invoice', 'delta'), rec.run('invoice');

-- ---- pulls that wait in the inbox ----
SELECT applied, to_inbox FROM sync._apply_page(:invoices, '[{"id": "i8", "key": "8", "number": "R-8", "date": "2026-10-07", "currency": "EUR", "total": 8, "status": "open"}]');
UPDATE sync.mirror SET record_id = NULL WHERE remote_id = 'i8';
DELETE FROM sync.external_id WHERE remote_id = 'i8';
DELETE FROM rec.invoice WHERE id = '8';
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, mapped, reason, wait_remote_id, wait_object_id) SELECT m.system_id, m.object_id, 'i8', '{}', m.fields, 'refers to a record that is not here yet', 'c9', m.object_id FROM sync.mirror m WHERE m.remote_id = 'i8';
SELECT rec.run('invoice', 'delta'), rec.run('invoice');
SELECT kind, status, remote_id, diff, detail FROM rec.breaks;
SELECT * FROM rec.totals WHERE object = 'invoice' AND currency = 'EUR';
-- thrown away: then it is missing here, also to a delta
SELECT FROM sync.inbox i CROSS JOIN LATERAL sync.discard_inbox(i.id, 'not ours');
SELECT rec.run('invoice', 'delta');
SELECT kind, status, remote_id, diff, detail FROM rec.breaks;
DELETE FROM sync.mirror WHERE remote_id = 'i8';
SELECT rec.run('invoice');

-- ---- only pushed, or only pulled ----
SELECT rec.run('note');
INSERT INTO rec.note VALUES (9, 'of before');
SELECT rec.run('note', 'delta'), rec.run('note');
SELECT sync.create_route('crm', 'note', condition => 'done') AS route \gset
INSERT INTO rec.note VALUES (10, 'open', NULL, false), (11, 'done', NULL, true);
-- 10 is not meant for crm; 11 waits for its delivery; 1, 2, 3 and 9 are of before the route
SELECT rec.run('note', system => 'crm'), rec.run('note', 'delta', system => 'crm');
SELECT * FROM rec.totals WHERE system = 'crm';
CREATE FUNCTION rec.keep(record text, as_state text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM sync.pending p WHERE p.record_id = record;
    INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, code, message)
    SELECT r.id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, as_state, 'x', 'x' FROM sync.outbox e JOIN sync.route r ON r.object_id = e.object_id WHERE e.record_id = record AND e.op = 'I'
$$;
CREATE TABLE rec.states AS SELECT s, n FROM unnest(ARRAY['retry', 'waiting', 'held', 'ambiguous', 'behind', 'dead', 'conflict']) WITH ORDINALITY u (s, n);
DO $$
DECLARE
    k record;
BEGIN
    FOR k IN SELECT * FROM rec.states ORDER BY n LOOP
        PERFORM rec.keep('11', k.s);
        RAISE INFO '%: mirror: %; delta: %; % %', k.s, rec.run('note', system => 'crm'), rec.run('note', 'delta', system => 'crm'), (SELECT count(*) FROM rec.breaks WHERE system = 'crm'), (SELECT max(detail) FROM rec.breaks WHERE system = 'crm');
    END LOOP;
END $$;
-- gone without an end, as when a person discarded it: missing there
DELETE FROM sync.pending;
INSERT INTO sync.outcome (route_id, seq, attempt_id, at, state, outcome, final) SELECT :route, e.seq, 0, clock_timestamp(), 'discarded', 'rejected', true FROM sync.outbox e WHERE e.record_id = '11';
SELECT rec.run('note', 'delta', system => 'crm'), rec.run('note', system => 'crm');
SELECT kind, status, record_id, detail FROM rec.breaks WHERE system = 'crm';
-- no longer meant for it
UPDATE rec.note SET done = false WHERE id = 11;
INSERT INTO sync.outcome (route_id, seq, attempt_id, at, state, outcome, final) SELECT :route, e.seq, 0, clock_timestamp(), 'ignored', 'done', true FROM sync.outbox e WHERE e.record_id = '11' AND e.op = 'U';
SELECT rec.run('note', 'delta', system => 'crm'), rec.run('note', system => 'crm');
-- bound by a push, never read back
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, '11', 'x11' FROM sync.system y, sync.object o WHERE y.name = 'crm' AND o.name = 'note';
SELECT rec.run('note', system => 'crm');
SELECT kind, status, record_id, remote_id, detail FROM rec.breaks WHERE system = 'crm';
SELECT * FROM rec.totals WHERE system = 'crm';
-- read back with what the answer told, which is not all: what it did not tell is not compared
INSERT INTO sync.mirror (system_id, object_id, record_id, remote_id, fields) SELECT x.system_id, x.object_id, '11', 'x11', '{"title": "done"}' FROM sync.external_id x WHERE x.remote_id = 'x11';
SELECT rec.run('note', system => 'crm');

-- ---- owned fields: what the hub keeps by ownership is explained ----
SELECT sync.set_owner('note', 'body', 'hub', 'ignore', 'ours') IS NULL AS owned, sync.set_owner('note', 'title', 'billing', 'ignore', 'theirs') IS NULL AS theirs;
SELECT applied FROM sync._apply_page(:notes, '[{"id": "n1", "key": 1, "title": "ONE", "body": "x"}]');
SELECT id, title, body FROM rec.note WHERE id = 1;
SELECT rec.run('note', 'delta'), rec.run('note');
SELECT kind, status, record_id, field, ours, theirs, explanation FROM rec.breaks WHERE system = 'billing';
UPDATE rec.note SET body = 'y' WHERE id = 1;
SELECT rec.run('note', 'delta'), rec.run('note');
SELECT kind, status, record_id, field, ours, theirs, explanation FROM rec.breaks WHERE system = 'billing';

-- ---- systems that are paused are compared, forgotten ones are not ----
SELECT sync.pause('crm', 'a holiday'), rec.run('note', system => 'crm');
SELECT sync.resume('crm'), rec.run('note', system => 'crm');
DROP SERVER crm;
SELECT sync.drop_route(:route, true);
SELECT rec.run('note', system => 'crm');
SELECT sync.forget_system('crm');
DROP SERVER crm;
SELECT sync.reconcile('crm', 'note');
SELECT count(*) > 0 AS runs FROM sync.reconcile_all(mode => 'delta');
SELECT count(*) FROM rec.breaks WHERE system = 'crm';

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_edges_flow;
