-- What a vendor, or time, can do to a pull: pages without end, records without an id, ids of any
-- length, large pages, states that come late, tables with odd keys.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_pull_hostile;
CREATE DATABASE sync_pull_hostile;
\c sync_pull_hostile
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

-- ---- walks ----

-- Walks a made-up vendor: its pages are named; answers how the walk ended, and after how many pages.
CREATE FUNCTION pg_temp.walk(list jsonb, pages jsonb, start text, cursor jsonb DEFAULT '{}', most int DEFAULT 40) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    manifest jsonb := jsonb_build_object('manifest', 1, 'name', 't', 'version', '1', 'base_url', 'https://t.example/api', 'objects',
        jsonb_build_object('thing', jsonb_build_object('pull', '{"record": {"id": "$.id"}, "fields": {}, "cursor": {"time": "$.at", "lookback": "0 s", "resolution": "1 ms"}}'::jsonb
            || jsonb_build_object('list', '{"path": "/things", "items": "$.items"}'::jsonb || list))));
    at text := start;
    page jsonb;
    n int := 0;
BEGIN
    LOOP
        page := sync.test_page(manifest, 'thing', cursor, 200, '{"Date": "Sat, 31 Jan 2026 23:30:00 GMT"}', (pages -> at)::text);
        n := n + 1;
        IF page ? 'error' THEN
            RETURN format('%s pages, then %s', n, page ->> 'error');
        END IF;
        IF (page ->> 'last')::boolean OR n >= most THEN
            RETURN format('%s pages, %s', n, CASE WHEN (page ->> 'last')::boolean THEN 'the end' ELSE 'still going' END);
        END IF;
        cursor := page -> 'next';
        at := coalesce(cursor #>> '{page,token}', cursor #>> '{page,link}', cursor #>> '{page,last_id}', cursor #>> '{page,since}', 'offset');
    END LOOP;
END
$$;
SELECT pg_temp.walk('{"next": {"token": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "b"}, "b": {"items": [{"id": 2}], "next": "c"}, "c": {"items": [], "next": null}}', 'a');
-- a circle of two, and one with a way in
SELECT pg_temp.walk('{"next": {"token": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "b"}, "b": {"items": [{"id": 2}], "next": "a"}}', 'a');
SELECT pg_temp.walk('{"next": {"token": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "b"}, "b": {"items": [{"id": 2}], "next": "c"}, "c": {"items": [], "next": "d"}, "d": {"items": [], "next": "b"}}', 'a');
-- one link over and over; an offset that the vendor ignores; page after page of the same
SELECT pg_temp.walk('{"next": {"link": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "/b"}, "/b": {"items": [], "next": "/b"}}', 'a');
SELECT pg_temp.walk('{"page_size": 2, "next": {"offset": true}}', '{"offset": {"items": [{"id": 1}, {"id": 2}]}}', 'offset');
SELECT pg_temp.walk('{"next": {"token": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "b"}, "b": {"items": [{"id": 1}], "next": "c"}}', 'a');
-- addresses that nobody can ask for
SELECT pg_temp.walk('{"next": {"link": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "/b c"}}', 'a');
SELECT pg_temp.walk('{"next": {"link": "$.next"}}', '{"a": {"items": [{"id": 1}], "next": "/b\r\nHost: x"}}', 'a');
SELECT pg_temp.walk('{"next": {"token": "$.next"}}', jsonb_build_object('a', jsonb_build_object('items', '[]'::jsonb, 'next', repeat('x', 100000))), 'a');

-- by time: the next page is asked for by the last item's; ties go by number
\set list '{"order": "oldest_first", "query": {"since": "$cursor.since", "page": "$cursor.token"}, "next": {"token": "$.next"}}'
CREATE FUNCTION pg_temp.next(list jsonb, cursor jsonb, body text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE WHEN p ? 'error' THEN p -> 'error' ELSE p #- '{next,page,seen}' -> 'next' END
    FROM sync.test_page(jsonb_build_object('manifest', 1, 'name', 't', 'version', '1', 'base_url', 'https://t.example/api', 'objects', jsonb_build_object('thing', jsonb_build_object('pull',
        '{"record": {"id": "$.id"}, "fields": {}, "cursor": {"time": "$.at", "lookback": "10 s", "resolution": "1 ms"}}'::jsonb || jsonb_build_object('list', '{"path": "/things", "items": "$.items"}'::jsonb || list)))),
        'thing', cursor, 200, '{"Date": "Sat, 31 Jan 2026 23:30:00 GMT"}', body) p
$$;
SELECT pg_temp.next(:'list', '{}', '{"items": [{"id": 1, "at": "2026-01-01T00:00:00.5Z"}, {"id": 2, "at": "2026-01-01T00:00:01.25Z"}], "next": "2"}');
SELECT pg_temp.next(:'list', '{}', '{"items": [{"id": 1, "at": "2026-01-01T00:00:01Z"}, {"id": 2, "at": "2026-01-01T00:00:01Z"}], "next": "2"}');
-- not in order, or without a time: by number
SELECT pg_temp.next(:'list', '{}', '{"items": [{"id": 1, "at": "2026-01-01T00:00:02Z"}, {"id": 2, "at": "2026-01-01T00:00:01Z"}], "next": "2"}');
SELECT pg_temp.next(:'list', '{}', '{"items": [{"id": 1, "at": "2026-01-01T00:00:02Z"}, {"id": 2}], "next": "2"}');
-- a vendor that begins earlier than it was asked to: by number from then on
SELECT pg_temp.next(:'list', '{"page": {"kind": "list", "since": "2026-01-01T00:00:01.250Z"}}', '{"items": [{"id": 1, "at": "2026-01-01T00:00:00Z"}, {"id": 2, "at": "2026-01-01T00:00:02Z"}], "next": "2"}');
SELECT pg_temp.next(:'list', '{"page": {"kind": "list", "since": "2026-01-01T00:00:01.250Z", "counted": true, "token": "2"}}', '{"items": [{"id": 1, "at": "2026-01-01T00:00:02Z"}, {"id": 2, "at": "2026-01-01T00:00:03Z"}], "next": "3"}');
-- a request that makes a day of it
SELECT pg_temp.next('{"order": "oldest_first", "query": {"since": {"$": "$cursor.since", "cast": "date"}, "page": "$cursor.token"}, "next": {"token": "$.next"}}', '{}',
    '{"items": [{"id": 1, "at": "2026-01-01T00:00:00Z"}, {"id": 2, "at": "2026-01-02T00:00:00Z"}], "next": "2"}');

-- ---- large pages ----

SET statement_timeout = '20s';
SELECT sync.test_page('{"manifest": 1, "name": "t", "version": "1", "objects": {"thing": {"pull": {"record": {"id": "$.id"}, "fields": {},
      "list": {"path": "/things", "items": "$.items", "order": "newest_first"}, "cursor": {"time": "$.at", "lookback": "10 s", "resolution": "1 s", "refetch_on_tie": true}, "fetch": {"path": "/things/${id}"}}}}}',
    'thing', '{}', 200, '{"Date": "Sat, 31 Jan 2026 23:30:00 GMT"}',
    (SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('id', i, 'at', '2026-01-01T00:00:00Z'))) FROM generate_series(1, 60000) i)::text) - 'items';
SELECT sync.test_page('{"manifest": 1, "name": "t", "version": "1", "objects": {"thing": {"pull": {"record": {"id": "$.id"}, "fields": {}, "list": {"path": "/things", "items": "$.items"}}}}}',
    'thing', '{}', 200, '{}', (SELECT jsonb_build_object('items', jsonb_agg(1)) FROM generate_series(1, 100001))::text) ->> 'error';

-- ---- tables ----

CREATE SCHEMA pull;
CREATE TABLE pull.customer (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), code text UNIQUE, name text CHECK (name <> 'poison'), status text DEFAULT 'active', parent_id uuid REFERENCES pull.customer, head_id uuid);
CREATE TABLE pull.rate (region text, day date, percent numeric, PRIMARY KEY (region, day));
CREATE TABLE pull.sheet (region text, no int, title text, PRIMARY KEY (region, no));
CREATE TABLE pull.sheet_line (region text, no int, line_no int GENERATED ALWAYS AS IDENTITY, text text, amount numeric,
    PRIMARY KEY (region, no, line_no), FOREIGN KEY (region, no) REFERENCES pull.sheet);
\set manifest '{"manifest": 1, "name": "hostile", "version": "1", "base_url": "https://api.example.com", "auth": {"type": "none"}, "enums": {"status": {"pull": {"on": "active"}}}, "objects": {"customer": {"pull": {"list": {"path": "/c", "items": "$.data"}, "fetch": {"path": "/c/${id}"}, "cursor": {"lookback": "60 s"}, "record": {"id": "$.id", "version": "$.v", "our_id": "$.ours", "deleted": "$.deleted == true"}, "fields": {"code": {"$": "$.code", "omit": "null"}, "name": "$.name", "status": {"$": "$.status", "map": "status", "omit": "null"}, "parent_id": {"$": "$.parent", "ref": "customer", "by": "code", "omit": "null"}, "head_id": {"$": "$.head", "ref": "customer", "omit": "null"}}, "on_delete": {"set": {"status": "churned"}}}}, "rate": {"pull": {"list": {"path": "/r", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"region": "$.region", "day": "$.day", "percent": "$.percent"}}}, "sheet": {"pull": {"list": {"path": "/s", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"region": "$.region", "no": "$.no", "title": "$.title"}, "lines": {"items": "$.lines", "fields": {"text": "$.text", "amount": "$.amount"}}}}}}'
SELECT FROM sync.register_connector(:'manifest'::jsonb);
CREATE SERVER remote FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'hostile');
SELECT FROM sync.track('pull.customer', object => 'customer', number_column => 'code');
SELECT FROM sync.track('pull.rate', object => 'rate');
SELECT FROM sync.track('pull.sheet', object => 'sheet', lines => 'pull.sheet_line', line_key_columns => '{line_no}');
SELECT sync.create_stream('remote', 'customer') AS customers, sync.create_stream('remote', 'rate') AS rates, sync.create_stream('remote', 'sheet') AS sheets \gset

-- one record without an id, one with an id that no index holds: in the inbox, and the others in the table
SELECT applied, to_inbox FROM sync._apply_page(:customers, jsonb_build_array('{"name": "Nobody"}'::jsonb, '{"id": "a", "name": "A"}'::jsonb,
    jsonb_build_object('id', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i), 'name', 'Long')));
SELECT regexp_replace(remote_id, '[0-9a-f]{16}', '…'), state, reason FROM sync.inbox_status ORDER BY 1;
SELECT count(sync.discard_inbox(id, 'tested')) FROM sync.inbox_status;
-- our id in other letters is our id
SELECT applied FROM sync._apply_page(:customers, '[{"id": "u1", "name": "Capital", "ours": "ABCDEF00-0000-4000-8000-00000000000A"}]');
SELECT x.record_id = c.id::text FROM pull.customer c JOIN sync.external_id x ON x.remote_id = 'u1' WHERE c.name = 'Capital';

-- a parent that is named by a text of any length
SELECT to_inbox FROM sync._apply_page(:customers, jsonb_build_array('{"id": "w1", "name": "W"}'::jsonb || jsonb_build_object('head', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i))));
SELECT remote_id, length(wait_remote_id) FROM sync.inbox_status;
SELECT count(sync.discard_inbox(id, 'tested')) FROM sync.inbox_status;

-- references by a column: found, not found, found later
SELECT applied, to_inbox FROM sync._apply_page(:customers, '[{"id": "r1", "name": "Kid", "parent": "P1"}, {"id": "r2", "name": "Head", "code": "P2"}, {"id": "r3", "name": "Second kid", "parent": "P2"}]');
SELECT remote_id, state, reason FROM sync.inbox_status ORDER BY 1;
SELECT applied, to_inbox FROM sync._apply_page(:customers, (SELECT jsonb_agg(item) || '[{"id": "r4", "name": "Late head", "code": "P1"}]' FROM sync.inbox_status));
SELECT applied, to_inbox FROM sync._apply_page(:customers, (SELECT jsonb_agg(item) FROM sync.inbox_status));
SELECT c.name, p.name FROM pull.customer c JOIN pull.customer p ON p.id = c.parent_id ORDER BY 1;
SELECT count(*) FROM sync.inbox_status;

-- deleted, and back: what the delete had set is what they say again
SELECT applied FROM sync._apply_page(:customers, '[{"id": "d", "name": "D", "status": "on"}]');
SELECT applied FROM sync._apply_page(:customers, '[{"id": "d", "deleted": true}]');
SELECT status FROM pull.customer WHERE name = 'D';
SELECT applied FROM sync._apply_page(:customers, '[{"id": "d", "name": "D", "status": "on"}]');
SELECT status FROM pull.customer WHERE name = 'D';

-- a record that waited in the inbox is as old as its page: a push that ended meanwhile stands
SELECT applied, to_inbox FROM sync._apply_page(:customers, '[{"id": "a", "name": "poison"}]', began_at => clock_timestamp() - interval '10 s');
SELECT received_at < clock_timestamp() - interval '9 s' FROM sync.inbox_status WHERE remote_id = 'a';
UPDATE sync.mirror SET pushed_at = clock_timestamp() - interval '5 s' WHERE remote_id = 'a';
ALTER TABLE pull.customer DROP CONSTRAINT customer_name_check;
SELECT applied, read_again FROM sync._apply_page(:customers, (SELECT jsonb_agg(item) FROM sync.inbox_status WHERE remote_id = 'a'), began_at => (SELECT received_at FROM sync.inbox_status WHERE remote_id = 'a'));
SELECT state FROM sync.inbox_status WHERE remote_id = 'a';
-- a page that only echoes does not answer the question that the read was for
SELECT unchanged FROM sync._apply_page(:customers, '[{"id": "a", "name": "A"}]', began_at => clock_timestamp() - interval '10 s');
SELECT state FROM sync.inbox_status WHERE remote_id = 'a';
SELECT applied FROM sync._apply_page(:customers, '[{"id": "a", "name": "A"}]', fetched => true);
SELECT count(*) FROM sync.inbox_status WHERE remote_id = 'a';

-- a new manifest: what the old one could not map is tried at once
SELECT to_inbox FROM sync._apply_page(:customers, '[{"id": "m", "name": "M", "status": "paused"}]');
SELECT retry_at > clock_timestamp() FROM sync.inbox WHERE remote_id = 'm';
SELECT FROM sync.register_connector(replace(replace(:'manifest', '"on": "active"', '"on": "active", "paused": "on hold"'), '"version": "1"', '"version": "2"')::jsonb);
SELECT retry_at <= clock_timestamp() FROM sync.inbox WHERE remote_id = 'm';
SELECT applied FROM sync._apply_page(:customers, (SELECT jsonb_agg(item) FROM sync.inbox_status));
SELECT status FROM pull.customer WHERE name = 'M';

-- composite keys: the record id is that of events
SELECT applied, to_inbox FROM sync._apply_page(:rates, '[{"id": "1", "region": "de", "day": "2026-1-2", "percent": 19}, {"id": "2", "region": "f\"r", "day": "2026-01-02", "percent": 20}, {"id": "3", "day": "2026-01-02"}]');
SELECT x.remote_id, x.record_id, e.record_id = x.record_id FROM sync.external_id x JOIN sync.mirror m USING (system_id, object_id, remote_id)
  JOIN sync.outbox e ON e.object_id = x.object_id AND e.record_id = x.record_id WHERE x.remote_id IN ('1', '2') ORDER BY 1;
SELECT remote_id, sqlstate FROM sync.inbox_status;
SELECT applied FROM sync._apply_page(:rates, '[{"id": "1", "region": "de", "day": "2026-01-02", "percent": 16}]');
SELECT * FROM pull.rate ORDER BY 1;
SELECT count(sync.discard_inbox(id, 'tested')) FROM sync.inbox_status;

-- a document with a composite key, whose lines have no key that the vendor knows: they pair by position
SELECT applied, to_inbox FROM sync._apply_page(:sheets, '[{"id": "1", "region": "de", "no": 1, "title": "One", "lines": [{"text": "a", "amount": 1}, {"text": "b", "amount": 2}, {"text": "c", "amount": 3}]},
    {"id": "2", "region": "fr", "no": 1, "title": "Two", "lines": [{"text": "x", "amount": 9}]}]');
SELECT reason FROM sync.inbox_status;
SELECT region, no, line_no, text, amount FROM pull.sheet_line ORDER BY 1, 2, 3;
SELECT applied FROM sync._apply_page(:sheets, '[{"id": "1", "region": "de", "no": 1, "title": "One", "lines": [{"text": "a", "amount": 1}, {"text": "c", "amount": 3}]}]');
SELECT applied FROM sync._apply_page(:sheets, '[{"id": "2", "region": "fr", "no": 1, "title": "Two", "lines": [{"text": "x", "amount": 9}, {"text": "y", "amount": 8}]}]');
SELECT region, no, line_no, text, amount FROM pull.sheet_line ORDER BY 1, 2, 3;

-- the legal entity, whose time zone says which day it was
CREATE SCHEMA canonical;
CREATE TABLE canonical.legal_entity (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), code text, timezone text);
INSERT INTO canonical.legal_entity (code, timezone) VALUES ('TO', 'Pacific/Tongatapu'), ('LA', 'America/Los_Angeles');
SELECT FROM sync.register_connector('{"manifest": 1, "name": "zoned", "version": "1", "base_url": "https://api.example.com", "auth": {"type": "none"}, "objects": {"rate": {"pull": {"list": {"path": "/r", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"region": "$.region", "day": {"$": "$.at", "cast": "date_in_zone", "zone": "$entity.timezone"}}}}}}'::jsonb);
CREATE SERVER tonga FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'zoned', legal_entity 'TO');
CREATE SERVER angeles FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'zoned', legal_entity 'LA');
SELECT sync.create_stream('tonga', 'rate') AS tonga, sync.create_stream('angeles', 'rate') AS angeles \gset
SELECT applied FROM sync._apply_page(:tonga, '[{"id": "1", "region": "to 1", "at": "2026-01-31T10:30:00Z"}, {"id": "2", "region": "to 2", "at": "2026-01-31T11:30:00Z"}]');
SELECT applied FROM sync._apply_page(:angeles, '[{"id": "1", "region": "us 1", "at": "2026-02-01T07:30:00Z"}, {"id": "2", "region": "us 2", "at": "2026-02-01T08:30:00Z"}]');
SELECT region, to_char(day, 'YYYY-MM-DD') FROM pull.rate WHERE region ~ '[0-9]' ORDER BY 1;

\c regression
