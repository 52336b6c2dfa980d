-- The audit trail: what is written, that it is only appended to, and what verify_audit() finds.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_audit;
CREATE DATABASE sync_own_audit;
\c sync_own_audit
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';

CREATE SCHEMA own;
CREATE TABLE own.customer (id int PRIMARY KEY, number text, email text, updated_at timestamptz);
CREATE TABLE own.scratch (id int PRIMARY KEY);

-- What differs from run to run is masked.
CREATE FUNCTION own.masked(text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace($1, '\d{4}-\d\d-\d\d[ T][0-9:.+-]+', '<time>', 'g'), 'transaction \d+', 'transaction <id>', 'g')
$$;
CREATE VIEW own.verified AS SELECT v.status, v.audit_id, v.seal_id, own.masked(v.what) AS what FROM sync.verify_audit() v;

-- ---- who acts leaves a row, in his own transaction ----
SET sync_ext.actor = 'ann@example.com';
SET sync_ext.correlation_id = 'case 7';
SELECT sync.track('own.customer', 'customer', number_column => 'number');
SELECT sync.track('own.customer', 'customer', number_column => 'number');
SELECT sync.track('own.customer', 'customer', number_column => 'number', financial => true);
SELECT sync.track('own.scratch', 'scratch');
SELECT sync.untrack('scratch', force => true);
SELECT sync.register_connector($json$ {
  "manifest": 1, "name": "crm", "version": "1", "title": "CRM", "hosts": ["api.example.com"],
  "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {"customer": {
    "push": {"operations": {
      "create": {"method": "POST", "path": "/customers", "body": {"email": "$.new.email"}, "response": {"remote_id": "$.id"}},
      "update": {"method": "PATCH", "path": "/customers/${remote.id}", "body": {"email": "$.new.email"}}}},
    "pull": {"list": {"path": "/customers", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"number": "$.number"}}}}} $json$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'crm');
SELECT sync.create_route('crm', 'customer', start => 'now');
SELECT sync.create_stream('crm', 'customer');
SELECT sync.pause('crm', 'month end');
SELECT sync.resume('crm');
SELECT sync.call('crm', 'customer.create', '{"id": 1, "note": "not in the trail"}');
UPDATE sync.route SET max_lag = '1 day';
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, state, body, code)
SELECT r.id, n, 0, clock_timestamp(), r.object_id, n::text, 'I', 0, 'dead', jsonb_build_object('number', 'C-' || n), 'rejected'
  FROM sync.route r, generate_series(1, 3) n;
SELECT sync.retry('customer_to_crm/1');
SELECT sync.discard('customer_to_crm/2', 'settled by hand');
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, reason)
SELECT y.id, o.id, 'r' || n, '{"a": 1}', 'bad' FROM sync.system y, sync.object o, generate_series(1, 2) n;
SELECT sync.retry_inbox(1), sync.retry_inbox();
SELECT sync.discard_inbox(1, 'a test record');
SELECT sync.drop_stream('crm', 'customer');
SELECT sync.drop_route('customer_to_crm', force => true);
BEGIN;
SELECT sync.pause('crm');
ROLLBACK;
SELECT action, object, record_id, system,
       own.masked((detail - ARRAY['id', 'sha256', 'params_sha256', 'item_sha256', 'new', 'schema'])::text) AS detail, reason
  FROM sync.audit ORDER BY id;
SELECT count(*) AS with_who FROM sync.audit
 WHERE session_user_name = session_user AND role_name = 'none' AND actor = 'ann@example.com' AND correlation_id = 'case 7' AND application LIKE '%own_audit';
SELECT count(*) = 0 AS nothing_of_the_parameters FROM sync.audit a WHERE a::text LIKE '%not in the trail%';

-- ---- servers, once the hub is adopted ----
INSERT INTO sync.hub (hub_id, incarnation, system_identifier, database_oid, timeline)
SELECT '11111111-2222-3333-4444-555555555555', 1, c.system_identifier, d.oid, 1
  FROM pg_control_system() c, pg_database d WHERE d.datname = current_database();
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'crm', rate_limit '10/s');
CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (user 'bob', password 'file:password');
ALTER SERVER erp OPTIONS (SET rate_limit '5/s', ADD mode 'dry_run');
SELECT sync.pause('erp');
ALTER SERVER erp RENAME TO ledger;
DROP USER MAPPING FOR PUBLIC SERVER ledger;
DROP SERVER ledger;
CREATE FOREIGN DATA WRAPPER foreign_to_us;
CREATE SERVER other FOREIGN DATA WRAPPER foreign_to_us;
DROP SERVER other;
SELECT action, system, detail FROM sync.audit WHERE incarnation = 1 ORDER BY id;

-- ---- append-only, for everybody ----
UPDATE sync.audit SET reason = NULL WHERE id = 1;
DELETE FROM sync.audit;
TRUNCATE sync.audit;
DELETE FROM sync.audit_seal;
SELECT g.role, p.privilege
  FROM unnest('{sync_admin,sync_operator,sync_approver,sync_auditor,sync_analyst,sync_app,sync_worker}'::text[]) g (role),
       unnest('{INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER}'::text[]) p (privilege), unnest('{sync.audit,sync.audit_seal}'::regclass[]) t (name)
 WHERE has_table_privilege(g.role, t.name, p.privilege);
SELECT g.role FROM unnest('{sync_admin,sync_operator,sync_approver,sync_auditor,sync_analyst,sync_app}'::text[]) g (role)
 WHERE has_function_privilege(g.role, 'sync._audit(text, text, text, text, jsonb, text)', 'EXECUTE');

-- ---- the hash: what doc/audit.md says, whatever is SET ----
CREATE FUNCTION own.net(text) RETURNS text LANGUAGE sql AS $$ SELECT coalesce(octet_length(convert_to($1, 'UTF8')) || ':' || $1 || ',', '-') $$;
SELECT bool_and(sync._audit_hash(a) = sha256(convert_to(
           own.net('sync_ext audit 1') || own.net(a.id::text) || own.net((extract(epoch FROM a.at) * 1000000)::bigint::text)
           || own.net(a.incarnation::text) || own.net(a.xid::text) || own.net(a.action) || own.net(a.object) || own.net(a.record_id)
           || own.net(a.system)
           || own.net(encode(sha256(convert_to(own.net(a.salt::text) || own.net(a.detail::text) || own.net(a.reason), 'UTF8')), 'hex'))
           || own.net(a.session_user_name::text) || own.net(a.role_name) || own.net(a.actor) || own.net(a.correlation_id)
           || own.net(a.client_addr::text) || own.net(a.application), 'UTF8'))) AS as_written_down
  FROM sync.audit a;
SELECT string_agg(sync._audit_hash(a)::text, ',' ORDER BY id) AS hashes FROM sync.audit a \gset
SET datestyle = 'German, DMY';
SET timezone = 'Asia/Kathmandu';
SET bytea_output = 'escape';
SET extra_float_digits = 0;
SET intervalstyle = 'iso_8601';
SELECT string_agg(encode(sync._audit_hash(a), 'hex'), ',' ORDER BY id) = replace(:'hashes', '\x', '') AS the_same FROM sync.audit a;
SET datestyle = 'ISO';
RESET timezone;
RESET bytea_output;
RESET extra_float_digits;
RESET intervalstyle;

-- ---- seals ----
SELECT status, what ~ '^[1-9]\d* rows are not' AS waiting FROM own.verified;
SELECT sync._seal_audit() > 20 AS sealed;
SELECT sync._seal_audit();
SELECT status, what FROM (SELECT status, regexp_replace(what, '^\d+ rows in', 'N rows in') AS what FROM own.verified) v;
-- 1000 transactions in seals of at most 100, none left out and none twice
DO $$ BEGIN FOR i IN 1 .. 1000 LOOP PERFORM sync._audit('test.many', 'customer', i::text, NULL, jsonb_build_object('n', i)); COMMIT; END LOOP; END $$;
DO $$ BEGIN WHILE sync._seal_audit(100) > 0 LOOP COMMIT; END LOOP; END $$;
SELECT count(*), min(cardinality(ids)), max(cardinality(ids)) FROM sync.audit_seal WHERE id > 1;
-- one transaction that is larger than a seal may be goes whole
SELECT count(sync._audit('test.large', 'customer')) FROM generate_series(1, 250);
SELECT sync._audit('test.small', 'customer') > 0 AS done;
SELECT sync._seal_audit(100), sync._seal_audit(100), sync._seal_audit(100);
-- what the sealing transaction writes itself comes in a later seal
BEGIN;
SELECT sync._audit('test.own', 'customer') > 0 AS done;
SELECT sync._seal_audit();
SELECT sync._audit('test.own', 'customer') > 0 AS done;
COMMIT;
SELECT sync._seal_audit(), sync._seal_audit();
SELECT count(*) AS rows, count(DISTINCT i) AS distinct, count(*) = (SELECT count(*) FROM sync.audit) AS all FROM sync.audit_seal s, unnest(s.ids) i \gset
SELECT :rows = :distinct AS none_twice, :'all' AS all_of_them;
SELECT status FROM own.verified;

-- ---- attacks by a superuser, each undone; the ids to attack ----
SELECT max(id) FILTER (WHERE record_id = '500') AS victim, max(id) AS newest FROM sync.audit \gset
SELECT max(id) AS head FROM sync.audit_seal \gset
SELECT id AS victim_seal FROM sync.audit_seal WHERE :victim = ANY (ids) \gset
SELECT string_agg(sync._anchor(s), E'\n' ORDER BY s.id) AS anchors FROM sync.audit_seal s \gset
SELECT sync._anchor(s, false) AS last_anchor FROM sync.audit_seal s WHERE id = :head \gset
SELECT sync._anchor(s, true) AS victim_anchor FROM sync.audit_seal s WHERE id = :victim_seal \gset
CREATE FUNCTION own.name(text, victim bigint, head bigint, newest bigint, seal bigint) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(own.masked($1), '\m' || victim || '\M', '<victim>', 'g'),
           '\mseal ' || seal || '\M', 'seal <its seal>', 'g'), '\d+ rows in \d+ seals', 'N rows in N seals')
$$;
CREATE FUNCTION own.findings(anchor text, victim bigint, head bigint, newest bigint, seal bigint)
RETURNS TABLE (status text, "row" text, what text) LANGUAGE sql AS $$
    SELECT v.status, own.name(v.audit_id::text, victim, head, newest, seal), own.name(v.what, victim, head, newest, seal)
      FROM sync.verify_audit(anchor) v WHERE v.status <> 'unsealed' OR v.what !~ '^0 rows'
$$;
\set findings '(NULL, :victim, :head, :newest, :victim_seal)'
\set anchored '(:\'anchors\', :victim, :head, :newest, :victim_seal)'
SET session_replication_role = replica;

-- a word changed; a row taken out
BEGIN; UPDATE sync.audit SET actor = 'somebody else' WHERE id = :victim; SELECT * FROM own.findings :findings; ROLLBACK;
BEGIN; UPDATE sync.audit SET at = at - interval '1 microsecond' WHERE id = :victim; SELECT status, "row" FROM own.findings :findings; ROLLBACK;
BEGIN; UPDATE sync.audit SET detail = '{"n": 500.0}' WHERE id = :victim; SELECT status, "row" FROM own.findings :findings; ROLLBACK;
BEGIN; UPDATE sync.audit SET reason = '' WHERE id = :victim; SELECT status, "row" FROM own.findings :findings; ROLLBACK;
BEGIN; DELETE FROM sync.audit WHERE id = :victim; SELECT * FROM own.findings :findings; ROLLBACK;
-- an erasure made up
BEGIN; UPDATE sync.audit a SET content_hash = sync._audit_content_hash(a), salt = NULL, detail = '{}' WHERE id = :victim; SELECT * FROM own.findings :findings; ROLLBACK;
-- rows put in: of a transaction that was over, of one to come, of now but backdated, of another incarnation
BEGIN; INSERT INTO sync.audit (id, xid, at, action) SELECT 1000000, xid, at, 'forged.past' FROM sync.audit WHERE id = :victim; SELECT * FROM own.findings :findings; ROLLBACK;
BEGIN; INSERT INTO sync.audit (id, xid, action) VALUES (1000000, '9000000000', 'forged.future'); SELECT * FROM own.findings :findings; ROLLBACK;
BEGIN; INSERT INTO sync.audit (id, at, action) VALUES (1000000, now() - interval '1 day', 'forged.backdated'); SELECT * FROM own.findings :findings; ROLLBACK;
BEGIN; INSERT INTO sync.audit (id, incarnation, action) VALUES (1000000, 0, 'forged.old'); SELECT * FROM own.findings :findings; ROLLBACK;
-- seals changed or taken out, in the middle and at the old end
BEGIN; UPDATE sync.audit_seal SET leaves[1] = sha256('x') WHERE id = :victim_seal; SELECT status, what FROM own.findings :findings WHERE status <> 'broken' AND what LIKE '%seal%hashed'; ROLLBACK;
BEGIN; DELETE FROM sync.audit_seal WHERE id = :victim_seal; SELECT status, regexp_replace(what, '\d+', 'N', 'g') FROM own.findings :findings LIMIT 1; ROLLBACK;
BEGIN;
DELETE FROM sync.audit a USING sync.audit_seal s WHERE s.id <= 3 AND a.id = ANY (s.ids);
DELETE FROM sync.audit_seal WHERE id <= 3;
SELECT status, "row", what FROM own.findings :findings;
ROLLBACK;
-- one seal made anew over a changed row: the next one does not continue it
BEGIN;
UPDATE sync.audit SET actor = 'somebody else' WHERE id = :victim;
UPDATE sync.audit_seal s SET leaves = (SELECT array_agg(sync._audit_hash(a) ORDER BY a.id) FROM sync.audit a WHERE a.id = ANY (s.ids)) WHERE id = :victim_seal;
UPDATE sync.audit_seal s SET hash = sync._seal_hash(s) WHERE id = :victim_seal;
SELECT status, regexp_replace(what, 'seal \d+', 'seal N', 'g') AS what FROM own.findings :findings;
ROLLBACK;

-- the tail cut off with its seals: without an anchor nothing shows, any anchor of then shows it
BEGIN;
DELETE FROM sync.audit a USING sync.audit_seal s WHERE s.id >= :victim_seal AND a.id = ANY (s.ids);
DELETE FROM sync.audit_seal WHERE id >= :victim_seal;
SELECT status, "row" FROM own.findings :findings;
SELECT f.status, f.row = (SELECT min(i)::text FROM sync._parse_anchors(:'victim_anchor') p, sync._expand_ids(p.ids) i) AS named FROM own.findings :anchored f WHERE f.status = 'cut off' LIMIT 1;
SELECT status, regexp_replace(what, '\d+', 'N', 'g') AS what FROM own.findings(:'last_anchor', :victim, :head, :newest, :victim_seal);
ROLLBACK;

-- the whole chain made anew over a changed row: consistent in itself
BEGIN;
UPDATE sync.audit SET actor = 'somebody else' WHERE id = :victim;
DO $$
DECLARE s sync.audit_seal; before bytea;
BEGIN
    FOR s IN SELECT * FROM sync.audit_seal ORDER BY id LOOP
        s.leaves := (SELECT array_agg(sync._audit_hash(a) ORDER BY a.id) FROM sync.audit a WHERE a.id = ANY (s.ids));
        s.prev_hash := coalesce(before, s.prev_hash);
        s.hash := sync._seal_hash(s);
        before := s.hash;
        UPDATE sync.audit_seal t SET leaves = s.leaves, prev_hash = s.prev_hash, hash = s.hash WHERE t.id = s.id;
    END LOOP;
END
$$;
SELECT status, "row", what FROM own.findings :findings;
SELECT f.status, f."row", f.what FROM own.findings :anchored f LIMIT 1;
SELECT status FROM own.findings(:'last_anchor', :victim, :head, :newest, :victim_seal);
ROLLBACK;
RESET session_replication_role;
SELECT status, what ~ 'anchors up to seal' AS compared FROM own.findings :anchored;
SELECT * FROM sync.verify_audit('nothing of ours');

-- ---- personal data is taken out, and the chain holds ----
-- (a row of before the field was declared; later ones hold hashes, which own_privacy.sql tests)
SELECT sync._audit('test.personal', 'customer', '9', NULL, '{"email": "eve@example.com", "status": "new", "changes": [{"field": "email", "old": "eve@example.org", "system": "crm"}]}') AS personal \gset
SELECT sync.set_personal('customer', 'email');
SELECT sync._audit('test.hashed', 'customer', '9', NULL, '{"email": "eve@example.com"}') > 0 AS done;
SELECT sync._seal_audit() > 0 AS sealed;
CREATE ROLE own_auditor IN ROLE sync_auditor;
SET ROLE own_auditor;
SELECT detail, sealed FROM sync.audit_trail WHERE id = :personal;
SELECT detail FROM sync.audit WHERE id = :personal;
SELECT status FROM sync.verify_audit();
SELECT sync.cut_audit(now(), 'not his to do');
RESET ROLE;
SELECT sync._audit_erase('customer', '9', '{email}');
SELECT detail, salt, content_hash IS NOT NULL AS hash FROM sync.audit WHERE id = :personal;
SELECT count(*) = 0 AS gone FROM sync.audit a WHERE a::text LIKE '%eve@%';
SELECT status FROM sync.verify_audit();
SELECT sync._audit_erase('customer', '9', '{email}');
SET session_replication_role = replica;
BEGIN; UPDATE sync.audit SET detail = detail || '{"status": "old"}' WHERE id = :personal; SELECT status, audit_id = :personal AS named FROM own.verified; ROLLBACK;
RESET session_replication_role;

-- ---- retention: not without one ----
SELECT sync.cut_audit(now(), 'tidying up');
SELECT sync.cut_audit(now(), ' ');

\c regression
DROP DATABASE sync_own_audit;
DROP ROLE own_auditor;
