-- The canonical model: shape, constraints, guards, privileges, upgrade.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'

SELECT sync.create_canonical_model();

--
-- Shape
--
SELECT count(*) AS tables FROM pg_class WHERE relnamespace = 'canonical'::regnamespace AND relkind = 'r';
SELECT relname FROM pg_class WHERE relnamespace = 'canonical'::regnamespace AND relkind = 'r' ORDER BY relname COLLATE "C";

-- Each of these lists what breaks a rule of the model, so all are empty.
SELECT conrelid::regclass AS unindexed, conname
FROM pg_constraint c
WHERE contype = 'f' AND connamespace = 'canonical'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_index i
                    WHERE i.indrelid = c.conrelid AND i.indpred IS NULL
                        AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey);
SELECT c.oid::regclass AS uncommented, a.attname
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'canonical'::regnamespace AND c.relkind = 'r'
    AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL);
SELECT p.oid::regprocedure AS uncommented FROM pg_proc p
WHERE p.pronamespace = 'canonical'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.relname AS without_common_columns
FROM pg_class c
WHERE c.relnamespace = 'canonical'::regnamespace AND c.relkind = 'r' AND c.relname <> 'currency'
    AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnotnull
         AND (a.attname, a.atttypid::regtype::text) IN (('id', 'uuid'), ('attrs', 'jsonb'),
             ('created_at', 'timestamp with time zone'), ('updated_at', 'timestamp with time zone'))) <> 4;
SELECT c.relname AS without_updated_at_trigger
FROM pg_class c
WHERE c.relnamespace = 'canonical'::regnamespace AND c.relkind = 'r' AND c.relname <> 'currency'
    AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'touch_updated_at');
SELECT a.attrelid::regclass AS reference_without_key, a.attname
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
WHERE c.relnamespace = 'canonical'::regnamespace
    AND (a.attname LIKE '%\_id' AND a.atttypid = 'uuid'::regtype OR a.attname LIKE '%currency')
    AND (c.relname, a.attname) NOT IN (('gl_entry', 'source_id'))
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conkey = ARRAY[a.attnum]);
SELECT a.attrelid::regclass AS binary_float, a.attname
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
WHERE c.relnamespace = 'canonical'::regnamespace AND a.atttypid IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype);
SELECT a.attrelid::regclass AS amount_beside_currency_unchecked, a.attname
FROM pg_attribute a JOIN pg_attribute cur ON cur.attrelid = a.attrelid AND cur.attname = 'currency'
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
WHERE c.relnamespace = 'canonical'::regnamespace AND a.atttypid = 'numeric'::regtype
    AND (a.attname ~ 'amount' OR a.attname = 'total_value')
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = c.relname || '_' || a.attname || '_minor_units');
-- Functions that are not standard SQL (bound when created) pin search_path.
SELECT p.oid::regprocedure AS unpinned FROM pg_proc p
WHERE (p.pronamespace = 'canonical'::regnamespace OR p.pronamespace = 'sync'::regnamespace AND p.proname ~ 'canonical')
    AND p.prosqlbody IS NULL AND NOT coalesce(p.proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false);
-- Nothing of it is a member of the extension, so pg_dump carries it.
SELECT d.classid::regclass, d.objid
FROM pg_depend d
WHERE d.deptype = 'e'
    AND (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class WHERE relnamespace = 'canonical'::regnamespace)
         OR d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'canonical'::regnamespace)
         OR d.classid = 'pg_namespace'::regclass AND d.objid = 'canonical'::regnamespace);

--
-- Currencies
--
SELECT minor_units, count(*), string_agg(code, ' ' ORDER BY code COLLATE "C") FILTER (WHERE minor_units <> 2) AS codes
FROM canonical.currency GROUP BY minor_units ORDER BY minor_units;
SELECT amount, currency, canonical.fits_currency(amount, currency)
FROM (VALUES (1.50, 'EUR'), (1.5000, 'EUR'), (1.505, 'EUR'), (100, 'JPY'), (100.5, 'JPY'), (1.234, 'KWD'),
             (1.2345, 'KWD'), (1.2345, 'CLF'), (-0.01, 'USD'), ('NaN', 'USD'), ('Infinity', 'USD'), (NULL, 'USD')) v (amount, currency);
-- A failing row shows its random id, hence terse where the constraint's name says it all.
\set VERBOSITY terse
INSERT INTO canonical.currency VALUES ('JPX', 5);
INSERT INTO canonical.currency VALUES ('eur', 2);

--
-- A business to work with; what follows is written as an app
--
SET ROLE sync_app;
INSERT INTO canonical.legal_entity (id, code, name, country, functional_currency, timezone)
VALUES ('00000000-0000-0000-0000-0000000000e1', 'DE', 'Example GmbH', 'DE', 'EUR', 'Europe/Berlin');
INSERT INTO canonical.customer (id, number, name, legal_entity_id, currency)
VALUES ('00000000-0000-0000-0000-0000000000c1', 'C-1', 'Ada Ltd', '00000000-0000-0000-0000-0000000000e1', 'EUR');

-- enumerations, formats, references
INSERT INTO canonical.customer (name, status) VALUES ('Bad', 'gone');
INSERT INTO canonical.customer (name, kind) VALUES ('Bad', 'robot');
INSERT INTO canonical.customer (name, currency) VALUES ('Bad', 'ZZZ');
INSERT INTO canonical.customer (number, name) VALUES ('C-1', 'Second');
INSERT INTO canonical.customer (name, attrs) VALUES ('Bad', '[]');
INSERT INTO canonical.legal_entity (code, name, functional_currency, timezone) VALUES ('X', 'X', 'EUR', 'Mars/Olympus');
INSERT INTO canonical.legal_entity (code, name, functional_currency, country) VALUES ('X', 'X', 'EUR', 'de');
UPDATE canonical.customer SET parent_id = id;

-- amounts: minor units, signs, unit prices free in scale
INSERT INTO canonical.contract (customer_id, currency, total_value) VALUES ('00000000-0000-0000-0000-0000000000c1', 'EUR', 10.005);
INSERT INTO canonical.contract (customer_id, currency, total_value) VALUES ('00000000-0000-0000-0000-0000000000c1', 'JPY', 10.5);
INSERT INTO canonical.contract (number, customer_id, currency, total_value) VALUES ('K-1', '00000000-0000-0000-0000-0000000000c1', 'KWD', 10.005);
UPDATE canonical.contract SET currency = 'EUR' WHERE number = 'K-1';
INSERT INTO canonical.product (id, code, name) VALUES ('00000000-0000-0000-0000-0000000000d1', 'P-1', 'Seat');
INSERT INTO canonical.price (id, product_id, code, currency, unit_price)
VALUES ('00000000-0000-0000-0000-0000000000f1', '00000000-0000-0000-0000-0000000000d1', 'P-1-EUR', 'EUR', 0.000375);
UPDATE canonical.price SET unit_price = 'NaN';
INSERT INTO canonical.payment (customer_id, amount, currency) VALUES ('00000000-0000-0000-0000-0000000000c1', -1, 'EUR');
INSERT INTO canonical.credit_note (customer_id, currency, total_amount) VALUES ('00000000-0000-0000-0000-0000000000c1', 'EUR', -5);
INSERT INTO canonical.invoice (customer_id, currency, total_amount) VALUES ('00000000-0000-0000-0000-0000000000c1', 'EUR', 'NaN');

-- unique where the model says once
INSERT INTO canonical.subscription (id, number, customer_id, currency)
VALUES ('00000000-0000-0000-0000-000000000501', 'S-1', '00000000-0000-0000-0000-0000000000c1', 'EUR');
INSERT INTO canonical.subscription_item (subscription_id) VALUES ('00000000-0000-0000-0000-000000000501');
INSERT INTO canonical.subscription_item (id, subscription_id, price_id)
VALUES ('00000000-0000-0000-0000-000000000502', '00000000-0000-0000-0000-000000000501', '00000000-0000-0000-0000-0000000000f1');
INSERT INTO canonical.usage_record (subscription_item_id, meter_code, quantity, occurred_at, transaction_id)
VALUES ('00000000-0000-0000-0000-000000000502', 'gb', 5, '2026-01-31 23:30Z', 'T-1');
INSERT INTO canonical.usage_record (subscription_item_id, meter_code, quantity, occurred_at, transaction_id)
VALUES ('00000000-0000-0000-0000-000000000502', 'gb', 5, '2026-02-07 08:00Z', 'T-1');
INSERT INTO canonical.tax_determination (provider, document_code, currency) VALUES ('taxes', 'D-1', 'EUR'), ('other', 'D-1', 'EUR'), ('taxes', NULL, 'EUR'), ('taxes', NULL, 'EUR');
INSERT INTO canonical.tax_determination (provider, document_code, currency) VALUES ('taxes', 'D-1', 'EUR');
INSERT INTO canonical.service_status (customer_id, service_code) VALUES ('00000000-0000-0000-0000-0000000000c1', 'api');
INSERT INTO canonical.service_status (customer_id, service_code) VALUES ('00000000-0000-0000-0000-0000000000c1', 'api');

\set VERBOSITY default

-- updated_at moves with a change, and only with one
UPDATE canonical.customer SET updated_at = '2000-01-01', created_at = '2000-01-01' WHERE number = 'C-1';
SELECT updated_at > '2026-01-01' AS "kept by the trigger" FROM canonical.customer WHERE number = 'C-1';
SELECT updated_at AS before FROM canonical.customer WHERE number = 'C-1' \gset
UPDATE canonical.customer SET name = name WHERE number = 'C-1';
SELECT updated_at = :'before' AS "unchanged" FROM canonical.customer WHERE number = 'C-1';
UPDATE canonical.customer SET name = 'Ada Limited' WHERE number = 'C-1';
SELECT updated_at > :'before' AS "moved" FROM canonical.customer WHERE number = 'C-1';

--
-- Posted documents are closed
--
BEGIN;
INSERT INTO canonical.invoice (id, number, customer_id, status, currency, net_amount, total_amount, amount_due)
VALUES ('00000000-0000-0000-0000-000000000701', 'I-1', '00000000-0000-0000-0000-0000000000c1', 'draft', 'EUR', 100, 100, 100);
INSERT INTO canonical.invoice_line (id, invoice_id, line_no, net_amount)
VALUES ('00000000-0000-0000-0000-000000000711', '00000000-0000-0000-0000-000000000701', 1, 60),
       ('00000000-0000-0000-0000-000000000712', '00000000-0000-0000-0000-000000000701', 2, 30);
COMMIT;
INSERT INTO canonical.invoice_line (invoice_id, line_no, net_amount) VALUES ('00000000-0000-0000-0000-000000000701', 2, 1);
-- open to change as long as it is a draft or merely issued
UPDATE canonical.invoice SET status = 'open' WHERE number = 'I-1';
UPDATE canonical.invoice_line SET net_amount = 40 WHERE line_no = 2;
UPDATE canonical.invoice SET status = 'posted' WHERE number = 'I-1';
UPDATE canonical.invoice SET total_amount = 90, tax_amount = 1 WHERE number = 'I-1';
\echo :LAST_ERROR_SQLSTATE
UPDATE canonical.invoice SET status = 'open' WHERE number = 'I-1';
UPDATE canonical.invoice SET created_at = now() WHERE number = 'I-1';
DELETE FROM canonical.invoice WHERE number = 'I-1';
INSERT INTO canonical.invoice_line (invoice_id, line_no, net_amount) VALUES ('00000000-0000-0000-0000-000000000701', 3, 1);
UPDATE canonical.invoice_line SET net_amount = 41 WHERE line_no = 2;
DELETE FROM canonical.invoice_line WHERE line_no = 2;
-- a line moves neither out of a posted document nor into one
INSERT INTO canonical.invoice (id, number, customer_id, currency)
VALUES ('00000000-0000-0000-0000-000000000702', 'I-2', '00000000-0000-0000-0000-0000000000c1', 'EUR');
INSERT INTO canonical.invoice_line (id, invoice_id, line_no) VALUES ('00000000-0000-0000-0000-000000000721', '00000000-0000-0000-0000-000000000702', 1);
UPDATE canonical.invoice_line SET invoice_id = '00000000-0000-0000-0000-000000000702', line_no = 9 WHERE id = '00000000-0000-0000-0000-000000000712';
UPDATE canonical.invoice_line SET invoice_id = '00000000-0000-0000-0000-000000000701', line_no = 9 WHERE id = '00000000-0000-0000-0000-000000000721';
-- what is not closed goes on changing: payments, notes, void
UPDATE canonical.invoice SET amount_paid = 20, amount_due = 80, status = 'partially_paid', total_amount = 100.00, attrs = '{"dunned": true}' WHERE number = 'I-1';
UPDATE canonical.invoice_line SET attrs = '{"cost_center": 7}' WHERE line_no = 2;
UPDATE canonical.invoice SET status = 'void', voided_at = now(), void_reason = 'duplicate' WHERE number = 'I-1';
-- the ERP's word closes as well
UPDATE canonical.invoice SET posting_status = 'posted' WHERE number = 'I-2';
UPDATE canonical.invoice SET net_amount = 5 WHERE number = 'I-2';
UPDATE canonical.invoice SET posting_status = 'draft' WHERE number = 'I-2';
UPDATE canonical.invoice SET posting_status = 'reversed' WHERE number = 'I-2';
-- written posted in one transaction: closed from its end on
BEGIN;
INSERT INTO canonical.credit_note (id, number, customer_id, status, currency, net_amount, total_amount)
VALUES ('00000000-0000-0000-0000-000000000801', 'CN-1', '00000000-0000-0000-0000-0000000000c1', 'posted', 'EUR', 10, 10);
INSERT INTO canonical.credit_note_line (credit_note_id, line_no, net_amount) VALUES ('00000000-0000-0000-0000-000000000801', 1, 10);
COMMIT;
INSERT INTO canonical.credit_note_line (credit_note_id, line_no, net_amount) VALUES ('00000000-0000-0000-0000-000000000801', 2, 1);
UPDATE canonical.credit_note SET total_amount = 11 WHERE number = 'CN-1';
UPDATE canonical.credit_note SET amount_applied = 10, status = 'applied' WHERE number = 'CN-1';
-- a draft goes with its lines
INSERT INTO canonical.invoice (id, customer_id, currency) VALUES ('00000000-0000-0000-0000-000000000703', '00000000-0000-0000-0000-0000000000c1', 'EUR');
INSERT INTO canonical.invoice_line (invoice_id, line_no) VALUES ('00000000-0000-0000-0000-000000000703', 1);
DELETE FROM canonical.invoice WHERE id = '00000000-0000-0000-0000-000000000703';
SELECT count(*) FROM canonical.invoice_line WHERE invoice_id = '00000000-0000-0000-0000-000000000703';

--
-- Journals balance at commit
--
BEGIN;
INSERT INTO canonical.gl_entry (id, number, legal_entity_id, currency)
VALUES ('00000000-0000-0000-0000-000000000901', 'J-1', '00000000-0000-0000-0000-0000000000e1', 'EUR');
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit) VALUES ('00000000-0000-0000-0000-000000000901', 1, '1200', 119);
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, credit)
VALUES ('00000000-0000-0000-0000-000000000901', 2, '8400', 100), ('00000000-0000-0000-0000-000000000901', 3, '1776', 19);
COMMIT;
\set VERBOSITY terse
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit) VALUES ('00000000-0000-0000-0000-000000000901', 4, '1', 5, 5);
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code) VALUES ('00000000-0000-0000-0000-000000000901', 4, '1');
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit) VALUES ('00000000-0000-0000-0000-000000000901', 4, '1', -5);
\set VERBOSITY default
BEGIN;
UPDATE canonical.gl_entry_line SET credit = 99 WHERE gl_entry_id = '00000000-0000-0000-0000-000000000901' AND line_no = 2;
COMMIT;
DELETE FROM canonical.gl_entry_line WHERE gl_entry_id = '00000000-0000-0000-0000-000000000901' AND line_no = 3;
-- as a pull writes: constraints immediate, all lines in one statement
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
INSERT INTO canonical.gl_entry (id, number, currency) VALUES ('00000000-0000-0000-0000-000000000902', 'J-2', 'EUR');
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit)
VALUES ('00000000-0000-0000-0000-000000000902', 1, '1200', 7, 0), ('00000000-0000-0000-0000-000000000902', 2, '8400', 0, 7);
COMMIT;
-- a journal of many lines is summed once, not once a line
CREATE FUNCTION pg_temp.looks() RETURNS bigint LANGUAGE sql AS $$
  SELECT pg_stat_get_xact_numscans('canonical.gl_entry_line'::regclass)
       + sum(pg_stat_get_xact_numscans(i.indexrelid))::bigint
  FROM pg_index i WHERE i.indrelid = 'canonical.gl_entry_line'::regclass $$;
BEGIN;
INSERT INTO canonical.gl_entry (id, number, currency) VALUES ('00000000-0000-0000-0000-000000000903', 'J-4', 'EUR');
INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit)
SELECT '00000000-0000-0000-0000-000000000903', i, '1', i % 2, 1 - i % 2 FROM generate_series(1, 500) i;
SELECT pg_temp.looks() AS before \gset
SET CONSTRAINTS ALL IMMEDIATE;
SELECT pg_temp.looks() - :before < 10 AS few;
-- and again after each change, which is what its check is for
SAVEPOINT s;
UPDATE canonical.gl_entry_line SET debit = 2 WHERE gl_entry_id = '00000000-0000-0000-0000-000000000903' AND line_no = 1;
ROLLBACK TO s;
SET CONSTRAINTS ALL DEFERRED;
UPDATE canonical.gl_entry_line SET debit = 2 WHERE gl_entry_id = '00000000-0000-0000-0000-000000000903' AND line_no = 1;
SAVEPOINT s;
UPDATE canonical.gl_entry_line SET credit = 2 WHERE gl_entry_id = '00000000-0000-0000-0000-000000000903' AND line_no = 2;
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK TO s;
COMMIT;
UPDATE canonical.gl_entry SET status = 'posted', posted_at = now() WHERE number = 'J-1';
UPDATE canonical.gl_entry SET posting_date = '2026-01-31' WHERE number = 'J-1';
UPDATE canonical.gl_entry SET status = 'draft' WHERE number = 'J-1';
DELETE FROM canonical.gl_entry_line WHERE gl_entry_id = '00000000-0000-0000-0000-000000000901';
DELETE FROM canonical.gl_entry WHERE number = 'J-1';
UPDATE canonical.gl_entry SET status = 'reversed', memo = 'see J-3' WHERE number = 'J-1';
\set VERBOSITY terse
INSERT INTO canonical.gl_entry (currency, source_object) VALUES ('EUR', 'invoice');
\set VERBOSITY default

--
-- Schedules sum to their total, allocations stay within the payment
--
BEGIN;
INSERT INTO canonical.revenue_schedule (id, invoice_line_id, currency, total_amount)
VALUES ('00000000-0000-0000-0000-000000000a01', '00000000-0000-0000-0000-000000000711', 'EUR', 60);
INSERT INTO canonical.revenue_schedule_line (schedule_id, period, amount)
SELECT '00000000-0000-0000-0000-000000000a01', m, 20 FROM generate_series(date '2026-01-01', '2026-03-01', '1 month') m;
COMMIT;
DELETE FROM canonical.revenue_schedule_line WHERE period = '2026-03-01';
UPDATE canonical.revenue_schedule SET total_amount = 61;
BEGIN;
UPDATE canonical.revenue_schedule SET total_amount = 61;
UPDATE canonical.revenue_schedule_line SET amount = 21 WHERE period = '2026-03-01';
COMMIT;
INSERT INTO canonical.revenue_schedule (invoice_line_id, currency, total_amount) VALUES ('00000000-0000-0000-0000-000000000711', 'EUR', 60);
INSERT INTO canonical.revenue_schedule (invoice_line_id, currency, total_amount, standard) VALUES ('00000000-0000-0000-0000-000000000711', 'EUR', 60, 'ASC606');

INSERT INTO canonical.payment (id, customer_id, status, amount, currency)
VALUES ('00000000-0000-0000-0000-000000000b01', '00000000-0000-0000-0000-0000000000c1', 'succeeded', 50, 'EUR');
INSERT INTO canonical.payment_allocation (payment_id, invoice_id, amount)
VALUES ('00000000-0000-0000-0000-000000000b01', '00000000-0000-0000-0000-000000000701', 20),
       ('00000000-0000-0000-0000-000000000b01', '00000000-0000-0000-0000-000000000702', 30);
INSERT INTO canonical.payment_allocation (payment_id, invoice_id, amount)
VALUES ('00000000-0000-0000-0000-000000000b01', '00000000-0000-0000-0000-000000000702', 0.01);
UPDATE canonical.payment_allocation SET amount = 21 WHERE amount = 20;
\set VERBOSITY terse
INSERT INTO canonical.payment_allocation (payment_id, amount) VALUES ('00000000-0000-0000-0000-000000000b01', 1);
\set VERBOSITY default
RESET ROLE;

--
-- Privileges
--
SELECT r.rolname,
       bool_and(has_table_privilege(r.oid, c.oid, 'SELECT')) AS reads,
       bool_and(has_table_privilege(r.oid, c.oid, 'INSERT') AND has_table_privilege(r.oid, c.oid, 'UPDATE')
                AND has_table_privilege(r.oid, c.oid, 'DELETE')) AS writes,
       bool_or(has_table_privilege(r.oid, c.oid, 'INSERT') OR has_table_privilege(r.oid, c.oid, 'UPDATE')
               OR has_table_privilege(r.oid, c.oid, 'DELETE')) AS writes_some,
       bool_or(has_table_privilege(r.oid, c.oid, 'TRUNCATE')) AS truncates
FROM pg_roles r, pg_class c
WHERE r.rolname IN ('sync_analyst', 'sync_app', 'sync_auditor') AND c.relnamespace = 'canonical'::regnamespace AND c.relkind = 'r'
GROUP BY r.rolname ORDER BY r.rolname;
SELECT c.relname AS granted_to_public FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'canonical'::regnamespace AND a.grantee = 0;
SELECT p.oid::regprocedure AS granted_to_public FROM pg_proc p
WHERE (p.pronamespace = 'canonical'::regnamespace OR p.pronamespace = 'sync'::regnamespace AND p.proname ~ 'canonical')
    AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0));
SET ROLE sync_analyst;
SELECT number, name FROM canonical.customer;
UPDATE canonical.customer SET name = 'Mine';
SELECT sync.create_canonical_model('analysis');
RESET ROLE;

-- An owner who is no superuser.
CREATE ROLE canonical_owner;
GRANT sync_admin TO canonical_owner;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO canonical_owner', current_database()); END $$;
SET ROLE canonical_owner;
SELECT sync.create_canonical_model('Second "model"');
-- only a table's owner can have a check left out
SELECT n.nspname, count(*) AS asked, count(*) FILTER (WHERE sync._canonical_check_due(c.oid, 'c0000000-0000-0000-0000-000000000001')) AS due
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, generate_series(1, 3)
WHERE c.relname = 'gl_entry_line' AND n.nspname IN ('canonical', 'Second "model"') GROUP BY 1 ORDER BY 1;
RESET ROLE;
SELECT count(*) AS tables, bool_and(pg_get_userbyid(relowner) = 'canonical_owner') AS owned
FROM pg_class WHERE relnamespace = '"Second ""model"""'::regnamespace AND relkind = 'r';
SET ROLE sync_app;
\set VERBOSITY terse
INSERT INTO "Second ""model""".contract (customer_id, currency, total_value) VALUES (gen_random_uuid(), 'JPY', 0.5);
\set VERBOSITY default
RESET ROLE;

--
-- Errors and upgrade
--
SELECT sync.create_canonical_model();
\echo :LAST_ERROR_SQLSTATE
SELECT sync.create_canonical_model('sync');
SELECT sync.create_canonical_model(NULL);
SELECT * FROM sync.upgrade_canonical_model('nowhere');
SELECT * FROM sync.upgrade_canonical_model();
-- A model that lacks something, and that its owner has made his own.
ALTER TABLE canonical.invoice DROP COLUMN amount_credited;
ALTER TABLE canonical.payment DROP COLUMN payout_id;
DROP TABLE canonical.support_case;
ALTER TABLE canonical.customer ADD COLUMN segment text, DROP CONSTRAINT customer_status_check;
CREATE OR REPLACE FUNCTION canonical.minor_units(currency bpchar) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN currency = 'BTC' THEN 8 WHEN currency = 'JPY' THEN 0 ELSE 2 END;
INSERT INTO canonical.currency VALUES ('BTC', 8);
SELECT * FROM sync.upgrade_canonical_model();
SELECT * FROM sync.upgrade_canonical_model();
SELECT conname FROM pg_constraint WHERE conrelid = 'canonical.invoice'::regclass AND conname ~ 'amount_credited' ORDER BY 1;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'canonical' AND indexname = 'payment_payout_id_idx';
SELECT has_table_privilege('sync_app', 'canonical.support_case', 'INSERT') AS granted,
       col_description('canonical.payment'::regclass, (SELECT attnum FROM pg_attribute
           WHERE attrelid = 'canonical.payment'::regclass AND attname = 'payout_id')) AS comment;
INSERT INTO canonical.contract (number, customer_id, currency, total_value) VALUES ('K-2', '00000000-0000-0000-0000-0000000000c1', 'BTC', 0.00000001);

SET client_min_messages = warning;
DROP SCHEMA canonical CASCADE;
DROP SCHEMA "Second ""model""" CASCADE;
DROP OWNED BY canonical_owner;
DROP ROLE canonical_owner;
