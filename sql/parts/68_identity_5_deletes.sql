-- What a delete means, and deletes that are too many at once.

CREATE FUNCTION sync.set_delete_policy(object text, system text, policy text, deactivate jsonb DEFAULT NULL,
                                       guard_percent integer DEFAULT 20, guard_count integer DEFAULT 10, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_object integer := sync._object_id(set_delete_policy.object);
    the_system integer := CASE WHEN set_delete_policy.system IS NOT NULL THEN sync._system_id(set_delete_policy.system) END;
    t record := sync._identity_table(the_object);
    wrong text;
BEGIN
    IF policy NOT IN ('propagate', 'deactivate', 'ignore') THEN
        RAISE EXCEPTION 'invalid policy "%"', policy
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'propagate: the other side deletes, too; deactivate: fields are set there in its place; ignore: it stays. NULL: as declared for all systems, else as the manifest says.';
    END IF;
    IF (policy = 'deactivate') IS DISTINCT FROM (deactivate IS NOT NULL) AND (policy IS NOT NULL OR deactivate IS NOT NULL)
       OR deactivate IS NOT NULL AND (jsonb_typeof(deactivate) <> 'object' OR deactivate = '{}') THEN
        RAISE EXCEPTION 'policy deactivate, and only that, needs the fields to set'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example deactivate => ''{"status": "churned"}''.';
    END IF;
    SELECT k INTO wrong FROM jsonb_object_keys(coalesce(deactivate, '{}')) k
     WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.relation AND a.attname = k AND a.attnum > 0
                          AND NOT a.attisdropped AND a.attgenerated = '') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table % has no column "%" that could be set', t.relation, wrong
            USING ERRCODE = 'undefined_column', HINT = 'deactivate names columns of the object''s table.';
    END IF;
    IF guard_percent IS NULL OR guard_percent NOT BETWEEN 0 AND 100 OR guard_count IS NULL OR guard_count < 0 THEN
        RAISE EXCEPTION 'guard_percent must be between 0 and 100, guard_count not negative'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Deletes within an hour need approval when they are more than guard_count and more than guard_percent of the known records.';
    END IF;
    INSERT INTO sync.record_policy AS p (object_id, system_id, on_delete, deactivate, guard_percent, guard_count)
    VALUES (the_object, the_system, policy, set_delete_policy.deactivate, set_delete_policy.guard_percent, set_delete_policy.guard_count)
        ON CONFLICT (object_id, system_id) DO UPDATE
       SET on_delete = excluded.on_delete, deactivate = excluded.deactivate, guard_percent = excluded.guard_percent,
           guard_count = excluded.guard_count, set_at = clock_timestamp(), set_by = session_user;
    PERFORM sync._audit('delete_policy.set', object, NULL, system,
                        jsonb_build_object('policy', policy, 'deactivate', deactivate, 'guard_percent', guard_percent, 'guard_count', guard_count), reason);
END
$$;
COMMENT ON FUNCTION sync.set_delete_policy(text, text, text, jsonb, integer, integer, text) IS
    'Says what a delete means, in both directions, for one system or (NULL) all: propagate, deactivate, ignore; and how many at once need approval';

-- Deletes of the last hour, with these: too many?
CREATE FUNCTION sync._too_many_deletes(the_system integer, the_object integer, more bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    percent integer;
    least_count integer;
    recent bigint;
    known bigint;
BEGIN
    SELECT p.guard_percent, p.guard_count INTO percent, least_count FROM sync.record_policy p
     WHERE p.object_id = the_object AND (p.system_id = the_system OR p.system_id IS NULL) ORDER BY p.system_id NULLS LAST LIMIT 1;
    -- seen_at of a deleted record is when that was applied
    SELECT count(*) FILTER (WHERE m.deleted), count(*) INTO recent, known FROM sync.mirror m
     WHERE m.system_id = the_system AND m.object_id = the_object
       AND (NOT m.deleted OR m.seen_at > clock_timestamp() - interval '1 hour');
    RETURN recent + more > coalesce(least_count, 10) AND (recent + more) * 100 > known * coalesce(percent, 20);
END
$$;
COMMENT ON FUNCTION sync._too_many_deletes(integer, integer, bigint) IS 'Whether so many more deletes within the hour need approval';

-- Items is [{"remote_id", "record_id", "began_at"}]: deletes that a system tells of. Returns the remote
-- ids of those that must not be applied now.
CREATE FUNCTION sync._guard_deletes(the_system integer, the_object integer, items jsonb)
RETURNS text[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held text[];
    fresh jsonb;
BEGIN
    -- What was approved passes, once.
    WITH passed AS (
        DELETE FROM sync.held_delete h USING sync.approval_request a
         WHERE a.id = h.approval_id AND a.state = 'approved' AND h.system_id = the_system AND h.object_id = the_object
           AND h.remote_id IN (SELECT e ->> 'remote_id' FROM jsonb_array_elements(items) e)
        RETURNING h.remote_id)
    SELECT coalesce(jsonb_agg(e), '[]') INTO items FROM jsonb_array_elements(items) e
     WHERE e ->> 'remote_id' NOT IN (SELECT p.remote_id FROM passed p);
    held := ARRAY(SELECT h.remote_id FROM sync.held_delete h
                   WHERE h.system_id = the_system AND h.object_id = the_object
                     AND h.remote_id IN (SELECT e ->> 'remote_id' FROM jsonb_array_elements(items) e));
    SELECT coalesce(jsonb_agg(e), '[]') INTO fresh FROM jsonb_array_elements(items) e WHERE e ->> 'remote_id' <> ALL (held);
    IF fresh <> '[]' AND sync._too_many_deletes(the_system, the_object, jsonb_array_length(fresh)) THEN
        held := held || sync._hold_deletes(the_system, the_object, fresh);
    END IF;
    RETURN held;
END
$$;
COMMENT ON FUNCTION sync._guard_deletes(integer, integer, jsonb) IS 'Stops deletes of a system that are too many at once, and asks for approval';

CREATE FUNCTION sync._hold_deletes(the_system integer, the_object integer, items jsonb)
RETURNS text[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    object text := (SELECT o.name FROM sync.object o WHERE o.id = the_object);
    system text := (SELECT y.name FROM sync.system y WHERE y.id = the_system);
    n integer := jsonb_array_length(items);
    waits_for bigint;
BEGIN
    waits_for := sync._approval('mass_delete', object, NULL, NULL, NULL, jsonb_build_object('system', system, 'object', object),
                                format('%s deletes %s more records of object "%s", or does not list them any more', system, n, object));
    IF waits_for IS NULL THEN
        RETURN '{}';
    END IF;
    INSERT INTO sync.held_delete (system_id, object_id, remote_id, record_id, began_at, read_first, approval_id)
    SELECT the_system, the_object, e ->> 'remote_id', e ->> 'record_id', (e ->> 'began_at')::timestamptz, e ? 'read_first', waits_for
      FROM jsonb_array_elements(items) e
        ON CONFLICT ON CONSTRAINT held_delete_pkey DO NOTHING;
    INSERT INTO sync.notice AS x (key, severity, message, hint)
    VALUES (format('pull.deletes.%s.%s', system, object), 'error',
            format('system "%s" deletes %s more records of object "%s" within an hour; none of these was deleted', system, n, object),
            format('Look whether that is meant (sync.held_delete lists them), then approve or reject approval %s.', waits_for))
        ON CONFLICT (key) DO UPDATE SET message = excluded.message, hint = excluded.hint, last_at = clock_timestamp(), count = x.count + 1;
    PERFORM sync._audit('delete.held', object, NULL, system, jsonb_build_object('approval', waits_for, 'records', n), NULL);
    RETURN ARRAY(SELECT e ->> 'remote_id' FROM jsonb_array_elements(items) e);
END
$$;
COMMENT ON FUNCTION sync._hold_deletes(integer, integer, jsonb) IS 'Keeps deletes until a person approves them; returns the remote ids that wait';

-- The system lists them again.
CREATE FUNCTION sync._held_alive(the_system integer, the_object integer, remote_ids text[])
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM sync.held_delete h WHERE h.system_id = $1 AND h.object_id = $2 AND h.remote_id = ANY ($3)
$$;
COMMENT ON FUNCTION sync._held_alive(integer, integer, text[]) IS 'Forgets held deletes of records that the system lists again';

-- The hub applies them out of the inbox, with its own rights: false says that a record is gone, null has
-- it read by id first.
CREATE FUNCTION sync._approved_mass_delete(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    WITH released AS (
        INSERT INTO sync.inbox AS i (system_id, object_id, remote_id, item, reason, received_at, retry_at)
        SELECT h.system_id, h.object_id, h.remote_id,
               CASE WHEN h.read_first THEN jsonb 'null' ELSE jsonb 'false' END,
               format('deleted there; approved by approval %s', approval), h.began_at, clock_timestamp()
          FROM sync.held_delete h
         WHERE h.approval_id = approval
            ON CONFLICT (system_id, object_id, remote_id) DO UPDATE SET retry_at = clock_timestamp()
        RETURNING 1)
    SELECT count(*) INTO n FROM released;
    DELETE FROM sync.notice x WHERE x.key = format('pull.deletes.%s.%s', args ->> 'system', args ->> 'object');
    PERFORM sync._audit('delete.approved', args ->> 'object', NULL, args ->> 'system', jsonb_build_object('approval', approval, 'records', n), NULL);
    PERFORM sync._wake();
    RETURN jsonb_build_object('released', n);
END
$$;
COMMENT ON FUNCTION sync._approved_mass_delete(jsonb, bigint) IS 'Lets held deletes go';

-- Rejected, or nobody said anything in time: the records stay, and that the system deleted them is known.
CREATE FUNCTION sync._mass_delete_refused()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.mirror m SET deleted = true
      FROM sync.held_delete k
     WHERE k.approval_id = NEW.id AND m.system_id = k.system_id AND m.object_id = k.object_id AND m.remote_id = k.remote_id;
    PERFORM sync._note_mirror(k.system_id, k.object_id, k.remote_id) FROM sync.held_delete k WHERE k.approval_id = NEW.id;
    DELETE FROM sync.held_delete h WHERE h.approval_id = NEW.id;
    DELETE FROM sync.notice x WHERE x.key = format('pull.deletes.%s.%s', NEW.call ->> 'system', NEW.call ->> 'object');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._mass_delete_refused() IS 'Keeps the records of a refused mass delete';
CREATE TRIGGER mass_delete_refused AFTER UPDATE OF state ON sync.approval_request FOR EACH ROW
    WHEN (NEW.operation = 'mass_delete' AND OLD.state = 'open' AND NEW.state IN ('rejected', 'expired')) EXECUTE FUNCTION sync._mass_delete_refused();
COMMENT ON TRIGGER mass_delete_refused ON sync.approval_request IS 'Keeps the records of a refused mass delete';
