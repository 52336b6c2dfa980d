-- Pages of remote records applied to tables: sync._apply_page() is what the hub runs.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_pull_apply;
CREATE DATABASE sync_pull_apply;
\c sync_pull_apply
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;

CREATE SCHEMA pull;
CREATE ROLE pull_owner;
GRANT USAGE, CREATE ON SCHEMA pull TO pull_owner;

CREATE TABLE pull.customer (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number text UNIQUE,
    name text NOT NULL CHECK (name <> 'poison'),
    email text,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'churned')),
    credit numeric(12,2),
    since timestamptz,
    parent_id uuid REFERENCES pull.customer,
    note text,
    updated_at timestamptz
);
CREATE TABLE pull.invoice (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    customer_id uuid NOT NULL REFERENCES pull.customer,
    number text,
    total numeric NOT NULL
);
CREATE TABLE pull.invoice_line (
    invoice_id uuid NOT NULL REFERENCES pull.invoice ON DELETE CASCADE,
    line_no int,
    description text,
    amount numeric NOT NULL,
    PRIMARY KEY (invoice_id, line_no)
);
ALTER TABLE pull.customer OWNER TO pull_owner;
ALTER TABLE pull.invoice OWNER TO pull_owner;
ALTER TABLE pull.invoice_line OWNER TO pull_owner;

-- A check over header and lines that is deferred for everybody else.
CREATE FUNCTION pull.check_total() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    doc uuid := CASE TG_TABLE_NAME WHEN 'invoice' THEN (to_jsonb(NEW) ->> 'id')::uuid
                ELSE (coalesce(to_jsonb(NEW), to_jsonb(OLD)) ->> 'invoice_id')::uuid END;
    expected numeric;
    actual numeric;
BEGIN
    IF current_user <> 'pull_owner' AND sync.is_applying() THEN
        RAISE EXCEPTION 'runs as %', current_user;
    END IF;
    SELECT i.total INTO expected FROM pull.invoice i WHERE i.id = doc;
    SELECT sum(l.amount) INTO actual FROM pull.invoice_line l WHERE l.invoice_id = doc;
    IF expected <> coalesce(actual, 0) THEN
        RAISE EXCEPTION 'lines sum to %, not to %', coalesce(actual, 0), expected USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END
$$;
GRANT USAGE ON SCHEMA sync TO pull_owner;
GRANT EXECUTE ON FUNCTION sync.is_applying() TO pull_owner;
CREATE CONSTRAINT TRIGGER check_total AFTER INSERT OR UPDATE ON pull.invoice
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pull.check_total();
CREATE CONSTRAINT TRIGGER check_total AFTER INSERT OR UPDATE OR DELETE ON pull.invoice_line
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pull.check_total();

SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "pulltest", "version": "1", "title": "Pull test",
  "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "auth": {"type": "none"},
  "enums": {"status": {"pull": {"on": "active", "off": "churned"}}},
  "objects": {
    "customer": {"pull": {
      "list": {"path": "/customers", "items": "$.data"},
      "record": {"id": "$.id", "version": "$.v", "version_at": "$.at", "our_id": "$.ours", "number": "$.number",
                 "deleted": "$.deleted == true", "skip": "$.kind == \"test\""},
      "fields": {"number": {"$": "$.number", "omit": "empty"}, "name": "$.name", "email": "$.email",
                 "status": {"$": "$.status", "map": "status", "omit": "empty"},
                 "credit": {"$": "$.credit", "cast": "number", "omit": "empty"},
                 "since": {"$": "$.since", "omit": "empty"},
                 "parent_id": {"$": "$.parent", "ref": "customer", "omit": "empty"}},
      "match": ["number", ["name", "email"]],
      "on_missing": "insert",
      "on_delete": {"set": {"status": "churned"}}}},
    "invoice": {"pull": {
      "list": {"path": "/invoices", "items": "$.data"},
      "fetch": {"path": "/invoices/${id}"},
      "record": {"id": "$.id", "version": "$.v"},
      "fields": {"customer_id": {"$": "$.customer", "ref": "customer"}, "number": "$.number",
                 "total": {"$": "$.total", "cast": "number"}},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "description": "$.text", "amount": {"$": "$.amount", "cast": "number"}}},
      "on_delete": "delete"}}
  }
} $json$::jsonb);

CREATE SERVER remote FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'pulltest');
SELECT FROM sync.track('pull.customer', object => 'customer', number_column => 'number');
SELECT FROM sync.track('pull.invoice', object => 'invoice', number_column => 'number',
                       lines => 'pull.invoice_line', line_key_columns => '{line_no}');
SELECT sync.create_stream('remote', 'customer') AS customers \gset
SELECT sync.create_stream('remote', 'invoice') AS invoices \gset
CREATE FUNCTION pull.events() RETURNS TABLE (op "char", origin text, changed text) LANGUAGE sql AS $$
    SELECT e.op, coalesce(y.name, 'app'),
           (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(e.old) k)
      FROM sync.outbox e LEFT JOIN sync.system y ON y.id = e.origin
     WHERE e.seq > coalesce(nullif(current_setting('pull.seen', true), '')::bigint, 0) ORDER BY e.seq;
$$;
CREATE FUNCTION pull.mark() RETURNS void LANGUAGE sql AS $$
    SELECT FROM set_config('pull.seen', (SELECT last_value FROM sync.outbox_seq)::text, false)
$$;

-- new records: inserted, bound, mirrored, and the events name the system
SELECT * FROM sync._apply_page(:customers, '[
  {"id": "c1", "v": "1", "at": "2026-01-01T10:00:00Z", "number": "N1", "name": "Ada", "email": "a@x", "status": "on", "credit": 10.50, "since": "2026-01-01T00:00:00Z"},
  {"id": "c2", "v": "1", "at": "2026-01-01T10:00:00Z", "number": "N2", "name": "Bob", "email": "b@x", "status": "off"},
  {"id": "c3", "v": "1", "at": "2026-01-01T10:00:00Z", "name": "Test", "kind": "test"}]');
SELECT number, name, email, status, credit FROM pull.customer ORDER BY number;
SELECT x.remote_id, x.remote_number, x.remote_version, m.fields ->> 'name' AS name, m.version, m.applied_seq IS NOT NULL AS seq
  FROM sync.external_id x JOIN sync.mirror m USING (system_id, object_id, remote_id) ORDER BY 1;
SELECT * FROM pull.events();

-- an echo changes nothing; the same values in another version change the mirror only
SELECT FROM pull.mark();
SELECT * FROM sync._apply_page(:customers, '[
  {"id": "c1", "v": "1", "at": "2026-01-01T10:00:00Z", "number": "N1", "name": "Ada", "email": "a@x", "status": "on", "credit": 10.5, "since": "2026-01-01T01:00:00+01:00"},
  {"id": "c2", "v": "2", "at": "2026-01-01T10:01:00Z", "number": "N2", "name": "Bob", "email": "b@x", "status": "off"}]');
SELECT * FROM pull.events();

-- only what differs is written: the app's note and its new name stay
UPDATE pull.customer SET note = 'ours', name = 'Ada of ours' WHERE number = 'N1';
SELECT FROM pull.mark();
SELECT * FROM sync._apply_page(:customers, '[
  {"id": "c1", "v": "2", "at": "2026-01-01T10:05:00Z", "number": "N1", "name": "Ada", "email": "new@x", "status": "on", "credit": 10.50, "since": "2026-01-01T00:00:00Z"}]');
SELECT name, email, note FROM pull.customer WHERE number = 'N1';
SELECT * FROM pull.events();

-- an older state is left alone; of two states on a page the newer one counts
SELECT FROM pull.mark();
SELECT * FROM sync._apply_page(:customers, '[
  {"id": "c1", "v": "1", "at": "2026-01-01T10:00:00Z", "number": "N1", "name": "Ada", "email": "old@x", "status": "on"},
  {"id": "c2", "v": "4", "at": "2026-01-01T10:09:00Z", "number": "N2", "name": "Bob 4", "email": "b@x", "status": "off"},
  {"id": "c2", "v": "3", "at": "2026-01-01T10:08:00Z", "number": "N2", "name": "Bob 3", "email": "b@x", "status": "off"}]');
SELECT name, email FROM pull.customer ORDER BY number;

-- asked for before our push ended: not applied; without a read by id the cursor is held
UPDATE sync.mirror SET pushed_at = clock_timestamp(), version_at = NULL, version = NULL WHERE remote_id = 'c2';
SELECT * FROM sync._apply_page(:customers, '[
  {"id": "c2", "v": "5", "at": "2026-01-01T10:10:00Z", "number": "N2", "name": "Late", "email": "b@x", "status": "off"}]',
  began_at => clock_timestamp() - interval '1 min');
SELECT name FROM pull.customer WHERE number = 'N2';
-- asked for afterwards: applied
SELECT * FROM sync._apply_page(:customers, '[
  {"id": "c2", "v": "5", "at": "2026-01-01T10:10:00Z", "number": "N2", "name": "Fresh", "email": "b@x", "status": "off"}]');
SELECT name FROM pull.customer WHERE number = 'N2';

-- one poison record among a hundred
SELECT FROM pull.mark();
SELECT * FROM sync._apply_page(:customers, (SELECT jsonb_agg(jsonb_build_object('id', 'p' || i, 'v', '1', 'name',
    CASE i WHEN 57 THEN 'poison' ELSE 'P' || i END)) FROM generate_series(1, 100) i));
SELECT count(*) FROM pull.customer WHERE name LIKE 'P%';
SELECT system, object, remote_id, state, sqlstate, split_part(reason, ' (', 1) AS reason FROM sync.inbox_status;
SELECT op, origin, count(*) FROM pull.events() GROUP BY 1, 2;
-- put right at the other side: applied, and out of the inbox
SELECT applied, to_inbox FROM sync._apply_page(:customers, '[{"id": "p57", "v": "2", "name": "P57"}]');
SELECT count(*) FROM sync.inbox_status;

-- unknown enumeration value, a column that is not there
SELECT applied, to_inbox FROM sync._apply_page(:customers, '[{"id": "e1", "name": "Enum", "status": "odd"}]');
SELECT remote_id, state, reason FROM sync.inbox_status;
SELECT count(sync.discard_inbox(id, 'tested')) FROM sync.inbox_status;

-- a parent in the same page, and one that comes later
SELECT applied, bound, to_inbox FROM sync._apply_page(:customers, '[
  {"id": "k3", "name": "Kid 3", "parent": "k2"},
  {"id": "k2", "name": "Kid 2", "parent": "k1"},
  {"id": "k1", "name": "Kid 1"},
  {"id": "k5", "name": "Kid 5", "parent": "k4"}]');
SELECT remote_id, state, wait_object, wait_remote_id, retry_at <= clock_timestamp() AS due FROM sync.inbox_status;
SELECT applied, bound FROM sync._apply_page(:customers, '[{"id": "k4", "name": "Kid 4"}]');
SELECT remote_id, retry_at <= clock_timestamp() AS due FROM sync.inbox_status;
SELECT applied, bound FROM sync._apply_page(:customers, (SELECT jsonb_agg(item) FROM sync.inbox_status));
SELECT c.name, p.name AS parent FROM pull.customer c JOIN pull.customer p ON p.id = c.parent_id ORDER BY 1;
SELECT count(*) FROM sync.inbox_status;

-- identity: our id, match by columns, several, one that is bound to another
INSERT INTO pull.customer (id, number, name, email) VALUES
  ('11111111-1111-1111-1111-111111111111', NULL, 'Ours', NULL),
  ('22222222-2222-2222-2222-222222222222', 'M1', 'Match', NULL),
  ('33333333-3333-3333-3333-333333333333', NULL, 'Twin', 'twin@x'),
  ('44444444-4444-4444-4444-444444444444', NULL, 'Twin', 'twin@x');
SELECT applied, bound, to_inbox FROM sync._apply_page(:customers, '[
  {"id": "i1", "name": "Ours", "ours": "11111111-1111-1111-1111-111111111111"},
  {"id": "i2", "name": "Match!", "number": "M1"},
  {"id": "i3", "name": "Twin", "email": "twin@x"},
  {"id": "i4", "name": "Thief", "ours": "11111111-1111-1111-1111-111111111111"},
  {"id": "i5", "name": "Chosen", "ours": "55555555-5555-5555-5555-555555555555"},
  {"id": "i6", "name": "Odd id", "ours": "customer 7"}]');
SELECT x.remote_id, x.record_id, c.name FROM sync.external_id x JOIN pull.customer c ON c.id = x.record_id::uuid
 WHERE x.remote_id IN ('i1', 'i2', 'i5') ORDER BY 1;
SELECT remote_id, reason FROM sync.inbox_status ORDER BY 1;
SELECT count(sync.discard_inbox(id, 'tested')) FROM sync.inbox_status;

-- deletes: fields are set, the binding stays; what was never here is nothing
UPDATE pull.customer SET name = 'Ada' WHERE number = 'N1'; -- as the system has it
SELECT applied, unchanged FROM sync._apply_page(:customers, '[
  {"id": "c1", "deleted": true}, {"remote_id": "i1", "gone": true}, {"remote_id": "zz", "gone": true}]');
SELECT x.remote_id, c.status, m.deleted FROM pull.customer c JOIN sync.external_id x ON x.record_id = c.id::text
  JOIN sync.mirror m USING (system_id, object_id, remote_id) WHERE m.deleted ORDER BY 1;
SELECT applied, unchanged FROM sync._apply_page(:customers, '[{"id": "c1", "deleted": true}]');

-- documents: header and lines in one statement, checks see both and run as the owner
SELECT FROM pull.mark();
SELECT * FROM sync._apply_page(:invoices, '[
  {"id": "d1", "v": "1", "customer": "c2", "number": "I1", "total": 30, "lines": [{"no": 1, "text": "a", "amount": 10}, {"no": 2, "text": "b", "amount": 20}]},
  {"id": "d2", "v": "1", "customer": "c2", "number": "I2", "total": 5, "lines": [{"no": 1, "text": "wrong", "amount": 4}]},
  {"id": "d3", "v": "1", "customer": "c2", "number": "I3", "total": 0, "lines": []}]');
SELECT i.number, i.total, l.line_no, l.description, l.amount FROM pull.invoice i LEFT JOIN pull.invoice_line l ON l.invoice_id = i.id ORDER BY 1, 3;
SELECT remote_id, sqlstate, reason FROM sync.inbox_status;
SELECT * FROM pull.events();
-- lines replaced: one changed, one gone, one new
SELECT FROM pull.mark();
SELECT applied, unchanged FROM sync._apply_page(:invoices, '[
  {"id": "d1", "v": "2", "customer": "c2", "number": "I1", "total": 32, "lines": [{"no": 2, "text": "b", "amount": 21}, {"no": 3, "text": "c", "amount": 11}]},
  {"id": "d3", "v": "1", "customer": "c2", "number": "I3", "total": 0, "lines": []}]');
SELECT i.number, i.total, l.line_no, l.amount FROM pull.invoice i JOIN pull.invoice_line l ON l.invoice_id = i.id ORDER BY 1, 3;
SELECT op, origin FROM pull.events();
-- only the lines differ
SELECT applied FROM sync._apply_page(:invoices, '[
  {"id": "d1", "v": "3", "customer": "c2", "number": "I1", "total": 32, "lines": [{"no": 2, "text": "bb", "amount": 21}, {"no": 3, "text": "c", "amount": 11}]}]');
SELECT line_no, description FROM pull.invoice_line ORDER BY 1;
-- stale, but readable by id: a row that asks for the read
UPDATE sync.mirror SET pushed_at = clock_timestamp() WHERE remote_id = 'd1';
SELECT applied, read_again, held FROM sync._apply_page(:invoices, '[
  {"id": "d1", "v": "2", "customer": "c2", "number": "I1 old", "total": 32, "lines": [{"no": 2, "text": "b", "amount": 21}, {"no": 3, "text": "c", "amount": 11}]}]',
  began_at => clock_timestamp() - interval '1 s');
SELECT remote_id, record_number, state, reason, item FROM sync.inbox_status WHERE object = 'invoice' AND state = 'reading';
SELECT applied, unchanged FROM sync._apply_page(:invoices, '[
  {"id": "d1", "v": "4", "customer": "c2", "number": "I1", "total": 32, "lines": [{"no": 2, "text": "bb", "amount": 21}, {"no": 3, "text": "c", "amount": 11}]}]', fetched => true);
SELECT count(*) FROM sync.inbox_status WHERE state = 'reading';
-- a row is deleted, and comes back whole under its own id
SELECT applied FROM sync._apply_page(:invoices, '[{"remote_id": "d1", "gone": true}]');
SELECT count(*) FROM pull.invoice WHERE number = 'I1';
SELECT applied FROM sync._apply_page(:invoices, '[
  {"id": "d1", "v": "5", "customer": "c2", "number": "I1", "total": 1, "lines": [{"no": 1, "text": "again", "amount": 1}]}]');
SELECT i.id::text = x.record_id AS same FROM pull.invoice i JOIN sync.external_id x ON x.remote_id = 'd1' WHERE i.number = 'I1';

-- the origin does not outlive a page, whether it ends well or badly
SELECT sync.is_applying();
SELECT * FROM sync._apply_page(:customers, '{"id": "c1"}');
SELECT * FROM sync._apply_page(-1, '[]');
SELECT sync.is_applying();
-- nobody else may
SET ROLE pull_owner;
SELECT * FROM sync._apply_page(1, '[]');
RESET ROLE;

SET client_min_messages = warning;
-- what a caller has put off until the commit runs as the caller: a page, which checks constraints at
-- once, lends nobody the rights of the extension's owner
CREATE ROLE pull_admin IN ROLE sync_admin;
CREATE SCHEMA AUTHORIZATION pull_admin;
SET SESSION AUTHORIZATION pull_admin;
CREATE TABLE pull_admin.ran (by_whom name DEFAULT current_user);
CREATE TABLE pull_admin.bait (id int);
CREATE FUNCTION pull_admin.spring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pull_admin.ran DEFAULT VALUES;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON pull_admin.bait DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pull_admin.spring();
BEGIN;
INSERT INTO pull_admin.bait VALUES (1);
SELECT applied FROM sync._apply_page(:customers, '[{"id": "bait", "v": "1", "at": "2026-05-01T10:00:00Z", "name": "Bait"}]');
COMMIT;
SELECT * FROM pull_admin.ran;
RESET SESSION AUTHORIZATION;
DROP OWNED BY pull_admin CASCADE;
DROP ROLE pull_admin;
SELECT FROM sync.drop_stream('remote', 'customer');
SELECT FROM sync.drop_stream('remote', 'invoice');
SELECT FROM sync.untrack('customer', true);
SELECT FROM sync.untrack('invoice', true);
SELECT FROM sync.forget_system('remote');
DROP SERVER remote;
DROP SCHEMA pull CASCADE;
DROP OWNED BY pull_owner;
DROP ROLE pull_owner;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_pull_apply;
