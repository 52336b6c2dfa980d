-- What becomes of the findings of runs: a break lives on from run to run, whatever its amounts, and is
-- resolved by a run that looked where it was and no longer found it, by no other.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_settle;
CREATE DATABASE sync_rec_settle;
\c sync_rec_settle
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';

-- A run over a period with one finding per record of `found`: {"A": "break", …}.
CREATE FUNCTION run(found jsonb, period daterange DEFAULT NULL, looked text[] DEFAULT NULL, month date DEFAULT '2026-10-01') RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    INSERT INTO sync.reconciliation (source, kind, mode, period) VALUES ('record:x:y', 'record', 'mirror', run.period) RETURNING id INTO made;
    INSERT INTO sync.finding (reconciliation_id, class, kind, object, record_id, difference, currency, period, explanation)
    SELECT made, f.value, 'amount_differs', 'y', f.key, -5, 'EUR', run.month, CASE f.value WHEN 'explained' THEN 'rounding' END
      FROM jsonb_each_text($1) f;
    PERFORM sync._settle_breaks(made, run.looked);
END
$$;
CREATE VIEW breaks AS
    SELECT id, record_id, period, status, explanation, times_seen, first_run, last_run FROM sync.break_entry ORDER BY id;
CREATE VIEW last_run AS
    SELECT id, state, found, opened, closed, in_transit, explained FROM sync.reconciliation ORDER BY id DESC LIMIT 1;

-- Opened once, seen again, resolved when it is gone; back again it is another.
SELECT run('{"A": "break", "B": "break"}');
TABLE last_run;
SELECT run('{"A": "break"}');
TABLE last_run;
SELECT run('{"A": "break", "B": "break"}');
TABLE breaks;

-- What a policy explains is none; when the policy goes, it is the same break.
SELECT run('{"A": "explained", "B": "break"}');
TABLE last_run;
SELECT run('{"A": "break", "B": "break"}');
TABLE breaks;

-- What a person explained stays explained as long as the amounts are those; not because a policy came
-- and went meanwhile.
UPDATE sync.break_entry SET status = 'explained', explanation = 'known', resolved_by = 'ann' WHERE record_id = 'A';
SELECT run('{"A": "break", "B": "break"}');
SELECT status, explanation, resolved_by FROM sync.break_entry WHERE record_id = 'A';
UPDATE sync.break_entry SET difference = -4 WHERE record_id = 'A';
SELECT run('{"A": "break", "B": "break"}');
SELECT status, explanation, resolved_by FROM sync.break_entry WHERE record_id = 'A';
SELECT run('{"A": "explained", "B": "break"}');
SELECT run('{"A": "break", "B": "break"}');
SELECT status, explanation, resolved_by FROM sync.break_entry WHERE record_id = 'A';

-- On its way is not arrived: a break that a delivery may settle stays open, with its age, until it is
-- settled; nothing on its way is a break before.
SELECT run('{"A": "in_transit", "B": "break", "C": "in_transit"}');
TABLE last_run;
TABLE breaks;
SELECT run('{"B": "break", "C": "break"}');
TABLE last_run;
TABLE breaks;

-- A difference of timing alone is none, not even where there was a break.
SELECT run('{"B": "timing", "C": "break"}');
TABLE last_run;

-- A run over some days resolves what is within them only. Breaks have months: half a month says nothing
-- about the breaks of the other half.
SELECT run('{}', '[2026-09-01,2026-10-01)');
SELECT run('{}', '[2026-10-01,2026-10-16)');
SELECT run('{}', '[2026-10-16,2026-11-01)');
TABLE breaks;
SELECT run('{}', '[2026-10-01,2026-10-31]');
TABLE last_run;

-- A run over some records resolves breaks of these only.
SELECT run('{"D": "break", "E": "break"}');
SELECT run('{}', NULL, '{D}');
SELECT record_id, status FROM breaks WHERE record_id IN ('D', 'E');

\c regression
DROP DATABASE sync_rec_settle;
