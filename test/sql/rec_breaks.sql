-- The life of a break between the runs: who cares for it, what is written, explained, accepted by a second
-- person, taken back; and that none of it outlives the amounts it was said about.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_breaks;
DROP ROLE IF EXISTS brk_op, brk_chief, brk_ann, brk_aud, brk_app, brk_other;
CREATE DATABASE sync_rec_breaks;
\c sync_rec_breaks
CREATE EXTENSION sync_ext;
CREATE ROLE brk_op LOGIN IN ROLE sync_operator;
CREATE ROLE brk_chief LOGIN IN ROLE sync_approver, sync_operator;
CREATE ROLE brk_ann LOGIN IN ROLE sync_analyst;
CREATE ROLE brk_aud LOGIN IN ROLE sync_auditor;
CREATE ROLE brk_app LOGIN IN ROLE sync_app;
CREATE ROLE brk_other LOGIN IN ROLE sync_approver;
\set SHOW_CONTEXT never
\pset null '-'
SELECT current_user AS me \gset
ALTER DATABASE sync_rec_breaks SET datestyle = 'ISO';
ALTER DATABASE sync_rec_breaks SET client_min_messages = warning;

CREATE TABLE public.wrong (n integer PRIMARY KEY, ours numeric, theirs numeric);
INSERT INTO public.wrong VALUES (1, 100, 90), (2, 5, 7), (3, 1000, 0), (4, 1, 2);
SELECT sync.create_reconciliation_rule('wrong', $$
    SELECT 'thing' AS object, w.n AS record_id, 'T-' || w.n AS record_number, w.ours, w.theirs, w.theirs - w.ours AS difference, 'EUR' AS currency,
           CASE WHEN w.n = 4 THEN 'explained' END AS class, CASE WHEN w.n = 4 THEN 'rounding' END AS explanation FROM public.wrong w$$, 'd', 'r') > 0 AS made;
SELECT found, opened FROM sync.run_rules();
CREATE VIEW breaks AS
    SELECT record_number, difference, status, explanation, assignee, resolved_by, approval_id IS NOT NULL AS approved FROM sync.break_entry WHERE status <> 'resolved' ORDER BY record_id::int;
CREATE FUNCTION brk(n integer) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$SELECT id FROM sync.break_entry WHERE record_id = n::text ORDER BY id DESC LIMIT 1$$;

-- Cared for, written about.
\c - brk_ann
SELECT sync.assign_break(brk(1), 'brk_op', 'please look');
SELECT sync.note_break(brk(1), 'billing says it was a refund');
SELECT sync.note_break(brk(1), ' ');
SELECT sync.assign_break(brk(1), 'nobody_here');
SELECT sync.note_break(0, 'x');
SELECT sync.explain_break(brk(1), 'x');
SELECT sync.accept_break(brk(1), 'x');
SELECT sync.reopen_break(brk(1), 'x');
\c - brk_app
SELECT sync.note_break(1, 'x');
\c - brk_aud
SELECT sync.note_break(brk(1), 'seen by the auditor');
SELECT sync.assign_break(brk(1), 'brk_op');

-- Explained by a person: as long as its amounts are what they were.
\c - brk_op
SELECT sync.explain_break(brk(1), NULL);
SELECT sync.explain_break(brk(1), 'a refund of October');
SELECT sync.explain_break(brk(1), 'once more');
\c - :me
SELECT found, opened FROM sync.run_rules();
TABLE breaks;
UPDATE public.wrong SET theirs = 80 WHERE n = 1;
SELECT found, opened FROM sync.run_rules();
TABLE breaks;
SELECT author, note FROM sync.break_note WHERE break_id = brk(1) ORDER BY id;

-- What a policy explains is not a person's to take back.
SELECT sync.reopen_break(brk(4), 'no');
SELECT sync.explain_break(brk(4), 'no');

-- Accepted: asked for by one, granted by another, with the amount at risk.
\c - brk_op
SET client_min_messages = notice;
SELECT sync.accept_break(brk(3), 'written off') AS waits \gset
SELECT sync.accept_break(brk(3), 'written off') = :waits AS the_same;
\c - :me
SELECT operation, amount, currency, policy, requested_by, state FROM sync.approval_request WHERE id = :waits;
TABLE breaks;
\c - brk_op
SELECT sync.approve(:waits, 'fine');
\c - brk_chief
SELECT sync.approve(:waits, 'fine') ->> 'state' AS state;
\c - :me
SELECT found, opened FROM sync.run_rules();
TABLE breaks;
-- Who asked cannot grant, whatever else he is.
\c - brk_chief
SELECT sync.accept_break(brk(2), 'small') AS waits \gset
SELECT sync.approve(:waits, 'fine');
\c - :me
-- What was asked about has changed: nothing is decided.
UPDATE public.wrong SET theirs = 8 WHERE n = 2;
SELECT found, opened FROM sync.run_rules();
\c - brk_other
\set VERBOSITY sqlstate
SELECT sync.approve(:waits, 'fine');
\set VERBOSITY default
SELECT sync.approve(:waits, 'fine');
SELECT sync.reject(:waits, 'look again');
-- An acceptance can be taken back.
SELECT sync.reopen_break(brk(3), NULL);
SELECT sync.reopen_break(brk(3), 'it was not ours to write off');
SELECT sync.reopen_break(brk(3), 'again');
\c - :me
TABLE breaks;

-- A policy may want a second person for explanations, too.
SELECT sync.set_approval_policy('big_words', 'explain_break', min_amount => 500, currency => 'EUR', reason => 'money') IS NULL AS in_force;
SELECT sync.explain_break(brk(2), 'small change') IS NULL AS explained;
\c - brk_op
SELECT sync.explain_break(brk(3), 'a timing matter') AS waits \gset
\c - brk_chief
SELECT sync.approve(:waits, 'right') -> 'result' ->> 'status' AS status;
\c - :me
SELECT record_number, status, explanation, resolved_by, approved FROM breaks;

-- Taken back is also what was asked for and not yet decided.
\c - brk_op
SELECT sync.accept_break(brk(2), 'too small to matter') AS waits \gset
SELECT sync.reopen_break(brk(2), 'it does matter');
\c - brk_chief
\set VERBOSITY sqlstate
SELECT sync.approve(:waits, 'fine');
\set VERBOSITY default
\c - :me
SELECT state, decision_reason = format('break %s was opened again: it does matter', brk(2)) AS why FROM sync.approval_request WHERE id = :waits;
SELECT record_number, status FROM breaks WHERE record_number = 'T-2';

-- Gone is gone: only notes can be added. Found again, it is another break.
DELETE FROM public.wrong WHERE n = 3;
SELECT found, opened FROM sync.run_rules();
SELECT sync.assign_break(brk(3), 'brk_op');
SELECT sync.accept_break(brk(3), 'x');
SELECT sync.reopen_break(brk(3), 'x');
SELECT sync.note_break(brk(3), 'it was booked twice');
INSERT INTO public.wrong VALUES (3, 1000, 0);
SELECT found, opened FROM sync.run_rules();
SELECT record_number, status, times_seen FROM sync.break_entry WHERE record_id = '3' ORDER BY id;

SELECT action, detail - 'break' - 'source' - 'kind' - 'approval' - 'currency' AS detail, reason FROM sync.audit WHERE action LIKE 'break.%' ORDER BY id;

-- Everything at once needs the comparison of records; a schedule needs pg_cron.
SELECT sync.reconcile_all(mode => 'guess');
SELECT sync.schedule_reconciliation('nightly', '15 3 * * *');
SELECT sync.unschedule_reconciliation('nightly');
SELECT sync.create_reconciliation_rule('beside', $$SELECT 'thing' AS object, (1 / (1 - g))::text AS record_id FROM generate_series(1, 1) g$$, 'd', 'r') > 0 AS made;
\c - brk_op
SELECT sync.schedule_reconciliation('nightly', '15 3 * * *');
SELECT count(*) AS runs FROM sync.reconcile_all();
-- The same, each run in a transaction of its own.
SELECT max(id) AS before FROM sync.reconciliation \gset
CALL sync.reconcile_each(mode => 'guess');
CALL sync.reconcile_each('empty');
CALL sync.reconcile_each();
SELECT count(*) AS runs, count(*) FILTER (WHERE r.state = 'failed') AS failed, count(DISTINCT r.xmin::text) AS transactions FROM sync.reconciliation r WHERE r.id > :before;
SELECT count(*) AS runs FROM sync.reconciliation \gset
BEGIN;
CALL sync.reconcile_each();
ROLLBACK;
CREATE FUNCTION pg_temp.each() RETURNS void LANGUAGE plpgsql AS $$BEGIN CALL sync.reconcile_each(); END$$;
SELECT pg_temp.each();
DO $$BEGIN CALL sync.reconcile_each(); EXCEPTION WHEN division_by_zero THEN END$$;
SELECT 1 \; CALL sync.reconcile_each();
SELECT count(*) - :runs AS begun FROM sync.reconciliation;
-- Blocks that may commit may call it.
DO $$BEGIN CALL sync.reconcile_each('[2031-01-01,2031-02-01)'); END$$;
SELECT count(*) > :runs AS begun FROM sync.reconciliation;
SET search_path = public;
CALL sync.reconcile_each();
\c - :me
BEGIN;
CALL sync._scheduled('nightly');
ROLLBACK;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_breaks;
DROP ROLE brk_op, brk_chief, brk_ann, brk_aud, brk_app, brk_other;
