-- What becomes of a change of a system: (app | A | B changes) × (same field | other field | deleted) ×
-- owners × what a violation gets × policies. Each cell makes a record that A and B agree on, lets them
-- and an application act, each in a transaction of its own, and prints how it ends.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_merge;
CREATE DATABASE sync_own_merge;
\c sync_own_merge
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';

CREATE SCHEMA own;
CREATE TABLE own.thing (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number text UNIQUE,
    name text,
    note text,
    total_amount numeric,
    currency char(3),
    due timestamptz,
    status text NOT NULL DEFAULT 'on'
);
SELECT FROM sync.track('own.thing', object => 'thing', number_column => 'number');
CREATE TABLE own.doc (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number text UNIQUE, memo text);
CREATE TABLE own.doc_line (doc_id uuid REFERENCES own.doc ON DELETE CASCADE, line_no int, amount numeric, hint text,
                           PRIMARY KEY (doc_id, line_no));
SELECT FROM sync.track('own.doc', object => 'doc', number_column => 'number', lines => 'own.doc_line', line_key_columns => '{line_no}');

CREATE FUNCTION own.manifest(name text, on_delete text) RETURNS jsonb LANGUAGE sql AS $$
SELECT replace(replace($json$ {
  "manifest": 1, "name": "NAME", "version": "1", "title": "Ownership test",
  "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "thing": {"pull": {
      "list": {"path": "/things", "items": "$.data"}, "fetch": {"path": "/things/${id}"},
      "cursor": {"resolution": "1 s"},
      "record": {"id": "$.id", "version_at": "$.at"},
      "fields": {"number": "$.number", "name": {"$": "$.name", "omit": "null"}, "note": {"$": "$.note", "omit": "null"},
                 "total_amount": {"$": "$.total", "cast": "number", "omit": "null"},
                 "currency": {"$": "$.currency", "omit": "null"}, "due": {"$": "$.due", "omit": "null"}},
      "match": ["number"], "on_missing": "insert", "on_delete": DELETES}},
    "doc": {"pull": {
      "list": {"path": "/docs", "items": "$.data"},
      "record": {"id": "$.id", "version_at": "$.at"},
      "fields": {"number": "$.number", "memo": "$.memo"},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "amount": {"$": "$.amount", "cast": "number"}}},
      "match": ["number"], "on_missing": "insert", "on_delete": "delete"}}
  }
} $json$, 'NAME', name), 'DELETES', on_delete)::jsonb
$$;
SELECT FROM sync.register_connector(own.manifest('deletes', '"delete"'));
SELECT FROM sync.register_connector(own.manifest('sets', '{"set": {"status": "off"}}'));
CREATE SERVER alpha FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'deletes');
CREATE SERVER beta FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'sets');
SELECT sync.create_stream('alpha', 'thing') AS alpha_things, sync.create_stream('beta', 'thing') AS beta_things,
       sync.create_stream('alpha', 'doc') AS alpha_docs \gset

-- A route without a hub: what is pushed back can be seen in the outbox.
INSERT INTO sync.route (system_id, object_id, name, start_kind)
SELECT y.id, o.id, y.name || '.' || o.name, 'now' FROM sync.system y, sync.object o;

CREATE TABLE own.result (n serial, owner text, violation text, policy text, scenario text, name text, note text, status text,
                         conflict text, audit text, sent_to text, agreed text, again int);
CREATE SEQUENCE own.numbers;

CREATE FUNCTION own.page(system text, VARIADIC members text[]) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN p.read_again > 0 THEN 'read again' WHEN p.to_inbox > 0 THEN 'inbox' END
      FROM sync.stream t JOIN sync.system y ON y.id = t.system_id JOIN sync.object o ON o.id = t.object_id,
           LATERAL sync._apply_page(t.id, jsonb_build_array(jsonb_object(members)), fetched => 'fetched' = ANY (members)) p
     WHERE y.name = page.system AND o.name = 'thing'
$$;


CREATE FUNCTION own.declare(owner text, violation text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sync.owner (object_id, field, system_id, on_violation)
    SELECT o.id, '*', (SELECT y.id FROM sync.system y WHERE y.name = declare.owner), violation
      FROM sync.object o WHERE o.name = 'thing' AND declare.owner <> 'nobody'
$$;

-- What applications may do is not the matter here: they act while nobody owns anything.
CREATE PROCEDURE own.cell(owner text, violation text, policy text, scenario text) LANGUAGE plpgsql AS $$
DECLARE
    no text := 'N' || nextval('own.numbers');
    thing integer := (SELECT o.id FROM sync.object o WHERE o.name = 'thing');
    record text;
    mark bigint;
    audited bigint;
    step text;
    old constant text := '2026-01-01T00:00:00Z';
    earlier constant text := '2026-01-02T00:00:00Z';
    later constant text := '2126-01-01T00:00:00Z';
    again integer := 0;
BEGIN
    PERFORM own.page('alpha', 'id', 'a' || no, 'at', old, 'number', no, 'name', 'agreed', 'note', 'agreed');
    PERFORM own.page('beta', 'id', 'b' || no, 'at', old, 'number', no, 'name', 'agreed', 'note', 'agreed');
    SELECT t.id::text INTO record FROM own.thing t WHERE t.number = no;
    DELETE FROM sync.owner;
    DELETE FROM sync.conflict_policy;
    INSERT INTO sync.conflict_policy (object_id, policy) SELECT thing, policy WHERE policy <> '-';
    COMMIT;
    mark := (SELECT last_value FROM sync.outbox_seq);
    audited := (SELECT coalesce(max(a.id), 0) FROM sync.audit a);
    FOREACH step IN ARRAY string_to_array(scenario, ', ') LOOP
        DELETE FROM sync.owner;
        IF step NOT LIKE 'app%' THEN
            PERFORM own.declare(owner, violation);
        END IF;
        COMMIT;
        CASE step
            WHEN 'app name' THEN UPDATE own.thing t SET name = 'app' WHERE t.number = no;
            WHEN 'app note' THEN UPDATE own.thing t SET note = 'app' WHERE t.number = no;
            WHEN 'app same' THEN UPDATE own.thing t SET name = 'alpha' WHERE t.number = no;
            WHEN 'app deletes' THEN DELETE FROM own.thing t WHERE t.number = no;
            WHEN 'A name' THEN again := again + (own.page('alpha', 'id', 'a' || no, 'at', later, 'number', no, 'name', 'alpha', 'note', 'agreed') IS NOT NULL)::int;
            WHEN 'A name earlier' THEN again := again + (own.page('alpha', 'id', 'a' || no, 'at', earlier, 'number', no, 'name', 'alpha', 'note', 'agreed') IS NOT NULL)::int;
            WHEN 'A again' THEN again := again + (own.page('alpha', 'id', 'a' || no, 'at', '2126-01-02T00:00:00Z', 'number', no, 'name', 'alpha 2', 'note', 'agreed') IS NOT NULL)::int;
            WHEN 'A back' THEN again := again + (own.page('alpha', 'id', 'a' || no, 'at', '2126-01-03T00:00:00Z', 'number', no, 'name', 'agreed', 'note', 'agreed') IS NOT NULL)::int;
            WHEN 'A both' THEN again := again + (own.page('alpha', 'id', 'a' || no, 'at', later, 'number', no, 'name', 'alpha', 'note', 'alpha') IS NOT NULL)::int;
            WHEN 'B name' THEN again := again + (own.page('beta', 'id', 'b' || no, 'at', later, 'number', no, 'name', 'beta', 'note', 'agreed') IS NOT NULL)::int;
            WHEN 'B note' THEN again := again + (own.page('beta', 'id', 'b' || no, 'at', later, 'number', no, 'name', 'agreed', 'note', 'beta') IS NOT NULL)::int;
            WHEN 'A deletes' THEN
                PERFORM sync._apply_page(t.id, jsonb_build_array(jsonb_build_object('remote_id', 'a' || no, 'gone', true)))
                   FROM sync.stream t JOIN sync.system y ON y.id = t.system_id WHERE y.name = 'alpha' AND t.object_id = thing;
            WHEN 'B deletes' THEN
                PERFORM sync._apply_page(t.id, jsonb_build_array(jsonb_build_object('remote_id', 'b' || no, 'gone', true)))
                   FROM sync.stream t JOIN sync.system y ON y.id = t.system_id WHERE y.name = 'beta' AND t.object_id = thing;
        END CASE;
        COMMIT;
    END LOOP;
    INSERT INTO own.result (owner, violation, policy, scenario, name, note, status, conflict, audit, sent_to, agreed, again)
    SELECT cell.owner, cell.violation, cell.policy, cell.scenario, t.name, t.note, coalesce(t.status, 'no row'),
           (SELECT string_agg(concat_ws(' ', c.kind, c.field, c.system,
                              CASE WHEN c.kind <> 'deleted' THEN (c.hub_value #>> '{}') || '/' || (c.remote_value #>> '{}') END), '; ' ORDER BY c.id)
              FROM sync.conflict c WHERE c.record_id = record),
           (SELECT string_agg(a.action, ', ' ORDER BY a.id) FROM sync.audit a WHERE a.id > audited AND a.record_id = record),
           (SELECT string_agg((SELECT y.name FROM sync.system y WHERE y.id = -e.origin) || ' ' || (e.body ->> 'name'), ', ' ORDER BY e.seq)
              FROM sync.outbox e WHERE e.seq > mark AND e.record_id = record AND e.origin < 0),
           (SELECT string_agg(y.name || ' ' || m.agreed::text, ' ' ORDER BY y.name) FROM sync.mirror m JOIN sync.system y ON y.id = m.system_id
             WHERE m.record_id = record AND m.agreed IS NOT NULL),
           again
      FROM (SELECT 1) one LEFT JOIN own.thing t ON t.number = no;
END
$$;

CREATE PROCEDURE own.cells(owners text[], violations text[], policies text[], scenarios text[]) LANGUAGE plpgsql AS $$
DECLARE
    cell record;
BEGIN
    FOR cell IN SELECT o, v, p, s FROM unnest(scenarios) WITH ORDINALITY x (s, n), unnest(owners) WITH ORDINALITY y (o, m),
                       unnest(violations) WITH ORDINALITY z (v, k), unnest(policies) WITH ORDINALITY w (p, l) ORDER BY n, m, k, l LOOP
        CALL own.cell(cell.o, cell.v, cell.p, cell.s);
    END LOOP;
END
$$;
\set result 'SELECT owner, violation, policy, scenario, name, note, status, conflict, audit, sent_to, agreed, again FROM own.result ORDER BY n; TRUNCATE own.result'

-- nobody owns the record
CALL own.cells('{nobody}', '{-}', '{newest,owner,quarantine}', ARRAY[
    'A name', 'app name, A name', 'app name, A name earlier', 'app note, A name', 'app same, A name', 'B name, A name',
    'B note, A name', 'A name, B name', 'app name, A both', 'app name, A name, A again', 'app name, A name, app same, A again',
    'app name, A name, A back', 'A deletes', 'app name, A deletes', 'app note, B deletes', 'B deletes', 'app deletes, A name',
    'A name, app deletes', 'app deletes, A deletes']);
:result;
-- A itself owns it
CALL own.cells('{alpha}', '{reject,quarantine}', '{quarantine}', ARRAY[
    'A name', 'app name, A name', 'app name, A name earlier', 'app note, A name', 'B name, A name', 'app name, A deletes', 'app deletes, A name']);
:result;
-- another system, or the hub, owns it
CALL own.cells('{beta,hub}', '{reject,ignore,correct,quarantine}', '{newest}', ARRAY[
    'A name', 'app name, A name', 'app note, A name', 'app same, A name', 'A name, A again', 'A name, A back', 'A name, app name, A again',
    'A deletes', 'app name, A deletes', 'app deletes, A name']);
:result;

-- what is declared for a field beats what is declared for the object; fields go their ways one by one
DELETE FROM sync.owner;
DELETE FROM sync.conflict_policy;
CREATE FUNCTION own.owner(field text, system text, violation text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sync.owner (object_id, field, system_id, on_violation)
    SELECT o.id, owner.field, (SELECT y.id FROM sync.system y WHERE y.name = owner.system), violation FROM sync.object o WHERE o.name = 'thing'
$$;
CREATE VIEW own.conflicts AS
SELECT kind, object, record_number, field, system, remote_id, hub_value, hub_origin, hub_at IS NOT NULL AS timed, remote_value, remote_at, policy, message
  FROM sync.conflict WHERE record_number NOT LIKE 'N%' ORDER BY id;
SELECT own.owner('*', NULL, 'reject'), own.owner('note', 'alpha', 'reject'), own.owner('name', 'beta', 'quarantine');
SELECT own.page('alpha', 'id', 'x1', 'at', '2026-01-01T00:00:00Z', 'number', 'X1', 'name', 'n', 'note', 'o', 'total', '10.50', 'currency', 'EUR', 'due', '2026-05-05T12:00:00.4Z');
SELECT own.page('beta', 'id', 'y1', 'at', '2026-01-01T00:00:00Z', 'number', 'X1', 'name', 'n', 'note', 'o');
SELECT own.page('alpha', 'id', 'x1', 'at', '2026-01-02T00:00:00Z', 'number', 'X1', 'name', 'n2', 'note', 'o2', 'total', '11', 'currency', 'EUR', 'due', '2026-05-05T12:00:00.4Z');
SELECT name, note, total_amount FROM own.thing WHERE number = 'X1';
SELECT * FROM own.conflicts;
SELECT field, system, remote_id, hub_value, remote_value, policy, outcome FROM sync.violation WHERE record_number = 'X1';

-- less precise is not another value: cents of a euro, a vendor's seconds
SELECT own.page('alpha', 'id', 'x1', 'at', '2026-01-03T00:00:00Z', 'number', 'X1', 'name', 'n2', 'note', 'o2', 'total', '11.0000', 'currency', 'EUR', 'due', '2026-05-05T12:00:00Z');
SELECT own.page('alpha', 'id', 'x1', 'at', '2026-01-04T00:00:00Z', 'number', 'X1', 'name', 'n2', 'note', 'o2', 'total', '10.999999', 'currency', 'EUR', 'due', '2026-05-05T12:00:00Z');
SELECT count(*) AS violations FROM sync.violation WHERE record_number = 'X1';
-- yen have no decimals, dinars three
SELECT own.page('alpha', 'id', 'cJPY', 'at', '2026-01-01T00:00:00Z', 'number', 'CJPY', 'total', '100', 'currency', 'JPY'),
       own.page('alpha', 'id', 'cKWD', 'at', '2026-01-01T00:00:00Z', 'number', 'CKWD', 'total', '100', 'currency', 'KWD');
DELETE FROM sync.owner;
SELECT own.page('alpha', 'id', 'cJPY', 'at', '2026-01-02T00:00:00Z', 'number', 'CJPY', 'total', '100.4', 'currency', 'JPY'),
       own.page('alpha', 'id', 'cKWD', 'at', '2026-01-02T00:00:00Z', 'number', 'CKWD', 'total', '100.4', 'currency', 'KWD');
SELECT number, total_amount FROM own.thing WHERE number IN ('CJPY', 'CKWD') ORDER BY 1;

-- newest, and both changed within the vendor's second: read again by id; then theirs
SELECT own.page('alpha', 'id', 't1', 'at', '2026-01-01T00:00:00Z', 'number', 'T1', 'name', 'n');
UPDATE own.thing SET name = 'app' WHERE number = 'T1';
SELECT to_char(e.at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS second FROM sync.outbox e ORDER BY e.seq DESC LIMIT 1 \gset
SELECT own.page('alpha', 'id', 't1', 'at', :'second', 'number', 'T1', 'name', 'alpha');
SELECT i.state, i.reason, t.name FROM sync.inbox_status i, own.thing t WHERE i.remote_id = 't1' AND t.number = 'T1';
SELECT own.page('alpha', 'id', 't1', 'at', :'second', 'number', 'T1', 'name', 'alpha', 'fetched', 'true');
SELECT count(*) AS waiting, (SELECT name FROM own.thing WHERE number = 'T1') FROM sync.inbox_status i WHERE i.remote_id = 't1';
-- without a time of theirs there is no order: theirs
SELECT own.page('alpha', 'id', 't2', 'number', 'T2', 'name', 'n');
UPDATE own.thing SET name = 'app' WHERE number = 'T2';
SELECT own.page('alpha', 'id', 't2', 'number', 'T2', 'name', 'alpha');
SELECT name FROM own.thing WHERE number = 'T2';
-- two systems: the time of the other's change is the one that the other tells, not when it was pulled
SELECT own.page('alpha', 'id', 't3', 'at', '2026-01-01T00:00:00Z', 'number', 'T3', 'name', 'n');
SELECT own.page('beta', 'id', 'u3', 'at', '2026-01-01T00:00:00Z', 'number', 'T3', 'name', 'n');
SELECT own.page('beta', 'id', 'u3', 'at', '2026-02-01T00:00:00Z', 'number', 'T3', 'name', 'beta, in February');
SELECT own.page('alpha', 'id', 't3', 'at', '2026-03-01T00:00:00Z', 'number', 'T3', 'name', 'alpha, in March');
SELECT name FROM own.thing WHERE number = 'T3';

-- two that insist: after three corrections a person is asked
SELECT own.owner('name', NULL, 'correct');
SELECT own.page('alpha', 'id', 'p1', 'at', '2026-01-01T00:00:00Z', 'number', 'P1', 'name', 'n');
SELECT own.page('alpha', 'id', 'p1', 'at', '2026-01-02T00:00:00Z', 'number', 'P1', 'name', 'n2');
SELECT own.page('alpha', 'id', 'p1', 'at', '2026-01-03T00:00:00Z', 'number', 'P1', 'name', 'n3');
SELECT own.page('alpha', 'id', 'p1', 'at', '2026-01-04T00:00:00Z', 'number', 'P1', 'name', 'n4');
SELECT * FROM own.conflicts WHERE record_number = 'P1';
SELECT own.page('alpha', 'id', 'p1', 'at', '2026-01-05T00:00:00Z', 'number', 'P1', 'name', 'n5');
SELECT own.page('alpha', 'id', 'p1', 'at', '2026-01-06T00:00:00Z', 'number', 'P1', 'name', 'n6');
SELECT * FROM own.conflicts WHERE record_number = 'P1';
SELECT e.op, y.name AS only_to, e.body ->> 'name' AS name, e.old FROM sync.outbox e JOIN sync.system y ON y.id = -e.origin
 WHERE e.body ->> 'number' = 'P1' ORDER BY e.seq;
-- those of another window do not count
SELECT own.page('alpha', 'id', 'p2', 'at', '2026-01-01T00:00:00Z', 'number', 'P2', 'name', 'n');
SELECT own.page('alpha', 'id', 'p2', 'at', '2026-01-02T00:00:00Z', 'number', 'P2', 'name', 'n2');
UPDATE sync.mirror SET corrected = '{"name": [1, 2, 3]}' WHERE remote_id = 'p2';
SELECT own.page('alpha', 'id', 'p2', 'at', '2026-01-03T00:00:00Z', 'number', 'P2', 'name', 'n3');
SELECT jsonb_array_length(corrected -> 'name') AS kept, (SELECT count(*) FROM own.conflicts WHERE record_number = 'P2') AS conflicts
  FROM sync.mirror WHERE remote_id = 'p2';
-- what cannot be pushed back is not forgotten
UPDATE sync.route SET state = 'dropped' WHERE name = 'alpha.thing';
SELECT own.page('alpha', 'id', 'p2', 'at', '2026-01-04T00:00:00Z', 'number', 'P2', 'name', 'n4');
SELECT * FROM own.conflicts WHERE record_number = 'P2';
UPDATE sync.route SET state = 'active' WHERE name = 'alpha.thing';

-- an application changed what a system owns: read again, its owner's value is written though it says nothing new
DELETE FROM sync.owner;
SELECT own.page('alpha', 'id', 'o1', 'at', '2026-01-01T00:00:00Z', 'number', 'O1', 'name', 'n', 'note', 'o');
UPDATE own.thing SET name = 'app', note = 'app' WHERE number = 'O1';
SELECT own.owner('name', 'alpha', 'correct');
INSERT INTO sync.correction (object_id, record_id, field, system_id)
SELECT o.id, t.id::text, 'name', y.id FROM sync.object o, own.thing t, sync.system y WHERE o.name = 'thing' AND t.number = 'O1' AND y.name = 'alpha';
SELECT own.page('alpha', 'id', 'o1', 'at', '2026-01-01T00:00:00Z', 'number', 'O1', 'name', 'n', 'note', 'o'); -- of a list: not fresh
SELECT name, note FROM own.thing WHERE number = 'O1';
SELECT own.page('alpha', 'id', 'o1', 'at', '2026-01-01T00:00:00Z', 'number', 'O1', 'name', 'n', 'note', 'o', 'fetched', 'true');
SELECT name, note, (SELECT count(*) FROM sync.correction) AS corrections FROM own.thing WHERE number = 'O1';

-- it deleted what a system owns: that is made anew, under the id that it had
DELETE FROM sync.owner;
SELECT t.id AS deleted FROM own.thing t WHERE t.number = 'O1' \gset
DELETE FROM own.thing WHERE number = 'O1';
SELECT own.owner('*', 'alpha', 'correct');
INSERT INTO sync.correction (object_id, record_id, field, system_id)
SELECT o.id, :'deleted', '*', y.id FROM sync.object o, sync.system y WHERE o.name = 'thing' AND y.name = 'alpha';
SELECT own.page('alpha', 'id', 'o1', 'at', '2026-01-01T00:00:00Z', 'number', 'O1', 'name', 'n', 'note', 'o', 'fetched', 'true');
SELECT id = :'deleted' AS same, name, note, (SELECT count(*) FROM sync.correction) AS corrections FROM own.thing WHERE number = 'O1';

-- lines are one field
SELECT o.id AS doc FROM sync.object o WHERE o.name = 'doc' \gset
INSERT INTO sync.conflict_policy (object_id, policy) VALUES (:doc, 'quarantine');
CREATE FUNCTION own.doc(version text, memo text, lines jsonb) RETURNS integer LANGUAGE sql AS $$
    SELECT p.applied FROM sync.stream t JOIN sync.system y ON y.id = t.system_id JOIN sync.object o ON o.id = t.object_id,
           LATERAL sync._apply_page(t.id, jsonb_build_array(jsonb_build_object('id', 'd1', 'at', version, 'number', 'D1', 'memo', memo, 'lines', lines))) p
     WHERE y.name = 'alpha' AND o.name = 'doc'
$$;
SELECT own.doc('2026-01-01T00:00:00Z', 'm', '[{"no": 1, "amount": 10.50}, {"no": 2, "amount": 5}]');
UPDATE own.doc_line SET hint = 'ours alone' WHERE line_no = 1;
SELECT own.doc('2026-01-02T00:00:00Z', 'm2', '[{"no": 1, "amount": 10.5}, {"no": 2, "amount": 6}]');
SELECT memo, l.line_no, l.amount, l.hint FROM own.doc d JOIN own.doc_line l ON l.doc_id = d.id ORDER BY 2;
UPDATE own.doc_line SET amount = 7 WHERE line_no = 2;
SELECT own.doc('2026-01-03T00:00:00Z', 'm3', '[{"no": 1, "amount": 10.5}, {"no": 2, "amount": 6}, {"no": 3, "amount": 1}]');
SELECT memo, l.line_no, l.amount, l.hint FROM own.doc d JOIN own.doc_line l ON l.doc_id = d.id ORDER BY 2;
SELECT kind, field, jsonb_array_length(hub_value) AS ours, remote_value FROM own.conflicts WHERE object = 'doc';

-- a person decides
SELECT c.id AS lines_id FROM sync.conflict c WHERE c.object = 'doc' \gset
SELECT sync.resolve_conflict(:lines_id, 'remote', 'the ledger is right');
SELECT l.line_no, l.amount, l.hint FROM own.doc_line l ORDER BY 1;
SELECT e.op, coalesce(y.name, '-') AS origin, (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(e.old) k) AS changed
  FROM sync.outbox e LEFT JOIN sync.system y ON y.id = e.origin ORDER BY e.seq DESC LIMIT 1;
DELETE FROM sync.owner;
INSERT INTO sync.conflict_policy (object_id, policy) SELECT o.id, 'quarantine' FROM sync.object o WHERE o.name = 'thing';
CREATE FUNCTION own.conflict(number text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM own.page('alpha', 'id', 'r' || number, 'at', '2026-01-01T00:00:00Z', 'number', number, 'name', 'n', 'note', 'o');
    UPDATE own.thing t SET name = 'app' WHERE t.number = conflict.number;
    PERFORM own.page('alpha', 'id', 'r' || number, 'at', '2026-01-02T00:00:00Z', 'number', number, 'name', 'alpha', 'note', 'o');
    RETURN (SELECT c.id FROM sync.conflict c WHERE c.remote_id = 'r' || number);
END
$$;
SELECT own.conflict('R1') AS r1 \gset
SELECT own.conflict('R2') AS r2 \gset
SELECT own.conflict('R3') AS r3 \gset
SELECT own.conflict('R4') AS r4 \gset
SELECT own.conflict('R5') AS r5 \gset
SELECT sync.resolve_conflict(:r1, 'hub', 'ours is right'), sync.resolve_conflict(:r2, 'remote', 'theirs is right'),
       sync.resolve_conflict(:r3, 'value', 'neither', '"both"');
SELECT number, name FROM own.thing WHERE number LIKE 'R_' ORDER BY 1;
SELECT e.body ->> 'number' AS number, e.body ->> 'name' AS name, CASE WHEN e.origin < 0 THEN 'to ' ELSE 'by ' END || coalesce(y.name, 'an app') AS what, e.old
  FROM sync.outbox e LEFT JOIN sync.system y ON y.id = abs(e.origin)
 WHERE e.body ->> 'number' IN ('R1', 'R2', 'R3') AND e.op = 'U' AND e.body ->> 'name' <> 'app' OR e.body ->> 'number' = 'R1' AND e.origin < 0 ORDER BY e.seq;
SELECT c.hub_value, c.remote_value, c.taken, c.taken_value, c.reason, c.resolved_by = session_user AS mine FROM sync.conflict_entry c
 WHERE c.id IN (:r1, :r2, :r3) ORDER BY c.id;
SELECT m.remote_id, m.fields ->> 'name' AS name, m.agreed FROM sync.mirror m WHERE m.remote_id IN ('rR1', 'rR2', 'rR3') ORDER BY 1;
SELECT a.action, a.object, a.system, a.detail - 'conflict' AS detail, a.reason FROM sync.audit a
 WHERE a.action = 'conflict.resolved' AND a.object = 'thing' ORDER BY a.id;
-- what they say afterwards is a change like any other: of a value that both sides were told
SELECT own.page('alpha', 'id', 'rR1', 'at', '2026-01-03T00:00:00Z', 'number', 'R1', 'name', 'alpha 2', 'note', 'o');
SELECT name FROM own.thing WHERE number = 'R1';
-- the rest of the record goes on meanwhile; equal values are no conflict
SELECT own.page('alpha', 'id', 'rR4', 'at', '2026-01-03T00:00:00Z', 'number', 'R4', 'name', 'alpha', 'note', 'new');
SELECT name, note FROM own.thing WHERE number = 'R4';
SELECT own.page('alpha', 'id', 'rR4', 'at', '2026-01-04T00:00:00Z', 'number', 'R4', 'name', 'app', 'note', 'new');
SELECT resolved_at IS NOT NULL AS settled, resolved_by, taken, reason FROM sync.conflict_entry WHERE id = :r4;
-- what cannot be
SELECT sync.resolve_conflict(:r1, 'hub', 'again');
SELECT sync.resolve_conflict(:r4, 'hub', 'again');
SELECT sync.resolve_conflict(-1, 'hub', 'why');
SELECT sync.resolve_conflict(:r5, 'both', 'why');
SELECT sync.resolve_conflict(:r5, 'value', 'why');
SELECT sync.resolve_conflict(:r5, 'hub', 'why', '1');
SELECT sync.resolve_conflict(:r5, 'hub', ' ');
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, state, code, message)
SELECT r.id, 1, 1, now(), r.object_id, 'x', 'I', 0, 'conflict', 'total', 'total is 10, ours is 11' FROM sync.route r WHERE r.name = 'alpha.doc'
RETURNING id AS delivery, route_id || '/' || seq AS "name" \gset
SELECT kind, object, message, how_to_retry = format('SELECT sync.retry(%L)', :'name') AS retry FROM sync.conflict WHERE id = :delivery;
SELECT sync.resolve_conflict(:delivery, 'hub', 'why');
DELETE FROM sync.pending;
DELETE FROM own.thing WHERE number = 'R5';
SELECT sync.resolve_conflict(:r5, 'remote', 'why');
SELECT sync.resolve_conflict(:r5, 'hub', 'it was deleted');
-- it may be what a system owns: the person decides, not the application
SELECT own.owner('note', 'alpha', 'reject');
SELECT own.page('beta', 'id', 'q1', 'at', '2026-01-01T00:00:00Z', 'number', 'R4', 'name', 'app', 'note', 'new');
INSERT INTO sync.conflict_entry (kind, object_id, record_id, field, system_id, remote_id, remote_value, policy, message)
SELECT 'violation', o.id, t.id::text, 'note', y.id, 'q1', '"beta"', 'quarantine', 'by hand'
  FROM sync.object o, own.thing t, sync.system y WHERE o.name = 'thing' AND t.number = 'R4' AND y.name = 'beta';
SELECT sync.resolve_conflict(c.id, 'value', 'neither', '"decided"') FROM sync.conflict c WHERE c.remote_id = 'q1';
SELECT note FROM own.thing WHERE number = 'R4';
DELETE FROM sync.owner;
-- what an application wanted against the owner
INSERT INTO sync.conflict_entry (kind, object_id, record_id, field, hub_value, remote_value, policy, message)
SELECT 'violation', o.id, t.id::text, f.field, '"app"', '"wanted"', 'quarantine', 'An application wanted to change it'
  FROM sync.object o, own.thing t, (VALUES ('name'), (NULL)) f (field) WHERE o.name = 'thing' AND t.number = 'R4';
SELECT record_number, field, system, hub_value, remote_value FROM own.conflicts WHERE kind = 'violation' AND record_number = 'R4';
SELECT sync.resolve_conflict(c.id, 'remote', 'granted') FROM sync.conflict c WHERE c.record_number = 'R4' AND c.field = 'name';
SELECT sync.resolve_conflict(c.id, 'remote', 'granted') FROM sync.conflict c WHERE c.record_number = 'R4' AND c.field IS NULL;
SELECT sync.resolve_conflict(c.id, 'hub', 'not granted') FROM sync.conflict c WHERE c.record_number = 'R4' AND c.field IS NULL;
SELECT name FROM own.thing WHERE number = 'R4';
-- rights
SET ROLE sync_analyst;
SELECT sync.resolve_conflict(:r5, 'hub', 'why');
SELECT count(*) FROM sync.conflict;
RESET ROLE;

-- a record that they deleted and we had changed
CREATE FUNCTION own.gone(remote_id text) RETURNS void LANGUAGE sql AS $$
    SELECT FROM sync.stream t JOIN sync.system y ON y.id = t.system_id JOIN sync.object o ON o.id = t.object_id,
           LATERAL sync._apply_page(t.id, jsonb_build_array(jsonb_build_object('remote_id', gone.remote_id, 'gone', true))) p
     WHERE y.name = 'alpha' AND o.name = 'thing'
$$;
SELECT own.page('alpha', 'id', 'g' || n, 'at', '2026-01-01T00:00:00Z', 'number', 'G' || n, 'name', 'n') FROM generate_series(1, 3) n;
UPDATE own.thing SET name = 'app' WHERE number LIKE 'G_';
SELECT own.gone('g1'), own.gone('g2'), own.gone('g3');
SELECT number, name FROM own.thing WHERE number LIKE 'G_' ORDER BY 1;
SELECT kind, record_number, field, hub_value ->> 'name' AS name, remote_value, policy, message FROM own.conflicts WHERE kind = 'deleted' AND record_number LIKE 'G_';
SELECT sync.resolve_conflict(c.id, 'value', 'why', '1') FROM sync.conflict c WHERE c.remote_id = 'g1';
SELECT sync.resolve_conflict(c.id, 'remote', 'gone is gone') FROM sync.conflict c WHERE c.remote_id = 'g1';
SELECT sync.resolve_conflict(c.id, 'hub', 'we still deal with them') FROM sync.conflict c WHERE c.remote_id = 'g2';
SELECT number FROM own.thing WHERE number LIKE 'G_' ORDER BY 1;
SELECT x.remote_id, m.deleted, m.record_id IS NULL AS unbound FROM sync.mirror m LEFT JOIN sync.external_id x USING (system_id, object_id, remote_id)
 WHERE m.remote_id LIKE 'g_' ORDER BY m.remote_id;
SELECT e.op, e.body ->> 'number' AS number FROM sync.outbox e WHERE e.origin < 0 ORDER BY e.seq DESC LIMIT 1;
-- it comes back there: no conflict any more
SELECT own.page('alpha', 'id', 'g3', 'at', '2026-01-03T00:00:00Z', 'number', 'G3', 'name', 'back');
SELECT resolved_at IS NOT NULL AS settled, reason FROM sync.conflict_entry WHERE remote_id = 'g3' AND kind = 'deleted';

-- first contact: a record that was here before. Nothing was agreed, so what an owner keeps stays, and the rest is theirs.
DELETE FROM sync.owner;
SELECT own.owner('name', NULL, 'ignore');
INSERT INTO own.thing (number, name, note) VALUES ('F1', 'ours', 'ours');
SELECT own.page('alpha', 'id', 'f1', 'at', '2026-01-01T00:00:00Z', 'number', 'F1', 'name', 'theirs', 'note', 'theirs');
SELECT name, note, (SELECT m.agreed FROM sync.mirror m WHERE m.remote_id = 'f1') FROM own.thing WHERE number = 'F1';
-- a new record is taken whole, whoever owns its fields: there is nothing that it could overwrite
SELECT own.page('alpha', 'id', 'f2', 'at', '2026-01-01T00:00:00Z', 'number', 'F2', 'name', 'theirs', 'note', 'theirs');
SELECT name, note FROM own.thing WHERE number = 'F2';

-- an error about one record of a page neither loses the decisions about the others nor takes them twice
DELETE FROM sync.owner;
SELECT own.owner('name', NULL, 'reject');
ALTER TABLE own.thing ADD CHECK (note <> 'poison');
SELECT own.page('alpha', 'id', 'e' || n, 'at', '2026-01-01T00:00:00Z', 'number', 'E' || n, 'name', 'n', 'note', 'o') FROM generate_series(1, 3) n;
SELECT p.applied, p.to_inbox, p.mirrored FROM sync.stream t JOIN sync.system y ON y.id = t.system_id JOIN sync.object o ON o.id = t.object_id,
    LATERAL sync._apply_page(t.id, '[
      {"id": "e1", "at": "2026-01-02T00:00:00Z", "number": "E1", "name": "n1", "note": "o1"},
      {"id": "e2", "at": "2026-01-02T00:00:00Z", "number": "E2", "name": "n2", "note": "poison"},
      {"id": "e3", "at": "2026-01-02T00:00:00Z", "number": "E3", "name": "n3", "note": "o"}]') p
 WHERE y.name = 'alpha' AND o.name = 'thing';
SELECT number, name, note FROM own.thing WHERE number LIKE 'E_' ORDER BY 1;
SELECT record_number, outcome FROM sync.violation WHERE record_number LIKE 'E_' ORDER BY 1;
SELECT * FROM sync.check_invariants();

SET client_min_messages = warning;
DELETE FROM sync.owner;
DELETE FROM sync.route;
SELECT FROM sync.stream t JOIN sync.system y ON y.id = t.system_id JOIN sync.object o ON o.id = t.object_id, LATERAL sync.drop_stream(y.name, o.name);
SELECT FROM sync.untrack('thing', true);
SELECT FROM sync.untrack('doc', true);
SELECT FROM sync.forget_system('alpha');
SELECT FROM sync.forget_system('beta');
DROP SERVER alpha;
DROP SERVER beta;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_merge;
