-- Two records that are one: references, external ids, undo, merges that a system reports.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_merge;
CREATE DATABASE sync_own_merge;
\c sync_own_merge
CREATE EXTENSION sync_ext;
SET client_min_messages = notice;
\set SHOW_CONTEXT never
\pset null '-'

CREATE SCHEMA own;
CREATE ROLE own_merge_owner;
GRANT USAGE, CREATE ON SCHEMA own TO own_merge_owner;
CREATE TABLE own.customer (
    id text PRIMARY KEY,
    number text UNIQUE,
    name text NOT NULL,
    parent_id text REFERENCES own.customer CHECK (parent_id <> id),
    merged_into_id text REFERENCES own.customer
);
CREATE TABLE own.contact (id integer PRIMARY KEY, customer_id text NOT NULL REFERENCES own.customer, name text);
CREATE TABLE own.terms (customer_id text REFERENCES own.customer, entity text, PRIMARY KEY (customer_id, entity));
CREATE TABLE own.order_by_number (id integer PRIMARY KEY, customer_number text REFERENCES own.customer (number));
CREATE TABLE own.visit (customer_id text REFERENCES own.customer, at date);
CREATE TABLE own.usage (id integer, day date, customer_id text REFERENCES own.customer, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE own.usage_1 PARTITION OF own.usage FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE own.usage_2 PARTITION OF own.usage FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE own.tag (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, shout text GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE own.tagged (id integer PRIMARY KEY, tag_id integer REFERENCES own.tag ON DELETE CASCADE);
CREATE TABLE own.invoice (id text PRIMARY KEY, customer_id text REFERENCES own.customer);
DO $$ BEGIN
    EXECUTE (SELECT string_agg(format('ALTER TABLE %s OWNER TO own_merge_owner', c.oid::regclass), '; ') FROM pg_class c
              WHERE c.relnamespace = 'own'::regnamespace AND c.relkind IN ('r', 'p'));
END $$;
-- What its owner's trigger does, the owner does: no power of the extension's is lent to it.
CREATE FUNCTION own.who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'own_merge_owner' THEN RAISE EXCEPTION 'runs as %', current_user; END IF;
    RETURN NEW;
END $$;

SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "own", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {"pull": {"list": {"path": "/customers", "items": "$.data"},
      "record": {"id": "$.id", "number": "$.no", "deleted": "$.deleted == true", "merged_into": "$.master"},
      "fields": {"id": "$.key", "number": "$.no", "name": "$.name"}, "on_delete": "delete"}},
    "contact": {"pull": {"list": {"path": "/contacts", "items": "$.data"}, "record": {"id": "$.id"},
      "fields": {"id": "$.key", "name": "$.name", "customer_id": {"$": "$.customer", "ref": "customer"}}}}}
} $json$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'own');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'own');
SELECT FROM sync.track('own.customer', object => 'customer', number_column => 'number');
SELECT FROM sync.track('own.contact', object => 'contact', number_column => 'name');
SELECT FROM sync.track('own.tag', object => 'tag');
SELECT FROM sync.track('own.invoice', object => 'invoice', financial => true);
SELECT sync.create_stream('crm', 'customer') AS crm \gset
SELECT sync.create_stream('erp', 'customer') AS erp \gset
SELECT sync.create_stream('crm', 'contact') AS contacts \gset
-- A and B stand in crm, B alone in erp
SELECT bound FROM sync._apply_page(:crm, '[{"id": "c1", "key": "A", "no": "N1", "name": "Ada"}, {"id": "c2", "key": "B", "no": "N2", "name": "Ada Ltd"}]');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT sync._system_id('erp'), sync._object_id('customer'), 'B', 'e2';
INSERT INTO own.customer (id, number, name, parent_id, merged_into_id) VALUES ('C', 'N3', 'Child', 'B', NULL), ('D', 'N4', 'Earlier', NULL, 'B');
UPDATE own.customer SET parent_id = 'B' WHERE id = 'A';
INSERT INTO own.contact VALUES (1, 'A', 'of A'), (2, 'B', 'of B'), (3, 'B', 'of B, too');
INSERT INTO own.terms VALUES ('A', 'de'), ('B', 'us');
INSERT INTO own.order_by_number VALUES (1, 'N2');
INSERT INTO own.visit VALUES ('B', '2026-01-01'), ('A', '2026-01-02');
INSERT INTO own.usage VALUES (1, '2026-01-05', 'B'), (1, '2026-02-05', 'B'), (2, '2026-02-05', 'A');
CREATE TRIGGER who BEFORE UPDATE ON own.contact FOR EACH ROW EXECUTE FUNCTION own.who();
CREATE VIEW own.all_references AS
    SELECT 'customer' AS tbl, id AS row, concat_ws(' ', 'parent', parent_id, 'merged', merged_into_id) AS refers FROM own.customer
    UNION ALL SELECT 'contact', id::text, customer_id FROM own.contact UNION ALL SELECT 'terms', entity, customer_id FROM own.terms
    UNION ALL SELECT 'order', id::text, customer_number FROM own.order_by_number UNION ALL SELECT 'visit', at::text, customer_id FROM own.visit
    UNION ALL SELECT 'usage', id || ' ' || day, customer_id FROM own.usage ORDER BY 1, 2;
CREATE VIEW own.bindings AS
    SELECT y.name AS system, x.remote_id, x.record_id, 'bound' AS how FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id AND x.object_id = sync._object_id('customer')
    UNION ALL SELECT y.name, x.remote_id, x.record_id, 'alias' FROM sync.external_alias x JOIN sync.system y ON y.id = x.system_id ORDER BY 1, 2;
CREATE TABLE own.before AS SELECT * FROM own.all_references;
SELECT max(seq) AS seen FROM sync.outbox \gset

-- what cannot be merged
SELECT sync.merge_records('customer', 'A', 'B', '');
SELECT sync.merge_records('customer', 'A', 'A', 'same');
SELECT sync.merge_records('customer', 'A', 'Z', 'none');
SELECT sync.merge_records('customer', NULL, 'B', 'none');
SELECT sync.merge_records('customer', 'D', 'A', 'was merged');
SELECT sync.merge_records('nothing', 'A', 'B', 'no object');
INSERT INTO own.invoice VALUES ('I1', 'A'), ('I2', 'A');
SELECT sync.merge_records('invoice', 'I1', 'I2', 'twice');
-- rows of both that may not be one's: nothing is changed
INSERT INTO own.terms VALUES ('B', 'de');
SELECT sync.merge_records('customer', 'A', 'B', 'duplicate');
SELECT count(*) FROM sync.merge;
SELECT count(*) AS moved FROM (TABLE own.all_references EXCEPT TABLE own.before) x WHERE row <> 'de';
DELETE FROM own.terms WHERE customer_id = 'B' AND entity = 'de';
-- who may not do by hand what a merge does may not merge
CREATE ROLE own_merge_operator IN ROLE sync_operator;
GRANT USAGE ON SCHEMA own TO own_merge_operator;
GRANT UPDATE ON own.customer, own.contact, own.terms, own.usage, own.visit, own.invoice TO own_merge_operator;
SET ROLE own_merge_operator;
SELECT sync.merge_records('customer', 'A', 'B', 'duplicate');
SELECT sync._merge('customer', 'A', 'B', 'round the check');
RESET ROLE;
GRANT UPDATE ON own.order_by_number TO own_merge_operator;
ALTER TABLE own.contact ENABLE ROW LEVEL SECURITY;
SET ROLE own_merge_operator;
SELECT sync.merge_records('customer', 'A', 'B', 'duplicate');
RESET ROLE;
ALTER TABLE own.contact DISABLE ROW LEVEL SECURITY;
REVOKE UPDATE ON own.order_by_number FROM own_merge_operator;
GRANT UPDATE (customer_number) ON own.order_by_number TO own_merge_operator;

-- merged
SET ROLE own_merge_operator;
SELECT sync.merge_records('customer', 'A', 'B', 'duplicate');
RESET ROLE;
TABLE own.all_references;
TABLE own.bindings;
SELECT survivor, loser, kept, merged_by = session_user AS by_me, reason, e ->> 'table' AS moved, e -> 'columns' AS columns, e ->> 'count' AS n, e -> 'keys' AS keys
  FROM sync.merge m, jsonb_array_elements(moved) e;
SELECT kind, record_id, remote_id, message FROM sync.conflict_entry WHERE resolved_at IS NULL;
SELECT o.name, e.record_id, e.op, (SELECT string_agg(k, ',') FROM jsonb_object_keys(e.old) k) AS changed FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id
 WHERE e.seq > :seen AND e.op = 'U' AND o.name <> 'invoice' ORDER BY e.seq;
SELECT action, record_id, detail -> 'references' AS refs, reason FROM sync.audit WHERE action LIKE 'record%' ORDER BY id;
SELECT sync._identity_hold(sync._system_id('crm'), sync._object_id('customer'), 'B');
SELECT sync.merge_records('customer', 'C', 'B', 'again');

-- the loser's remote record: what is done to it changes nothing of ours, what refers to it means the survivor
SELECT applied, mirrored, bound, to_inbox FROM sync._apply_page(:crm, '[{"id": "c2", "key": "B", "no": "N2", "name": "Changed there"}]');
SELECT applied, mirrored, unchanged FROM sync._apply_page(:crm, '[{"id": "c2", "key": "B", "no": "N2", "name": "Changed there"}]');
SELECT id, name FROM own.customer ORDER BY id;
SELECT applied, bound FROM sync._apply_page(:contacts, '[{"id": "p9", "key": 9, "name": "New", "customer": "c2"}]');
SELECT customer_id FROM own.contact WHERE id = 9;
SELECT applied FROM sync._apply_page(:crm, '[{"id": "c2", "deleted": true}]');
SELECT kind, reason FROM sync.conflict_entry WHERE resolved_at IS NOT NULL;
SELECT count(*) FROM own.customer;
-- the loser's own one moved with it
SELECT applied, bound FROM sync._apply_page(:erp, '[{"id": "e2", "key": "A", "no": "N1", "name": "Ada of erp"}]');
SELECT id, name FROM own.customer WHERE id IN ('A', 'B') ORDER BY 1;

-- a reference and an external id that came in the middle are moved by the hub
INSERT INTO own.contact VALUES (4, 'B', 'late');
SELECT sync._sweep_merges();
SELECT sync._sweep_merges();
SELECT customer_id FROM own.contact WHERE id = 4;

SELECT id AS first FROM sync.merge \gset
-- undone: what still points to the survivor goes back, what was changed since stays
SET ROLE own_merge_owner;
UPDATE own.contact SET customer_id = 'C' WHERE id = 3;
RESET ROLE;
SELECT sync.undo_merge(:first, NULL);
SELECT sync.undo_merge(9999, 'none');
SELECT sync.undo_merge(:first, 'they are two');
SELECT 'now' AS when, x.* FROM (TABLE own.all_references EXCEPT TABLE own.before) x
UNION ALL SELECT 'then', x.* FROM (TABLE own.before EXCEPT TABLE own.all_references) x ORDER BY 2, 3, 1;
TABLE own.bindings;
SELECT kind, resolved_at IS NOT NULL AS resolved, reason FROM sync.conflict_entry;
\set VERBOSITY sqlstate
SELECT sync.undo_merge(:first, 'again');
\set VERBOSITY default
SELECT sync._identity_hold(sync._system_id('crm'), sync._object_id('customer'), 'B');

-- merges upon merges are undone from the newest on; not for ever
UPDATE own.customer SET parent_id = NULL;
SELECT sync.merge_records('customer', 'C', 'B', 'one');
SELECT sync.merge_records('customer', 'A', 'C', 'two');
SELECT min(id) AS one, max(id) AS two FROM sync.merge WHERE undone_at IS NULL \gset
TABLE own.bindings;
\set VERBOSITY sqlstate
SELECT sync.undo_merge(:one, 'first one');
\set VERBOSITY default
SELECT sync.undo_merge(:two, 'newest');
SELECT sync.undo_merge(:one, 'then this');
TABLE own.bindings;
SELECT id, merged_into_id FROM own.customer ORDER BY 1;
SELECT extract(epoch FROM undo_until - merged_at)::integer / 86400 AS days FROM sync.merge WHERE id = :one;
SELECT sync.merge_records('customer', 'A', 'C', 'three');
SELECT max(id) AS three FROM sync.merge \gset
UPDATE sync.merge SET undo_until = clock_timestamp() - interval '1 s', merged_at = clock_timestamp() - interval '1 day' WHERE id = :three;
\set VERBOSITY sqlstate
SELECT sync.undo_merge(:three, 'too late');
\set VERBOSITY default

-- without a column for it the loser is deleted, and comes back as it was
INSERT INTO own.tag (name) VALUES ('red'), ('rouge');
INSERT INTO own.tagged VALUES (1, 1), (2, 2);
-- (also where a system owns the records: who decides is no application)
SELECT sync.set_owner('tag', '*', 'crm');
DELETE FROM own.tag WHERE id = 2;
SELECT sync.merge_records('tag', '1', '2', 'one colour');
SELECT * FROM own.tag; SELECT * FROM own.tagged ORDER BY id;
SELECT id AS tags, kept FROM sync.merge WHERE loser = '2' \gset
\echo :kept
SELECT sync.undo_merge(:tags, 'two words');
SELECT * FROM own.tag ORDER BY id; SELECT * FROM own.tagged ORDER BY id;
SELECT sync.drop_owner('tag', '*');

-- a system reports a merge: a conflict, or followed, by policy; or its record lives on under another id
SELECT applied, bound FROM sync._apply_page(:crm, '[{"id": "c5", "key": "E", "no": "N5", "name": "Eve"}, {"id": "c6", "key": "F", "no": "N6", "name": "Eva"}, {"id": "c7", "key": "G", "no": "N7", "name": "Gus"}]');
INSERT INTO own.contact VALUES (6, 'F', 'of F');
SELECT applied, unchanged FROM sync._apply_page(:crm, '[{"id": "c6", "deleted": true, "master": "c5"}]');
SELECT applied, unchanged FROM sync._apply_page(:crm, '[{"id": "c6", "deleted": true, "master": "c5"}]');
SELECT kind, record_id, field, message FROM sync.conflict_entry WHERE resolved_at IS NULL AND remote_id = 'c6';
SELECT id, merged_into_id FROM own.customer WHERE id IN ('E', 'F') ORDER BY 1;
SELECT id AS told FROM sync.conflict_entry WHERE resolved_at IS NULL AND remote_id = 'c6' \gset
\set VERBOSITY sqlstate
SELECT sync.resolve_conflict(:told, 'hub', 'not this way');
SELECT sync.keep_apart(-1, 'none');
\set VERBOSITY default
SELECT sync.keep_apart(:told, 'two people');
SELECT unchanged FROM sync._apply_page(:crm, '[{"id": "c6", "deleted": true, "master": "c5"}]');
SELECT count(*) FROM sync.conflict_entry WHERE resolved_at IS NULL AND remote_id = 'c6';
SELECT action, reason FROM sync.audit WHERE action = 'conflict.resolved';
SELECT sync.set_merge_policy('customer', 'crm', 'follow');
SELECT sync.set_merge_policy('customer', 'crm', 'merge', 'they know their customers');
SELECT applied, unchanged FROM sync._apply_page(:crm, '[{"id": "c6", "deleted": true, "master": "c5"}]');
SELECT id, merged_into_id FROM own.customer WHERE id IN ('E', 'F') ORDER BY 1;
SELECT customer_id FROM own.contact WHERE id = 6;
SELECT count(*) FROM sync.conflict_entry WHERE resolved_at IS NULL AND remote_id = 'c6';
SELECT y.name, m.reason FROM sync.merge m JOIN sync.system y ON y.id = m.reported_by;
SELECT applied FROM sync._apply_page(:crm, '[{"id": "c7", "deleted": true, "master": "c70"}]');
SELECT applied, bound FROM sync._apply_page(:crm, '[{"id": "c70", "key": "G", "no": "N7", "name": "Gustav"}]');
SELECT remote_id, record_id, how FROM own.bindings WHERE remote_id LIKE 'c7%';
SELECT id, name FROM own.customer WHERE id = 'G';
SELECT applied, bound FROM sync._apply_page(:crm, '[{"id": "c99", "deleted": true, "master": "c5"}, {"id": "c98", "key": "H", "no": "N8", "name": "H", "master": "c5"}]');
SELECT count(*) FROM own.customer WHERE id = 'H';
-- personal data of a merged record is erased with the survivor's
SELECT sync.set_personal('customer', 'name');
SELECT count(*) > 0 AS held FROM sync.merge WHERE survivor = 'A' AND loser_row ? 'name';
SELECT FROM sync.erase('customer', 'A', 'asked for', in_table => false);
SELECT sync._erase_due();
SELECT count(*) FROM sync.merge WHERE survivor = 'A' AND loser_row ? 'name';
SET ROLE own_merge_operator;
SELECT count(loser_row) FROM sync.merge;
SELECT count(loser) > 0 AS seen FROM sync.merge;
RESET ROLE;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_merge;
DROP ROLE own_merge_owner, own_merge_operator;
