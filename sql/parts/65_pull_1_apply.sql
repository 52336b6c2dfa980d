-- Pull: applying a page by hand, the inbox.

CREATE FUNCTION sync._apply_page(
    stream_id integer, items jsonb, began_at timestamptz DEFAULT clock_timestamp(),
    fetched boolean DEFAULT false, whole boolean DEFAULT false,
    OUT applied integer, OUT mirrored integer, OUT unchanged integer, OUT bound integer,
    OUT to_inbox integer, OUT read_again integer, OUT held boolean)
LANGUAGE c VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- as a hub has them: keys and values are compared as texts
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET jit = off
AS 'MODULE_PATHNAME', 'se_apply_page';
COMMENT ON FUNCTION sync._apply_page(integer, jsonb, timestamptz, boolean, boolean) IS
    'Applies raw remote records as a page of a stream, without a request; for tests of manifests';
REVOKE ALL ON FUNCTION sync._apply_page(integer, jsonb, timestamptz, boolean, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync._apply_page(integer, jsonb, timestamptz, boolean, boolean) TO sync_admin;

COMMENT ON COLUMN sync.mirror.pushed_at IS 'When our last push of the record ended, or our last read of it by id began: a page asked for earlier, or a journal entry from before, may be older';

CREATE VIEW sync.inbox_status AS
SELECT i.id, y.name AS system, o.name AS object, i.remote_id,
       i.mapped ->> o.number_column::text AS record_number,
       x.record_id,
       CASE WHEN i.item = 'null' THEN 'reading'
            WHEN i.sqlstate = 'SE063' THEN 'undecided'
            WHEN i.wait_remote_id IS NOT NULL THEN 'waiting'
            ELSE 'failed' END AS state,
       -- The server's detail shows the whole row.
       sync._shown_message(i.object_id, CASE WHEN i.sqlstate IS NOT NULL AND sync._hides(i.object_id)
                                             THEN regexp_replace(i.reason, ' \(.*\)$', '') ELSE i.reason END, i.mapped) AS reason, i.sqlstate,
       w.name AS wait_object, i.wait_remote_id,
       i.attempts, i.received_at, clock_timestamp() - i.received_at AS age, i.retry_at,
       CASE WHEN i.item <> 'null' AND sync._hides(i.object_id) THEN '"(personal)"' ELSE i.item END AS item
  FROM sync.inbox i
  JOIN sync.system y ON y.id = i.system_id
  JOIN sync.object o ON o.id = i.object_id
  LEFT JOIN sync.object w ON w.id = i.wait_object_id
  LEFT JOIN sync.external_id x ON x.system_id = i.system_id AND x.object_id = i.object_id AND x.remote_id = i.remote_id;
COMMENT ON VIEW sync.inbox_status IS 'Inbound records that could not be applied yet: why, what they wait for, when they are tried again';
COMMENT ON COLUMN sync.inbox_status.state IS 'reading: will be read again by id; waiting: for another record; undecided: until sync.accept_matches(); failed: tried again at retry_at, or after retry_inbox()';

CREATE FUNCTION sync.retry_inbox(id bigint DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found integer;
BEGIN
    UPDATE sync.inbox i SET retry_at = clock_timestamp()
     WHERE retry_inbox.id IS NULL OR i.id = retry_inbox.id;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found = 0 AND retry_inbox.id IS NOT NULL THEN
        RAISE EXCEPTION 'there is no inbox item with id %', retry_inbox.id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.inbox_status lists the items.';
    END IF;
    IF found > 0 THEN
        PERFORM sync._audit('inbox.retried', o.name, NULL, y.name, jsonb_build_object('inbox', i.id, 'remote_id', i.remote_id))
           FROM sync.inbox i JOIN sync.object o ON o.id = i.object_id JOIN sync.system y ON y.id = i.system_id
          WHERE i.id = retry_inbox.id;
        IF retry_inbox.id IS NULL THEN
            PERFORM sync._audit('inbox.retried', detail => jsonb_build_object('items', found));
        END IF;
    END IF;
    PERFORM sync._wake();
    RETURN found;
END
$$;
COMMENT ON FUNCTION sync.retry_inbox(bigint) IS 'Has the hub map and apply an inbox item again now (all of them without an id); returns how many';

CREATE FUNCTION sync.discard_inbox(id bigint, reason text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone sync.inbox;
BEGIN
    IF discard_inbox.reason IS NULL OR btrim(discard_inbox.reason) = '' THEN
        RAISE EXCEPTION 'a reason is required'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is audited with the remote id of the item.';
    END IF;
    DELETE FROM sync.inbox i WHERE i.id = discard_inbox.id RETURNING i.* INTO gone;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no inbox item with id %', discard_inbox.id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.inbox_status lists the items.';
    END IF;
    PERFORM sync._audit('inbox.discarded', o.name, NULL, y.name, jsonb_strip_nulls(jsonb_build_object(
                'inbox', gone.id, 'remote_id', gone.remote_id, 'sqlstate', gone.sqlstate,
                'item_sha256', encode(sha256(convert_to(gone.item::text, 'UTF8')), 'hex'))), discard_inbox.reason)
       FROM sync.object o, sync.system y WHERE o.id = gone.object_id AND y.id = gone.system_id;
END
$$;
COMMENT ON FUNCTION sync.discard_inbox(bigint, text) IS 'Throws an inbox item away; the next change of its remote record comes in as usual';

REVOKE ALL ON FUNCTION sync.retry_inbox(bigint), sync.discard_inbox(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.retry_inbox(bigint), sync.discard_inbox(bigint, text) TO sync_admin, sync_operator;
GRANT SELECT ON sync.inbox_status TO sync_admin, sync_operator, sync_auditor;
