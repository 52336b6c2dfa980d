-- What a person may give by mistake: nothing, the empty text, a day far away, a name that is none. Each is
-- answered with a code of its own and a hint, never with an empty result that looks right.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_arguments;
CREATE DATABASE sync_rec_arguments;
\c sync_rec_arguments
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT FROM sync.create_canonical_model();
SELECT sync.track('canonical.customer'), sync.track('canonical.invoice');
INSERT INTO canonical.legal_entity (id, code, name, functional_currency, timezone) VALUES (gen_random_uuid(), 'DE', 'Example GmbH', 'EUR', 'Europe/Berlin');
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {"customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}}} $json$::jsonb);
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
SELECT sync.create_route('erp', 'customer') AS route;

-- A call, and what it is answered with.
CREATE FUNCTION pg_temp.answer(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
    said text;
    detail text;
    hint text;
    code text;
BEGIN
    EXECUTE 'SELECT count(*) FROM sync.' || call INTO n;
    RETURN format('%s rows', n);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', code || ' ' || said, nullif(detail, ''), coalesce('> ' || nullif(hint, ''), 'NO HINT'));
END
$$;

-- ---- currencies and days of reports ----
SELECT c AS call, pg_temp.answer(c) AS answer FROM unnest(ARRAY[
    $$mrr_waterfall('[2026-10-01,2026-11-01)', '')$$, $$mrr_waterfall('[2026-10-01,2026-11-01)', 'eur')$$, $$mrr_waterfall('[2026-10-01,2026-11-01)', 'EUR')$$,
    $$ar_aging('294276-12-31')$$, $$ar_aging_tie_out('5874897-12-31')$$, $$ar_aging('0001-01-01')$$, $$ar_aging('4713-01-01 BC')$$]) c;
SELECT c AS call, pg_temp.answer(format('%s(%L%s)', f.name, p, f.more)) AS answer
  FROM (VALUES ('payout_reconciliation', ''), ('customer_profitability', ''), ('deferred_rollforward', ''), ('build_revenue_schedules', ''), ('recognize_revenue', ''),
               ('mrr_waterfall', ''), ('certify', $$, 'DE', 'October'$$)) f (name, more)
 CROSS JOIN unnest('{"[5874897-11-01,5874897-12-01)","[4713-01-01 BC,4712-01-01 BC)"}'::text[]) p
 CROSS JOIN LATERAL (SELECT f.name || ' ' || p) q (c);

-- ---- lists ----
SELECT c AS call, pg_temp.answer(c) AS answer FROM unnest(ARRAY[
    $$run_rules(NULL, '{{line_sums}}')$$, $$set_match_rule('customer', 'erp', 1, '{}')$$, $$set_match_rule('customer', 'erp', 1, '{number,NULL}')$$,
    $$set_match_rule('customer', 'erp', 1, '{{number}}')$$, $$set_match_rule('customer', 'erp', 1, NULL)$$,
    $$track('canonical.payment', volatile_columns => '{NULL}')$$, $$track('canonical.payment', volatile_columns => '{updated_at,nope}')$$,
    $$track('canonical.payment', number_column => 'Number')$$, $$track('canonical.payment', on_truncate => 'ignore')$$]) c;

-- ---- names, texts and numbers ----
SELECT c AS call, pg_temp.answer(c) AS answer FROM unnest(ARRAY[
    $$set_approval_policy('', 'certify', reason => 'why')$$, $$set_approval_policy(NULL, 'certify', reason => 'why')$$,
    $$set_guard('', 'customer', 'true', 'message', reason => 'why')$$, $$set_guard('a/b', 'customer', 'true', 'message', reason => 'why')$$,
    $$set_personal('customer', 'billing_email', '-1 day')$$, $$set_personal('customer', 'billing_email', '100000000 years')$$,
    $$manifest_preview('mini', '1', -1)$$, $$preview('erp', 'customer', NULL)$$, $$register_connector(NULL::jsonb)$$,
    $$create_reconciliation_rule('x', 'SELECT $1', 'd', 'r')$$, $$create_reconciliation_rule('x', 'SELECT 1 AS record_id FROM', 'd', 'r')$$,
    $$create_reconciliation_rule('x', 'SELECT nope AS record_id FROM canonical.customer', 'd', 'r')$$]) c;

-- ---- a condition that cannot be evaluated, days no calendar of ours has, an amount that would hide everything ----
SELECT c AS call, pg_temp.answer(c) AS answer FROM unnest(ARRAY[
    $$create_route('crm', 'customer', condition => '1 / 0 = 1')$$, $$backfill('erp', 'customer', filter => '''x''::integer = 1')$$,
    $$create_route('crm', 'customer', cutover_date => '5874897-12-31')$$, $$create_route('crm', 'customer', cutover_date => '-infinity')$$,
    $$backfill('erp', 'customer', cutover_date => '294277-01-01')$$, $$backfill('erp', 'customer', cutover_date => 'infinity')$$,
    $$set_tolerance('erp', 'customer', 1e300, 'EUR', 'r')$$, $$set_tolerance('erp', 'customer', -0.01, 'EUR', 'r')$$]) c;

-- ---- NULL for a switch is what it is by default: nothing is lost by it ----
INSERT INTO canonical.customer (id, number, name, billing_email) VALUES ('00000000-0000-4000-8000-0000000000c1', 'C-1', 'Example Ltd', 'ada@example.com');
SELECT sync.set_personal('customer', 'billing_email');
SELECT c AS call, pg_temp.answer(c) AS answer FROM unnest(ARRAY[
    $$drop_route('customer_to_erp', NULL)$$, $$erase('customer', '00000000-0000-4000-8000-0000000000c1', 'asked', NULL)$$, $$untrack(NULL)$$,
    $$set_event_compatibility('customer', '')$$, $$create_canonical_model('')$$]) c;
SELECT state FROM sync.route;
SELECT billing_email FROM canonical.customer;

-- ---- and whatever else an analyst calls has a hint ----
SELECT c AS call, pg_temp.answer(c) AS answer FROM unnest(ARRAY[
    $$lineage(NULL, '1')$$, $$lineage('', '1')$$, $$lineage('invoice', '')$$, $$lineage('invoice', NULL)$$, $$lineage_tree(NULL, NULL)$$, $$lineage('invoice', '1', 99)$$,
    $$remote_id('', '1', '')$$, $$remote_id('customer', NULL, 'no')$$, $$reconcile(NULL, NULL)$$, $$reconcile('erp', 'customer', 'empty')$$,
    $$reconcile('erp', 'customer', NULL, '')$$, $$reconcile('erp', 'customer', NULL, 'mirror', '')$$, $$reconcile('erp', 'customer', NULL, 'mirror', NULL, 'infinity')$$,
    $$reconcile('erp', 'customer', NULL, 'mirror', NULL, '2999-01-01')$$, $$reconcile_all('empty')$$, $$reconcile_all(NULL, '')$$,
    $$assign_break(NULL, 'x')$$, $$note_break(-1, 'x')$$, $$note_break(1, ' ')$$, $$explain_break(NULL, 'x')$$, $$accept_break(1, '')$$, $$reopen_break(-1, 'r')$$, $$repair(NULL)$$,
    $$verify_certificate(NULL)$$, $$certificate_changes(-1)$$, $$certify(NULL, 'DE', 'r')$$, $$certify('[2026-10-01,2026-11-01)', NULL, 'r')$$,
    $$certify('[2026-10-01,2026-11-01)', 'DE', '')$$, $$recognize_revenue('[2026-10-01,2026-11-01)', '')$$, $$build_revenue_schedules('[2026-10-01,2026-11-01)', '')$$,
    $$deferred_rollforward('[2026-10-01,2026-11-01)', '')$$, $$ar_aging(NULL)$$, $$ar_aging('2026-10-31', '')$$, $$set_rule_enabled('', true, 'r')$$,
    $$drop_reconciliation_rule(NULL, 'r')$$, $$create_reconciliation_rule(NULL, NULL, NULL, NULL)$$, $$create_reconciliation_rule('x', '', 'd', 'r')$$,
    $$event_schema('customer', -1)$$, $$verify_audit('')$$, $$assign_task('', 1, 'x')$$, $$set_tolerance('erp', 'customer', 'NaN', 'EUR', 'r')$$]) c
 WHERE pg_temp.answer(c) LIKE '%NO HINT' OR pg_temp.answer(c) LIKE '% rows';
SELECT pg_temp.answer($$find('')$$) AS find, pg_temp.answer($$trace(NULL)$$) AS trace;
\c regression
DROP DATABASE sync_rec_arguments;
