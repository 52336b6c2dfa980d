-- Reconciliation: the two sides of a comparison, as SQL.

CREATE FUNCTION sync._row_agrees(record, fields jsonb)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 50
AS 'MODULE_PATHNAME', 'se_row_agrees';
COMMENT ON FUNCTION sync._row_agrees(record, jsonb) IS
    'Whether each member of fields is the row''s column of that name, to the letter; false also where that cannot be told without a closer look';

CREATE FUNCTION sync._uuid(text)
RETURNS uuid
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'se_uuid';
COMMENT ON FUNCTION sync._uuid(text) IS 'A uuid as the server writes it; NULL: it is none';

CREATE FUNCTION sync._lines_agree(ours jsonb, theirs jsonb)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'se_lines_agree';
COMMENT ON FUNCTION sync._lines_agree(jsonb, jsonb) IS 'Whether two arrays of lines agree to the letter, line by line in their order; ours may have more members; false also where that takes a closer look';

CREATE FUNCTION sync._whole_number(text)
RETURNS bigint
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'se_whole_number';
COMMENT ON FUNCTION sync._whole_number(text) IS 'A whole number as the server writes it; NULL: it is none';

CREATE FUNCTION sync._key_part(record_id text, place integer, columns integer)
RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'se_key_part';
COMMENT ON FUNCTION sync._key_part(text, integer, integer) IS 'The value of the key column at a place, from 1, of a record id of so many columns; NULL: it is no such id';

-- Those of PostgreSQL 15 that collect are not for parallel workers.
CREATE AGGREGATE sync._texts(text) (SFUNC = array_append, STYPE = text[], COMBINEFUNC = array_cat, PARALLEL = SAFE);
COMMENT ON AGGREGATE sync._texts(text) IS 'As array_agg(), in parallel workers, too';

-- How much two amounts may differ and still be the same: what rounding explains.
CREATE TABLE sync.tolerance (
    system_id       integer NOT NULL REFERENCES sync.system ON DELETE CASCADE,
    object_id       integer NOT NULL REFERENCES sync.object ON DELETE CASCADE,
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount          numeric NOT NULL CHECK (amount > 0),
    reason          text NOT NULL,
    set_by          name NOT NULL DEFAULT session_user,
    set_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (system_id, object_id, currency)
);
CREATE INDEX tolerance_object_idx ON sync.tolerance (object_id);
COMMENT ON TABLE sync.tolerance IS 'Differences of amounts that are explained as rounding';
COMMENT ON COLUMN sync.tolerance.amount IS 'In currency: a difference up to this is explained';

CREATE FUNCTION sync.set_tolerance(system text, object text, amount numeric, currency text, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id($1);
    the_object integer := sync._object_id($2);
    before numeric;
BEGIN
    PERFORM sync._check_reason($5);
    IF $4 IS NULL OR $4 !~ '^[A-Z]{3}$' OR $3 IS NULL OR $3 NOT BETWEEN 0 AND 1e12 THEN
        RAISE EXCEPTION 'a tolerance is an amount in a currency'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'The amount is 0 to 1000000000000, the currency three capital letters.',
                  HINT = 'For example 0.01 and EUR; 0 takes a tolerance back.';
    END IF;
    DELETE FROM sync.tolerance t WHERE t.system_id = the_system AND t.object_id = the_object AND t.currency = $4 RETURNING t.amount INTO before;
    IF $3 > 0 THEN
        INSERT INTO sync.tolerance (system_id, object_id, currency, amount, reason) VALUES (the_system, the_object, $4, $3, $5);
    END IF;
    PERFORM sync._audit('tolerance.set', $2, NULL, $1, jsonb_build_object('amount', $3, 'currency', $4, 'before', before), $5);
END
$$;
COMMENT ON FUNCTION sync.set_tolerance(text, text, numeric, text, text) IS
    'Up to which difference amounts of an object count as rounded, in a currency; 0: not at all. A difference within it is explained, not a break';

-- Columns of an object's table by what they mean to a comparison, as expressions over alias c. Comparing
-- runs with the rights of the extension's owner, so no function of somebody else's may run: the
-- table is read in place only if its types are built in (or plain enums) and no policy is in the way.
CREATE FUNCTION sync._in_place(relation oid)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN has_table_privilege(relation, 'SELECT') AND NOT row_security_active(relation)
       AND NOT EXISTS (SELECT FROM pg_attribute a
                         JOIN pg_type y ON y.oid = a.atttypid
                         JOIN pg_type b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END
                        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
                          AND b.typnamespace <> 'pg_catalog'::regnamespace
                          AND NOT (b.typtype = 'e' AND NOT EXISTS (SELECT FROM pg_cast k WHERE k.castsource = b.oid)));
END
$$;
COMMENT ON FUNCTION sync._in_place(oid) IS 'Whether a table can be read with the rights of the extension''s owner without running anybody''s code';

-- Whose a record is, as sync._accounting_date() has it. Where the table that would tell cannot be read in place, it is not told.
CREATE FUNCTION sync._entity_sql(o sync.object)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT coalesce('coalesce(' || string_agg(w.sql, ', ' ORDER BY w.n) || ')', 'NULL::text')
      FROM (SELECT 1 AS n, 'c.legal_entity_id::text' AS sql
              FROM pg_attribute a WHERE a.attrelid = o.table_oid AND a.attname = 'legal_entity_id' AND NOT a.attisdropped
            UNION ALL
            SELECT t.n, format('(SELECT p.legal_entity_id::text FROM %I.%I p WHERE p.id%s = c.%I%s)', o.schema_name, t.name,
                               CASE WHEN k.atttypid <> a.atttypid THEN '::text' ELSE '' END, t.name || '_id', CASE WHEN k.atttypid <> a.atttypid THEN '::text' ELSE '' END)
              FROM (VALUES (2, 'invoice'), (3, 'customer')) t (n, name)
              JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = t.name || '_id' AND NOT a.attisdropped
              JOIN pg_namespace s ON s.nspname = o.schema_name
              JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = t.name AND c.relkind IN ('r', 'p') AND c.oid <> o.table_oid AND sync._in_place(c.oid)
              JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = 'id' AND NOT k.attisdropped
              JOIN pg_attribute e ON e.attrelid = c.oid AND e.attname = 'legal_entity_id' AND NOT e.attisdropped) w);
END
$$;
COMMENT ON FUNCTION sync._entity_sql(sync.object) IS 'Id of the legal entity of a record, as an expression over alias c';

-- The zones of the entities, which are few, are part of the expression.
CREATE FUNCTION sync._day_sql(o sync.object)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT CASE WHEN bool_and(w.has IS NULL) THEN 'NULL::date'
                ELSE format('sync._accounting_day(%s, %s)', string_agg(coalesce('c.' || w.has, 'NULL'), ', ' ORDER BY w.n),
                            CASE WHEN bool_or(w.n > 3 AND w.has IS NOT NULL) AND sync._entity_sql(o) <> 'NULL::text'
                                 THEN format('%L::jsonb ->> %s', sync._look_up_all(o.schema_name, 'legal_entity', 'timezone', NULL), sync._entity_sql(o)) ELSE 'NULL' END) END
      FROM (SELECT u.n, a.attname AS has
              FROM unnest(ARRAY['posting_date', 'issue_date', 'arrival_date', 'settled_at', 'attempted_at']) WITH ORDINALITY u (name, n)
              LEFT JOIN (pg_attribute a JOIN pg_type y ON y.oid = a.atttypid)
                     ON a.attrelid = o.table_oid AND a.attname = u.name AND NOT a.attisdropped
                        AND CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END = CASE WHEN u.n > 3 THEN 'timestamptz'::regtype ELSE 'date'::regtype END) w);
END
$$;
COMMENT ON FUNCTION sync._day_sql(sync.object) IS 'Accounting day of a record, as an expression over alias c';

CREATE FUNCTION sync._side(object_id integer, OUT relation regclass, OUT in_place boolean, OUT record_sql text, OUT found_sql text, OUT key_sql text,
                           OUT amount_sql text, OUT told_sql text, OUT currency_sql text, OUT entity_sql text, OUT day_sql text, OUT made_sql text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH col AS (
        SELECT a.attname::text AS name, b.oid, format_type(b.oid, NULL) AS type, CASE WHEN l.oid IS NOT NULL THEN format(' COLLATE %I.%I', n.nspname, l.collname) END AS collation
          FROM sync.object o
          JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN pg_type y ON y.oid = a.atttypid
          JOIN pg_type b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END
          LEFT JOIN pg_collation l ON l.oid = a.attcollation
          LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
         WHERE o.id = $1),
    key AS (
        SELECT u.k, u.n, cardinality(o.key_columns) AS keys, col.type, col.collation, format('c.%I', u.k) AS name, col.oid,
               CASE WHEN cardinality(o.key_columns) = 1 THEN '%1$s' ELSE format('sync._key_part(%%1$s, %s, %s)', u.n, cardinality(o.key_columns)) END AS part
          FROM sync.object o CROSS JOIN LATERAL unnest(o.key_columns) WITH ORDINALITY u (k, n) JOIN col ON col.name = u.k WHERE o.id = $1),
    -- An id that is no such key finds nothing; a cast would fail, and with it the comparison of all others.
    found AS (
        SELECT key.n, CASE
                   WHEN key.type = 'uuid' THEN format('%s = sync._uuid(%s)', key.name, key.part)
                   WHEN key.type IN ('smallint', 'integer', 'bigint') THEN format('%s = sync._whole_number(%s)', key.name, key.part)
                   WHEN key.type IN ('text', 'character varying') THEN format('%s = (%s)%s', key.name, key.part, key.collation)
                   WHEN key.type = 'character' THEN format('%s = CAST(%s AS bpchar)%s', key.name, key.part, key.collation)
                   ELSE format('%s COLLATE "C" = %s', sync._key_text_sql(ARRAY[key.name], ARRAY[key.oid]), key.part) END AS sql
          FROM (SELECT k.n, k.type, k.oid, k.collation, k.part, replace(k.name, '%', '%%') AS name FROM key k) key),
    money AS (
        SELECT string_agg('c.' || u.name, ', ' ORDER BY u.n) AS sql, string_agg(format('CASE WHEN m.fields ? %L THEN c.%s END', u.name, u.name), ', ' ORDER BY u.n) AS told
          FROM unnest(ARRAY['total_amount', 'amount', 'total_value', 'gross_amount']) WITH ORDINALITY u (name, n)
          JOIN col ON col.name = u.name AND col.type = 'numeric')
    SELECT o.table_oid, o.table_oid IS NOT NULL AND sync._in_place(o.table_oid) AND (o.line_oid IS NULL OR sync._in_place(o.line_oid)),
           (SELECT sync._key_text_sql(array_agg(k.name ORDER BY k.n), array_agg(k.oid ORDER BY k.n)) || ' COLLATE "C"' FROM key k),
           (SELECT string_agg(f.sql, ' AND ' ORDER BY f.n) FROM found f),
           (SELECT k.name FROM key k WHERE k.n = 1),
           coalesce((SELECT 'coalesce(' || m.sql || ')' FROM money m WHERE m.sql IS NOT NULL), 'NULL::numeric'),
           coalesce((SELECT 'coalesce(' || m.told || ')' FROM money m WHERE m.sql IS NOT NULL), 'NULL::numeric'),
           coalesce((SELECT 'c.currency::text' FROM col WHERE name = 'currency'), 'NULL::text'),
           sync._entity_sql(o), sync._day_sql(o),
           coalesce((SELECT 'c.created_at' FROM col WHERE name = 'created_at' AND type = 'timestamp with time zone'), 'NULL::timestamptz')
      INTO relation, in_place, record_sql, found_sql, key_sql, amount_sql, told_sql, currency_sql, entity_sql, day_sql, made_sql
      FROM sync.object o WHERE o.id = $1;
END
$$;
COMMENT ON FUNCTION sync._side(integer) IS
    'The table of an object, and its record id, amount, currency, entity, day and time of creation as expressions over alias c; found_sql is a format of how a record is found by id; told_sql: the amount of a record that agrees with mirror m, as far as that has it';
