-- Reconciliation: references. What a document says of another record may be right and not the same to the letter:
-- a system that goes on naming a customer who was merged means the survivor; and one that does not have a
-- product cannot say that a line is of it.

CREATE FUNCTION sync._pull_refs(system_id integer, object_id integer)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
    WITH manifest AS (
        SELECT m.manifest, m.manifest #> ARRAY['objects', o.name, 'pull'] AS pull
          FROM sync.system y CROSS JOIN sync.object o CROSS JOIN LATERAL sync._manifest(y.name) m (manifest) WHERE y.id = $1 AND o.id = $2),
    field AS (
        SELECT false AS in_lines, f.key, f.value, m.manifest FROM manifest m CROSS JOIN LATERAL jsonb_each(m.pull -> 'fields') f
        UNION ALL
        SELECT true, f.key, f.value, m.manifest FROM manifest m CROSS JOIN LATERAL jsonb_each(m.pull #> '{lines,fields}') f),
    expression AS (
        SELECT f.in_lines, f.key, f.value FROM field f
        UNION ALL
        SELECT f.in_lines, f.key, f.manifest #> ARRAY['define', u.name #>> '{}'] FROM field f CROSS JOIN LATERAL jsonb_path_query(f.value, '$.**."$use"') u (name))
    SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object('in_lines', e.in_lines, 'field', e.key, 'object_id', t.id, 'unknown', coalesce(r.ref ->> 'unbound' = 'null', false))), '[]')
      FROM expression e
     CROSS JOIN LATERAL jsonb_path_query(e.value, '$.** ? (exists(@.ref) && !exists(@.by))') r (ref)
      JOIN sync.object t ON t.name = r.ref ->> 'ref');
END
$$;
COMMENT ON FUNCTION sync._pull_refs(integer, integer) IS
    'Which fields that a system shows of an object, and of its lines, are references, to which object, and whether a record that it does not have reads as null';

CREATE FUNCTION sync._survivor(object_id integer, record_id text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    next text := record_id;
BEGIN
    WHILE next IS NOT NULL LOOP
        record_id := next;
        next := (SELECT m.survivor FROM sync.merge m WHERE m.object_id = $1 AND m.loser = record_id AND m.undone_at IS NULL);
    END LOOP;
    RETURN record_id;
END
$$;
COMMENT ON FUNCTION sync._survivor(integer, text) IS 'The record that a record was merged into, else itself';

-- A row, or a line: its references to merged records become such to the survivors; those that the system cannot
-- know become null (system_id NULL: none do).
CREATE FUNCTION sync._refs_read(part jsonb, refs jsonb, in_lines boolean, system_id integer)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT part || coalesce(jsonb_object_agg(v.field, CASE WHEN v.unknown AND NOT EXISTS (SELECT FROM sync.external_id x
                                                                 WHERE x.object_id = v.object_id AND x.record_id = v.record_id AND x.system_id = $4)
                                                           THEN 'null' ELSE to_jsonb(v.record_id) END), '{}')
      FROM (SELECT r.field, r.object_id, r.unknown AND $4 IS NOT NULL AS unknown, sync._survivor(r.object_id, part ->> r.field) AS record_id
              FROM jsonb_to_recordset(refs) r (in_lines boolean, field text, object_id integer, unknown boolean)
             WHERE r.in_lines = $3 AND jsonb_typeof(part -> r.field) IN ('string', 'number')) v
$$;
COMMENT ON FUNCTION sync._refs_read(jsonb, jsonb, boolean, integer) IS 'A row or line with its references to merged records as such to the survivors, and those that a system cannot know as null';

CREATE FUNCTION sync._document_refs_read(body jsonb, refs jsonb, system_id integer)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._refs_read($1, $2, false, $3) || CASE WHEN jsonb_typeof($1 -> 'lines') = 'array' THEN jsonb_build_object('lines', coalesce((
               SELECT jsonb_agg(CASE jsonb_typeof(l.line) WHEN 'object' THEN sync._refs_read(l.line, $2, true, $3) ELSE l.line END ORDER BY l.n)
                 FROM jsonb_array_elements($1 -> 'lines') WITH ORDINALITY l (line, n)), '[]')) ELSE '{}' END
$$;
COMMENT ON FUNCTION sync._document_refs_read(jsonb, jsonb, integer) IS 'As sync._refs_read(), of a record with its lines';

-- What differs is looked at again with its references read so, where it is about them.
CREATE FUNCTION sync._differing(object_id integer, resolution_ms bigint, ours jsonb[], theirs jsonb[], refs jsonb, system_id integer,
                                our_refs jsonb DEFAULT NULL, our_system_id integer DEFAULT NULL)
RETURNS jsonb[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    differs jsonb[] := sync._fields_differing(object_id, resolution_ms, ours, theirs);
    all_refs jsonb := refs || coalesce(our_refs, '[]');
    about text[] := ARRAY(SELECT DISTINCT CASE WHEN (r ->> 'in_lines')::boolean THEN 'lines' ELSE r ->> 'field' END FROM jsonb_array_elements(all_refs) r);
    again integer[] := ARRAY(SELECT d.n FROM unnest(differs) WITH ORDINALITY d (fields, n) WHERE d.fields ?| about ORDER BY d.n);
    found jsonb[];
BEGIN
    IF again = '{}' THEN
        RETURN differs;
    END IF;
    found := sync._fields_differing(object_id, resolution_ms,
                                    ARRAY(SELECT sync._document_refs_read(ours[a.i], refs, $6) FROM unnest(again) WITH ORDINALITY a (i, n) ORDER BY a.n),
                                    ARRAY(SELECT sync._document_refs_read(theirs[a.i], coalesce(our_refs, refs), CASE WHEN our_refs IS NOT NULL THEN our_system_id END) FROM unnest(again) WITH ORDINALITY a (i, n) ORDER BY a.n));
    FOR i IN 1 .. cardinality(again) LOOP
        differs[again[i]] := found[i];
    END LOOP;
    RETURN differs;
END
$$;
COMMENT ON FUNCTION sync._differing(integer, bigint, jsonb[], jsonb[], jsonb, integer, jsonb, integer) IS
    'As sync._fields_differing(), with references read as the system can mean them; of two systems both ways: refs and system_id are of the second, our_… of the first';
