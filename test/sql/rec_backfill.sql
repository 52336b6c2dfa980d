-- Backfills and full listings: arguments, errors, rights, what the steps do without a system that answers.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_backfill;
CREATE DATABASE sync_rec_backfill;
\c sync_rec_backfill
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\set VERBOSITY default
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;

-- A manifest that tells how many records there are, and what they add up to.
\set counted '{"manifest": 1, "name": "counted", "version": "1", "base_url": "https://c.example", "objects": {"invoice": {"pull": {"list": {"path": "/i", "items": "$.data", "page_size": 10, "next": {"last_id": "$.id"}}, "count": {"path": "/i/totals", "query": {"entity": "$.param.entity"}, "items": "$.totals", "count": "$.n", "amount": {"$": "$.sum", "cast": "major", "currency": "$.currency"}, "currency": "$.currency"}, "record": {"id": "$.id"}, "fields": {"number": "$.number"}}}}}'
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '{"totals": [{"n": 2, "sum": 1999, "currency": "EUR"}, {"n": "3", "sum": 1, "currency": "EUR"}, {"n": 1, "sum": 500, "currency": "JPY"}]}', '{"param": {"entity": "de"}}');
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '{"totals": []}');
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '{"totals": [{"sum": 1, "currency": "EUR"}]}') ->> 'error' AS error;
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '{"totals": [{"n": "many", "sum": 1, "currency": "EUR"}]}') ->> 'error' AS error;
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '{"totals": [{"n": -1, "sum": 1, "currency": "EUR"}]}') ->> 'error' AS error;
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '{"totals": [{"n": 1, "sum": 1}]}') ->> 'error' IS NOT NULL AS error;
SELECT sync.test_count(:'counted', 'invoice', 200, '{}', '<html>') ->> 'error' AS error;
SELECT sync.register_connector(jsonb_set(:'counted', '{objects,invoice,pull,count,currency}', 'null') #- '{objects,invoice,pull,count,currency}');
SELECT sync.register_connector(:'counted'::jsonb #- '{objects,invoice,pull,count,count}');
SELECT sync.test_count(:'counted'::jsonb #- '{objects,invoice,pull,count}', 'invoice', 200, '{}', '{}');

SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {
    "customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}, "update": {"method": "PUT", "path": "/c/${remote.id}"}}},
                 "pull": {"list": {"path": "/c", "items": "$.data", "page_size": 10, "next": {"last_id": "$.id"}}, "record": {"id": "$.id"}, "fields": {"name": "$.name"}}},
    "invoice": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "response": {"remote_id": "$.id"}}}},
                "pull": {"events": {"path": "/e", "items": "$.data", "page_size": 10, "next": {"last_id": "$.id"}}, "record": {"id": "$.id"}, "fields": {"number": "$.number"}}},
    "bill": {"pull": {"list": {"path": "/b", "items": "$.data", "page_size": 10, "next": {"last_id": "$.id"}}, "record": {"id": "$.id"}, "fields": {"number": "$.number", "total_amount": "$.total"},
                      "on_delete": {"set": {"number": "gone"}}}}}
}$$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL, number text, created_at timestamptz DEFAULT now());
CREATE TABLE invoice (region text, id integer, number text, total_amount numeric, currency text, issue_date date, PRIMARY KEY (region, id));
CREATE TABLE bare (id integer PRIMARY KEY, name text);
SELECT sync.track('customer');
SELECT sync.track('invoice', financial => true);

-- Arguments.
SELECT sync.backfill('crm', 'customer', 'sideways');
SELECT sync.backfill('nowhere', 'customer');
SELECT sync.backfill('crm', 'nothing');
SELECT sync.backfill('crm', 'customer', since => '2026-02-01', until => '2026-01-01');
SELECT sync.backfill('crm', 'customer', since => 'infinity');
SELECT sync.backfill('crm', 'customer', rate => 0);
SELECT sync.backfill('crm', 'customer', 'pull', filter => 'true');
SELECT sync.backfill('crm', 'customer');
SELECT sync.backfill('crm', 'customer', 'pull');
SELECT sync.create_route('crm', 'customer') AS route \gset
SELECT sync.backfill('crm', 'customer', filter => 'name =');
SELECT sync.backfill('crm', 'customer', filter => 'nome = ''x''');

SELECT sync.drop_route(:route);
SELECT sync.create_route('crm', 'customer', start => '2999-01-01 00:00+00') AS route \gset
SELECT sync.backfill('crm', 'customer');
SELECT sync.drop_route(:route);
SELECT sync.create_route('crm', 'customer') AS route \gset

-- Money: a reason, and a cut-over date.
SELECT sync.create_route('crm', 'invoice') IS NOT NULL AS made;
SELECT sync.backfill('crm', 'invoice');
SELECT sync.backfill('crm', 'invoice', reason => 'go live');
SELECT sync.backfill('crm', 'invoice', since => '2026-01-01', reason => 'go live', cutover_date => '2026-01-01');
SELECT sync.backfill('crm', 'invoice', reason => 'go live', cutover_date => '2026-03-01') AS money \gset
SELECT cutover_date FROM sync.route WHERE name = 'invoice_to_crm';
SELECT sync.stop_job(:money, 'not today');

-- Identity that is not decided.
SELECT sync.create_stream('crm', 'customer', identity => 'decide') IS NOT NULL AS made;
SELECT sync.backfill('crm', 'customer');
SELECT sync.backfill('crm', 'customer', 'pull');
UPDATE sync.stream SET deciding_since = NULL;

-- One at a time. The steps, by hand: what is there, merged, filtered or unwanted is not sent.
INSERT INTO customer SELECT i, 'Customer ' || i FROM generate_series(1, 8) i;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, '1', 'r1' FROM sync.system y, sync.object o WHERE o.name = 'customer';
DELETE FROM sync.outbox;
SELECT sync.backfill('crm', 'customer', filter => 'name <> ''Customer 2''', reason => 'history') AS job \gset
SELECT sync.backfill('crm', 'customer');
SELECT kind, system_id = 1 AS system, params, reason, requested_by = session_user AS me FROM sync.job WHERE id = :job;
SELECT filter, run_as = current_user AS me FROM sync.job_filter WHERE job_id = :job;
SELECT sync._jobs_step() AS next;
SELECT sync._jobs_step() IS NOT NULL AS stepped;
SELECT record_id, op, origin, body ->> 'name' AS name, context ->> 'reason' AS reason, context ->> 'correlation_id' = 'backfill ' || :job AS mine FROM sync.outbox ORDER BY seq;
SELECT state, phase, done, total, result FROM sync.job WHERE id = :job;
SELECT kind, system, object, remaining, phase, done, total, state, time_left IS NULL AS unknown FROM sync.progress WHERE job = :job;
SELECT kind, job, phase FROM sync.progress WHERE kind IN ('push', 'pull') ORDER BY 1;
SELECT sync.pause_job(:job);
SELECT state, remaining, estimate FROM sync.progress WHERE job = :job;
SELECT sync.stop_job(:job, '');
SELECT sync.stop_job(:job, 'enough');
SELECT action, object, system, detail ->> 'kind' AS kind, reason FROM sync.audit WHERE action LIKE 'job.%' ORDER BY id;

-- A window of time needs a column that tells it; composite keys and documents of before the cut-over.
INSERT INTO invoice VALUES ('eu', 1, 'I-1', 10, 'EUR', '2026-02-01'), ('eu', 2, 'I-2', 20, 'EUR', '2026-03-01'), ('us', 1, 'I-3', 30, 'USD', NULL);
DELETE FROM sync.outbox;
SELECT sync.backfill('crm', 'invoice', reason => 'go live') AS money \gset
SELECT sync._jobs_step() AS next;
SELECT sync._jobs_step() IS NOT NULL AS stepped;
SELECT record_id, body ->> 'number' AS number FROM sync.outbox ORDER BY seq;
SELECT done, result FROM sync.job WHERE id = :money;
SELECT sync.stop_job(:money, 'enough');

-- A full listing: what cannot be listed, one at a time, a run ends and goes on with its job.
INSERT INTO sync.reconciliation (source, kind, system_id, object_id, mode) SELECT 'record:crm:invoice', 'record', y.id, o.id, 'full' FROM sync.system y, sync.object o WHERE o.name = 'invoice' RETURNING id AS run \gset
SELECT sync._reconcile_full(:run);
INSERT INTO sync.reconciliation (source, kind, system_id, object_id, mode) SELECT 'record:crm:customer', 'record', y.id, o.id, 'full' FROM sync.system y, sync.object o WHERE o.name = 'customer' RETURNING id AS run \gset
SELECT sync._reconcile_full(:run) AS listing \gset
SELECT sync._reconcile_full(:run);
SELECT sync._jobs_step() > 1000 AS waits;
SELECT phase, state FROM sync.job WHERE id = :listing;
-- What src/reconcile would have kept: the first is the same, the second differs, one is new, one is bound and was not listed.
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, i::text, 'r' || i FROM sync.system y, sync.object o, generate_series(2, 4) i WHERE o.name = 'customer';
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, '99', 'r99' FROM sync.system y, sync.object o WHERE o.name = 'customer';
DELETE FROM sync.pending;
DELETE FROM sync.outbox;
INSERT INTO sync.listed_record (job_id, remote_id, fields, as_of, deleted) VALUES
    (:listing, 'r1', '{"name": "Customer 1"}', now(), false), (:listing, 'r2', '{"name": "Another"}', now(), false),
    (:listing, 'new', '{"name": "New"}', now(), false), (:listing, 'gone', NULL, now(), true), (:listing, 'r99', '{"name": "Orphan"}', now(), false), (:listing, 'r3', NULL, now(), true);
UPDATE sync.job SET phase = 'listed', next_step_at = clock_timestamp() WHERE id = :listing;
DO $$ BEGIN FOR i IN 1 .. 20 LOOP PERFORM sync._jobs_step(); EXIT WHEN (SELECT j.phase = 'listing' FROM sync.job j ORDER BY j.id DESC LIMIT 1); END LOOP; END $$;
-- This connector cannot read by id: all is listed a second time.
SELECT phase, cursor ->> 'second' AS second, (SELECT count(*) FROM sync.listed_suspect) AS suspects FROM sync.job WHERE id = :listing;
UPDATE sync.job SET phase = 'listed', next_step_at = clock_timestamp() WHERE id = :listing;
DO $$ BEGIN FOR i IN 1 .. 30 LOOP PERFORM sync._jobs_step(); EXIT WHEN (SELECT j.phase = 'judging' FROM sync.job j ORDER BY j.id DESC LIMIT 1); END LOOP; END $$;
SELECT remote_id, record_id FROM sync.listed_suspect ORDER BY 1, 2;
DO $$ BEGIN FOR i IN 1 .. 30 LOOP PERFORM sync._jobs_step(); END LOOP; END $$;
SELECT state, phase, result FROM sync.job WHERE id = :listing;
SELECT kind, class.status, remote_id, record_id, field, ours, theirs, detail FROM sync.break_entry class ORDER BY kind, remote_id, record_id;
SELECT state, checked, found, opened FROM sync.reconciliation WHERE id = :run;
SELECT count(*) AS left_behind FROM sync.listed_record;

-- Money: amounts that differ, counts and amounts of both sides, a period; what a delete has set is explained.
CREATE TABLE bill (id integer PRIMARY KEY, number text, total_amount numeric, currency text, issue_date date);
SELECT sync.track('bill', capture => false, financial => true);
SELECT sync.create_stream('crm', 'bill') IS NOT NULL AS made;
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
INSERT INTO bill VALUES (1, 'B-1', 10.00, 'EUR', '2026-01-31'), (2, 'B-2', 20.00, 'EUR', '2026-01-15'), (3, 'B-3', 30, 'JPY', '2026-02-01'), (4, 'gone', 40, 'EUR', '2026-02-02'), (5, 'B-5', 50, 'EUR', '2026-02-03');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, i::text, 'b' || i FROM sync.system y, sync.object o, generate_series(1, 5) i WHERE o.name = 'bill';
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, deleted, seen_at) SELECT y.id, o.id, 'b4', '4', true, now() - interval '1 h' FROM sync.system y, sync.object o WHERE o.name = 'bill';
CREATE FUNCTION run_listing(period daterange) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    run bigint := sync.reconcile('crm', 'bill', period, 'full');
    job bigint := (SELECT r.job_id FROM sync.reconciliation r WHERE r.id = run);
BEGIN
    FOR pass IN 1 .. 2 LOOP
        INSERT INTO sync.listed_record (job_id, remote_id, fields, as_of, deleted) VALUES
            (job, 'b1', '{"number": "B-1", "total_amount": 10, "currency": "EUR"}', clock_timestamp(), false),
            (job, 'b2', '{"number": "B-2", "total_amount": 19.99, "currency": "EUR"}', clock_timestamp(), false),
            (job, 'b3', '{"number": "B-3", "total_amount": 30.001, "currency": "JPY"}', clock_timestamp(), false),
            (job, 'b4', NULL, clock_timestamp(), true),
            (job, 'b9', '{"number": "B-9", "total_amount": 90, "currency": "EUR", "issue_date": "2026-01-09"}', clock_timestamp(), false)
        ON CONFLICT (job_id, remote_id) DO UPDATE SET as_of = excluded.as_of;
        UPDATE sync.job j SET state = 'running', phase = 'listed', next_step_at = clock_timestamp() WHERE j.id = job;
        FOR i IN 1 .. 40 LOOP
            PERFORM sync._jobs_step();
            EXIT WHEN (SELECT j.phase = 'listing' FROM sync.job j WHERE j.id = job);
        END LOOP;
    END LOOP;
    RETURN run;
END
$$;
SELECT run_listing(NULL) AS run \gset
SELECT state, checked, found, explained FROM sync.reconciliation WHERE id = :run;
SELECT kind, status, record_number, remote_id, field, ours, theirs, difference, currency, at_risk, period, explanation FROM sync.break_entry WHERE object = 'bill' ORDER BY kind, remote_id;
SELECT period, currency, our_count, our_amount, their_count, their_amount, explained_count, explained_amount, unexplained_count, unexplained_amount
  FROM sync.reconciliation_total WHERE reconciliation_id = :run ORDER BY period, currency;
SELECT run_listing('[2026-01-01,2026-02-01)') AS run \gset
SELECT found, opened, closed FROM sync.reconciliation WHERE id = :run;
SELECT period, currency, our_count, our_amount, their_count, their_amount, unexplained_amount FROM sync.reconciliation_total WHERE reconciliation_id = :run ORDER BY period, currency;

-- The last known state knows nothing of what only the listing has shown, and so closes none of it before there is news.
SELECT sync.reconcile('crm', 'bill') IS NOT NULL AS ran;
SELECT kind, status, remote_id FROM sync.break_entry WHERE object = 'bill' AND kind <> 'stale' ORDER BY kind, remote_id;
UPDATE bill SET total_amount = 19.99 WHERE id = 2;
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields) SELECT y.id, o.id, 'b2', '2', '{"number": "B-2", "total_amount": 19.99}' FROM sync.system y, sync.object o WHERE o.name = 'bill';
SELECT sync.reconcile('crm', 'bill') IS NOT NULL AS ran;
SELECT kind, status, remote_id FROM sync.break_entry WHERE object = 'bill' AND kind <> 'stale' ORDER BY kind, remote_id;

-- Rights.
CREATE ROLE sync_rec_operator IN ROLE sync_operator;
CREATE ROLE sync_rec_analyst IN ROLE sync_analyst;
GRANT USAGE ON SCHEMA sync TO sync_rec_operator;
SET ROLE sync_rec_analyst;
SELECT sync.backfill('crm', 'customer');
SELECT kind, state FROM sync.progress WHERE kind = 'full_listing';
RESET ROLE;
SET ROLE sync_rec_operator;
SELECT sync.backfill('crm', 'customer', filter => 'name <> ''''');
RESET ROLE;
GRANT SELECT ON customer TO sync_rec_operator;
SET ROLE sync_rec_operator;
SELECT sync.backfill('crm', 'customer', filter => 'name <> ''''') AS job \gset
SELECT filter, run_as FROM sync.job_filter WHERE job_id = :job;
SELECT sync.stop_job(:job, 'enough');
SELECT sync.backfill('crm', 'customer') IS NOT NULL AS operator_may;
INSERT INTO sync.job_filter (job_id, filter, run_as) VALUES (1, 'true', 'postgres');
SELECT fields FROM sync.listed_record;
RESET ROLE;
DROP OWNED BY sync_rec_operator;
DROP ROLE sync_rec_operator, sync_rec_analyst;
