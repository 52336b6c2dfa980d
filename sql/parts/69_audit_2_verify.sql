-- What an auditor asks: is the trail as it was sealed, and as it was anchored?

-- The seals themselves: each continues the one before and is as it was hashed.
CREATE FUNCTION sync._verify_seals()
RETURNS TABLE (status text, audit_id bigint, seal_id bigint, what text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH chain AS (
        SELECT s.id, s.ids[1] AS first_row, s.prev_hash, s.hash, sync._seal_hash(s) AS computed,
               coalesce(lag(s.id) OVER w, b.seal) AS before, coalesce(lag(s.hash) OVER w, b.hash) AS before_hash,
               lag(s.ids) OVER w AS before_ids, b.last_id, b.cut_id
          FROM sync.audit_seal s CROSS JOIN sync._audit_base b
        WINDOW w AS (ORDER BY s.id))
    SELECT 'removed', coalesce((SELECT max(i) FROM unnest(c.before_ids) i), c.last_id) + 1, c.before + 1,
           CASE WHEN c.id = c.before + 2 THEN format('seal %s is missing', c.before + 1)
                ELSE format('seals %s to %s are missing', c.before + 1, c.id - 1) END
           || ', with its rows'
      FROM chain c WHERE c.id > c.before + 1
    UNION ALL
    SELECT 'removed', c.cut_id, c.id, format('seal %s is there, though a cut says that it went', c.id)
      FROM chain c WHERE c.id <= c.before
    UNION ALL
    SELECT 'altered', c.first_row, c.id, format('seal %s is not as it was hashed', c.id)
      FROM chain c WHERE c.computed IS DISTINCT FROM c.hash
    UNION ALL
    SELECT 'altered', coalesce(c.before_ids[1], c.first_row), c.id, format('seal %s does not continue seal %s: one of them was made anew; anchors tell which', c.id, c.before)
      FROM chain c WHERE c.id = c.before + 1 AND c.prev_hash <> c.before_hash
$$;
COMMENT ON FUNCTION sync._verify_seals() IS 'Seals that are missing, altered or do not continue each other';

-- A row that was erased in part is vouched for by the row that says so.
CREATE FUNCTION sync._is_redaction_known(entry sync.audit)
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT entry.content_hash IS NULL OR EXISTS (
        SELECT FROM sync.audit r
         WHERE r.action = 'audit.redacted' AND r.id > entry.id
           AND r.detail -> 'rows' ->> entry.id::text
               = encode(sha256(convert_to(jsonb_build_array(entry.detail, entry.reason)::text, 'UTF8')), 'hex'))
$$;
COMMENT ON FUNCTION sync._is_redaction_known(sync.audit) IS 'Whether what stands in a row that was erased in part is what the erasure left there';

CREATE FUNCTION sync._verify_rows()
RETURNS TABLE (status text, audit_id bigint, seal_id bigint, what text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT v.status, v.id, v.seal, v.what
      FROM (SELECT l.id, s.id AS seal,
                   CASE WHEN a.id IS NULL THEN 'removed' WHEN sync._audit_hash(a) <> l.leaf OR NOT sync._is_redaction_known(a) THEN 'altered'
                        WHEN a.xid >= pg_snapshot_xmax(s.snap) AND a.at < s.began_after - interval '1 min' THEN 'forged' END AS status,
                   CASE WHEN a.id IS NULL THEN format('row %s, sealed at %s, is missing', l.id, s.sealed_at)
                        WHEN sync._audit_hash(a) <> l.leaf THEN format('row %s was changed after it was sealed at %s', l.id, s.sealed_at)
                        WHEN NOT sync._is_redaction_known(a) THEN format('detail or reason of row %s was taken out, and no erasure says so', l.id)
                        ELSE format('row %s says %s, but its transaction began after %s: it was backdated, or the clock set back',
                                    l.id, a.at, s.began_after) END AS what
              FROM (SELECT t.id, t.ids, t.leaves, t.sealed_at, lag(t.began_after) OVER w AS began_after,
                           CASE WHEN lag(t.incarnation) OVER w = t.incarnation THEN lag(t.snapshot) OVER w END AS snap
                      FROM sync.audit_seal t WINDOW w AS (ORDER BY t.id)) s
             CROSS JOIN LATERAL unnest(s.ids, s.leaves) l (id, leaf)
              LEFT JOIN sync.audit a ON a.id = l.id) v
     WHERE v.status IS NOT NULL
$$;
COMMENT ON FUNCTION sync._verify_rows() IS 'Sealed rows that are missing or are not as they were';

-- Rows that no seal holds: those of transactions that the newest seal could not see; any other claims to be
-- of a transaction that it must have seen, and so was put there behind the writers' back.
CREATE FUNCTION sync._verify_unsealed()
RETURNS TABLE (status text, audit_id bigint, seal_id bigint, what text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN f.why IS NULL THEN 'unsealed' ELSE 'forged' END, a.id, NULL::bigint, format('row %s %s', a.id, f.why)
      FROM sync.audit a
      LEFT JOIN (SELECT * FROM sync.audit_seal s ORDER BY s.id DESC LIMIT 1) s ON s.incarnation = sync._writer_incarnation()
     CROSS JOIN LATERAL (SELECT CASE
            WHEN s.id IS NULL THEN NULL
            WHEN a.xid >= pg_snapshot_xmax(pg_current_snapshot()) AND a.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()
                THEN format('claims transaction %s, which has not begun', a.xid)
            WHEN a.incarnation < s.incarnation AND a.xid <> ALL (ARRAY(SELECT pg_snapshot_xip(s.snapshot)))
                THEN format('claims incarnation %s, which was over when seal %s was made', a.incarnation, s.id)
            WHEN a.incarnation > s.incarnation + 1 THEN format('claims incarnation %s, which has not begun', a.incarnation)
            WHEN pg_visible_in_snapshot(a.xid, s.snapshot) THEN format('claims transaction %s, which had ended when seal %s was made', a.xid, s.id)
            WHEN a.xid >= pg_snapshot_xmax(s.snapshot) AND a.at < s.began_after - interval '1 min'
                THEN format('says %s, but its transaction began after %s: it was backdated, or the clock set back', a.at, s.began_after) END AS why) f
     WHERE NOT EXISTS (SELECT FROM (SELECT unnest(t.ids) AS id FROM sync.audit_seal t) sealed WHERE sealed.id = a.id)
$$;
COMMENT ON FUNCTION sync._verify_unsealed() IS 'Rows that are not sealed, and those among them that cannot be what they say';

-- Ids written as 3-5,8.
CREATE FUNCTION sync._expand_ids(ids text)
RETURNS SETOF bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT generate_series(split_part(p, '-', 1)::bigint, coalesce(nullif(split_part(p, '-', 2), ''), p)::bigint)
      FROM string_to_table($1, ',') p
$$;
COMMENT ON FUNCTION sync._expand_ids(text) IS 'Row ids of an anchor';

CREATE FUNCTION sync._parse_anchors(text text)
RETURNS TABLE (incarnation integer, seal bigint, total bigint, ids text, hash bytea, marks text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT ON (m[2]::integer, m[3]::bigint, m[6]) m[2]::integer, m[3]::bigint, m[4]::bigint, m[5], decode(m[6], 'hex'), m[8]
      FROM string_to_table($1, E'\n') line
     CROSS JOIN LATERAL regexp_match(line, 'sync_ext audit anchor: hub=(\S+) incarnation=(\d{1,9}) seal=(\d{1,18}) at=\S+ rows=\d+ total=(\d{1,18}) '
                                           || 'ids=([0-9,-]+) hash=([0-9a-f]{64})( marks=([0-9a-f]+))?') m
     WHERE m[1] = coalesce((SELECT h.hub_id::text FROM sync.hub h), 'none')
     ORDER BY m[2]::integer, m[3]::bigint, m[6], m[8] NULLS LAST
$$;
COMMENT ON FUNCTION sync._parse_anchors(text) IS 'Anchors of this hub in the lines of an anchor file, or of a server log';

-- The first row at which a seal differs from its anchor, by the marks; without marks the first of them all.
CREATE FUNCTION sync._first_difference(seal sync.audit_seal, ids text, marks text)
RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT min(coalesce(was.id, now.id))
           FROM (SELECT i.id, substr($3, (8 * (i.n - 1) + 1)::integer, 8) AS mark
                   FROM sync._expand_ids($2) WITH ORDINALITY i (id, n)) was
           FULL JOIN (SELECT l.id, left(encode(l.leaf, 'hex'), 8) AS mark FROM unnest(seal.ids, seal.leaves) l (id, leaf)) now USING (id)
          WHERE $3 IS NOT NULL AND was.mark IS DISTINCT FROM now.mark),
        (SELECT min(i) FROM sync._expand_ids($2) i))
$$;
COMMENT ON FUNCTION sync._first_difference(sync.audit_seal, text, text) IS 'The first row at which a seal differs from its anchor';

CREATE FUNCTION sync._verify_anchors(text text)
RETURNS TABLE (status text, audit_id bigint, seal_id bigint, what text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN s.id IS NULL AND p.seal > b.seal THEN 'cut off' ELSE 'altered' END,
           CASE WHEN s.id IS NULL THEN (SELECT min(i) FROM sync._expand_ids(p.ids) i) ELSE sync._first_difference(s, p.ids, p.marks) END,
           p.seal,
           CASE WHEN s.id IS NULL AND p.seal > b.seal THEN
                    format('seal %s of incarnation %s was anchored, with rows %s (%s rows in all), and is not here', p.seal, p.incarnation, p.ids, p.total)
                WHEN s.id IS NULL THEN format('seal %s was cut with another hash than it was anchored with', p.seal)
                WHEN s.incarnation <> p.incarnation THEN
                    format('seal %s was anchored by incarnation %s; here is one of incarnation %s', p.seal, p.incarnation, s.incarnation)
                ELSE format('seal %s was anchored with another hash: it was made anew', p.seal) END
      FROM sync._parse_anchors($1) p
     CROSS JOIN sync._audit_base b
      LEFT JOIN sync.audit_seal s ON s.id = p.seal
     WHERE CASE WHEN s.id IS NOT NULL THEN s.hash <> p.hash WHEN p.seal = b.seal THEN b.hash <> p.hash ELSE p.seal > b.seal END
$$;
COMMENT ON FUNCTION sync._verify_anchors(text) IS 'Anchors that the seals here do not bear out';

CREATE FUNCTION sync.verify_audit(anchor text DEFAULT NULL)
RETURNS TABLE (status text, audit_id bigint, seal_id bigint, what text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    lines text := coalesce($1, (SELECT string_agg(l, E'\n') FROM sync._anchor_lines() l));
    anchored bigint;
    found jsonb;
    seals bigint;
    sealed bigint;
    waiting bigint;
BEGIN
    SELECT max(p.seal) INTO anchored FROM sync._parse_anchors(lines) p;
    IF $1 IS NOT NULL AND anchored IS NULL THEN
        RAISE EXCEPTION 'the text holds no anchor of this hub'
            USING ERRCODE = 'SE071', DETAIL = 'An anchor is a line that has "sync_ext audit anchor: hub=" and the id of this hub.',
                  HINT = 'Give the lines of the anchor file, or of the server log, as they are.';
    END IF;
    -- One statement, so one snapshot: rows and seals that come meanwhile are the next verification's.
    WITH finding AS MATERIALIZED (
        SELECT * FROM sync._verify_seals() UNION ALL SELECT * FROM sync._verify_rows()
        UNION ALL SELECT * FROM sync._verify_unsealed() UNION ALL SELECT * FROM sync._verify_anchors(lines))
    SELECT (SELECT jsonb_agg(to_jsonb(f) ORDER BY f.audit_id, f.seal_id, f.what)
              FROM (SELECT * FROM finding t WHERE t.status <> 'unsealed' ORDER BY t.audit_id, t.seal_id, t.what LIMIT 100) f),
           (SELECT count(*) FROM finding t WHERE t.status = 'unsealed'),
           (SELECT count(*) FROM sync.audit_seal), (SELECT coalesce(sum(cardinality(s.ids)), 0) FROM sync.audit_seal s)
      INTO found, waiting, seals, sealed;
    RETURN QUERY SELECT f.status, f.audit_id, f.seal_id, f.what
                   FROM jsonb_to_recordset(coalesce(found, '[]')) f (status text, audit_id bigint, seal_id bigint, what text);
    RETURN QUERY SELECT 'cut', b.cut_id, b.seal, format('rows up to %s (seal %s) were cut at %s by %s: %s', b.last_id, b.seal, b.cut_at, b.cut_by, b.reason)
                   FROM sync._audit_base b WHERE b.cut_id IS NOT NULL;
    RETURN QUERY SELECT 'unsealed', NULL::bigint, NULL::bigint, format('%s rows are not sealed yet', waiting);
    RETURN QUERY SELECT CASE WHEN found IS NULL THEN 'ok' ELSE 'broken' END, NULL::bigint, anchored,
                        concat_ws('; ', CASE WHEN found IS NULL THEN format('%s rows in %s seals are as they were sealed', sealed, seals)
                                             ELSE format('%s findings, the first one concerns row %s', jsonb_array_length(found), found -> 0 ->> 'audit_id') END,
                                  CASE WHEN anchored IS NULL THEN 'no anchor was compared: what was cut off, or made anew with its seals, does not show'
                                       ELSE format('compared with anchors up to seal %s', anchored) END);
END
$$;
COMMENT ON FUNCTION sync.verify_audit(text) IS
    'Whether the audit trail is as it was sealed and anchored: names rows that were altered, removed, forged or cut off, and says how many are not sealed yet. Takes lines of the anchor file or the server log; without any, the file on this server';
