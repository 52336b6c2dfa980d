-- What a delete means, and deletes that are too many at once.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_delete;
CREATE DATABASE sync_own_delete;
\c sync_own_delete
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'

CREATE TABLE customer (id text PRIMARY KEY, name text, status text NOT NULL DEFAULT 'active', shout text GENERATED ALWAYS AS (upper(name)) STORED);
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "own", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {"customer": {
    "pull": {"list": {"path": "/customers", "items": "$.data"}, "record": {"id": "$.id", "deleted": "$.deleted == true"},
             "fields": {"id": "$.key", "name": "$.name"}, "on_delete": {"set": {"status": "manifest"}}}}}
} $json$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'own');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'own');
SELECT FROM sync.track('customer');
SELECT sync.create_stream('crm', 'customer') AS crm \gset
SELECT sync.create_stream('erp', 'customer') AS erp \gset
CREATE FUNCTION pull(stream integer, from_n integer, to_n integer, gone boolean) RETURNS text LANGUAGE sql AS $$
    SELECT format('applied %s unchanged %s inbox %s', p.applied, p.unchanged, p.to_inbox)
      FROM (SELECT jsonb_agg(jsonb_build_object('id', 'r' || n, 'key', 'k' || n, 'name', 'n' || n, 'deleted', gone)) AS page FROM generate_series(from_n, to_n) n) g,
           sync._apply_page(stream, g.page) p
$$;

-- policies that cannot be
SELECT sync.set_delete_policy('customer', 'crm', 'shred');
SELECT sync.set_delete_policy('customer', 'crm', 'deactivate');
SELECT sync.set_delete_policy('customer', 'crm', 'ignore', '{"status": "gone"}');
SELECT sync.set_delete_policy('customer', 'crm', 'deactivate', '[1]');
SELECT sync.set_delete_policy('customer', 'crm', 'deactivate', '{"state": "gone"}');
SELECT sync.set_delete_policy('customer', 'crm', 'deactivate', '{"shout": "gone"}');
SELECT sync.set_delete_policy('customer', 'crm', 'propagate', guard_percent => 101);
SELECT count(*) FROM sync.record_policy;

-- the manifest's, the object's, the system's
SELECT pull(:crm, 1, 100, false);
SELECT pull(:crm, 1, 1, true);
SELECT sync.set_delete_policy('customer', NULL, 'deactivate', '{"status": "object"}');
SELECT pull(:crm, 2, 2, true);
SELECT sync.set_delete_policy('customer', 'crm', 'propagate', reason => 'they are careful');
SELECT pull(:crm, 3, 3, true);
SELECT sync.set_delete_policy('customer', 'crm', 'ignore');
SELECT pull(:crm, 4, 4, true);
SELECT sync.set_delete_policy('customer', 'crm', NULL);
SELECT pull(:crm, 5, 5, true);
SELECT id, status FROM customer WHERE id IN ('k1', 'k2', 'k3', 'k4', 'k5') ORDER BY 1;
SELECT remote_id, deleted FROM sync.mirror WHERE deleted ORDER BY 1;
-- a record that comes back says how it is
SELECT pull(:crm, 4, 5, false);
SELECT id, status FROM customer WHERE id IN ('k4', 'k5') ORDER BY 1;
SELECT action, system, detail - 'guard_percent' - 'guard_count' AS detail, reason FROM sync.audit WHERE action = 'delete_policy.set' ORDER BY id;

-- too many: of 97 that are left and 3 that went within the hour, 20 % are 20, so 17 more pass, in any number of pages
SELECT sync.set_delete_policy('customer', 'crm', 'propagate');
SELECT count(*) FILTER (WHERE deleted) AS gone, count(*) AS known FROM sync.mirror;
SELECT pull(:crm, 11, 20, true);
SELECT pull(:crm, 21, 27, true);
SELECT count(*) FROM customer;
SELECT pull(:crm, 28, 30, true);
SELECT count(*) FROM customer;
SELECT operation, policy, call, reason, state, requested_by = session_user AS by_me FROM sync.approval_request;
SELECT count(*), min(remote_id), max(record_id) FROM sync.held_delete;
SELECT key, severity, message FROM sync.notice WHERE key LIKE 'pull.deletes%';
-- told again they wait; more of them join; what is listed alive again does not wait; other changes of the page go on
SELECT pull(:crm, 28, 30, true);
SELECT pull(:crm, 31, 35, true);
SELECT pull(:crm, 29, 29, false);
SELECT applied FROM sync._apply_page(:crm, '[{"id": "r40", "deleted": true}, {"id": "r41", "key": "k41", "name": "changed"}]');
SELECT string_agg(remote_id, ' ' ORDER BY remote_id) FROM sync.held_delete;
SELECT count(*) FROM sync.approval_request;
SELECT name FROM customer WHERE id IN ('k40', 'k41') ORDER BY id;
-- another system has deletes of its own
SELECT bound FROM sync._apply_page(:erp, '[{"id": "r90", "key": "e1", "name": "of erp"}]');
SELECT applied FROM sync._apply_page(:erp, '[{"id": "r90", "deleted": true}]');

-- approved: the hub applies them out of the inbox
SELECT id AS approval FROM sync.approval_request \gset
UPDATE sync.approval_request SET state = 'approved', decided_by = 'somebody' WHERE id = :approval;
SELECT sync._approved_mass_delete(call, id) FROM sync.approval_request WHERE id = :approval;
SELECT item, count(*), bool_and(retry_at <= clock_timestamp()) AS due FROM sync.inbox GROUP BY 1;
SELECT count(*) FROM sync.notice WHERE key LIKE 'pull.deletes%';
SELECT pull(:crm, 28, 28, true), pull(:crm, 30, 35, true), pull(:crm, 40, 40, true);
SELECT count(*) FROM sync.held_delete;
SELECT count(*) FROM sync.inbox;
SELECT count(*) FROM customer WHERE id IN ('k28', 'k30', 'k31', 'k32', 'k33', 'k34', 'k35', 'k40');
-- the next ones are too many again
SELECT pull(:crm, 50, 60, true);
SELECT count(*) FROM sync.held_delete;
-- rejected: the records stay, and are known to be gone there
UPDATE sync.approval_request SET state = 'rejected', decided_by = 'somebody' WHERE state = 'open';
SELECT count(*) FROM sync.held_delete;
SELECT count(*) FROM customer WHERE id IN ('k50', 'k60');
SELECT bool_and(deleted) FROM sync.mirror WHERE remote_id IN ('r50', 'r60');
SELECT pull(:crm, 50, 60, true);
SELECT count(*) FROM sync.approval_request;
-- by policy: never too many, or any
SELECT sync.set_delete_policy('customer', 'crm', 'propagate', guard_percent => 100);
SELECT pull(:crm, 61, 80, true);
SELECT sync.set_delete_policy('customer', 'crm', 'propagate', guard_percent => 0, guard_count => 0);
SELECT pull(:crm, 81, 81, true);
SELECT string_agg(remote_id, ' ') FROM sync.held_delete;
-- what is ignored anyhow needs no approval
SELECT sync.set_delete_policy('customer', 'crm', 'ignore', guard_percent => 0, guard_count => 0);
SELECT pull(:crm, 82, 99, true);
SELECT count(*) FROM sync.held_delete;

-- a delete that cannot be followed stays a delete
CREATE TABLE child (id text REFERENCES customer);
INSERT INTO child VALUES ('k100');
SELECT sync.set_delete_policy('customer', 'crm', 'propagate', guard_percent => 100);
SELECT pull(:crm, 100, 100, true);
SELECT remote_id, item, sqlstate FROM sync.inbox;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_delete;
