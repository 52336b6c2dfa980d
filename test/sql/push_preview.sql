-- A preview goes on behind steps whose answers are not there yet: what they would tell is named.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_push_preview;
CREATE DATABASE sync_push_preview;
\c sync_push_preview
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
SELECT sync.register_connector($json$ {
    "manifest": 1, "name": "erp", "version": "1", "base_url": "https://erp.example.com", "auth": {"type": "none"}, "hosts": ["erp.example.com"],
    "define": {"currency_id": {"$": "$.response.items[0].id", "cast": "integer", "required": true}},
    "objects": {"invoice": {"push": {
        "operations": {
            "currency": {"method": "GET", "path": "/currencies", "query": {"code": "$.new.currency"}, "kind": "read"},
            "create": {"method": "POST", "path": "/invoices", "response": {"remote_id": "$.id"},
                       "body": {"no": {"$": "$.new.no", "required": true}, "currency": {"$use": "currency_id"}, "rate": {"$": "$.response.rate", "omit": "null"}}},
            "post": {"method": "POST", "path": "/invoices/${remote.id}/post", "kind": "action",
                     "body": {"ids": [{"$": "$.remote.id", "cast": "integer", "required": true}], "first": {"$": "$.response.ids[0]", "required": true}}},
            "update": {"method": "PATCH", "path": "/invoices/${remote.id}", "body": {"no": "$.new.no"}}
        },
        "plan": {"create": ["currency", "create", "post"], "update": ["update", "post"]}
    }}}} $json$);
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'erp', mode 'paused');
CREATE TABLE public.invoice (id integer PRIMARY KEY, no text, currency text);
SELECT sync.track('public.invoice');
SELECT FROM sync.create_route('erp', 'invoice');
INSERT INTO invoice VALUES (1, 'I-1', 'EUR'), (2, NULL, 'EUR');
SELECT n, step, state, method, url, body, message FROM sync.preview('erp', 'invoice', '1') \gx
-- What is missing in the record is missing.
SELECT n, step, state, message FROM sync.preview('erp', 'invoice', '2');
-- What is known is not named: the id of a record that is there.
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, '1', '77' FROM sync.system y, sync.object o;
SELECT n, step, state, method, url, body, message FROM sync.preview('erp', 'invoice', '1') \gx
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_push_preview;
