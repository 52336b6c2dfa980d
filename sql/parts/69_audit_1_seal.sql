-- The sealer: chains audit rows by hash after they have committed, so that writers pay nothing.
-- What is sealed is told by a snapshot, as with the cursors of routes: rows of transactions that were
-- running then come into a later seal, whatever their ids.

CREATE FUNCTION sync._audit_hash(entry sync.audit)
RETURNS bytea
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'se_audit_hash';
COMMENT ON FUNCTION sync._audit_hash(sync.audit) IS 'SHA-256 of an audit row as doc/audit.md writes it down; no setting of the session changes it';

CREATE FUNCTION sync._audit_content_hash(entry sync.audit)
RETURNS bytea
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'se_audit_content_hash';
COMMENT ON FUNCTION sync._audit_content_hash(sync.audit) IS 'Salted SHA-256 of detail and reason of an audit row, as they were when it was written';

CREATE FUNCTION sync._seal_hash(seal sync.audit_seal)
RETURNS bytea
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sha256(seal.prev_hash
                  || convert_to(format('%s|%s|%s|%s|%s|%s|', seal.id, trunc(extract(epoch FROM seal.sealed_at) * 1000000)::bigint,
                                       seal.incarnation, seal.snapshot,
                                       CASE WHEN isfinite(seal.began_after) THEN trunc(extract(epoch FROM seal.began_after) * 1000000)::bigint END,
                                       seal.total), 'UTF8')
                  || (SELECT string_agg(int8send(l.id) || l.leaf, '' ORDER BY l.n)
                        FROM unnest(seal.ids, seal.leaves) WITH ORDINALITY l (id, leaf, n)))
$$;
COMMENT ON FUNCTION sync._seal_hash(sync.audit_seal) IS 'SHA-256 of a seal: the hash of the one before, its own columns, and id and hash of each of its rows';

-- Zeros before the first seal; after a cut, what the newest cut says of the last seal that went.
CREATE VIEW sync._audit_base AS
SELECT coalesce((c.detail ->> 'seal')::bigint, 0) AS seal, coalesce((c.detail ->> 'total')::bigint, 0) AS total,
       coalesce((c.detail ->> 'to')::bigint, 0) AS last_id,
       coalesce(decode(c.detail ->> 'hash', 'hex'), decode(repeat('00', 32), 'hex')) AS hash, c.id AS cut_id, c.at AS cut_at,
       c.session_user_name AS cut_by, c.reason
  FROM (VALUES (1)) one
  LEFT JOIN LATERAL (SELECT * FROM sync.audit a WHERE a.action = 'audit.cut' ORDER BY a.id DESC LIMIT 1) c ON true;
COMMENT ON VIEW sync._audit_base IS 'What the oldest seal is chained to';
COMMENT ON COLUMN sync._audit_base.seal IS 'The last seal that was cut; 0: none';
COMMENT ON COLUMN sync._audit_base.total IS 'Rows up to it';
COMMENT ON COLUMN sync._audit_base.last_id IS 'The highest id among the rows that were cut';
COMMENT ON COLUMN sync._audit_base.hash IS 'Its hash';
COMMENT ON COLUMN sync._audit_base.cut_id IS 'The audit row of the cut';
COMMENT ON COLUMN sync._audit_base.cut_at IS 'When it was cut';
COMMENT ON COLUMN sync._audit_base.cut_by IS 'Who cut it';

-- Rows that have committed since the seal, in the order of their transactions, at most so many and those of
-- the last transaction whole; with the snapshot that then tells what is sealed.
CREATE FUNCTION sync._unsealed(last sync.audit_seal, at_most integer, OUT ids bigint[], OUT snapshot pg_snapshot, OUT began_after timestamptz)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own constant xid8 := pg_current_xact_id_if_assigned();
    bound xid8;
    running xid8[];
    xids xid8[];
    later xid8[];
BEGIN
    began_after := clock_timestamp();
    IF last.incarnation IS DISTINCT FROM sync._writer_incarnation() THEN
        -- Ids of transactions mean nothing across incarnations: what no seal holds, as this very statement sees it.
        SELECT pg_current_snapshot(), array_agg(a.id ORDER BY a.id) INTO snapshot, ids
          FROM sync.audit a
         WHERE a.xid IS DISTINCT FROM own
           AND NOT EXISTS (SELECT FROM (SELECT unnest(s.ids) AS id FROM sync.audit_seal s) sealed WHERE sealed.id = a.id);
    ELSE
        SELECT pg_current_snapshot() INTO snapshot;
        SELECT array_agg(t.id ORDER BY t.xid, t.id), array_agg(t.xid ORDER BY t.xid, t.id) INTO ids, xids
          FROM ((SELECT a.id, a.xid FROM sync.audit a
                  WHERE a.incarnation = ANY (ARRAY[last.incarnation - 1, last.incarnation, last.incarnation + 1])
                    AND pg_visible_in_snapshot(a.xid, snapshot) AND a.xid IS DISTINCT FROM own
                    AND a.xid = ANY (ARRAY(SELECT pg_snapshot_xip(last.snapshot)))
                    AND (a.incarnation = last.incarnation
                         OR NOT EXISTS (SELECT FROM sync.audit_seal s WHERE a.id = ANY (s.ids))))
                UNION ALL
                (SELECT a.id, a.xid FROM sync.audit a
                  WHERE a.incarnation = last.incarnation AND a.xid >= pg_snapshot_xmax(last.snapshot)
                    AND pg_visible_in_snapshot(a.xid, snapshot) AND a.xid IS DISTINCT FROM own
                  ORDER BY a.xid LIMIT at_most + 1)
                UNION ALL
                (SELECT a.id, a.xid FROM sync.audit a
                  WHERE a.incarnation = last.incarnation + 1 AND a.xid >= pg_snapshot_xmax(last.snapshot)
                    AND pg_visible_in_snapshot(a.xid, snapshot) AND a.xid IS DISTINCT FROM own
                  ORDER BY a.xid LIMIT at_most + 1)) t;
        IF cardinality(ids) > at_most THEN
            -- Up to the transaction that no longer fits; the first one whole, however large it is.
            bound := xids[at_most + 1];
            later := xids[array_position(xids, bound) :];
            IF bound = xids[1] THEN
                later := array_remove(xids, bound);
                ids := CASE WHEN bound < pg_snapshot_xmax(last.snapshot) THEN ids[: cardinality(xids) - cardinality(later)]
                            ELSE ARRAY(SELECT a.id FROM sync.audit a WHERE a.incarnation IN (last.incarnation, last.incarnation + 1) AND a.xid = bound) END;
                bound := (bound::text::numeric + 1)::text::xid8;
            ELSE
                ids := ids[: array_position(xids, bound) - 1];
            END IF;
            bound := greatest(bound, pg_snapshot_xmax(last.snapshot));
            began_after := last.began_after;
        END IF;
    END IF;
    IF ids IS NULL THEN
        RETURN;
    END IF;
    -- For the next seal those that were left count as running; so does this one, which may go on writing.
    bound := coalesce(bound, pg_snapshot_xmax(snapshot));
    running := ARRAY(SELECT x FROM (SELECT pg_snapshot_xip(snapshot) UNION SELECT own UNION SELECT unnest(later)) t (x) WHERE x < bound ORDER BY x);
    snapshot := format('%s:%s:%s', coalesce(running[1], bound), bound, array_to_string(running, ','));
    ids := ARRAY(SELECT i FROM unnest(ids) i ORDER BY i);
END
$$;
COMMENT ON FUNCTION sync._unsealed(sync.audit_seal, integer) IS 'Audit rows that the next seal is for';

CREATE FUNCTION sync._seal_audit(at_most integer DEFAULT 1000)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last sync.audit_seal;
    next sync.audit_seal;
    base record;
BEGIN
    -- One sealer at a time; the hub never waits for a person's transaction.
    IF NOT pg_try_advisory_xact_lock(hashtextextended('sync.audit_seal', 0)) THEN
        RETURN NULL;
    END IF;
    SELECT * INTO last FROM sync.audit_seal s ORDER BY s.id DESC LIMIT 1;
    SELECT * INTO base FROM sync._audit_base;
    SELECT u.ids, u.snapshot, u.began_after INTO next.ids, next.snapshot, next.began_after FROM sync._unsealed(last, at_most) u;
    IF next.ids IS NULL THEN
        RETURN 0;
    END IF;
    next.id := coalesce(last.id, base.seal) + 1;
    next.sealed_at := clock_timestamp();
    next.incarnation := sync._writer_incarnation();
    next.total := coalesce(last.total, base.total) + cardinality(next.ids);
    next.prev_hash := coalesce(last.hash, base.hash);
    SELECT array_agg(sync._audit_hash(a) ORDER BY a.id) INTO next.leaves FROM sync.audit a WHERE a.id = ANY (next.ids);
    next.hash := sync._seal_hash(next);
    INSERT INTO sync.audit_seal SELECT next.*;
    RETURN cardinality(next.ids);
END
$$;
COMMENT ON FUNCTION sync._seal_audit(integer) IS 'Seals what has committed; run by the hub within seconds. Returns how many rows; NULL when somebody else is at it';

-- The line that says of a seal all that a verifier needs; marks, the beginnings of the hashes of its rows,
-- let him name the row when the chain itself was made anew.
CREATE FUNCTION sync._anchor(seal sync.audit_seal, marks boolean DEFAULT true)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('sync_ext audit anchor: hub=%s incarnation=%s seal=%s at=%s rows=%s total=%s ids=%s hash=%s',
                  coalesce((SELECT h.hub_id::text FROM sync.hub h), 'none'), seal.incarnation, seal.id,
                  to_char(seal.sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), cardinality(seal.ids), seal.total,
                  (SELECT string_agg(CASE WHEN r.low = r.high THEN r.low::text ELSE r.low || '-' || r.high END, ',' ORDER BY r.low)
                     FROM (SELECT min(i.id) AS low, max(i.id) AS high FROM unnest(seal.ids) WITH ORDINALITY i (id, n) GROUP BY i.id - i.n) r),
                  encode(seal.hash, 'hex'))
           || CASE WHEN marks THEN ' marks=' || (SELECT string_agg(left(encode(l.leaf, 'hex'), 8), '' ORDER BY l.n)
                                                   FROM unnest(seal.leaves) WITH ORDINALITY l (leaf, n)) ELSE '' END
$$;
COMMENT ON FUNCTION sync._anchor(sync.audit_seal, boolean) IS 'A seal as a line for the anchor file or (without marks) the server log';

-- What the hub has to write outside: seals after the last one that is there.
CREATE FUNCTION sync._anchors_after(seal bigint, marks boolean, at_most integer)
RETURNS TABLE (id bigint, line text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.id, sync._anchor(s, $2)
      FROM (SELECT * FROM sync.audit_seal t WHERE t.id > $1 ORDER BY t.id LIMIT $3) s ORDER BY s.id
$$;
COMMENT ON FUNCTION sync._anchors_after(bigint, boolean, integer) IS 'Lines for the anchor file, of the seals after one';

CREATE FUNCTION sync._anchor_lines()
RETURNS SETOF text
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'se_anchor_lines';
COMMENT ON FUNCTION sync._anchor_lines() IS 'Lines of this hub''s file in sync_ext.audit_anchor_dir; none when there is no such file';

-- ---- what is taken out ----

-- Since a field is personal its values are hashed when a row is written (sync._hash_personal); what rows of
-- before hold is found by the same rules. Hashes stay.
CREATE FUNCTION sync._audit_without(value jsonb, fields text[])
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    about_one constant boolean := coalesce(value ->> 'field' = ANY (fields), false);
BEGIN
    IF jsonb_typeof(value) = 'array' THEN
        RETURN (SELECT coalesce(jsonb_agg(sync._audit_without(e.value, fields) ORDER BY e.n), '[]')
                  FROM jsonb_array_elements(value) WITH ORDINALITY e (value, n));
    ELSIF jsonb_typeof(value) IS DISTINCT FROM 'object' THEN
        RETURN value;
    END IF;
    RETURN (SELECT coalesce(jsonb_object_agg(m.key,
                CASE WHEN m.value = 'null' OR m.value ->> 'sha256' ~ '^[0-9a-f]{64}$' AND m.value = jsonb_build_object('sha256', m.value -> 'sha256') THEN m.value
                     WHEN m.key = ANY (fields) OR about_one AND m.key ~ '(^|_)(value|old|new|hub|remote|wanted|kept)$' THEN '"(personal)"'
                     ELSE sync._audit_without(m.value, fields) END), '{}')
              FROM jsonb_each(value) m);
END
$$;
COMMENT ON FUNCTION sync._audit_without(jsonb, text[]) IS 'The detail of an audit row without the values of some fields';

-- The hash of what stood there remains, so the chain holds; what stands there now is in the row that says
-- so, so nobody can change it again unseen.
CREATE FUNCTION sync._audit_erase(object text, record_id text, fields text[])
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rows jsonb;
    n bigint;
BEGIN
    SELECT jsonb_object_agg(a.id, encode(sha256(convert_to(jsonb_build_array(sync._audit_without(a.detail, $3), a.reason)::text, 'UTF8')), 'hex'))
      INTO rows
      FROM sync.audit a
     WHERE a.object = $1 AND a.record_id = $2 AND a.detail <> sync._audit_without(a.detail, $3);
    IF rows IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM sync._audit('audit.redacted', $1, $2, NULL, jsonb_build_object('fields', $3, 'rows', rows));
    UPDATE sync.audit a
       SET content_hash = coalesce(a.content_hash, sync._audit_content_hash(a)), salt = NULL, detail = sync._audit_without(a.detail, $3)
     WHERE rows ? a.id::text;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync._audit_erase(text, text, text[]) IS 'Takes the values of fields of a record out of the audit rows; the chain still holds. Returns how many rows';

CREATE FUNCTION sync.cut_audit(before timestamptz, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    retention interval;
    last record;
    first_id bigint;
    n bigint;
BEGIN
    IF cut_audit.reason IS NULL OR btrim(cut_audit.reason) = '' THEN
        RAISE EXCEPTION 'a reason is required' USING ERRCODE = 'invalid_parameter_value', HINT = 'It stands in the audit row of the cut.';
    END IF;
    -- A C function of ours loads the library, which defines the settings.
    PERFORM sync._writer_incarnation();
    retention := nullif(current_setting('sync_ext.audit_retention'), '-1');
    IF retention IS NULL OR before IS NULL OR before > clock_timestamp() - retention THEN
        RAISE EXCEPTION 'audit rows younger than sync_ext.audit_retention are not cut'
            USING ERRCODE = 'SE071',
                  DETAIL = coalesce('It is ' || retention || '.', 'It is -1: they are kept for ever.'),
                  HINT = 'A superuser sets how long they must be kept.';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('sync.audit_seal', 0));
    -- Whole seals from the old end, never the newest: the chain goes on from it.
    SELECT s.* INTO last
      FROM sync.audit_seal s
     WHERE s.id < (SELECT max(m.id) FROM sync.audit_seal m)
       AND s.id < coalesce((SELECT min(y.id) FROM sync.audit_seal y
                             WHERE y.sealed_at >= before
                                OR EXISTS (SELECT FROM sync.audit a WHERE a.id = ANY (y.ids) AND a.at >= before)), 9223372036854775807)
     ORDER BY s.id DESC LIMIT 1;
    IF last.id IS NULL THEN
        RETURN 0;
    END IF;
    SELECT count(*), min(a.id) INTO n, first_id
      FROM sync.audit_seal s CROSS JOIN LATERAL unnest(s.ids) i (id) JOIN sync.audit a ON a.id = i.id WHERE s.id <= last.id;
    PERFORM sync._audit('audit.cut', detail => jsonb_build_object(
        'before', before, 'rows', n, 'from', first_id, 'to', (SELECT max(i) FROM sync.audit_seal s CROSS JOIN LATERAL unnest(s.ids) i WHERE s.id <= last.id),
        'seal', last.id, 'total', last.total, 'hash', encode(last.hash, 'hex')), reason => cut_audit.reason);
    DELETE FROM sync.audit a USING (SELECT unnest(s.ids) AS id FROM sync.audit_seal s WHERE s.id <= last.id) gone WHERE a.id = gone.id;
    DELETE FROM sync.audit_seal s WHERE s.id <= last.id;
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync.cut_audit(timestamptz, text) IS
    'Cuts audit rows from before an instant, past sync_ext.audit_retention, and records where the chain goes on; returns how many';

CREATE FUNCTION sync._upkeep_audit()
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    retention interval;
BEGIN
    PERFORM sync._writer_incarnation();
    retention := nullif(current_setting('sync_ext.audit_retention'), '-1');
    -- By the day, so that the cuts themselves do not fill the trail.
    IF (SELECT s.sealed_at FROM sync.audit_seal s ORDER BY s.id LIMIT 1) < clock_timestamp() - retention - interval '1 day' THEN
        PERFORM sync.cut_audit(clock_timestamp() - retention, 'past sync_ext.audit_retention');
    END IF;
END
$$;
COMMENT ON FUNCTION sync._upkeep_audit() IS 'Cuts audit rows past sync_ext.audit_retention; run by the hub with its upkeep';
