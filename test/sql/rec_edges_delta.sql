-- After each of a series of changes by chance, on both sides and of all kinds, a delta knows the breaks that a run
-- over everything would find then: the same, with the same values.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_edges_delta;
CREATE DATABASE sync_rec_edges_delta;
\c sync_rec_edges_delta
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA rec;
CREATE TABLE rec.customer (id text PRIMARY KEY, number text, name text, merged_into_id text REFERENCES rec.customer, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice (id text PRIMARY KEY, number text, customer_id text, issue_date date, currency char(3), total_amount numeric, status text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE rec.invoice_line (invoice_id text REFERENCES rec.invoice ON DELETE CASCADE ON UPDATE CASCADE, line_no integer, net_amount numeric, PRIMARY KEY (invoice_id, line_no));
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {
      "push": {"operations": {"create": {"method": "POST", "path": "/c", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
      "pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true"},
        "fields": {"id": "$.key", "number": "$.number", "name": "$.name"}}},
    "invoice": {
      "push": {"operations": {"create": {"method": "POST", "path": "/i", "body": {"number": "$.new.number"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
      "pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id", "number": "$.number", "deleted": "$.deleted == true"},
      "fields": {"id": "$.key", "number": "$.number", "customer_id": {"$": "$.customer", "ref": "customer"}, "issue_date": "$.date", "currency": "$.currency", "total_amount": "$.total", "status": "$.status"},
      "lines": {"items": "$.lines", "fields": {"line_no": "$.no", "net_amount": "$.net"}}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.customer', object => 'customer', on_truncate => 'record');
SELECT FROM sync.track('rec.invoice', object => 'invoice', financial => true, lines => 'rec.invoice_line', on_truncate => 'record');
SELECT sync.create_stream('billing', 'customer') AS customers \gset
SELECT sync.create_stream('billing', 'invoice') AS invoices \gset
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
SELECT sync.set_owner('customer', 'name', 'hub', 'ignore', 'ours') IS NULL AS owned;
SELECT FROM sync.set_delete_policy('customer', 'billing', 'ignore');

-- One of n, by chance. The seed makes the series; nothing of it depends on time or on the plan of a query.
CREATE FUNCTION rec.any(n integer) RETURNS integer LANGUAGE sql VOLATILE AS $$ SELECT floor(random() * n)::integer $$;
CREATE FUNCTION rec.item(kind text, k integer) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT CASE kind WHEN 'customer' THEN jsonb_build_object('id', 'c' || k, 'key', 'C' || k, 'number', 'N' || k, 'name', 'name ' || rec.any(3))
           ELSE jsonb_build_object('id', 'i' || k, 'key', 'I' || k, 'number', 'R' || k, 'customer', 'c' || rec.any(8), 'date', CASE rec.any(12) WHEN 0 THEN 'soon' ELSE '2026-1' || rec.any(2) || '-05' END, 'currency', 'EUR',
                                   'total', 10 + rec.any(3) / 100.0, 'status', 'open', 'lines', (SELECT jsonb_agg(jsonb_build_object('no', n, 'net', 1 + rec.any(2))) FROM generate_series(1, 1 + rec.any(3)) n)) END
$$;
CREATE FUNCTION rec.pull(kind text, page jsonb) RETURNS void LANGUAGE sql AS $$
    SELECT FROM sync._apply_page((SELECT t.id FROM sync.stream t JOIN sync.object o ON o.id = t.object_id WHERE o.name = kind), page)
$$;
CREATE FUNCTION rec.change() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    what integer := rec.any(31);
    k integer := rec.any(8);
    other integer := rec.any(8);
    kind text := CASE rec.any(3) WHEN 0 THEN 'customer' ELSE 'invoice' END;
    the_object integer := (SELECT o.id FROM sync.object o WHERE o.name = kind);
BEGIN
    CASE
        WHEN what < 5 THEN PERFORM rec.pull(kind, jsonb_build_array(rec.item(kind, k), rec.item(kind, 8 + other)));
        WHEN what < 7 THEN PERFORM rec.pull(kind, jsonb_build_array(jsonb_build_object('id', lower(left(CASE kind WHEN 'customer' THEN 'c' ELSE 'i' END, 1)) || k, 'deleted', true)));
        WHEN what < 9 THEN UPDATE rec.customer SET name = 'name ' || rec.any(3) WHERE id = 'C' || k;
        WHEN what < 11 THEN UPDATE rec.invoice SET total_amount = 10 + rec.any(3) / 100.0, status = 'paid' WHERE id = 'I' || k;
        WHEN what = 11 THEN UPDATE rec.invoice SET issue_date = issue_date + interval '1 month' * (rec.any(3) - 1) WHERE id = 'I' || k;
        WHEN what = 12 THEN DELETE FROM rec.invoice WHERE id = 'I' || k;
        WHEN what = 13 THEN DELETE FROM rec.customer c WHERE c.id = 'C' || k AND NOT EXISTS (SELECT FROM rec.customer m WHERE m.merged_into_id = c.id) AND c.merged_into_id IS NULL;
        WHEN what = 14 THEN UPDATE rec.invoice SET id = 'I' || k || 'x' WHERE id = 'I' || k AND NOT EXISTS (SELECT FROM rec.invoice WHERE id = 'I' || k || 'x');
        WHEN what = 15 THEN UPDATE rec.invoice SET id = 'I' || k WHERE id = 'I' || k || 'x' AND NOT EXISTS (SELECT FROM rec.invoice WHERE id = 'I' || k);
        WHEN what = 16 THEN UPDATE rec.invoice_line SET net_amount = net_amount + rec.any(3) - 1 WHERE invoice_id = 'I' || k;
        WHEN what = 17 THEN DELETE FROM rec.invoice_line WHERE invoice_id = 'I' || k AND line_no = 1;
        WHEN what = 18 THEN INSERT INTO rec.invoice (id, number, customer_id, issue_date, currency, total_amount) VALUES ('H' || k, 'H' || k, 'C' || other, '2026-10-05', 'EUR', 7) ON CONFLICT DO NOTHING;
        WHEN what = 19 THEN INSERT INTO rec.customer (id, number, name) VALUES ('H' || k, 'H' || k, 'name') ON CONFLICT DO NOTHING;
        WHEN what = 20 THEN
            PERFORM sync.merge_records('customer', s.id, l.id, 'one') FROM rec.customer s, rec.customer l
              WHERE s.id = 'C' || k AND l.id = 'C' || other AND k <> other AND s.merged_into_id IS NULL AND l.merged_into_id IS NULL;
        WHEN what = 21 THEN PERFORM sync.undo_merge(m.id, 'two') FROM (SELECT max(id) AS id FROM sync.merge WHERE undone_at IS NULL) m WHERE m.id IS NOT NULL;
        WHEN what = 22 THEN PERFORM sync.set_tolerance('billing', 'invoice', rec.any(3) / 100.0, 'EUR', 'rounding');
        WHEN what = 23 THEN -- a fault: somebody bound it to another, or not at all
            UPDATE sync.mirror m SET record_id = nullif('I' || other, 'I' || k) WHERE m.object_id = the_object AND m.remote_id = 'i' || k;
            PERFORM sync._note_mirror(m.system_id, m.object_id, m.remote_id) FROM sync.mirror m WHERE m.object_id = the_object AND m.remote_id = 'i' || k;
        WHEN what = 24 THEN -- what is on its way becomes dead, or is behind what is dead
            INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, code, message)
            SELECT q.route_id, q.seq, q.incarnation, q.at, q.object_id, q.record_id, q.op, q.origin, e.body, CASE rec.any(3) WHEN 0 THEN 'retry' WHEN 1 THEN 'conflict' ELSE 'dead' END, 'bad', 'refused'
              FROM (SELECT q.* FROM sync._queue q ORDER BY q.seq LIMIT 3) q JOIN sync.outbox e ON e.seq = q.seq;
        WHEN what = 25 THEN DELETE FROM sync.pending p WHERE p.id = (SELECT min(id) FROM sync.pending) AND rec.any(2) = 0;
        WHEN what = 26 THEN
            IF EXISTS (SELECT FROM sync.route r WHERE r.object_id = the_object AND r.state <> 'dropped') THEN
                PERFORM sync.drop_route(r.id, true) FROM sync.route r WHERE r.object_id = the_object AND r.state <> 'dropped';
            ELSE
                PERFORM sync.create_route('billing', kind, start => CASE WHEN kind = 'customer' AND rec.any(2) = 0 THEN 'all' ELSE 'now' END,
                                          condition => CASE WHEN kind = 'invoice' THEN 'total_amount > 5' END);
            END IF;
        WHEN what = 27 THEN PERFORM sync.discard_inbox(i.id, 'no') FROM sync.inbox i WHERE rec.any(2) = 0;
        WHEN what = 28 AND rec.any(6) = 0 THEN TRUNCATE rec.invoice_line, rec.invoice;
        WHEN what = 29 THEN
            BEGIN
                PERFORM sync.resolve_conflict(c.id, CASE rec.any(2) WHEN 0 THEN 'hub' ELSE 'remote' END, 'so') FROM sync.conflict_entry c WHERE c.resolved_at IS NULL;
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
        ELSE -- rolled back: nothing changed
            BEGIN
                UPDATE rec.invoice SET total_amount = 999;
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN
                NULL;
            END;
    END CASE;
    RETURN what || ' ' || kind || k;
END
$$;
CREATE FUNCTION rec.open_breaks(object text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('|', b.status, b.kind, b.record_id, b.record_number, b.remote_id, b.field, b.ours, b.theirs, b.difference, b.period, b.severity, b.explanation, b.detail)
      FROM sync.break_entry b WHERE b.source = 'record:billing:' || object AND b.status <> 'resolved'
$$;
CREATE TABLE rec.wrong (seed integer, step integer, what text, only_delta text[], only_mirror text[]);
CREATE TABLE rec.met (kind text, status text, n bigint);
-- Changes, a delta, and what a run over everything would say, which is taken back.
CREATE PROCEDURE rec.trial(seed integer, steps integer) LANGUAGE plpgsql AS $$
DECLARE
    done text;
    thing text;
    delta text[];
    mirror text[];
BEGIN
    PERFORM setseed(seed / 1000.0);
    PERFORM rec.pull('customer', (SELECT jsonb_agg(rec.item('customer', k)) FROM generate_series(0, 7) k));
    PERFORM rec.pull('invoice', (SELECT jsonb_agg(rec.item('invoice', k)) FROM generate_series(0, 7) k));
    COMMIT;
    PERFORM sync.reconcile('billing', 'customer'), sync.reconcile('billing', 'invoice');
    COMMIT;
    FOR step IN 1 .. steps LOOP
        done := '';
        FOR n IN 0 .. rec.any(3) LOOP
            done := concat_ws(', ', nullif(done, ''), rec.change());
            COMMIT;
        END LOOP;
        FOREACH thing IN ARRAY '{customer,invoice}'::text[] LOOP
            PERFORM sync.reconcile('billing', thing, mode => 'delta');
            COMMIT;
            delta := ARRAY(SELECT b FROM rec.open_breaks(thing) b ORDER BY b COLLATE "C");
            BEGIN
                PERFORM sync.reconcile('billing', thing);
                mirror := ARRAY(SELECT b FROM rec.open_breaks(thing) b ORDER BY b COLLATE "C");
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN
                NULL;
            END;
            IF delta <> mirror THEN
                INSERT INTO rec.wrong VALUES (seed, step, thing || ': ' || done, ARRAY(SELECT unnest(delta) EXCEPT SELECT unnest(mirror)), ARRAY(SELECT unnest(mirror) EXCEPT SELECT unnest(delta)));
            END IF;
            INSERT INTO rec.met SELECT b.kind, b.status, count(*) FROM sync.break_entry b GROUP BY 1, 2;
            COMMIT;
        END LOOP;
    END LOOP;
END
$$;
CALL rec.trial(7, 60);
SELECT * FROM rec.wrong;
SELECT count(*) AS runs, count(*) FILTER (WHERE state <> 'done') AS not_done FROM sync.reconciliation WHERE mode = 'delta';
SELECT DISTINCT kind FROM rec.met ORDER BY 1;
SELECT DISTINCT status FROM rec.met ORDER BY 1;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_edges_delta;
