-- Reconciliation: everything, without a join. Each side is folded into sums of hashes by bucket (src/reconcile/fold.c),
-- and only records in buckets whose sums are not the same are compared one by one.

CREATE FUNCTION sync._fold_row(internal, key bytea, buckets integer, id "any", day date, entity text, currency text, amount numeric, told numeric, VARIADIC "any")
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_fold_row';
CREATE FUNCTION sync._fold_mirror(internal, key bytea, buckets integer, names text[], types oid[], record_id text, remote_id text, deleted boolean, fields jsonb)
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_fold_mirror';
CREATE FUNCTION sync._fold_binding(internal, key bytea, buckets integer, record_id text, remote_id text)
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_fold_binding';
CREATE FUNCTION sync._fold_combine(internal, internal)
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_fold_combine';
CREATE FUNCTION sync._fold_write(internal)
RETURNS bytea LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_fold_write';
CREATE FUNCTION sync._fold_read(bytea, internal)
RETURNS internal LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_fold_read';
COMMENT ON FUNCTION sync._fold_row(internal, bytea, integer, "any", date, text, text, numeric, numeric, "any") IS 'Step of sync._fold_rows()';
COMMENT ON FUNCTION sync._fold_mirror(internal, bytea, integer, text[], oid[], text, text, boolean, jsonb) IS 'Step of sync._fold_mirrors()';
COMMENT ON FUNCTION sync._fold_binding(internal, bytea, integer, text, text) IS 'Step of sync._fold_bindings()';
COMMENT ON FUNCTION sync._fold_combine(internal, internal) IS 'Joins folds of parallel workers';
COMMENT ON FUNCTION sync._fold_write(internal) IS 'A fold as bytes';
COMMENT ON FUNCTION sync._fold_read(bytea, internal) IS 'A fold out of bytes';

CREATE AGGREGATE sync._fold_rows(key bytea, buckets integer, id "any", day date, entity text, currency text, amount numeric, told numeric, VARIADIC "any") (
    SFUNC = sync._fold_row, STYPE = internal, SSPACE = 4000000, FINALFUNC = sync._fold_write, COMBINEFUNC = sync._fold_combine,
    SERIALFUNC = sync._fold_write, DESERIALFUNC = sync._fold_read, PARALLEL = SAFE);
CREATE AGGREGATE sync._fold_mirrors(key bytea, buckets integer, names text[], types oid[], record_id text, remote_id text, deleted boolean, fields jsonb) (
    SFUNC = sync._fold_mirror, STYPE = internal, SSPACE = 4000000, FINALFUNC = sync._fold_write, COMBINEFUNC = sync._fold_combine,
    SERIALFUNC = sync._fold_write, DESERIALFUNC = sync._fold_read, PARALLEL = SAFE);
CREATE AGGREGATE sync._fold_bindings(key bytea, buckets integer, record_id text, remote_id text) (
    SFUNC = sync._fold_binding, STYPE = internal, SSPACE = 4000000, FINALFUNC = sync._fold_write, COMBINEFUNC = sync._fold_combine,
    SERIALFUNC = sync._fold_write, DESERIALFUNC = sync._fold_read, PARALLEL = SAFE);
COMMENT ON AGGREGATE sync._fold_rows(bytea, integer, "any", date, text, text, numeric, numeric, "any") IS
    'Records of ours as sums of hashes by bucket, with counts and amounts by day, entity and currency; told: the amount as far as the system has it';
COMMENT ON AGGREGATE sync._fold_mirrors(bytea, integer, text[], oid[], text, text, boolean, jsonb) IS
    'Mirrors as sums of hashes by bucket: what they say, and what they are bound to; names and types: the members that rows are folded by';
COMMENT ON AGGREGATE sync._fold_bindings(bytea, integer, text, text) IS 'Bindings as sums of hashes by bucket';

CREATE FUNCTION sync._unlike_buckets(rows bytea, mirrors bytea, bindings bytea, OUT buckets bytea, OUT share double precision, OUT unbound boolean)
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'se_unlike_buckets';
COMMENT ON FUNCTION sync._unlike_buckets(bytea, bytea, bytea) IS
    'Buckets that are not the same in three folds (NULL: all are), their share of all, and whether bindings and mirrors differ';

CREATE FUNCTION sync._in_buckets(buckets bytea, id "any")
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'se_in_buckets';
COMMENT ON FUNCTION sync._in_buckets(bytea, "any") IS 'Whether the bucket of a record is one of these';

CREATE FUNCTION sync._fold_groups(rows bytea)
RETURNS TABLE (day date, entity text, currency text, n bigint, with_amount bigint, amount numeric, with_told bigint, told numeric)
LANGUAGE c IMMUTABLE STRICT
AS 'MODULE_PATHNAME', 'se_fold_groups';
COMMENT ON FUNCTION sync._fold_groups(bytea) IS 'Counts and amounts of a fold of rows';

-- How an object's rows are folded: by the members that most of the mirrors have. Mirrors with others are compared one
-- by one. The types are those that letters.c can tell; the lines of a document are no column.
CREATE FUNCTION sync._fold_shape(run sync.reconciliation, OUT names text[], OUT types oid[], OUT values_sql text, OUT id_sql text, OUT told_sql text, OUT buckets integer)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    foldable CONSTANT regtype[] := '{text,varchar,bpchar,uuid,date,timestamptz,numeric,bigint,integer,smallint,boolean,jsonb}';
    o sync.object;
    side record := sync._side(run.object_id);
    n bigint;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = run.object_id;
    -- Of the first and the last, which mostly are the oldest and the newest.
    SELECT k.keys INTO names
      FROM (SELECT ARRAY(SELECT jsonb_object_keys(s.fields)) AS keys
              FROM ((SELECT m.fields FROM sync.mirror m WHERE m.system_id = run.system_id AND m.object_id = run.object_id AND NOT m.deleted ORDER BY m.remote_id LIMIT 100)
                    UNION ALL
                    (SELECT m.fields FROM sync.mirror m WHERE m.system_id = run.system_id AND m.object_id = run.object_id AND NOT m.deleted ORDER BY m.remote_id DESC LIMIT 100)) s) k
     GROUP BY k.keys ORDER BY count(*) DESC LIMIT 1;
    SELECT count(*), array_agg(b.oid ORDER BY u.n), string_agg(format('c.%I', u.name), ', ' ORDER BY u.n)
      INTO n, types, values_sql
      FROM unnest(names) WITH ORDINALITY u (name, n)
      JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = u.name AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type y ON y.oid = a.atttypid
      JOIN pg_type b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END AND b.oid = ANY (foldable);
    IF n = 0 OR n < cardinality(names) THEN
        names := NULL;
        RETURN;
    END IF;
    SELECT CASE WHEN cardinality(o.key_columns) = 1 AND b.oid IN ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype)
                THEN side.key_sql ELSE side.record_sql END INTO id_sql
      FROM pg_attribute a
      JOIN pg_type y ON y.oid = a.atttypid
      JOIN pg_type b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END
     WHERE a.attrelid = o.table_oid AND a.attname = o.key_columns[1];
    told_sql := replace(side.told_sql, 'm.fields', format('%L::jsonb', to_jsonb(names)));
    -- Some four records to a bucket, as far as is known.
    SELECT 2 ^ greatest(14, least(20, ceil(log(2, 1 + sum(greatest(r.reltuples, 0))::numeric / 4)))) INTO buckets
      FROM pg_class r WHERE r.oid = o.table_oid OR r.oid IN (SELECT p.relid FROM pg_partition_tree(o.table_oid) p);
END
$$;
COMMENT ON FUNCTION sync._fold_shape(sync.reconciliation) IS
    'How the rows of an object are folded: members and their types, columns and id as expressions over alias c, the amount that mirrors have, and how many buckets; NULL: they cannot be';

-- One after the other: rows, mirrors, bindings. EXECUTE, since SELECT INTO asks for one row, which no parallel worker gives.
CREATE FUNCTION sync._fold_sides(run sync.reconciliation, shape record, OUT rows bytea, OUT mirrors bytea, OUT bindings bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side record := sync._side(run.object_id);
    key bytea := uuid_send(gen_random_uuid()); -- 122 bits that nobody knows
BEGIN
    EXECUTE format('SELECT sync._fold_rows($1, $2, %s, %s, %s, %s, %s, %s, %s) FROM %s c',
                   shape.id_sql, side.day_sql, side.entity_sql, side.currency_sql, side.amount_sql, shape.told_sql, shape.values_sql, side.relation)
       INTO rows USING key, shape.buckets;
    EXECUTE 'SELECT sync._fold_mirrors($1, $2, $3, $4, m.record_id, m.remote_id, m.deleted, m.fields) FROM sync.mirror m WHERE m.system_id = $5 AND m.object_id = $6'
       INTO mirrors USING key, shape.buckets, shape.names, shape.types, run.system_id, run.object_id;
    EXECUTE 'SELECT sync._fold_bindings($1, $2, x.record_id, x.remote_id) FROM sync.external_id x WHERE x.system_id = $3 AND x.object_id = $4'
       INTO bindings USING key, shape.buckets, run.system_id, run.object_id;
END
$$;
COMMENT ON FUNCTION sync._fold_sides(sync.reconciliation, record) IS 'Folds the rows of an object, the mirrors of a system and their bindings';

-- Bindings and mirrors of these buckets that do not say the same of each other.
CREATE FUNCTION sync._unlike_bindings(system_id integer, object_id integer, buckets bytea)
RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(SELECT coalesce(x.remote_id, m.remote_id)
                   FROM (SELECT e.remote_id, e.record_id FROM sync.external_id e
                          WHERE e.system_id = $1 AND e.object_id = $2 AND sync._in_buckets(buckets, e.record_id)) x
                   FULL JOIN (SELECT i.remote_id, i.record_id FROM sync.mirror i
                               WHERE i.system_id = $1 AND i.object_id = $2 AND sync._in_buckets(buckets, coalesce(i.record_id, i.remote_id))) m ON m.remote_id = x.remote_id
                  WHERE m.record_id IS DISTINCT FROM x.record_id)
$$;
COMMENT ON FUNCTION sync._unlike_bindings(integer, integer, bytea) IS 'Remote ids of which binding and mirror do not say the same, in these buckets';

-- The records of buckets that are not the same, one by one: mirrors that do not agree to the letter (odd), rows without a
-- mirror (unsent), and what is to be added to the groups of all rows, so that they hold those that agree.
CREATE FUNCTION sync._compare_buckets(run sync.reconciliation, shape record, buckets bytea, but text[], OUT odd text[], OUT unsent text[], OUT moved jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side record := sync._side(run.object_id);
BEGIN
    EXECUTE format($sql$
        WITH pair AS MATERIALIZED (
            SELECT %1$s AS day, %2$s AS entity, %3$s AS currency, %4$s AS amount, %5$s AS told, %6$s AS told_by_most, %7$s IS NOT NULL AS here, m.remote_id,
                   CASE WHEN m.remote_id IS NULL THEN NULL WHEN %7$s IS NULL THEN m.record_id IS NULL AND m.deleted
                        ELSE NOT m.deleted AND sync._row_agrees(c.*, m.fields) END AS agrees,
                   %8$s AS record_id, row_number() OVER (PARTITION BY %8$s ORDER BY m.remote_id) = 1 AS first
              FROM (SELECT i.* FROM sync.mirror i
                     WHERE i.system_id = $3 AND i.object_id = $4 AND sync._in_buckets($1, coalesce(i.record_id, i.remote_id))) m
              FULL JOIN (SELECT c.* FROM %9$s c WHERE sync._in_buckets($1, %10$s)) c ON %11$s),
        moved AS (
            SELECT p.day, p.entity, p.currency, 1 AS n, p.amount, p.told FROM pair p WHERE p.here AND p.agrees AND p.remote_id <> ALL ($2)
            UNION ALL
            SELECT p.day, p.entity, p.currency, -1, - p.amount, - p.told_by_most FROM pair p WHERE p.here AND p.first)
        SELECT ARRAY(SELECT p.remote_id FROM pair p WHERE NOT p.agrees AND p.remote_id <> ALL ($2)),
               ARRAY(SELECT p.record_id FROM pair p WHERE p.here AND (p.remote_id IS NULL OR p.remote_id = ANY ($2))),
               (SELECT jsonb_agg(to_jsonb(g))
                  FROM (SELECT v.day, v.entity, v.currency, sum(v.n) AS n, sum(v.n) FILTER (WHERE v.amount IS NOT NULL) AS with_amount, sum(v.amount) AS amount,
                               sum(v.n) FILTER (WHERE v.told IS NOT NULL) AS with_told, sum(v.told) AS told FROM moved v GROUP BY 1, 2, 3) g)
    $sql$, side.day_sql, side.entity_sql, side.currency_sql, side.amount_sql, side.told_sql, shape.told_sql, side.key_sql, side.record_sql, side.relation, shape.id_sql,
           format(side.found_sql, 'm.record_id'))
       INTO odd, unsent, moved USING buckets, but, run.system_id, run.object_id;
END
$$;
COMMENT ON FUNCTION sync._compare_buckets(sync.reconciliation, record, bytea, text[]) IS
    'Compares the records in buckets that are not the same; moved: counts and amounts to be added to those of all rows';

-- As sync._compare_all() with sync._unlike_bindings() and sync._unsent(), without a join where nearly all agree. done:
-- whether it could be told so; unlike, odd and unsent: what takes a closer look.
CREATE FUNCTION sync._compare_folded(run sync.reconciliation, OUT done boolean, OUT unlike text[], OUT odd text[], OUT unsent text[], OUT sums jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shape record := sync._fold_shape(run);
    fold record;
    differ record;
    moved jsonb;
BEGIN
    done := false;
    IF shape.names IS NULL THEN
        RETURN;
    END IF;
    fold := sync._fold_sides(run, shape);
    differ := sync._unlike_buckets(fold.rows, fold.mirrors, fold.bindings);
    -- Where much differs, or mirrors have members of many kinds, one join of everything takes less.
    IF differ.share > 0.25 THEN
        RETURN;
    END IF;
    done := true;
    unlike := '{}';
    odd := '{}';
    unsent := '{}';
    IF differ.buckets IS NOT NULL THEN
        IF differ.unbound THEN
            unlike := sync._unlike_bindings(run.system_id, run.object_id, differ.buckets);
        END IF;
        SELECT c.* INTO odd, unsent, moved FROM sync._compare_buckets(run, shape, differ.buckets, unlike) c;
    END IF;
    WITH parts AS (
        SELECT g.* FROM sync._fold_groups(fold.rows) g
        UNION ALL
        SELECT m.* FROM jsonb_to_recordset(moved) m (day date, entity text, currency text, n bigint, with_amount bigint, amount numeric, with_told bigint, told numeric)),
    summed AS (
        SELECT p.entity, date_trunc('month', p.day)::date AS period, p.currency, sum(p.n) AS n, CASE WHEN sum(p.with_amount) > 0 THEN sum(p.amount) END AS amount,
               CASE WHEN sum(p.with_told) > 0 THEN sum(p.told) END AS told
          FROM parts p WHERE run.period IS NULL OR p.day IS NULL OR p.day <@ run.period GROUP BY 1, 2, 3)
    SELECT coalesce(jsonb_agg(to_jsonb(s)), '[]') INTO sums FROM summed s WHERE s.n > 0;
END
$$;
COMMENT ON FUNCTION sync._compare_folded(sync.reconciliation) IS
    'Mirrors and rows that do not agree to the letter, and counts and amounts of the others, by sums of hashes; done: whether it could be told so';
