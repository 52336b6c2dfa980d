-- Batches in the manifest language: one request of several records, its answer taken apart, as the batch
-- endpoints of real vendors speak.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_connector_batch;
CREATE DATABASE sync_connector_batch;
\c sync_connector_batch
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never

-- A manifest of one object with one operation.
CREATE FUNCTION one(name text, operation jsonb, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT '{"manifest": 1, "name": "t", "version": "1", "base_url": "https://t.example/api"}'::jsonb || more ||
        jsonb_build_object('objects', jsonb_build_object('thing', jsonb_build_object('push', jsonb_build_object('operations',
            jsonb_build_object(name, operation)))))
$$;
CREATE FUNCTION batched(batch jsonb, name text DEFAULT 'upsert', more jsonb DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
    SELECT sync.register_connector(one(name, '{"method": "PUT", "path": "/things/${id}", "body": {"n": "$.new.name"}}'::jsonb || more ||
        jsonb_build_object('batch', '{"path": "/batch", "body": {"list": "$items"}, "max_items": 3, "answers": {"items": "$.list"}}'::jsonb || batch)))
$$;

-- Faults are found at registration, by place.
SELECT batched('{}');
SELECT batched('{"max_items": 1}');
SELECT batched('{"body": {"list": []}}');
SELECT batched('{"body": ["$items", "$items"]}');
SELECT batched('{"body": {"list": "x $items"}}');
SELECT batched('{"item": {"x": "$items"}}');
SELECT batched('{"body": {"list": "$items", "key": "$key"}}');
SELECT batched('{"answers": {"items": "$.list", "ours": "$.id"}}');
SELECT batched('{"answers": {"ours": "$.id", "theirs": "$.id"}}');
SELECT batched('{"answers": {"items": "$.list", "theirs": "$request.x", "ours": "$.id"}}');
SELECT batched('{"answers": {"items": "$.list", "outcomes": [{"outcome": "fine"}]}}');
SELECT batched('{"idempotent": true, "item": {"k": "$key"}}');
SELECT batched('{}', 'lookup', '{"response": {"items": "$.list"}}');
SELECT batched('{}', 'upsert', '{"encoding": "form"}');
SELECT batched('{"outcomes": [{"status": "409", "outcome": "rejected", "then": "upsert"}]}');
SELECT batched('{"answers": {"items": "$.list", "outcomes": [{"status": "409", "outcome": "rejected", "then": "nothing"}]}}');
SELECT sync.register_connector(one('upsert', '{"path": "/", "body": {}, "batch": {"path": "/batch", "body": "$items", "max_items": 3}}'));
SELECT sync.register_connector(one('delete', '{"method": "DELETE", "path": "/x", "batch": {"path": "/batch", "body": "$items", "max_items": 3}}'));

-- An upsert is the plan of creates and updates; whether a record is new decides what it may leave out.
\set m '{"manifest": 1, "name": "t", "version": "1", "objects": {"thing": {"push": {"operations": {"upsert": {"method": "PUT", "path": "/things/${id}", "body": {"n": {"$": "$.new.n", "omit": "create"}, "m": 1}, "response": {"remote_id": "$.id"}}}}}}}'
SELECT sync.test_render(:'m', 'thing', 'upsert', '{"id": "a", "new": {"n": null}}') -> 'body' AS new,
    sync.test_render(:'m', 'thing', 'upsert', '{"id": "a", "new": {"n": null}, "remote": {"id": "7"}}') -> 'body' AS bound;
SELECT c, sync.test_answer(:'m', 'thing', 'upsert', s, '{}', b, c) FROM (VALUES (201, '{"id": 7}', '{}'::jsonb), (204, '', '{}'), (204, '', '{"remote": {"id": "7"}}')) v(s, b, c);

-- Salesforce, sObject collections: the answers stand in the order of the records, each with its errors.
\set m '{"manifest": 1, "name": "sf", "version": "1", "outcomes": [{"when": "$[0].errorCode == \\"REQUEST_LIMIT_EXCEEDED\\"", "outcome": "throttled"}], "objects": {"customer": {"push": {"operations": {"upsert": {"method": "PATCH", "path": "/sobjects/Account/Sync_Id__c/${id}", "body": {"Name": "$.new.name"}, "response": {"remote_id": "$.id"}, "batch": {"method": "PATCH", "path": "/composite/sobjects/Account/Sync_Id__c", "item": {"$merge": [{"attributes": {"type": "Account"}, "Sync_Id__c": "$.id"}, "$request.body"]}, "body": {"allOrNone": false, "records": "$items"}, "max_items": 200, "answers": {"items": "$", "outcomes": [{"when": "$.errors[*].statusCode == \\"UNABLE_TO_LOCK_ROW\\"", "outcome": "throttled", "code": "$.errors[0].statusCode"}, {"when": "$.success == false", "outcome": "rejected", "code": "$.errors[0].statusCode", "message": "$.errors[0].message"}]}}}}}}}}'
\set two '[{"id": "a", "new": {"name": "A\\"1"}}, {"id": "b", "new": {"name": "Bü"}}]'
SELECT sync.test_render(:'m', 'customer', 'upsert', :'two');
SELECT sync.test_answer(:'m', 'customer', 'upsert', s, '{}', b, :'two') FROM (VALUES
    (200, '[{"id": "001A", "success": true, "created": true, "errors": []}, {"id": "001B", "success": true, "created": false, "errors": []}]'),
    (200, '[{"id": "001A", "success": true, "errors": []}, {"success": false, "errors": [{"statusCode": "REQUIRED_FIELD_MISSING", "message": "Name is missing", "fields": ["Name"]}]}]'),
    (200, '[{"success": false, "errors": [{"statusCode": "UNABLE_TO_LOCK_ROW"}]}, {"id": null, "success": true, "errors": []}]'),
    (200, '[{"id": "001A", "success": true, "errors": []}]'),
    (200, '{"odd": true}'), (200, 'not json'), (200, ''),
    (403, '[{"message": "TotalRequests Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}]'),
    (400, '[{"message": "more than 200 records", "errorCode": "EXCEEDED_ID_LIMIT"}]'),
    (503, '')) v(s, b);

-- HubSpot, batch upsert: records that went well in one list, errors in another, known by a value of ours.
\set m '{"manifest": 1, "name": "hs", "version": "1", "objects": {"customer": {"push": {"operations": {"upsert": {"method": "PATCH", "path": "/crm/v3/objects/companies/${id}", "query": {"idProperty": "sync_id"}, "body": {"properties": {"name": "$.new.name"}}, "response": {"remote_id": "$.id"}, "batch": {"method": "POST", "path": "/crm/v3/objects/companies/batch/upsert", "item": {"$merge": [{"id": "$.id", "idProperty": "sync_id", "objectWriteTraceId": "$.id"}, "$request.body"]}, "body": {"inputs": "$items"}, "max_items": 100, "answers": {"items": {"$append": ["$.results", "$.errors"]}, "ours": "$.id", "theirs": {"$first": ["$.objectWriteTraceId", "$.context.objectWriteTraceId[0]"]}, "outcomes": [{"when": "$.status == \\"error\\"", "outcome": "rejected", "code": "$.category", "message": "$.message"}]}}}}}}}}'
SELECT sync.test_render(:'m', 'customer', 'upsert', :'two');
SELECT sync.test_answer(:'m', 'customer', 'upsert', s, '{}', b, :'two') FROM (VALUES
    (200, '{"status": "COMPLETE", "results": [{"id": "52", "objectWriteTraceId": "b", "new": true}, {"id": "51", "objectWriteTraceId": "a", "new": false}]}'),
    (207, '{"status": "COMPLETE", "results": [{"id": "51", "objectWriteTraceId": "a"}], "numErrors": 1, "errors": [{"status": "error", "category": "VALIDATION_ERROR", "message": "name is too long", "context": {"objectWriteTraceId": ["b"]}}]}'),
    (200, '{"status": "COMPLETE", "results": [{"id": "51", "objectWriteTraceId": "a"}, {"id": "99", "objectWriteTraceId": "z"}]}'),
    (200, '{"status": "COMPLETE", "results": [{"id": "51", "objectWriteTraceId": "a"}, {"id": "52", "objectWriteTraceId": "b"}, {"id": "53", "objectWriteTraceId": "b"}]}')) v(s, b);

-- Xero, summarizeErrors=false: the single request has a list, too, so an item is shown to the rules in one.
\set m '{"manifest": 1, "name": "xero", "version": "1", "outcomes": [{"when": "$.Contacts[0].StatusAttributeString == \\"ERROR\\"", "outcome": "rejected", "code": {"$const": "validation"}, "message": "$.Contacts[0].ValidationErrors[0].Message"}], "objects": {"customer": {"push": {"operations": {"upsert": {"method": "POST", "path": "/Contacts", "query": {"summarizeErrors": "false"}, "body": {"Contacts": [{"ContactNumber": "$.id", "Name": "$.new.name"}]}, "response": {"remote_id": "$.Contacts[0].ContactID"}, "batch": {"method": "POST", "path": "/Contacts", "query": {"summarizeErrors": "false"}, "item": "$request.body.Contacts[0]", "body": {"Contacts": "$items"}, "max_items": 50, "answers": {"items": "$.Contacts", "answer": {"Contacts": ["$"]}}}}}}}}}'
SELECT sync.test_render(:'m', 'customer', 'upsert', :'two');
SELECT sync.test_answer(:'m', 'customer', 'upsert', 200, '{}', '{"Contacts": [{"ContactID": "c-1", "StatusAttributeString": "OK"}, {"ContactID": "00000000-0000-0000-0000-000000000000", "StatusAttributeString": "ERROR", "ValidationErrors": [{"Message": "The Contact Name is in use"}]}]}', :'two');

-- Whole requests in a request (Salesforce composite, Microsoft Graph, QuickBooks): each with its status, and a key of its own.
\set m '{"manifest": 1, "name": "c", "version": "1", "idempotency": {"header": "Key", "lifetime": "1 day", "methods": ["POST"]}, "objects": {"customer": {"push": {"operations": {"create": {"method": "POST", "path": "/things", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}, "batch": {"method": "POST", "path": "/v${param.v}/$batch", "query": {"for": "$.entity.code"}, "headers": {"X-N": "$.param.v"}, "idempotent": true, "item": {"id": "$.id", "method": "$request.method", "url": "$request.target", "headers": {"Key": "$key"}, "body": "$request.body"}, "body": {"note": "$.param.v", "requests": "$items"}, "max_items": 20, "answers": {"items": "$.responses", "ours": "$.id", "theirs": "$.id", "status": "$.status", "answer": "$.body"}}}}}}}}'
SELECT sync.test_render(:'m', 'customer', 'create', '[{"id": "a", "new": {"name": "A"}, "param": {"v": 2}, "entity": {"code": "DE"}}, {"id": "b", "new": {"name": "B"}}]');
SELECT sync.test_answer(:'m', 'customer', 'create', 200, '{}', b, :'two') FROM (VALUES
    ('{"responses": [{"id": "b", "status": 422, "body": {"code": "bad"}}, {"id": "a", "status": 201, "body": {"id": 1}}]}'),
    ('{"responses": [{"id": "b", "status": 503}, {"id": "a", "status": 429, "body": {}}]}'),
    ('{"responses": [{"id": "b", "status": "odd", "body": {"id": 2}}, {"id": "a", "status": 201}]}')) v(b);

-- An error somewhere in a good answer refuses a request, but not a batch; a rule of the batch may.
\set m '{"manifest": 1, "name": "e", "version": "1", "outcomes": [{"when": "exists($.**.error)", "outcome": "rejected", "code": "$.error"}], "objects": {"customer": {"push": {"operations": {"create": {"method": "POST", "path": "/", "body": {}, "response": {"remote_id": "$.result[0]"}, "batch": {"method": "POST", "path": "/all", "body": {"params": ["$items"]}, "max_items": 100, "outcomes": [{"when": "$.error == \\"session\\"", "outcome": "auth"}], "answers": {"items": "$.result", "answer": {"result": ["$"]}}}}}}}}}'
SELECT b, sync.test_answer(:'m', 'customer', 'create', s, '{}', b, :'two') FROM (VALUES (200, '{"result": [17, "18"]}'), (200, '{"result": [17, {"error": "bad"}]}'), (200, '{"result": [17, null]}'),
    (200, '{"error": "session"}'), (200, '{"error": "odd"}'), (400, '{"error": "odd"}'), (301, '')) v(s, b);
SELECT sync.test_render(:'m', 'customer', 'create', :'two') -> 'body';

-- No answers for single records (HubSpot's archive): that of the whole is everybody's.
\set m '{"manifest": 1, "name": "d", "version": "1", "objects": {"customer": {"push": {"operations": {"delete": {"method": "DELETE", "path": "/things/${remote.id}", "batch": {"method": "POST", "path": "/things/archive", "item": {"id": "$.remote.id"}, "body": {"inputs": "$items"}, "max_items": 100}}}}}}}'
SELECT sync.test_render(:'m', 'customer', 'delete', '[{"remote": {"id": "1"}}, {"remote": {"id": "2"}}]');
SELECT sync.test_answer(:'m', 'customer', 'delete', 204, '{}', '', '[{"remote": {"id": "1"}}, {"remote": {"id": "2"}}]');

-- What has no batch makes none, and what cannot be said as an item neither.
SELECT sync.test_render(one('upsert', '{"path": "/"}'), 'thing', 'upsert', '[{}]');
SELECT sync.test_render(:'m', 'customer', 'delete', '[{"remote": {"id": "1"}}, {}]');
\c postgres
DROP DATABASE sync_connector_batch;
