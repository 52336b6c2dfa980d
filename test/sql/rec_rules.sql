-- Completeness rules: who may define which, what a run makes of what they return, and that one that
-- fails, takes too long or would write harms nobody. The shipped rules: see rec_rules_shipped.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_rules;
DROP ROLE IF EXISTS rule_ann, rule_op, rule_app;
CREATE DATABASE sync_rec_rules;
\c sync_rec_rules
CREATE EXTENSION sync_ext;
CREATE ROLE rule_ann LOGIN IN ROLE sync_analyst;
CREATE ROLE rule_op LOGIN IN ROLE sync_operator;
CREATE ROLE rule_app LOGIN IN ROLE sync_app;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';

CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO rule_ann;
CREATE TABLE shop.bill (id bigint PRIMARY KEY, number text, total numeric, paid numeric, currency char(3), day date, customer text, secret text);
INSERT INTO shop.bill VALUES (1, 'B-1', 100, 100, 'EUR', '2026-09-03', 'C-1', 's1'), (2, 'B-2', 50.10, 50, 'EUR', '2026-10-07', 'C-2', 's2'),
                             (3, 'B-3', 70, 20, 'USD', '2026-10-31', 'C-1', 's3'), (4, 'B-4', 8, 9, 'JPY', '2026-11-01', NULL, 's4');
GRANT SELECT (id, number, total, paid, currency, day, customer) ON shop.bill TO rule_ann;
CREATE VIEW runs AS SELECT source, kind, period, state, found, opened, closed, in_transit, explained, error FROM sync.reconciliation ORDER BY id;
CREATE VIEW breaks AS
    SELECT kind, object, record_id, record_number, field, ours, theirs, difference, currency, at_risk, entity, period, customer, severity, status, explanation, detail
      FROM sync.break_entry ORDER BY id;

-- Without a model none of ours can look at anything.
SELECT * FROM sync.run_rules();
SELECT count(*) > 20 AS shipped, bool_and(enabled AND lacks IS NOT NULL AND run_as IS NULL) AS idle, count(last_run_at) AS ran FROM sync.rule;
SELECT * FROM sync.run_rules(names => '{line_sums}');

-- A rule of one's own.
SELECT sync.create_reconciliation_rule('bill_paid', $$
    SELECT 'bill' AS object, b.id AS record_id, b.number AS record_number, 'paid' AS field, b.total AS ours, b.paid AS theirs, b.paid - b.total AS difference,
           b.currency, b.day AS period, b.customer, CASE WHEN b.currency = 'JPY' THEN 'warning' END AS severity, 'is not paid in full; ' || b.number AS detail
      FROM shop.bill b WHERE b.paid <> b.total; -- and a comment$$, 'Bills are paid', 'Collect', 'error') > 0 AS made;
SELECT * FROM sync.run_rules(names => '{bill_paid}');
\x on
TABLE breaks;
TABLE runs;
\x off
-- Again: the same breaks. Paid meanwhile: resolved.
UPDATE shop.bill SET paid = 50.10 WHERE id = 2;
SELECT * FROM sync.run_rules();
SELECT record_number, status, times_seen, resolved_at IS NOT NULL AS resolved FROM sync.break_entry ORDER BY id;
-- A month of it: what is in another month is neither found nor resolved.
UPDATE shop.bill SET paid = total;
SELECT * FROM sync.run_rules('[2026-10-01,2026-11-01)');
SELECT record_number, status FROM sync.break_entry ORDER BY id;
SELECT * FROM sync.run_rules('[2026-11-10,2026-11-20)');
SELECT * FROM sync.run_rules('[2026-11-01,2026-12-01)');
SELECT record_number, status FROM sync.break_entry ORDER BY id;

-- Classes: what is no break opens none.
SELECT sync.create_reconciliation_rule('classes', $$
    SELECT n AS record_id, c AS class, 5 AS difference, 'EUR' AS currency, '7/' || n AS delivery, 'rounding' AS explanation
      FROM (VALUES (1, 'break'), (2, 'explained'), (3, 'in_transit'), (4, 'timing'), (5, NULL)) v (n, c)$$, 'd', 'r', 'info') > 0 AS made;
SELECT rule, found, opened, error FROM sync.run_rules(names => '{classes}');
SELECT source, found, opened, in_transit, explained FROM runs WHERE source = 'rule:classes';
SELECT record_id, status, severity, explanation FROM sync.break_entry WHERE source = 'rule:classes' ORDER BY id;

-- What is no rule.
SELECT sync.create_reconciliation_rule('Bad name', 'SELECT 1 AS record_id', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', NULL, 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT 1 AS record_id', ' ', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT 1 AS record_id', 'd', 'r', 'fatal');
SELECT sync.create_reconciliation_rule('line_sums', 'SELECT 1 AS record_id', 'd', 'r');
SELECT sync.create_reconciliation_rule('bill_paid', 'SELECT 1 AS record_id', 'd', 'r');
\set VERBOSITY sqlstate
SELECT sync.create_reconciliation_rule('bad', 'SELECT 1 AS record_id; SELECT 2 AS record_id', 'd', 'r');
\set VERBOSITY default
SELECT sync.create_reconciliation_rule('bad', '', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'DELETE FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'EXPLAIN SELECT 1', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT id AS record_id INTO shop.copy FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'WITH d AS (DELETE FROM shop.bill RETURNING id) SELECT id AS record_id FROM d', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT id AS record_id FROM shop.bill FOR UPDATE', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT id AS bill FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT id AS record_id, number AS record_id FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT total::float8 AS difference FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT total::float8 AS ours FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT now() AS period', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', $$SELECT '{}'::jsonb AS detail$$, 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT id AS record_id FROM bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('bad', 'SELECT id AS record_id FROM shop.bill) q; SELECT (1', 'd', 'r');
SELECT sync.run_rules('empty');
SELECT sync.run_rules(names => '{bill_paid,nothing}');
SELECT sync.run_rules(NULL, '{NULL}');
SELECT sync.run_rules(names => '{bill_paid,NULL}');
SELECT sync.run_rules(names => '{}');
SELECT sync.run_rules(timeout => '0');
SELECT count(*) FROM sync.reconciliation_rule WHERE name = 'bad';

-- A rule sees what the role that defined it may see, whoever runs it.
SET SESSION AUTHORIZATION rule_ann;
SELECT sync.create_reconciliation_rule('of_ann', 'SELECT secret AS detail FROM shop.bill', 'd', 'r');
SELECT sync.create_reconciliation_rule('of_ann', $$SELECT b.number AS record_number, current_user || ' ' || b.total AS detail, current_setting('search_path') AS explanation FROM shop.bill b WHERE b.id = 1$$, 'd', 'r') > 0 AS made;
-- The row itself may be written, but not in somebody else's name.
INSERT INTO sync.reconciliation_rule (name, query, description, remedy, run_as) VALUES ('forged', 'SELECT 1 AS record_id', 'd', 'r', 'postgres');
INSERT INTO sync.reconciliation_rule (name, query, description, remedy) VALUES ('by_hand', 'SELECT secret AS detail FROM shop.bill; DROP TABLE shop.bill', 'd', 'r');
SELECT sync._rule_rows('postgres', 'SELECT secret AS detail FROM shop.bill', false, 1000);
-- Others' rules and ours are not hers.
SELECT sync.drop_reconciliation_rule('bill_paid', 'no');
SELECT sync.set_rule_enabled('line_sums', false, 'no');
SELECT rule, severity, run_as = 'rule_ann' AS mine FROM sync.rule WHERE NOT shipped ORDER BY 1;
RESET SESSION AUTHORIZATION;
SELECT rule, found, opened, error FROM sync.run_rules(names => '{of_ann,by_hand}');
SELECT record_number, detail, explanation FROM sync.break_entry WHERE source = 'rule:of_ann';
-- What she may no longer see fails, and leaves her breaks as they were.
REVOKE SELECT (total) ON shop.bill FROM rule_ann;
SELECT rule, found, opened, error FROM sync.run_rules(names => '{of_ann}');
SELECT record_number, status, times_seen FROM sync.break_entry WHERE source = 'rule:of_ann';
GRANT SELECT (total) ON shop.bill TO rule_ann;
SET SESSION AUTHORIZATION rule_op;
SELECT rule, found, opened, error FROM sync.run_rules(names => '{of_ann}');
SELECT sync.create_reconciliation_rule('of_op', 'SELECT 1 AS record_id', 'd', 'r');
SET SESSION AUTHORIZATION rule_app;
SELECT * FROM sync.run_rules();
RESET SESSION AUTHORIZATION;

-- Row policies hold for a rule of hers, too.
ALTER TABLE shop.bill ENABLE ROW LEVEL SECURITY;
CREATE POLICY part ON shop.bill TO rule_ann USING (id <> 1);
SELECT rule, found, error FROM sync.run_rules(names => '{of_ann}');
ALTER TABLE shop.bill DISABLE ROW LEVEL SECURITY;

-- One that fails, writes, runs for ever or finds the world: each a failed run, and the others go on.
CREATE FUNCTION shop.write() RETURNS text LANGUAGE sql AS $$UPDATE shop.bill SET paid = 0 RETURNING number$$;
CREATE FUNCTION shop.free() RETURNS text LANGUAGE sql AS $$SELECT set_config('transaction_read_only', 'off', false)$$;
SELECT sync.create_reconciliation_rule(v.name, v.query, 'd', 'r') > 0 AS made
  FROM (VALUES ('a_fails', 'SELECT 1 / (b.id - 1) AS record_id FROM shop.bill b'), ('b_writes', 'SELECT shop.write() AS detail'), ('c_frees', 'SELECT shop.free() AS detail'),
               ('d_sleeps', 'SELECT pg_sleep(1000)::text AS detail'), ('e_floods', 'SELECT n AS record_id FROM generate_series(1, 1000000) n'),
               ('f_words', $$SELECT 'sorry' AS class$$), ('g_words', $$SELECT 'fatal' AS severity$$), ('g_twice', $$SELECT 'B-1' AS record_number, n AS ours FROM generate_series(1, 2) n$$), ('h_works', 'SELECT 1 AS record_id')) v (name, query);
SELECT rule, found, opened, error FROM sync.run_rules(names => '{a_fails,b_writes,c_frees,d_sleeps,e_floods,f_words,g_words,g_twice,h_works}', timeout => '500 ms');
-- An amount or a day that is none, or no currency, would be in everybody's totals.
SELECT sync.create_reconciliation_rule(v.name, v.query, 'd', 'r') > 0 AS made
  FROM (VALUES ('i_nan', $$SELECT 'NaN'::numeric AS difference, 'EUR' AS currency$$), ('i_endless', $$SELECT '-Infinity'::numeric AS at_risk, 'EUR' AS currency$$),
               ('i_never', $$SELECT 1 AS record_id, 'infinity'::date AS period$$), ('i_euro', $$SELECT 5 AS difference, 'Euro' AS currency$$), ('i_small', $$SELECT 5 AS difference, 'eur' AS currency$$)) v (name, query);
SELECT rule, found, opened, error FROM sync.run_rules(names => '{i_nan,i_endless,i_never,i_euro,i_small}');
SELECT count(*) FROM sync.break_entry WHERE source LIKE 'rule:i\_%';
SELECT count(sync.drop_reconciliation_rule(r.name, 'shown')) AS dropped FROM sync.reconciliation_rule r WHERE r.name LIKE 'i\_%';
SELECT count(*) FROM shop.bill WHERE paid = 0;
SELECT count(*) FROM sync.finding;
SHOW transaction_read_only;
-- The session's own time-out goes on as it was.
BEGIN;
SET LOCAL statement_timeout = '1 s';
SELECT rule, error FROM sync.run_rules(names => '{d_sleeps,h_works}', timeout => '100 ms');
SELECT pg_sleep(10);
ROLLBACK;
SET statement_timeout = '300 ms';
SELECT rule, error FROM sync.run_rules(names => '{d_sleeps}');
RESET statement_timeout;

-- Off and on; dropped. Reasons go on record.
SELECT sync.set_rule_enabled('h_works', false, ' ');
SELECT sync.set_rule_enabled('h_works', false, 'not now');
SELECT sync.set_rule_enabled('line_sums', false, 'we have no lines');
SELECT rule FROM sync.rule WHERE NOT enabled ORDER BY 1;
SELECT sync.run_rules(names => '{h_works}');
SELECT sync.set_rule_enabled('nothing', false, 'why');
SELECT sync.drop_reconciliation_rule('line_sums', 'why');
SELECT sync.drop_reconciliation_rule('h_works', NULL);
SELECT sync.drop_reconciliation_rule('h_works', 'no use');
SELECT b.status, b.resolved_by = session_user AS by_me, n.note FROM sync.break_entry b JOIN sync.break_note n ON n.break_id = b.id WHERE b.source = 'rule:h_works';
SELECT state, rule_id FROM sync.reconciliation WHERE source = 'rule:h_works' ORDER BY id LIMIT 1;
SELECT action, detail ->> 'rule' AS rule, reason FROM sync.audit WHERE action LIKE 'rule.%' AND detail ->> 'rule' IN ('h_works', 'line_sums', 'of_ann') ORDER BY id;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_rules;
DROP ROLE rule_ann, rule_op, rule_app;
