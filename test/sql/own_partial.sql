-- What a system owns is left out of the updates that it gets, where the connector says that they are partial.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_partial;
CREATE DATABASE sync_own_partial;
\c sync_own_partial
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
CREATE SCHEMA own;
CREATE FUNCTION own.manifest(body jsonb, partial boolean) RETURNS jsonb LANGUAGE sql AS $fn$
SELECT jsonb_build_object('manifest', 1, 'name', 'crm', 'version', '1', 'base_url', 'https://api.example.com', 'auth', jsonb_build_object('type', 'none'),
    'hosts', jsonb_build_array('api.example.com'), 'objects', jsonb_build_object('customer', jsonb_build_object('push', jsonb_build_object('operations', jsonb_build_object(
        'create', jsonb_build_object('method', 'POST', 'path', '/c', 'partial', partial, 'body', body, 'response', jsonb_build_object('remote_id', '$.id')),
        'update', jsonb_build_object('method', 'POST', 'path', '/c/${new.no}', 'partial', partial, 'body', body))))))
$fn$;
-- What an update says of a customer whose name, e-mail, address and lines the system owns.
CREATE FUNCTION own.says(body jsonb, partial boolean DEFAULT true, operation text DEFAULT 'update') RETURNS jsonb LANGUAGE sql AS $fn$
SELECT CASE r ->> 'status' WHEN 'ok' THEN r -> 'body' ELSE r - 'takes_key' END
  FROM sync.test_render(own.manifest(body, partial), 'customer', operation, $json$ {
    "id": "1", "op": "update", "remote": {"id": "r1"}, "withheld": ["name", "email", "address", "lines", "no"],
    "new": {"no": 7, "name": "Ada", "email": "a@x", "address": {"city": "Leeds", "zip": null}, "note": "n", "gone": null, "lines": [{"q": 1}, {"q": 2}]},
    "old": {"name": "Eve"}} $json$) r
$fn$;
SELECT own.says('{"name": "$.new.name", "note": "$.new.note", "number": "$.new.no"}') AS partial,
       own.says('{"name": "$.new.name", "note": "$.new.note", "number": "$.new.no"}', false) AS whole,
       own.says('{"name": "$.new.name", "note": "$.new.note"}', true, 'create') AS made;
-- However a member is made of it: options, text, conditions, other paths, inside other things.
SELECT own.says('{"note": "$.new.note", "a": {"$": "$.new.name", "omit": "never"}, "b": "Dear ${new.name}", "c": {"$concat": ["x", "$.new.email"]},
    "d": {"$first": ["$.new.name", "$.id"]}, "e": {"$if": "$.new.name == \"Ada\"", "then": 1, "else": 2},
    "f": {"$if": "$.new.note == \"n\" && $.new.name != \"x\"", "then": 1}, "g": "$doc.new.name", "h": {"$": "$.new.name", "default": "x"},
    "i": {"$each": "$.new.lines", "as": {"q": "$.q"}}, "j": {"$sum": "$.new.lines[*].q"}, "k": ["$.id", "$.new.name"]}') AS says;
-- What is nested goes as far as it is owned; what is not of $.new is not.
SELECT own.says('{"address": {"city": "$.new.address.city", "zip": {"$": "$.new.address.zip", "omit": "never"}}, "both": {"city": "$.new.address.city", "note": "$.new.note"},
    "before": "$.old.name", "named": "$.new.note", "merged": {"$merge": [{"x": 1}, {"note": "$.new.note"}]}}') AS says;
-- An update that says nothing any more is none; nor are the arguments of a call.
SELECT own.says('{"name": "$.new.name", "email": "$.new.email"}') AS nothing;
SELECT own.says('{"id": 1, "method": "write", "params": [["$.remote.id"], {"name": "$.new.name"}]}') AS no_call,
       own.says('{"id": 1, "method": "write", "params": [["$.remote.id"], {"name": "$.new.name", "note": "$.new.note"}]}') AS call,
       own.says('{"id": 1, "method": "write", "params": [["$.remote.id"], {"list": [["write", {"city": "$.new.address.city"}]], "note": "$.new.note"}]}') AS inner;
-- preview() tells it as the hub does.
SELECT sync.register_connector(own.manifest('{"name": "$.new.name", "note": "$.new.note"}', true));
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'crm', mode 'paused');
CREATE TABLE own.customer (id integer PRIMARY KEY, no integer, name text, note text);
SELECT sync.track('own.customer');
INSERT INTO own.customer VALUES (1, 7, 'Ada', 'n');
SELECT FROM sync.create_route('crm', 'customer');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, '1', 'r1' FROM sync.system y, sync.object o;
SELECT state, body FROM sync.preview('crm', 'customer', '1');
SELECT sync.set_owner('customer', 'name', 'crm');
SELECT state, body FROM sync.preview('crm', 'customer', '1');
SELECT sync.set_owner('customer', '*', 'crm');
SELECT state, body FROM sync.preview('crm', 'customer', '1');
SELECT sync.set_owner('customer', 'note', 'hub');
SELECT state, body FROM sync.preview('crm', 'customer', '1');
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_partial;
