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

CREATE FUNCTION sync._refs_read(documents jsonb[], meanings jsonb)
RETURNS jsonb[]
LANGUAGE c IMMUTABLE STRICT
AS 'MODULE_PATHNAME', 'se_refs_read';
COMMENT ON FUNCTION sync._refs_read(jsonb[], jsonb) IS 'Documents with their references read as what they mean, by sync._ref_meanings()';

-- References to merged records mean the survivor; those to records that a system does not have it reads as null
-- (system_id NULL: that is not asked). Of the others nothing is said.
CREATE FUNCTION sync._ref_meanings(documents jsonb[], refs jsonb, system_id integer)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH ref AS (
        SELECT r.* FROM jsonb_to_recordset(refs) r (in_lines boolean, field text, object_id integer, unknown boolean)),
    named AS (
        SELECT r.in_lines, r.field, r.object_id, r.unknown AND $3 IS NOT NULL AS unknown, d.document ->> r.field AS record_id
          FROM unnest(documents) d (document) JOIN ref r ON NOT r.in_lines
        UNION
        SELECT r.in_lines, r.field, r.object_id, r.unknown AND $3 IS NOT NULL, l.line ->> r.field
          FROM unnest(documents) d (document)
         CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(d.document -> 'lines') WHEN 'array' THEN d.document -> 'lines' ELSE '[]' END) l (line)
          JOIN ref r ON r.in_lines),
    survived AS MATERIALIZED (
        SELECT n.*, CASE WHEN m.id IS NULL THEN n.record_id ELSE sync._survivor(n.object_id, n.record_id) END AS survivor
          FROM named n LEFT JOIN sync.merge m ON m.object_id = n.object_id AND m.loser = n.record_id AND m.undone_at IS NULL
         WHERE n.record_id IS NOT NULL),
    meant AS (
        SELECT s.in_lines, s.field, s.record_id, CASE WHEN NOT s.unknown OR x.record_id IS NOT NULL THEN s.survivor END AS record
          FROM survived s LEFT JOIN sync.external_id x ON x.object_id = s.object_id AND x.record_id = s.survivor AND x.system_id = $3)
    SELECT coalesce(jsonb_object_agg(CASE WHEN f.in_lines THEN 'lines' ELSE 'fields' END, f.fields), '{}')
      FROM (SELECT g.in_lines, jsonb_object_agg(g.field, g.ids) AS fields
              FROM (SELECT t.in_lines, t.field, jsonb_object_agg(t.record_id, t.record) AS ids
                      FROM meant t WHERE t.record IS DISTINCT FROM t.record_id GROUP BY 1, 2) g GROUP BY 1) f
$$;
COMMENT ON FUNCTION sync._ref_meanings(jsonb[], jsonb, integer) IS
    'What references of documents mean that do not mean what they name: survivors of merges, and null for what a system does not have';

-- What differs is looked at again with its references read so, where it is about them.
CREATE FUNCTION sync._differing(object_id integer, resolution_ms bigint, ours jsonb[], theirs jsonb[], refs jsonb, system_id integer,
                                our_refs jsonb DEFAULT NULL, our_system_id integer DEFAULT NULL)
RETURNS jsonb[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    differs jsonb[] := sync._fields_differing(object_id, resolution_ms, ours, theirs);
    about text[] := ARRAY(SELECT DISTINCT CASE WHEN (r ->> 'in_lines')::boolean THEN 'lines' ELSE r ->> 'field' END FROM jsonb_array_elements(refs || coalesce(our_refs, '[]')) r);
    again integer[];
    found jsonb[];
BEGIN
    SELECT array_agg(u.n ORDER BY u.n), array_agg(u.ours ORDER BY u.n), array_agg(u.theirs ORDER BY u.n) INTO again, ours, theirs
      FROM unnest(ours, theirs, differs) WITH ORDINALITY u (ours, theirs, differs, n) WHERE u.differs ?| about;
    IF again IS NULL THEN
        RETURN differs;
    END IF;
    found := sync._fields_differing(object_id, resolution_ms,
                                    sync._refs_read(ours, sync._ref_meanings(ours, refs, $6)),
                                    sync._refs_read(theirs, sync._ref_meanings(theirs, coalesce(our_refs, refs), CASE WHEN our_refs IS NOT NULL THEN our_system_id END)));
    RETURN ARRAY(SELECT CASE WHEN a.n IS NULL THEN d.differs ELSE a.differs END
                   FROM unnest(differs) WITH ORDINALITY d (differs, n) LEFT JOIN unnest(again, found) a (n, differs) ON a.n = d.n ORDER BY d.n);
END
$$;
COMMENT ON FUNCTION sync._differing(integer, bigint, jsonb[], jsonb[], jsonb, integer, jsonb, integer) IS
    'As sync._fields_differing(), with references read as the system can mean them; of two systems both ways: refs and system_id are of the second, our_… of the first';
