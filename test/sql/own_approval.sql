-- Approvals: policies, segregation of duties, expiry. No worker runs here.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_approval;
CREATE DATABASE sync_own_approval;
SELECT current_user AS super \gset
\c sync_own_approval
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
DO $$
DECLARE r name;
BEGIN
    FOREACH r IN ARRAY '{own_ada,own_ben,own_cfo,own_boss}'::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN EXECUTE format('CREATE ROLE %I LOGIN', r); END IF;
    END LOOP;
    ALTER ROLE own_boss SUPERUSER;
    GRANT sync_admin TO own_ada, own_ben;
    GRANT sync_approver TO own_ada, own_ben, own_cfo;
END
$$;
CREATE TABLE invoice (id integer PRIMARY KEY, number text, total_amount numeric, currency text, status text DEFAULT 'open', updated_at timestamptz DEFAULT now());
INSERT INTO invoice VALUES (1, 'INV-1', 50, 'EUR'), (2, 'INV-2', 50000, 'EUR'), (3, 'INV-3', 50, 'USD');
SELECT sync.track('invoice', financial => true);
GRANT SELECT ON invoice TO own_ada, own_ben;
GRANT USAGE ON SCHEMA public TO own_ada, own_ben;

-- What a policy may not be.
\c - own_ada
SELECT sync.set_approval_policy('p', 'merge_records', 'invoice');
\set VERBOSITY terse
SELECT sync.set_approval_policy('p', 'nonsense', reason => 'x');
\set VERBOSITY default
SELECT sync.set_approval_policy('p', 'deliver', 'nothing', reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', 'invoice', 10, reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', 'invoice', 10, 'euro', reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', condition => 'true', reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', 'invoice', condition => 'no_such_column = 1', reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', 'invoice', condition => 'true) OR (true', reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', 'invoice', expires => '0', reason => 'x');
SELECT sync.set_approval_policy('p', 'deliver', 'invoice', approvers => 'nobody_at_all', reason => 'x');
INSERT INTO sync.approval_policy (name, operation, reason, run_as) VALUES ('q', 'deliver', 'x', 'postgres');
INSERT INTO sync.approval_policy (name, operation, reason, state) VALUES ('q', 'deliver', 'x', 'active');

-- Amounts in the policy's currency; in another one, or unknown, approval is needed.
SELECT sync.set_approval_policy('large', 'state_change', 'invoice', 1000, 'EUR', reason => 'four eyes') AS waits;
SELECT name, operation, object, min_amount, currency, state, set_by, run_as FROM sync.approval_policy;
\c - :super
CREATE FUNCTION need(record text, amount numeric DEFAULT NULL, currency text DEFAULT NULL, operation text DEFAULT 'state_change') RETURNS text LANGUAGE plpgsql AS $$
DECLARE asked bigint := sync._approval(operation, 'invoice', record, amount, currency, jsonb_build_object('test', record), 'x');
BEGIN RETURN (SELECT a.policy FROM sync.approval_request a WHERE a.id = asked); END $$;
SELECT n, need(n::text) FROM generate_series(1, 4) n;
SELECT need('9', 999.99, 'EUR'), need('10', -1000, 'EUR'), need('11', 1, 'JPY'), need('12');
SELECT count(*), count(DISTINCT call) FROM sync.approval_request;
SELECT need('2') IS NOT NULL AS again;
SELECT count(*) FROM sync.approval_request;
DELETE FROM sync.approval_request;

-- Conditions run as who set them, and demand approval when they fail.
\c - own_ada
SELECT sync.set_approval_policy('rush', 'set_period_policy', 'invoice', condition => $$status = 'rush' AND 1 / (total_amount - 50) > 0$$, reason => 'four eyes') AS waits;
\c - :super
UPDATE invoice SET status = 'rush' WHERE id = 1;
SELECT n, need(n::text, operation => 'set_period_policy') FROM generate_series(1, 2) n;
DELETE FROM sync.approval_request;

-- Loosening and removal need a second person; tightening does not.
\c - own_ada
SELECT sync.set_approval_policy('large', 'state_change', 'invoice', 500, 'EUR', reason => 'tighter') AS waits;
SELECT sync.set_approval_policy('large', 'state_change', 'invoice', 9000, 'EUR', reason => 'looser') AS looser \gset
SELECT min_amount, state FROM sync.approval_policy WHERE name = 'large' ORDER BY id;
SELECT id = :looser AS id, operation, object, state, policy, reason, requested_by, requesters, date_trunc('second', expires_at - requested_at) AS wait FROM sync.approval WHERE id = :looser;

-- Whoever asked never approves: under no role, no actor, not as a superuser, not behind SET SESSION AUTHORIZATION.
SELECT sync.approve(:looser, 'my own');
SET sync_ext.actor = 'somebody else';
SELECT sync.approve(:looser, 'my own');
RESET sync_ext.actor;
SET ROLE sync_approver;
SELECT sync.approve(:looser, 'my own');
RESET ROLE;
\c - :super
ALTER ROLE own_ada SUPERUSER;
\c - own_ada
SELECT sync.approve(:looser, 'my own, as a superuser');
\c - :super
ALTER ROLE own_ada NOSUPERUSER;
\c - own_ben
SET sync_ext.actor = ' Own_Ada ';
SELECT sync.approve(:looser, 'for ada');
RESET sync_ext.actor;
SELECT sync.approve(:looser, ' ');
SELECT sync.approve(:looser, NULL);
SELECT sync.approve(99999, 'what?');
SELECT sync.approve(:looser, 'agreed') ->> 'state' AS state;
\set VERBOSITY terse
SELECT sync.approve(:looser, 'twice');
SELECT sync.reject(:looser, 'too late');
\set VERBOSITY default
SELECT min_amount, state FROM sync.approval_policy WHERE name = 'large' ORDER BY id;
SELECT sync.drop_approval_policy('large', 'not needed') AS gone \gset
SELECT sync.drop_approval_policy('never was', 'x');
\c - :super

-- The login stays known behind SET SESSION AUTHORIZATION.
SELECT sync._identities() @> ARRAY[(SELECT rolname::text FROM pg_roles WHERE oid = (SELECT usesysid FROM pg_stat_activity WHERE pid = pg_backend_pid()))] AS login;
SELECT sync._approval('drop_approval_policy', NULL, NULL, NULL, NULL, '{"x": 1}', 'by the login') AS mine \gset
SET SESSION AUTHORIZATION own_cfo;
SELECT sync.approve(:mine, 'behind another name');
SELECT sync.reject(:mine, 'no such thing');
RESET SESSION AUTHORIZATION;
SELECT state, decided_by, decision_reason FROM sync.approval_request WHERE id = :mine;

-- Approvers of a policy's own; not everybody may decide at all.
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'own_board') THEN CREATE ROLE own_board; END IF; END $$;
\c - own_ada
SELECT sync.set_approval_policy('board', 'set_guard', approvers => 'own_board', reason => 'the board decides') AS waits;
SELECT sync.set_guard('g', 'invoice', 'true', 'never', 'route', reason => 'x') AS board \gset
\c - own_ben
SELECT sync.approve(:board, 'I am not of the board');
\c - :super
GRANT own_board TO own_ben;
\c - own_ben
SELECT sync.approve(:board, 'now I am') ->> 'state' AS state;
\c - :super
SELECT name, state FROM sync.guard;

-- What was shown is what is approved.
SELECT sync._approval('state_change', 'invoice', '3', NULL, NULL, '{"object": "invoice", "record_id": "3"}', 'please') IS NULL AS free;
\c - own_ada
SELECT sync.set_approval_policy('all', 'state_change', 'invoice', reason => 'all of them') AS waits;
\c - :super
SELECT sync._approval('state_change', 'invoice', '3', NULL, NULL, '{"object": "invoice", "record_id": "3"}', 'please') AS shown \gset
UPDATE invoice SET updated_at = now() + '1 s' WHERE id = 3;
UPDATE sync.approval_request SET requesters = '{own_ada}', requested_by = 'own_ada' WHERE id = :shown;
SELECT payload_hash = sync._payload_hash(sync._record_now(object_id, '3'), '{updated_at}') AS unchanged FROM sync.approval_request WHERE id = :shown;
UPDATE invoice SET total_amount = 51 WHERE id = 3;
\c - own_cfo
SET client_min_messages = error;
SELECT (sync.approve(:shown, 'it was 50') - 'approval' - 'instead') AS answer;
RESET client_min_messages;
\c - :super
SELECT id = :shown AS shown, state, amount, requested_by, requesters FROM sync.approval_request WHERE record_id = '3' ORDER BY id;

-- Time runs out.
UPDATE sync.approval_request SET expires_at = clock_timestamp() - interval '1 s' WHERE state = 'open' AND record_id = '3';
SELECT state FROM sync.approval WHERE record_id = '3';
SELECT id AS late FROM sync.approval_request WHERE state = 'open' AND record_id = '3' \gset
\set VERBOSITY terse
SELECT sync.approve(:late, 'too late');
\set VERBOSITY default
SELECT sync._expire_approvals();
SELECT state, decided_by, decision_reason FROM sync.approval_request WHERE id = :late;

-- Nothing but functions of this extension is ever run for an approver.
CREATE FUNCTION sync._approved_mine(jsonb, bigint) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"ran"'::jsonb $$;
SELECT sync._approved_function('mine') IS NULL AS refused, sync._approved_function('deliver') IS NOT NULL AS ours, sync._approved_function('x(); --') IS NULL AS odd;
INSERT INTO sync.approval_request (operation, policy, call, requesters, expires_at) VALUES ('mine', 'x', '{}', '{own_ada}', '2100-01-01') RETURNING id AS mine \gset
\c - own_ben
SELECT sync.approve(:mine, 'run it');
\c - :super
DROP FUNCTION sync._approved_mine(jsonb, bigint);

-- On record.
SELECT action, object, record_id, session_user_name, detail - '{approval,policy,before,call,requesters,instead_of,to,guard,expires_at}'::text[] AS detail, reason FROM sync.audit ORDER BY id;

-- Tasks.
SELECT kind, object, record_number, system, reason, assignee, due FROM sync.task ORDER BY kind, id;
SELECT id AS task FROM sync.task WHERE kind = 'approval' ORDER BY id LIMIT 1 \gset
SELECT sync.assign_task('approval', :task, 'Grace', '2030-01-01');
SELECT sync.assign_task('approval', 424242, 'Grace');
SELECT sync.assign_task('approval', :task, 'Grace', 'infinity');
SELECT kind, assignee, due FROM sync.task WHERE id = :task AND kind = 'approval';
SELECT sync.assign_task('approval', :task, NULL);
SELECT count(*) FROM sync.task_assignment;
SELECT action, object, detail - 'id' AS detail FROM sync.audit WHERE action LIKE 'task.%' ORDER BY id;

\c regression :super
DROP DATABASE sync_own_approval;
DROP ROLE own_ada, own_ben, own_cfo, own_boss, own_board;
