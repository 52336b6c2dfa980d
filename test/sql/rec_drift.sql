-- drift_detected: a run that opens breaks is an event, once, with what is at risk in them, in the run's transaction; it can be
-- sent by a route, is written with the rights of the table's owner, and never fails the run.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_drift;
DROP ROLE IF EXISTS rec_drift_owner;
CREATE DATABASE sync_rec_drift;
\c sync_rec_drift
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
CREATE ROLE rec_drift_owner LOGIN IN ROLE sync_admin;
RESET client_min_messages;
CREATE SCHEMA app AUTHORIZATION rec_drift_owner;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;

-- A run with one finding per record of `found`: {"A": 5, …}, its amount.
CREATE FUNCTION run(found jsonb, severity text DEFAULT 'error', currency text DEFAULT 'EUR') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    INSERT INTO sync.reconciliation (source, kind, mode) VALUES ('record:x:y', 'record', 'mirror') RETURNING id INTO made;
    INSERT INTO sync.finding (reconciliation_id, kind, object, record_id, difference, currency, period, entity, severity)
    SELECT made, 'amount_differs', 'y', f.key, f.value::numeric, run.currency, '2026-10-01', 'DE', run.severity FROM jsonb_each_text($1) f;
    PERFORM sync._settle_breaks(made);
    RETURN (SELECT format('%s: found %s opened %s closed %s', r.state, r.found, r.opened, r.closed) FROM sync.reconciliation r WHERE r.id = made);
END
$$;
CREATE VIEW event AS
SELECT e.op, e.body ->> 'source' AS source, e.body ->> 'found' AS found, e.body ->> 'opened' AS opened, e.body ->> 'closed' AS closed, e.body ->> 'errors' AS errors, e.body -> 'entities' AS entities,
       e.body -> 'periods' AS periods, e.body -> 'at_risk' AS at_risk, e.body -> 'breaks' AS breaks
  FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id AND o.name = 'drift_detected' ORDER BY e.seq;

-- Nobody has asked for it: an audit row.
SELECT run('{"A": 5}');
SELECT run('{}');
SELECT action, detail ->> 'opened' AS opened, detail ->> 'closed' AS closed FROM sync.audit WHERE action = 'reconciliation.differs' ORDER BY id;

SET ROLE rec_drift_owner;
SELECT sync.create_drift_events('nowhere');
SELECT sync.create_drift_events('app');
SELECT sync.create_drift_events('app');
RESET ROLE;

-- One event a run that opens any, with all of them.
SELECT run('{"A": 5, "B": -7}');
SELECT run('{"A": 5, "B": -7}');
SELECT run('{"A": 5, "B": -7, "C": 1}', 'warning');
SELECT run('{"A": 5}');
TABLE event;
SELECT system, object, mode, detected_at > now() - interval '1 min' AS just_now, (SELECT count(*) FROM sync.reconciliation r WHERE r.id = d.reconciliation) AS run FROM app.drift_detected d ORDER BY detected_at;
-- It comes and goes with the run.
BEGIN;
SELECT run('{"A": 5, "D": 1}');
ROLLBACK;
SELECT count(*) FROM event;

-- A route sends it, under a condition.
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "chat", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {"drift_detected": {"push": {"operations": {"create": {"method": "POST", "path": "/message", "body": {"text": "$.new.source", "at_risk": "$.new.at_risk"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}}} $json$::jsonb);
CREATE SERVER chat FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'chat', mode 'paused');
SELECT sync.create_route('chat', 'drift_detected', 'errors > 0') > 0 AS route;
SELECT p.method, p.body FROM app.drift_detected d CROSS JOIN LATERAL sync.preview('chat', 'drift_detected', d.id::text) p ORDER BY d.detected_at LIMIT 1;

-- Whose table it is, his code runs with his rights, also what is put off to the commit.
SET ROLE rec_drift_owner;
CREATE TABLE app.seen (what text, by name);
CREATE FUNCTION app.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.seen VALUES (TG_NAME, current_user); RETURN NULL; END $$;
CREATE TRIGGER at_once AFTER INSERT ON app.drift_detected FOR EACH ROW EXECUTE FUNCTION app.look();
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON app.drift_detected DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.look();
RESET ROLE;
SELECT run('{"A": 5, "E": 2}');
TABLE app.seen;
-- He may take columns away, and refuse: then that is told, and breaks are opened all the same.
SET ROLE rec_drift_owner;
ALTER TABLE app.drift_detected DROP COLUMN periods;
RESET ROLE;
SELECT run('{"A": 5, "E": 2, "F": 1}', currency => NULL);
SET ROLE rec_drift_owner;
ALTER TABLE app.drift_detected ADD CONSTRAINT few CHECK (opened < 2) NOT VALID;
RESET ROLE;
SELECT run('{"A": 5, "E": 2, "F": 1, "G": 1, "H": 1}');
SELECT * FROM event OFFSET 2;
SELECT severity, regexp_replace(message, 'reconciliation \d+', 'reconciliation …') AS message, hint FROM sync.notice;
SET ROLE rec_drift_owner;
ALTER TABLE app.drift_detected DROP CONSTRAINT few;
RESET ROLE;
SELECT run('{"A": 5, "I": 1}');
SELECT count(*) AS notices FROM sync.notice WHERE key = 'drift_detected';
-- No longer tracked: no event.
SELECT sync.drop_route('drift_detected_to_chat', force => true);
SELECT sync.untrack('drift_detected', force => true);
SELECT run('{"J": 5}');
SELECT count(*) FROM app.drift_detected;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_drift;
DROP ROLE rec_drift_owner;
