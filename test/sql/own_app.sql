-- Applications against owners: each way of writing, each policy. Every case begins with the same rows
-- and is rolled back; what it raised, left, opened and asked for is a row of the result.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own;
DROP ROLE IF EXISTS regress_own_app;
CREATE DATABASE sync_own;
\c sync_own
SET client_min_messages = error;
CREATE EXTENSION sync_ext;
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://api.example.com/v1');
CREATE ROLE regress_own_app LOGIN;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO regress_own_app;
GRANT pg_execute_server_program TO regress_own_app;
SET search_path = shop;

-- name, amount and parent belong to the CRM, note and rank to whoever writes them.
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE account (id integer PRIMARY KEY, name text DEFAULT 'unnamed', amount numeric, note text, code text UNIQUE,
    parent integer REFERENCES parent ON DELETE SET NULL, seen timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
-- The same in partitions, by a column that the CRM owns (region) or not (area).
CREATE TABLE sliced (id integer, region text NOT NULL DEFAULT 'eu', area text NOT NULL DEFAULT 'n', name text, amount numeric, note text)
    PARTITION BY LIST (region);
CREATE TABLE sliced_eu PARTITION OF sliced FOR VALUES IN ('eu') PARTITION BY LIST (area);
CREATE TABLE sliced_eu_n PARTITION OF sliced_eu FOR VALUES IN ('n');
CREATE TABLE sliced_eu_s (note text, amount numeric, name text, area text NOT NULL DEFAULT 'n', region text NOT NULL DEFAULT 'eu', id integer);
ALTER TABLE sliced_eu ATTACH PARTITION sliced_eu_s FOR VALUES IN ('s');
CREATE TABLE sliced_us PARTITION OF sliced FOR VALUES IN ('us');
ALTER TABLE sliced ALTER id SET NOT NULL, ADD UNIQUE (id, region, area);
CREATE TABLE bill (id integer PRIMARY KEY, number text);
CREATE TABLE bill_line (bill_id integer REFERENCES bill ON DELETE CASCADE, line_no integer, item integer REFERENCES parent ON DELETE CASCADE,
    amount numeric, PRIMARY KEY (bill_id, line_no));
CREATE TABLE looked_up (id integer PRIMARY KEY, name text, amount numeric, note text);
GRANT ALL ON ALL TABLES IN SCHEMA shop TO regress_own_app;
SELECT sync.track('account', on_truncate => 'record'), sync.track('sliced', key_columns => '{id}', on_truncate => 'record'),
       sync.track('bill', lines => 'bill_line', on_truncate => 'record'), sync.track('looked_up', capture => false);
-- Bound in the CRM and pulled from there are record 1, and 2 of sliced.
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
SELECT sync._system_id('crm'), o.id, n, 'r' || n FROM sync.object o, generate_series(1, CASE o.name WHEN 'sliced' THEN 2 ELSE 1 END) n;
INSERT INTO sync.stream (system_id, object_id) SELECT sync._system_id('crm'), o.id FROM sync.object o;

-- Writes as the hub does what a person decided.
CREATE FUNCTION as_hub(object text, command text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM sync._owner_bypass((SELECT o.id FROM sync.object o WHERE o.name = object));
    EXECUTE command;
    PERFORM sync._owner_bypass(NULL);
END $$;

CREATE TABLE outcome (n serial, "case" text, policy text, state text, "column" text, "table" text, rows text, conflicts text, corrections text);
GRANT ALL ON outcome, outcome_n_seq TO regress_own_app;
CREATE FUNCTION brief(v jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(CASE jsonb_typeof(v) WHEN 'object' THEN v - '{seen,updated_at,parent,code}'::text[] ELSE v END::text, 'none') $$;
CREATE FUNCTION conflicts() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
    SELECT string_agg(format('%s.%s: %s <> %s', c.record_id, coalesce(c.field, '*'), shop.brief(c.hub_value), shop.brief(c.remote_value)), '; ' ORDER BY c.id)
      FROM sync.conflict_entry c $$;
CREATE FUNCTION corrections() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
    SELECT string_agg(format('%s.%s', c.record_id, c.field), '; ' ORDER BY c.record_id, c.field)
        || (SELECT format(' (%s)', string_agg(i.remote_id, ', ' ORDER BY i.remote_id)) FROM sync.inbox i WHERE i.item = 'null')
      FROM sync.correction c $$;

-- One case: a command as the application, and what became of it. {t} is the table.
CREATE PROCEDURE attempt("case" text, object text, policy text, command text) LANGUAGE plpgsql AS $$
DECLARE
    r outcome;
    n integer;
BEGIN
    r."case" := "case";
    r.policy := policy;
    BEGIN
        SET LOCAL ROLE regress_own_app;
        BEGIN
            EXECUTE replace(command, '{t}', object);
            GET DIAGNOSTICS n = ROW_COUNT;
            r.state := 'ok ' || n;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS r."column" = COLUMN_NAME, r."table" = TABLE_NAME;
            r.state := SQLSTATE;
        END;
        RESET ROLE;
        EXECUTE format($q$SELECT string_agg(concat_ws(',', %s), ' ' ORDER BY t) FROM %s t$q$,
            CASE object WHEN 'account' THEN $c$id, coalesce(name, '-'), coalesce(amount::text, '-'), coalesce(note, '-'), parent$c$
                        WHEN 'bill' THEN $c$id, coalesce(number, '-'), (SELECT string_agg(l.line_no || ':' || l.amount, ' ' ORDER BY line_no) FROM bill_line l WHERE l.bill_id = t.id)$c$
                        WHEN 'sliced' THEN $c$id, region || area, coalesce(name, '-'), coalesce(amount::text, '-'), coalesce(note, '-')$c$
                        ELSE $c$id, coalesce(name, '-'), coalesce(amount::text, '-'), coalesce(note, '-')$c$ END, object) INTO r.rows;
        r.conflicts := conflicts();
        r.corrections := corrections();
        RAISE EXCEPTION USING ERRCODE = 'ZZ000';
    EXCEPTION WHEN SQLSTATE 'ZZ000' THEN NULL;
    END;
    INSERT INTO outcome ("case", policy, state, "column", "table", rows, conflicts, corrections)
    VALUES (r."case", r.policy, r.state, nullif(r."column", ''), CASE WHEN r.state LIKE 'SE%' THEN r."table" END, r.rows, r.conflicts, r.corrections);
END $$;

CREATE PROCEDURE attempt_all(object text, fields text[], cases text[]) LANGUAGE plpgsql AS $$
DECLARE
    p text;
    f text;
BEGIN
    FOREACH p IN ARRAY ARRAY['reject', 'ignore', 'correct', 'quarantine'] LOOP
        FOREACH f IN ARRAY fields LOOP
            PERFORM sync.set_owner(object, f, 'crm', p);
        END LOOP;
        FOR i IN 1 .. array_length(cases, 1) LOOP
            CALL attempt(cases[i][1], object, p, cases[i][2]);
        END LOOP;
    END LOOP;
    FOREACH f IN ARRAY fields LOOP
        PERFORM sync.drop_owner(object, f);
    END LOOP;
END $$;

INSERT INTO parent VALUES (1), (2), (3);
INSERT INTO account VALUES (1, 'Aster', 10.00, 'n', 'c1', 1), (50, 'Unbound', 5, 'n', 'c50', 2);
INSERT INTO sliced VALUES (1, 'eu', 'n', 'Aster', 10.00, 'n'), (2, 'us', 'n', 'Birch', 20, 'n');
INSERT INTO bill VALUES (1, 'B-1'), (50, 'B-50');
INSERT INTO bill_line VALUES (1, 1, 1, 10.00), (1, 2, 2, 5), (50, 1, 2, 7);
INSERT INTO looked_up VALUES (1, 'Aster', 10.00, 'n');

--
-- Fields
--
CALL attempt_all('account', '{name,amount,parent}', ARRAY[
    ['insert without them', $$INSERT INTO {t} (id, note) VALUES (2, 'x')$$],
    ['insert their defaults', $$INSERT INTO {t} (id, name, amount, note) VALUES (2, 'unnamed', NULL, 'x')$$],
    ['insert a value', $$INSERT INTO {t} (id, name, note) VALUES (2, 'Birch', 'x')$$],
    ['insert two values', $$INSERT INTO {t} (id, name, amount, note) VALUES (2, 'Birch', 3, 'x')$$],
    ['update owned', $$UPDATE {t} SET name = 'Birch' WHERE id = 1$$],
    ['update to null', $$UPDATE {t} SET amount = NULL WHERE id = 1$$],
    ['update unbound record', $$UPDATE {t} SET name = 'Birch' WHERE id = 50$$],
    ['update other', $$UPDATE {t} SET note = 'x', updated_at = now() WHERE id = 1$$],
    ['update both', $$UPDATE {t} SET note = 'x', amount = 11 WHERE id = 1$$],
    ['update all rows', $$UPDATE {t} SET amount = amount + id - 1$$],
    ['write back', $$UPDATE {t} SET name = name, amount = 10.0, note = 'x', parent = 1 WHERE id = 1$$],
    ['write back by join', $$UPDATE {t} t SET name = o.name, amount = o.amount * 1.000, note = 'x' FROM {t} o WHERE o.id = t.id$$],
    ['delete', $$DELETE FROM {t} WHERE id = 1$$],
    ['insert again', $$DELETE FROM {t} WHERE id = 1; INSERT INTO {t} (id, name) VALUES (1, 'Birch')$$],
    ['copy', $$COPY {t} (id, name, note) FROM PROGRAM 'printf "2\tBirch\tx\n"'$$],
    ['copy without', $$COPY {t} (id, note) FROM PROGRAM 'printf "2\tx\n3\ty\n"'$$],
    ['conflict: nothing', $$INSERT INTO {t} (id, name) VALUES (1, 'Birch') ON CONFLICT DO NOTHING$$],
    ['conflict: write back', $$INSERT INTO {t} (id, name, amount, note) VALUES (1, 'Aster', 10, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name, amount = excluded.amount, note = excluded.note$$],
    ['conflict: change', $$INSERT INTO {t} (id, name, amount, note) VALUES (1, 'Birch', 10, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name, amount = excluded.amount, note = excluded.note$$],
    ['conflict: other key', $$INSERT INTO {t} (id, code, name, note) VALUES (9, 'c1', 'Aster', 'x') ON CONFLICT (code) DO UPDATE SET name = excluded.name, note = excluded.note$$],
    ['merge', $$MERGE INTO {t} USING (VALUES (1, 'Birch'), (2, 'Cedar')) v (id, name) ON {t}.id = v.id
        WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)$$],
    ['cascade: set null', $$DELETE FROM parent WHERE id = 1$$],
    ['duplicate', $$INSERT INTO {t} (id, name) VALUES (1, 'Birch')$$],
    ['truncate', $$TRUNCATE {t}$$]]);
SELECT "case", policy, state, "column", "table", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;

--
-- A table that is not captured
--
CALL attempt_all('looked_up', '{name}', ARRAY[
    ['insert a value', $$INSERT INTO {t} (id, name, note) VALUES (2, 'Birch', 'x')$$],
    ['update owned', $$UPDATE {t} SET name = 'Birch'$$],
    ['update other', $$UPDATE {t} SET name = name, note = 'x'$$],
    ['delete', $$DELETE FROM {t}$$]]);
SELECT "case", policy, state, "column", "table", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;

--
-- Partitions
--
CALL attempt_all('sliced', '{name,amount,region}', ARRAY[
    ['insert a value', $$INSERT INTO {t} (id, name) VALUES (3, 'Birch')$$],
    ['insert into partition', $$INSERT INTO sliced_eu_s (id, area, name) VALUES (3, 's', 'Birch')$$],
    ['insert partition key', $$INSERT INTO {t} (id, region) VALUES (3, 'us')$$],
    ['update owned', $$UPDATE {t} SET name = 'Birch' WHERE id = 1$$],
    ['update partition', $$UPDATE sliced_us SET amount = 21$$],
    ['move', $$UPDATE {t} SET area = 's', note = 'x' WHERE id = 1$$],
    ['move and back', $$WITH a AS (UPDATE {t} SET area = 's' WHERE id = 1 RETURNING id) UPDATE {t} SET note = 'x' WHERE id = 2$$],
    ['move with a change', $$UPDATE {t} SET area = 's', name = 'Birch', note = 'x' WHERE id = 1$$],
    ['move by owned', $$UPDATE {t} SET region = 'us', note = 'x' WHERE id = 1$$],
    ['move written back', $$UPDATE {t} SET area = 's', name = 'Aster', amount = 10.0 WHERE id = 1$$],
    ['delete', $$DELETE FROM {t} WHERE id = 1$$]]);
SELECT "case", policy, state, "column", "table", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;

--
-- Whole records: all but note
--
SELECT sync.set_owner('account', 'note', 'hub'), sync.set_owner('sliced', 'note', 'hub');
CALL attempt_all('account', '{*}', ARRAY[
    ['insert', $$INSERT INTO {t} (id, note) VALUES (2, 'x')$$],
    ['insert two', $$INSERT INTO {t} (id, name) VALUES (2, 'x'), (3, 'y')$$],
    ['update owned', $$UPDATE {t} SET name = 'Birch' WHERE id = 1$$],
    ['update key', $$UPDATE {t} SET id = 7 WHERE id = 1$$],
    ['update other', $$UPDATE {t} SET note = 'x', name = name WHERE id = 1$$],
    ['update volatile', $$UPDATE {t} SET updated_at = now() WHERE id = 1$$],
    ['update both', $$UPDATE {t} SET note = 'x', amount = 11 WHERE id = 1$$],
    ['delete', $$DELETE FROM {t} WHERE id = 1$$],
    ['delete all', $$DELETE FROM {t}$$],
    ['copy', $$COPY {t} (id, name, note) FROM PROGRAM 'printf "2\tBirch\tx\n"'$$],
    ['conflict: nothing', $$INSERT INTO {t} (id, name) VALUES (1, 'Birch') ON CONFLICT DO NOTHING$$],
    ['conflict: other', $$INSERT INTO {t} (id, note) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET note = excluded.note$$],
    ['conflict: other key', $$INSERT INTO {t} (id, code, note) VALUES (9, 'c1', 'x') ON CONFLICT (code) DO UPDATE SET note = excluded.note$$],
    ['conflict: change', $$INSERT INTO {t} (id, name, note) VALUES (1, 'Birch', 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name, note = excluded.note$$],
    ['conflict: new', $$INSERT INTO {t} (id, note) VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET note = excluded.note$$],
    ['merge', $$MERGE INTO {t} USING (VALUES (1), (2)) v (id) ON {t}.id = v.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id)$$],
    ['cascade: set null', $$DELETE FROM parent WHERE id = 1$$],
    ['truncate', $$TRUNCATE {t}$$],
    ['truncate cascade', $$TRUNCATE parent CASCADE$$]]);
CALL attempt_all('sliced', '{*}', ARRAY[
    ['insert', $$INSERT INTO {t} (id) VALUES (3)$$],
    ['update other', $$UPDATE {t} SET note = 'x'$$],
    ['move', $$UPDATE {t} SET area = 's', note = 'x' WHERE id = 1$$],
    ['delete', $$DELETE FROM sliced_us$$],
    ['truncate partition', $$TRUNCATE sliced_us$$]]);
SELECT "case", policy, state, "column", "table", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;
SELECT sync.set_owner('sliced', 'area', 'hub');
CALL attempt_all('sliced', '{*}', ARRAY[
    ['move', $$UPDATE {t} SET area = 's', note = 'x' WHERE id = 1$$],
    ['move, update, delete', $$WITH a AS (UPDATE {t} SET area = 's' WHERE id = 1 RETURNING id) DELETE FROM {t} WHERE id = 2$$],
    ['move with a change', $$UPDATE {t} SET area = 's', name = 'Birch' WHERE id = 1$$]]);
SELECT "case", policy, state, "column", "table", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;

--
-- Lines
--
CALL attempt_all('bill', '{lines}', ARRAY[
    ['header', $$UPDATE {t} SET number = 'x' WHERE id = 1$$],
    ['insert', $$INSERT INTO bill_line VALUES (1, 3, 1, 2)$$],
    ['new document', $$WITH h AS (INSERT INTO bill VALUES (2, 'B-2')) INSERT INTO bill_line SELECT 50, 2, 1, 2$$],
    ['update', $$UPDATE bill_line SET amount = 11 WHERE bill_id = 1 AND line_no = 1$$],
    ['update unbound', $$UPDATE bill_line SET amount = 11 WHERE bill_id = 50$$],
    ['write back', $$UPDATE bill_line SET amount = amount * 1.0$$],
    ['delete', $$DELETE FROM bill_line WHERE line_no = 1$$],
    ['delete document', $$DELETE FROM {t}$$],
    ['cascade from elsewhere', $$DELETE FROM parent WHERE id = 2$$],
    ['copy', $$COPY bill_line FROM PROGRAM 'printf "1\t3\t1\t2\n"'$$],
    ['conflict', $$INSERT INTO bill_line VALUES (1, 1, 1, 10.0) ON CONFLICT (bill_id, line_no) DO UPDATE SET amount = excluded.amount$$],
    ['truncate', $$TRUNCATE bill_line$$]]);
SELECT sync.set_owner('bill', 'number', 'hub');
CALL attempt_all('bill', '{*}', ARRAY[
    ['header', $$UPDATE {t} SET number = 'x' WHERE id = 1$$],
    ['line', $$UPDATE bill_line SET amount = 11 WHERE bill_id = 1 AND line_no = 1$$],
    ['delete document', $$DELETE FROM {t}$$]]);
SELECT "case", policy, state, "column", "table", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;

--
-- What a trigger of the table does is the application's doing, before ours and after it.
--
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := upper(NEW.name); RETURN NEW; END$$;
CREATE TRIGGER a_shout BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION shout();
CALL attempt_all('account', '{name}', ARRAY[['first', $$UPDATE {t} SET note = 'x' WHERE id = 1$$]]);
ALTER TRIGGER a_shout ON account RENAME TO zzz_shout;
CALL attempt_all('account', '{name}', ARRAY[['last', $$UPDATE {t} SET note = 'x' WHERE id = 1$$]]);
DROP TRIGGER zzz_shout ON account;
SELECT "case", policy, state, "column", rows, conflicts, corrections FROM outcome ORDER BY n;
TRUNCATE outcome;

--
-- Equality is that of the type; without one, values are compared as they are.
--
DO $$BEGIN
    CREATE COLLATION whatever_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN -- a server without ICU
    CREATE COLLATION whatever_case FROM "C";
END$$;
CREATE DOMAIN grade AS text DEFAULT 'a';
CREATE TABLE typed (id integer PRIMARY KEY, n numeric, ns numeric[], j json, jb jsonb, c char(5), f double precision, t text COLLATE whatever_case,
    b text, at timestamptz, g grade, money numeric(10,2) DEFAULT 0, made timestamptz DEFAULT clock_timestamp(), no integer GENERATED BY DEFAULT AS IDENTITY, tags jsonb DEFAULT '{}');
GRANT ALL ON typed TO regress_own_app;
ALTER TABLE typed ALTER b SET STORAGE EXTERNAL;
SELECT sync.track('typed');
INSERT INTO typed VALUES (1, 1.0, '{1.0,2}', '{"a": 1.0}', '{"a": 1.0}', 'x', 0.0, 'abc', repeat('b', 9000), '2026-01-01 00:00+00', 'a', 1, '2026-01-01', 5);
DO $$BEGIN PERFORM sync.set_owner('typed', f, 'crm') FROM unnest('{n,ns,j,jb,c,f,t,b,at,g,money,made,no,tags}'::text[]) f; END$$;
SET ROLE regress_own_app;
UPDATE typed SET n = 1.000, ns = '{1,2.00}', jb = '{"a": 1.00}', c = 'x   ', f = '-0', at = '2026-01-01 01:00+01', b = b || '', money = 1.0, j = j;
UPDATE typed SET b = repeat('b', 9000);
UPDATE typed SET b = repeat('c', 9000);
UPDATE typed SET j = '{"a":1.0}';
UPDATE typed SET t = 'ABC';
UPDATE typed SET c = 'X';
UPDATE typed SET ns = '{1,3}';
-- constant defaults may be written out; computed ones cannot be told from values
INSERT INTO typed (id) VALUES (2);
INSERT INTO typed (id, g, money, tags) VALUES (3, 'a', 0, '{}');
INSERT INTO typed (id, no, made) VALUES (4, 77, '2020-01-01');
INSERT INTO typed (id, g) VALUES (5, 'b');
INSERT INTO typed (id, tags) VALUES (5, '{"a": 1}');
RESET ROLE;

--
-- Nobody writes past it by himself.
--
SELECT sync.set_owner('account', 'name', 'crm', 'ignore');
UPDATE account SET name = 'superuser' WHERE id = 1;
SELECT name FROM account WHERE id = 1;
GRANT sync_admin TO regress_own_app;
SET ROLE regress_own_app;
UPDATE account SET name = 'admin' WHERE id = 1;
CREATE TEMP TABLE mine (v integer);
CREATE FUNCTION pg_temp.mine() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN PERFORM sync._owner_bypass(1); UPDATE shop.account SET name = 'mine'; END$$;
SELECT pg_temp.mine();
CREATE FUNCTION pg_temp.mine_too(integer) RETURNS void LANGUAGE c AS '$libdir/sync_ext', 'se_owner_bypass_sql';
SET session_replication_role = replica;
RESET ROLE;
REVOKE sync_admin FROM regress_own_app;
SELECT name FROM account WHERE id = 1;
-- The hub's own acts do; what triggers of the table do meanwhile does not; and it ends by itself.
CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE shop.account SET name = 'more' WHERE id = 50; RETURN NULL; END$$;
CREATE TRIGGER more AFTER UPDATE ON account FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION more();
SELECT as_hub('account', $$UPDATE shop.account SET name = 'decided' WHERE id = 1$$);
SELECT id, name FROM account ORDER BY id;
DROP TRIGGER more ON account;
CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN PERFORM sync._owner_bypass(1); RAISE EXCEPTION 'no'; END$$;
CREATE FUNCTION forgets() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN PERFORM sync._owner_bypass(1); END$$;
DO $$BEGIN
    BEGIN
        PERFORM shop.fails();
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    UPDATE shop.account SET name = 'after an error' WHERE id = 1;
END$$;
SELECT forgets();
UPDATE account SET name = 'after a transaction' WHERE id = 1;
SELECT name FROM account WHERE id = 1;

--
-- What was undone raises no event; what passes does.
--
CREATE TABLE look AS SELECT coalesce(max(seq), 0) AS seq FROM sync.outbox;
UPDATE account SET name = 'x' WHERE id = 1;
UPDATE account SET name = 'x', note = 'seen' WHERE id = 1;
SELECT sync.set_owner('account', 'name', 'crm', 'correct');
UPDATE account SET name = 'kept' WHERE id = 1;
SELECT o.op, o.record_id, o.body ->> 'name' AS name, o.old, o.origin FROM sync.outbox o WHERE o.seq > (SELECT seq FROM look) ORDER BY o.seq;
SELECT c.record_id, c.field, y.name AS system, i.remote_id, i.reason FROM sync.correction c JOIN sync.system y ON y.id = c.system_id
  JOIN sync.inbox i ON i.system_id = c.system_id AND i.object_id = c.object_id AND i.item = 'null';
-- Another owner has nothing to correct by.
SELECT sync.set_owner('account', 'name', 'hub');
SELECT count(*) FROM sync.correction;

--
-- What is pulled is the system's doing, what triggers write elsewhere meanwhile an application's for it:
-- it may change what the hub or that system owns.
--
SELECT FROM sync.register_connector($json$ {"manifest": 1, "name": "plans", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "auth": {"type": "none"}, "objects": {"plan": {"pull": {"list": {"path": "/p", "items": "$.data"}, "record": {"id": "$.id", "our_id": "$.ours"},
    "fields": {"title": "$.title"}, "on_missing": "inbox"}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'plans', mode 'paused');
CREATE TABLE plan (id integer PRIMARY KEY, title text);
INSERT INTO plan VALUES (1, 'a');
CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE shop.account SET name = NEW.title, note = NEW.title WHERE id = 1; RETURN NULL; END$$;
CREATE TRIGGER spread AFTER UPDATE ON plan FOR EACH ROW EXECUTE FUNCTION spread();
SELECT sync.track('plan'), sync.create_stream('billing', 'plan') AS stream \gset
SELECT sync.set_owner('plan', 'title', 'billing'), sync.set_owner('account', 'note', 'hub'), sync.set_owner('account', 'name', 'crm');
SELECT applied, to_inbox FROM sync._apply_page(:stream, '[{"id": "p1", "ours": "1", "title": "b"}]');
SELECT sqlstate, reason FROM sync.inbox WHERE system_id = sync._system_id('billing');
SELECT sync.set_owner('account', 'name', 'crm', 'ignore');
SELECT applied, to_inbox FROM sync._apply_page(:stream, '[{"id": "p1", "ours": "1", "title": "c"}]');
SELECT name, note FROM account WHERE id = 1;
SELECT sync.set_owner('account', 'name', 'billing');
SELECT applied, to_inbox FROM sync._apply_page(:stream, '[{"id": "p1", "ours": "1", "title": "d"}]');
SELECT name, note FROM account WHERE id = 1;
DROP TRIGGER spread ON plan;

--
-- Personal data is erased, whoever owns it.
--
SELECT sync.set_owner('account', 'name', 'crm', 'ignore'), sync.set_owner('account', 'code', 'crm');
SELECT sync.set_personal('account', 'name'), sync.set_personal('account', 'code');
SELECT sync.erase('account', '1', 'asked') > 0 AS asked;
SELECT name, code, note FROM account WHERE id = 1;
SELECT sync.drop_owner('account', 'name');

--
-- A conflict holds the newest wish, with its trace.
--
SELECT sync.set_owner('account', 'amount', 'crm', 'quarantine');
SET sync_ext.actor = 'anna';
UPDATE account SET amount = 1 WHERE id = 1;
UPDATE account SET amount = 2 WHERE id = 1;
SELECT kind, record_id, field, system_id, hub_value, remote_value, policy, message FROM sync.conflict_entry;
SELECT action, object, record_id, system, detail - 'conflict' AS detail, actor FROM sync.audit WHERE action LIKE 'violation%' ORDER BY id;
\set VERBOSITY verbose
SELECT sync.set_owner('account', 'amount', 'crm', 'reject');
\set VERBOSITY default
UPDATE account SET amount = 1 WHERE id = 1;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own;
DROP ROLE regress_own_app;
