-- Changes of mirrors: what SQL adds to those that pulls and pushes write (src/pull/history.c), and how
-- they go.

CREATE FUNCTION sync._note_mirror(system_id integer, object_id integer, remote_id text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO sync.mirror_history (system_id, object_id, remote_id, record_id, fields, deleted)
    SELECT m.system_id, m.object_id, m.remote_id, m.record_id, CASE WHEN o.financial THEN m.fields END, m.deleted
      FROM sync.mirror m JOIN sync.object o ON o.id = m.object_id
     WHERE m.system_id = $1 AND m.object_id = $2 AND m.remote_id = $3
$$;
COMMENT ON FUNCTION sync._note_mirror(integer, integer, text) IS 'Keeps the state of a mirror that was changed by other than a pull or push';

-- An object that becomes financial: its history begins with what is known then.
CREATE FUNCTION sync._begin_mirror_history()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO sync.mirror_history (system_id, object_id, remote_id, record_id, fields, deleted)
    SELECT m.system_id, m.object_id, m.remote_id, m.record_id, m.fields, m.deleted FROM sync.mirror m WHERE m.object_id = NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._begin_mirror_history() IS 'Begins the history of an object that becomes financial';
CREATE TRIGGER begin_mirror_history AFTER UPDATE OF financial ON sync.object FOR EACH ROW
    WHEN (NEW.financial AND NOT OLD.financial) EXECUTE FUNCTION sync._begin_mirror_history();
COMMENT ON TRIGGER begin_mirror_history ON sync.object IS 'Begins the history of an object that becomes financial';

-- Rows are found oldest first by their transaction. (Those of another incarnation may be found later, once
-- there are no older ones.) Of a record's states the one that held at the horizon stays, however old it is.
CREATE FUNCTION sync._prune_mirror_history(at_most integer DEFAULT 10000)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changes_until constant timestamptz := clock_timestamp() - current_setting('sync_ext.mirror_change_retention')::interval;
    states_until constant timestamptz := clock_timestamp() - current_setting('sync_ext.mirror_history_retention')::interval;
    pair record;
    gone bigint;
    more boolean := false;
BEGIN
    FOR pair IN
        SELECT x.system_id, x.object_id, o.financial
          FROM (SELECT s.system_id, s.object_id FROM sync.stream s UNION SELECT r.system_id, r.object_id FROM sync.route r) x
          JOIN sync.object o ON o.id = x.object_id
    LOOP
        DELETE FROM sync.mirror_history h
         WHERE h.ctid = ANY (ARRAY(
             SELECT t.place
               FROM (SELECT i.ctid AS place, i.* FROM sync.mirror_history i
                      WHERE i.system_id = pair.system_id AND i.object_id = pair.object_id AND (pair.financial OR i.fields IS NULL)
                      ORDER BY i.xid LIMIT at_most) t
              WHERE CASE WHEN t.fields IS NULL THEN t.at < changes_until
                         ELSE t.at < states_until AND EXISTS (
                             SELECT FROM sync.mirror_history n
                              WHERE n.system_id = t.system_id AND n.object_id = t.object_id AND n.remote_id = t.remote_id
                                AND n.fields IS NOT NULL AND n.at > t.at AND n.at < states_until) END));
        GET DIAGNOSTICS gone = ROW_COUNT;
        more := more OR gone = at_most;
    END LOOP;
    RETURN more;
END
$$;
COMMENT ON FUNCTION sync._prune_mirror_history(integer) IS 'Deletes what is past retention of the changes of mirrors, some thousand rows at a time; true when there may be more. Run by the hub with its upkeep';
REVOKE ALL ON FUNCTION sync._note_mirror(integer, integer, text), sync._begin_mirror_history(), sync._prune_mirror_history(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync._prune_mirror_history(integer) TO sync_worker, sync_admin;
