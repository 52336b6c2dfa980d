-- The manifest language: faults with their place, expressions, casts, references, answers, pages.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_connector_language;
CREATE DATABASE sync_connector_language;
\c sync_connector_language
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\set VERBOSITY default

-- A small manifest around one body, one field list, one anything.
CREATE FUNCTION small(body jsonb, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT '{"manifest": 1, "name": "t", "version": "1", "base_url": "https://t.example/api"}'::jsonb || more ||
        jsonb_build_object('objects', jsonb_build_object('thing', jsonb_build_object('push', jsonb_build_object('operations',
            jsonb_build_object('create', jsonb_build_object('method', 'POST', 'path', '/things', 'body', body))))))
$$;
CREATE FUNCTION body(template jsonb, context jsonb DEFAULT '{}', refs jsonb DEFAULT '{}', more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE r ->> 'status' WHEN 'ok' THEN r -> 'body' ELSE r END
    FROM sync.test_render(small(template, more), 'thing', 'create', context, refs) r
$$;

-- Faults are found at registration, by place.
SELECT sync.register_connector('[]'::jsonb);
SELECT sync.register_connector('{"manifest": 1, "name": "t", "version": "1", "objects": {}}'::jsonb);
SELECT sync.register_connector('{"manifest": 2, "name": "t", "version": "1", "objects": {"a": {}}}'::jsonb);
SELECT sync.register_connector('{"manifest": 1, "name": "T!", "version": "1", "objects": {"a": {}}}'::jsonb);
SELECT sync.register_connector('{"manifest": 1, "name": "t", "version": "1", "hots": [], "objects": {"a": {}}}'::jsonb);
SELECT sync.register_connector(small('{"a": "$.new["}'));
SELECT sync.register_connector(small('{"a": "$nobody.x"}'));
SELECT sync.register_connector(small('{"a": {"$": "$.x", "cast": "money"}}'));
SELECT sync.register_connector(small('{"a": {"$": "$.x", "map": "nothing"}}'));
SELECT sync.register_connector(small('{"a": {"$": "$.x", "colour": 1}}'));
SELECT sync.register_connector(small('{"a": {"$": "$.x", "by": "code"}}'));
SELECT sync.register_connector(small('{"a": {"$": "$.x", "$each": "$.y", "as": 1}}'));
SELECT sync.register_connector(small('{"a": {"$filter": 1}}'));
SELECT sync.register_connector(small('{"a": "x${new.y"}'));
SELECT sync.register_connector(small('{"a": {"$use": "self"}}', '{"define": {"self": {"b": {"$use": "self"}}}}'));
SELECT sync.register_connector(small('{"a": "${secret.key}"}'));
SELECT sync.register_connector(small('{}', '{"auth": {"type": "bearer", "secret": "key"}}'));
SELECT sync.register_connector(small('{}', '{"limits": {"rate": "5/fortnight"}}'));
SELECT sync.register_connector(small('{}', '{"settle_time": "soon"}'));
SELECT sync.register_connector(small('{}', '{"outcomes": [{"status": "600", "outcome": "done"}]}'));
SELECT sync.register_connector(jsonb_set(small('{}'), '{objects,thing,push,operations,create,path}', '{"$if": "$.x == 1", "then": "things", "else": "/things"}'));
CREATE FUNCTION listed(list jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_set(small('{}'), '{objects,thing,pull}', jsonb_build_object('list', list, 'record', '{"id": "$.id"}'::jsonb, 'fields', '{}'::jsonb))
$$;
SELECT sync.register_connector(listed('[]'));
SELECT sync.register_connector(jsonb_set(listed('{"path": "/a", "items": "$.data"}'), '{objects,thing,pull,compared}', '["total"]'));
SELECT sync.register_connector(jsonb_set(jsonb_set(listed('{"path": "/a", "items": "$.data"}'), '{objects,thing,pull,compared}', '["total"]'), '{objects,thing,pull,fields}', '{"total": "$.total"}'));
SELECT sync.register_connector(listed('[{"path": "/a", "items": "$.data"}, {"path": "/b"}]'));
SELECT sync.register_connector(listed('{"path": "/a", "items": "$.data", "within": {"path": "/b", "items": "$.data"}}'));
SELECT sync.register_connector(listed('{"path": "/a", "items": "$.data", "within": {"path": "/b", "items": "$.data", "id": "$.id", "page_size": 50}}'));
SELECT sync.register_connector(listed('{"path": "/a", "items": "$.data", "within": {"path": "/b", "items": "$.data", "id": "$.id", "page_size": 1, "within": {"path": "/c", "items": "$.data"}}}'));
SELECT sync.register_connector(small('{}', '{"outcomes": [{"status": "200", "outcome": "fine"}]}'));
SELECT sync.register_connector(small('{}', '{"enums": {"e": {"a": "x", "b": "x"}}}'));
SELECT sync.register_connector('{"manifest": 1, "name": "t", "version": "1", "objects": {"invoice": {"financial": true, "push": {
    "operations": {"create": {"path": "/i"}, "post": {"path": "/p"}}, "plan": {"create": ["create", "post"]}}}}}'::jsonb);
SELECT sync.register_connector('{"manifest": 1, "name": "t", "version": "1", "objects": {"a": {"push": {
    "operations": {"create": {"path": "/i"}}, "plan": {"create": ["lookup"]}}}}}'::jsonb);
SELECT sync.register_connector(NULL::jsonb);
SELECT sync.register_connector('../../etc/passwd');
SELECT sync.register_connector('no_such_vendor');

-- Registering: a version is kept, an equal one is not made again; a literal without type may be a manifest.
SELECT sync.register_connector(small('{}'));
SELECT sync.register_connector(small('{}'));
SELECT sync.register_connector('{"manifest": 1, "name": "t", "version": "2", "objects": {"a": {}}}');
SELECT name, version, current FROM sync.connector ORDER BY id;

-- Templates: paths, texts, what is missing.
SELECT body('{"path": "$.a.b", "text": "id ${a.b} and ${$.c}", "literal": "$${x}", "const": {"$const": {"$": 1}}, "missing": "$.no", "part": "x${no}", "null": "$.n", "kept": {"$": "$.no", "omit": "never"}, "empty": {"x": "$.no"}, "written": {}, "$$filter": 1}',
    '{"a": {"b": 7}, "c": "é", "n": null}');
SELECT body('["$.no", 1, {"$": "$.no", "omit": "null"}, {"$if": "$.no", "then": 1}, [], null]');
SELECT body('{"a": {"$if": "$.x > 1", "then": "big", "else": "small"}, "b": {"$if": "$.list[*] ? (@ == 2)", "then": "has 2"}}', '{"x": 1, "list": [1, 2]}');
SELECT body('{"a": {"$each": "$.l", "as": {"no": "$index", "v": "$.v", "of": "$doc.id"}}, "none": {"$each": "$.m", "as": "$"}, "nulls": {"$each": "$.n", "as": "$"}}', '{"id": 9, "l": [{"v": "x"}, {"v": "y"}], "m": [], "n": null}');
SELECT body('{"concat": {"$concat": ["$.u", ":", "$.no", "$.p"], "cast": "base64"}, "first": {"$first": ["$.no", "$.n", "$.u"]}, "merge": {"$merge": [{"a": 1, "b": 1}, {"b": 2}]}, "append": {"$append": [["$.u"], {"$each": "$.no", "as": "$"}, [1]]}}', '{"u": "me", "p": "pw", "n": null}');
SELECT body('{"sum": {"$sum": ["$.l[*].a", "-$.l[*].b"]}, "none": {"$sum": "$.no"}, "min": {"$min": "$.l[*].a"}, "max": {"$max": "$.no"}, "latest": {"$latest": ["$.t", "$.u", "$.no"]}}',
    '{"l": [{"a": 0.1, "b": "0.05"}, {"a": 0.2}], "t": "2026-01-31T23:30:00+02", "u": ["2026-01-31T22:00:00Z", "2025-01-01"]}');
SELECT body('{"a": {"$": "$.no", "required": true}}');
SELECT body('{"a": {"$": "$.no", "default": "$.other"}, "b": {"$": "$.no", "default": 5}}', '{"other": "o"}');
SELECT body('{"a": {"$use": "d"}, "b": {"$use": "d"}}', '{"x": 1}', '{}', '{"define": {"d": {"x": "$.x"}}}');

-- Enums, both ways.
SELECT body('{"a": {"$": "$.s", "map": "e"}}', '{"s": "on"}', '{}', '{"enums": {"e": {"on": ["active", "trial"], "off": false}}}');
SELECT body('{"a": {"$": "$.s", "map": "e"}}', '{"s": "off"}', '{}', '{"enums": {"e": {"on": ["active", "trial"], "off": false}}}');
SELECT body('{"a": {"$": "$.s", "map": "e"}}', '{"s": "broken"}', '{}', '{"enums": {"e": {"on": "active"}}}');
SELECT body('{"a": {"$": "$.s", "map": "e"}}', '{"s": "broken"}', '{}', '{"enums": {"e": {"push": {"on": "active", "*": "other"}}}}');

-- Money: exact or not at all.
SELECT c, a, body('{"minor": {"$": "$.a", "cast": "minor", "currency": "$.c"}}', jsonb_build_object('a', a, 'c', c))
FROM (VALUES ('USD', 19.99), ('usd', 0.29), ('USD', 19.999), ('JPY', 980.00), ('JPY', 980.5), ('BHD', 1.234), ('BHD', 1.2345), ('CLF', 1.2345), ('XXX', 1), (NULL, 1), ('USD', 92233720368547758070.01)) v(c, a);
SELECT c, a, body('{"major": {"$": "$.a", "cast": "major", "currency": "$.c"}}', jsonb_build_object('a', a, 'c', c))
FROM (VALUES ('USD', '1999'), ('JPY', '980'), ('BHD', '1'), ('USD', '12.5'), ('USD', 'NaN')) v(c, a);
SELECT body('{"a": {"$": "$.a", "cast": "minor", "currency": "ISK"}, "b": {"$": "$.a", "cast": "minor", "currency": "EUR"}, "c": {"$": "$.d", "cast": "minor_decimal", "currency": "EUR"}}', '{"a": 5, "d": 0.01234500}', '{}', '{"minor_units": {"ISK": 2}}');

-- Numbers, text.
SELECT body('{"s": {"$": "$.n", "cast": "string"}, "n": {"$": "$.t", "cast": "number"}, "i": {"$": "$.f", "cast": "integer"}, "b": {"$": "$.y", "cast": "boolean"}, "u": {"$": "$.x", "cast": ["trim", "upper"]}, "j": {"$": "$.o", "cast": "json"}, "k": {"$": "$.js", "cast": "from_json"}, "q": {"$": "$.q", "cast": "escape_quotes"}, "l1": {"$": "$.m", "cast": "first_line"}, "l2": {"$": "$.m", "cast": "other_lines"}}',
    '{"n": 12345678901234567890.10, "t": "0.10", "f": 3.000, "y": "yes", "x": " street ", "o": {"a": 1}, "js": "[1, 2]", "q": "it''s \"x\\", "m": "a\nb\nc"}');
SELECT body('{"i": {"$": "$.f", "cast": "integer"}}', '{"f": 3.5}');
SELECT body('{"i": {"$": "$.f", "cast": "integer"}}', '{"f": {"a": 1}}');

-- Time. The session's settings have no say.
SET TimeZone = 'Asia/Kolkata';
SET DateStyle = 'German';
SELECT body('{"epoch": {"$": "$.t", "cast": "epoch"}, "ms": {"$": "$.t", "cast": "epoch_ms"}, "old": {"$": "$.o", "cast": "epoch"}, "from": {"$": "$.e", "cast": "from_epoch"}, "from_ms": {"$": "$.m", "cast": "from_epoch_ms"}, "iso": {"$": "$.t", "cast": "timestamp"}, "naive": {"$": "$.n", "cast": "timestamp"}, "parts": {"$": "$.t", "cast": "timestamp_parts"}, "day": {"$": "$.d", "cast": "date_parts"}, "back": {"$": "$.p", "cast": "from_parts"}, "http": {"$": "$.t", "cast": "http_date"}, "of_http": {"$": "$.h", "cast": "from_http_date"}, "format": {"$": "$.t", "cast": "format", "format": "YYYY-MM-DD HH24:MI", "zone": "Europe/Berlin"}}',
    '{"t": "2026-01-31T23:30:00.25+00:00", "o": "1969-12-31T23:59:59.5Z", "e": 1769902200, "m": 1769902200250, "n": "2026-01-31 23:30:00", "d": "2026-02-28", "p": {"year": 2026, "month": 2, "day": 28, "hour": 1, "minute": 2, "second": 3, "microsecond": 4}, "h": "Sat, 31 Jan 2026 23:30:00 GMT"}');
-- 23:30 on the last day of a month, west and east: which day, which instant.
SELECT z, t, body('{"day": {"$": "$.t", "cast": "date_in_zone", "zone": "$.z"}, "covered": {"$": "$.t", "cast": "last_date_in_zone", "zone": "$.z"}, "from": {"$": "$.t", "cast": "day_start", "zone": "$.z"}, "to": {"$": "$.t", "cast": "day_end", "zone": "$.z"}}', jsonb_build_object('z', z, 't', t))
FROM (VALUES ('Etc/GMT+8', '2026-02-01T07:30:00Z'), ('Etc/GMT+8', '2026-02-01T08:00:00Z'), ('Pacific/Tongatapu', '2026-01-31T10:30:00Z'), ('Pacific/Tongatapu', '2026-01-31T11:00:00Z'), ('America/Los_Angeles', '2026-02-28'), ('UTC', '2026-01-31T23:30:00Z')) v(z, t);
SELECT body('{"day": {"$": "$.t", "cast": "date_in_zone"}}', '{"t": "2026-02-01T07:30:00Z", "entity": {"timezone": "America/Los_Angeles"}}');
SELECT body('{"day": {"$": "$.t", "cast": "date_in_zone"}}', '{"t": "2026-02-01T07:30:00Z"}');
SELECT body('{"day": {"$": "$.t", "cast": "date_in_zone", "zone": "Mars/Base"}}', '{"t": "2026-02-01T07:30:00Z"}');
SELECT t, body('{"x": {"$": "$.t", "cast": "timestamp"}}', jsonb_build_object('t', t)) FROM (VALUES ('31.01.2026'), ('now'), ('infinity'), ('2026-02-30'), ('99999-01-01'), ('2026-01-31T25:00:00Z'), ('')) v(t);
SELECT body('{"x": {"$": "$.p", "cast": "from_parts"}}', '{"p": {"year": 2026, "month": 2, "day": 30}}');
RESET TimeZone;
RESET DateStyle;

-- References.
SELECT body('{"c": {"$": "$.c", "ref": "customer", "cast": "integer"}}', '{"c": "u1"}', '{"customer": {"u1": "17"}}');
SELECT body('{"c": {"$": "$.c", "ref": "customer"}}', '{"c": "u2"}', '{"customer": {"u1": "17"}}');
SELECT body('{"c": {"$": "$.c", "ref": "customer", "unbound": "null"}, "d": {"$": "$.no", "ref": "customer"}, "x": 1}', '{"c": "u2"}');
SELECT body('{"c": {"$": "$.c", "ref": "currency", "by": "code"}}', '{"c": "EUR"}', '{"currency.code": {"EUR": "2"}}');
SELECT body('{"c": {"$": "$.c", "ref": "invoice", "state": {"path": "$.state", "in": ["posted", "paid"]}}}', '{"c": "i1"}', '{"invoice": {"i1": {"id": "5", "raw": {"state": "draft"}}}}');
SELECT body('{"c": {"$": "$.c", "ref": "invoice", "state": {"path": "$.state", "in": ["posted", "paid"]}}}', '{"c": "i1"}', '{"invoice": {"i1": {"id": "5", "raw": {"state": "paid"}}}}');
SELECT body('{"c": {"$": "$.c", "ref": "customer", "read": "$.addresses[0]"}}', '{"c": "u1"}', '{"customer": {"u1": {"id": "5", "raw": {"addresses": [8]}}}}');
SELECT body('{"c": {"$": "$.c", "ref": "customer", "read": "$.addresses[0]"}}', '{"c": "u1"}', '{"customer": {"u1": {"id": "5"}}}');

-- Requests: targets, headers, forms.
\set m '{"manifest": 1, "name": "t", "version": "1", "encoding": "form", "headers": {"X-Tenant": "$.param.tenant", "X-None": "$.no"}, "objects": {"thing": {"push": {"operations": {"update": {"method": "PUT", "path": "/things/${remote.id}/x", "query": {"a": {"b": ["$.q", 2]}, "none": "$.no", "$$top": 5}, "when": "$.new.x", "unless": "$.mirror.done", "headers": {"If-Match": "$.remote.version"}, "body": {"l": [{"k": "a&b=ü"}, {}], "n": {"$": "$.no", "omit": "never"}, "t": true, "d": 1.50}}}}}}}'
SELECT sync.test_render(:'m', 'thing', 'update', '{"new": {"x": true}, "q": "ö /?", "remote": {"id": "a/b c", "version": "7"}, "param": {"tenant": "T"}}');
SELECT sync.test_render(:'m', 'thing', 'update', '{"new": {"x": false}, "remote": {"id": "1"}}');
SELECT sync.test_render(:'m', 'thing', 'update', '{"new": {"x": 1}, "mirror": {"done": true}, "remote": {"id": "1"}}');
SELECT sync.test_render(:'m', 'thing', 'update', '{"new": {"x": 1}}');
SELECT sync.test_render(:'m', 'thing', 'update', '{"new": {"x": 1}, "remote": {"id": ".."}}');
SELECT sync.test_render(:'m', 'thing', 'update', '{"new": {"x": 1}, "remote": {"id": "1", "version": "a\r\nX-Evil: 1"}}');
SELECT sync.test_render(:'m', 'thing', 'nothing', '{}');
SELECT sync.test_render(:'m', 'nothing', 'update', '{}');

-- Answers that are no JSON of ours, and rules.
\set m '{"manifest": 1, "name": "t", "version": "1", "idempotency": {"header": "Key", "lifetime": "1 day", "methods": ["POST"], "replayed": {"header": "Replayed"}}, "error": {"code": "$.err", "message": {"$first": ["$.msg", "$text"]}, "request_id": "$headers.\\"x-id\\""}, "outcomes": [{"status": "200", "when": "exists($.err)", "outcome": "rejected"}, {"status": "400-499", "header": {"X-Retry": "yes"}, "outcome": "throttled", "retry_after": "$.wait"}], "objects": {"thing": {"push": {"operations": {"create": {"method": "POST", "path": "/", "response": {"remote_id": "$.id", "version": "$.v"}, "outcomes": [{"status": "409", "outcome": "rejected", "then": "lookup"}]}, "lookup": {"path": "/", "response": {"items": "$.found", "remote_id": "$.id"}}, "verify": {"path": "/", "response": {"record": "$"}, "compare": [{"name": "total", "remote": "$.total", "ours": "$.new.total", "as": "numeric"}, {"name": "currency", "remote": "$.cur", "ours": "$.new.cur", "as": "currency"}, {"name": "day", "remote": "$.day", "ours": "$.new.day", "as": "date"}, {"name": "note", "remote": "$.note", "ours": "$.new.note"}]}}}}}}'
SELECT s, h, b, sync.test_answer(:'m', 'thing', 'create', s, h::jsonb, b)
FROM (VALUES (200, '{"X-Id": "r1"}', '{"id": 5, "v": "1"}'), (200, '{}', '{"err": "E1", "msg": "no"}'), (200, '{}', '{"x": 1}'), (200, '{}', '<html>'), (204, '{}', ''), (200, '{}', '{"id": "a\u0000"}'), (200, '{}', '{"id": 5} x'),
    (409, '{"Replayed": "1"}', '{"err": "dup"}'), (422, '{"x-retry": "YES"}', '{"wait": 2.5}'), (429, '{"Retry-After": "3"}', ''), (429, '{"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}', ''), (429, '{"Retry-After": "soon"}', ''),
    (401, '{}', ''), (403, '{}', 'Forbidden'), (404, '{}', ''), (408, '{}', ''), (302, '{"Location": "https://x"}', ''), (500, '{}', 'oops'), (503, '{}', ''), (0, '{}', '')) v(s, h, b);
SELECT sync.test_answer(:'m', 'thing', 'create', 200, '{}', repeat('[', 300) || repeat(']', 300));
SELECT n, sync.test_answer(:'m', 'thing', 'lookup', 200, '{}', b) FROM (VALUES (0, '{"found": []}'), (1, '{"found": [{"id": 7}]}'), (2, '{"found": [{"id": 7}, {"id": 8}]}'), (-1, '{}')) v(n, b);
SELECT sync.test_answer(:'m', 'thing', 'verify', 200, '{}', '{"total": "100.10", "cur": "eur", "day": "2026-01-31T00:00:00Z", "note": "n"}', '{"new": {"total": 100.100, "cur": "EUR", "day": "2026-01-31", "note": "n"}}');
SELECT sync.test_answer(:'m', 'thing', 'verify', 200, '{}', '{"total": "100.11", "cur": "USD", "day": "2026-02-01"}', '{"new": {"total": 100.1, "cur": "EUR", "day": "2026-01-31", "note": "n"}}');

-- Auth: what is sent, what is saved.
SELECT sync.test_auth(small('{}', '{"secrets": {"key": {"required": true}}, "auth": {"type": "basic", "user": "me@x/token", "password": "${secret.key}"}}'), '{"key": "s3cret"}');
SELECT sync.test_auth(small('{}', '{"secrets": {"key": {"required": true}}, "auth": {"type": "header", "headers": {"X-Key": "${secret.key}"}}}'), '{}');
SELECT sync.test_auth(small('{}', '{"secrets": {"key": {}}, "auth": {"type": "header", "headers": {"X-Key": "${secret.key}"}}}'), '{"key": "a\nb"}');
SELECT sync.test_auth(small('{}', '{"secrets": {"key": {}}, "auth": {"type": "session", "login": {"method": "POST", "path": "/login", "body": {"k": "$.secret.key"}}, "save": {"token": "$.token"}, "headers": {"Authorization": "Token ${session.token}"}}}'), '{"key": "k"}', '{}', answer)
FROM (VALUES (NULL), ('{"token": "t1"}'), ('{"nothing": 1}'), ('<html>')) v(answer);

-- Paging.
CREATE FUNCTION page(walk jsonb, cursor jsonb, body text, headers jsonb DEFAULT '{"Date": "Sat, 31 Jan 2026 23:30:00 GMT"}', more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT (p #- '{next,page,seen}') - 'items' || jsonb_build_object('ids', jsonb_path_query_array(p, '$.items[*].remote_id'))
    FROM sync.test_page(jsonb_build_object('manifest', 1, 'name', 't', 'version', '1', 'base_url', 'https://t.example/api', 'objects', jsonb_build_object('thing', jsonb_build_object('pull',
        '{"record": {"id": "$.id"}, "fields": {}, "cursor": {"time": "$.at", "lookback": "10 s", "resolution": "1 s"}}'::jsonb || more || jsonb_build_object('list', '{"path": "/things", "items": "$.items"}'::jsonb || walk)))),
        'thing', cursor, 200, headers, body) p
$$;
SELECT page('{"next": {"token": "$.next"}}', '{}', '{"items": [{"id": 1, "at": "2026-01-01"}], "next": "n1"}');
SELECT page('{"next": {"token": "$.next"}}', '{"full": true, "page": {"kind": "list", "token": "n1", "max": "2026-01-01T00:00:00Z", "answered": "2026-01-31T23:30:00Z"}}', '{"items": [{"id": 2, "at": "2025-01-01"}], "next": null}');
SELECT page('{"next": {"token": "$.next"}}', '{"page": {"kind": "list", "token": "n1"}}', '{"items": [{"id": 2}], "next": "n1"}');
SELECT page('{"page_size": 2, "next": {"offset": true}}', '{"page": {"kind": "list", "offset": 2}}', '{"items": [{"id": 2}, {"id": 3}]}');
SELECT page('{"page_size": 2, "next": {"offset": true}}', '{"time": "2026-01-31T00:00:00Z", "page": {"kind": "list", "offset": 4}}', '{"items": []}');
SELECT page('{"page_size": 2, "next": {"last_id": "$.id"}, "mark": "answered"}', '{"time": "2026-01-31T00:00:00Z"}', '{"items": [{"id": 2}]}');
SELECT page('{"next": {"link": "$.links.next"}}', '{}', '{"items": [{"id": 1}], "links": {"next": "https://evil.example/api/things?page=2"}}');
SELECT page('{}', '{}', '{"items": [{"name": "without id"}]}');
SELECT page('{}', '{"time": "2026-01-31T00:00:00Z"}', '{"error": "no list here"}');
SELECT page('{}', '{}', 'not json');
SELECT page('{"keep": "$.kind == \"a\""}', '{}', '{"items": [{"id": 1, "kind": "a"}, {"id": 2, "kind": "b"}]}');

-- Nobody but administrators and operators may use any of this.
SELECT p.proname, array_agg(r ORDER BY r) FROM pg_proc p, unnest(ARRAY['sync_admin', 'sync_operator', 'sync_app', 'sync_analyst', 'public']) r
WHERE p.pronamespace = 'sync'::regnamespace AND (p.proname LIKE 'test\_%' OR p.proname IN ('register_connector', '_check_manifest', '_shipped_manifest'))
  AND has_function_privilege(r, p.oid, 'EXECUTE') GROUP BY p.oid, p.proname ORDER BY p.proname, p.oid::regprocedure::text;
\c postgres
DROP DATABASE sync_connector_language;
