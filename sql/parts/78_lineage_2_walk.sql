-- Which records a record caused, and which caused it: by the references of the tables that are tracked,
-- and by correlation and causation ids of events.
--
-- What refers to a record follows from it: the invoice from the subscription, the revenue schedule from the
-- line of the invoice. A few references of the canonical model point the other way: an amendment refers to the
-- subscription that it changes. Master data (products, accounts, …) cause nothing and are left out.

CREATE VIEW sync._reference AS
SELECT h.id AS holder_id, h.name AS holder, r.id AS referred_id, r.name AS referred, a.attname AS column_name, b.attname AS referred_column,
       c.conrelid IS NOT DISTINCT FROM h.line_oid AS from_lines, c.confrelid IS NOT DISTINCT FROM r.line_oid AS to_lines,
       (h.name, a.attname::text) IN (('amendment', 'subscription_id'), ('payment_allocation', 'payment_id'), ('payment', 'payout_id'),
           ('balance_transaction', 'payout_id'), ('revenue_schedule_line', 'gl_entry_id'), ('usage_record', 'invoice_line_id')) AS backwards
  FROM pg_catalog.pg_constraint c
  JOIN sync.object h ON c.conrelid = h.table_oid OR c.conrelid = h.line_oid
  JOIN sync.object r ON c.confrelid = r.table_oid OR c.confrelid = r.line_oid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
  JOIN pg_catalog.pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
  JOIN pg_catalog.pg_type y ON y.oid = a.atttypid AND y.typnamespace = 'pg_catalog'::regnamespace
 WHERE c.contype = 'f' AND cardinality(c.conkey) = 1 AND c.conparentid = 0
   -- lines and their header are one record; what a line is a line of is no cause of it
   AND NOT (h.id = r.id AND c.conrelid IS NOT DISTINCT FROM h.line_oid)
   AND cardinality(h.key_columns) = 1 AND cardinality(r.key_columns) = 1
   AND (h.line_oid IS NULL OR c.conrelid <> h.line_oid OR cardinality(h.line_parent_columns) = 1)
   AND (c.confrelid IS NOT DISTINCT FROM r.line_oid AND cardinality(r.line_parent_columns) = 1 OR b.attname = r.key_columns[1])
   AND r.name NOT IN ('legal_entity', 'currency', 'product', 'price', 'gl_account', 'accounting_period', 'fx_rate');
COMMENT ON VIEW sync._reference IS 'Foreign keys between tables of objects, by which one record follows from another';
COMMENT ON COLUMN sync._reference.holder_id IS 'Its id';
COMMENT ON COLUMN sync._reference.referred_id IS 'Its id';
COMMENT ON COLUMN sync._reference.column_name IS 'The column that refers';
COMMENT ON COLUMN sync._reference.referred_column IS 'The column that is referred to';
COMMENT ON COLUMN sync._reference.holder IS 'Object whose table, or table of lines, has the column';
COMMENT ON COLUMN sync._reference.referred IS 'Object that it refers to';
COMMENT ON COLUMN sync._reference.from_lines IS 'Whether lines refer, not the record itself';
COMMENT ON COLUMN sync._reference.to_lines IS 'Whether a line is referred to';
COMMENT ON COLUMN sync._reference.backwards IS 'Whether the holder is the cause of what it refers to';

-- Columns that tell what a record is, as the caller may see them. (These small functions are PL/pgSQL because
-- that keeps their plans; they are called for every step.)
CREATE FUNCTION sync._label_expression(object_id integer, alias text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT 'concat_ws('' '', ' || coalesce(string_agg(format('%s.%I::text', $2, a.attname), ', '
                 ORDER BY array_position('{kind,feature_code,stage,amount,total_amount,gross_amount,delta_mrr,mrr,currency,status}'::name[], a.attname)), 'NULL') || ')'
      FROM sync.object o
      JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type y ON y.oid = a.atttypid AND y.typnamespace = 'pg_catalog'::regnamespace
     WHERE o.id = $1 AND a.attname = ANY ('{kind,feature_code,stage,amount,total_amount,gross_amount,delta_mrr,mrr,currency,status}'::name[])
       AND NOT EXISTS (SELECT FROM sync._hidden_field f WHERE f.object_id = o.id AND f.field = a.attname));
END
$$;
COMMENT ON FUNCTION sync._label_expression(integer, text) IS 'SQL text of what a row says in a few words: kind, amount, currency, status';

CREATE FUNCTION sync._may_read(relation oid)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT coalesce((SELECT has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)
                       FROM pg_class c WHERE c.oid = $1), false));
END
$$;
COMMENT ON FUNCTION sync._may_read(oid) IS 'Whether the caller may read all rows of a table';

-- What a step tells of the records that it comes to; null where the caller may not see it.
CREATE FUNCTION sync._step_columns(o sync.object, alias text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT format('%s AS id, %s AS number, %s AS label, %s AS created_at',
        sync._key_sql($1.table_oid, $1.key_columns[1:1], $2),
        CASE WHEN $1.number_column IS NULL OR EXISTS (SELECT FROM sync._hidden_field f WHERE f.object_id = $1.id AND f.field = $1.number_column)
             THEN 'NULL::text' ELSE format('%s.%I::text', $2, $1.number_column) END,
        sync._label_expression($1.id, $2),
        CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1.table_oid AND a.attname = 'created_at' AND a.atttypid = 'timestamptz'::regtype)
             THEN $2 || '.created_at' ELSE 'NULL::timestamptz' END));
END
$$;
COMMENT ON FUNCTION sync._step_columns(sync.object, text) IS 'SQL text of what is shown of a record on the way';

CREATE FUNCTION sync._key_type(o sync.object)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (WITH RECURSIVE t (oid) AS (
                SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = $1.table_oid AND a.attname = $1.key_columns[1] AND cardinality($1.key_columns) = 1
                UNION ALL
                SELECT y.typbasetype FROM t JOIN pg_type y ON y.oid = t.oid AND y.typtype = 'd')
            SELECT format_type(y.oid, -1) FROM t JOIN pg_type y ON y.oid = t.oid AND y.typtype <> 'd' AND y.typnamespace = 'pg_catalog'::regnamespace);
END
$$;
COMMENT ON FUNCTION sync._key_type(sync.object) IS 'Type of an object''s key, looked at through domains; NULL when it is not one column of a built-in type';

-- One step along a reference, for the records whose ids are $1: to those that refer to them (to_holder), or
-- to those that they refer to.
CREATE FUNCTION sync._step_query(e sync._reference, to_holder boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    h sync.object;
    r sync.object;
    tables text;
    referring text;
    referred text;
BEGIN
    SELECT * INTO h FROM sync.object o WHERE o.id = e.holder_id;
    SELECT * INTO r FROM sync.object o WHERE o.id = e.referred_id;
    IF NOT (sync._may_read(h.table_oid) AND sync._may_read(r.table_oid) AND (NOT e.from_lines OR sync._may_read(h.line_oid))
            AND (NOT e.to_lines OR sync._may_read(r.line_oid)))
       OR sync._key_type(CASE WHEN to_holder THEN r ELSE h END) IS NULL THEN
        RETURN NULL;
    END IF;
    tables := format('%I.%I h', h.schema_name, h.table_name);
    referring := format('h.%I', e.column_name);
    IF e.from_lines THEN
        tables := tables || format(' JOIN %I.%I hl ON hl.%I = h.%I', h.line_schema, h.line_table, h.line_parent_columns[1], h.key_columns[1]);
        referring := format('hl.%I', e.column_name);
    END IF;
    referred := referring;
    IF e.to_lines THEN
        tables := tables || format(' JOIN %I.%I rl ON rl.%I = %s', r.line_schema, r.line_table, e.referred_column, referring);
        referred := format('rl.%I', r.line_parent_columns[1]);
    END IF;
    IF NOT to_holder THEN
        tables := tables || format(' JOIN %I.%I r ON r.%I = %s', r.schema_name, r.table_name, r.key_columns[1], referred);
    END IF;
    RETURN format('SELECT DISTINCT %s, %s AS source FROM %s WHERE %s = ANY ($1::%s[]) ORDER BY created_at, id LIMIT $2',
        CASE WHEN to_holder THEN sync._step_columns(h, 'h') ELSE sync._step_columns(r, 'r') END,
        -- What refers may be of another type, or scale, than what it refers to.
        CASE WHEN to_holder THEN (SELECT sync._key_text_sql(ARRAY[format('(%s)::%s', referred, format_type(a.atttypid, a.atttypmod))], ARRAY[a.atttypid])
                                    FROM pg_attribute a WHERE a.attrelid = r.table_oid AND a.attname = r.key_columns[1])
             ELSE sync._key_sql(h.table_oid, h.key_columns[1:1], 'h') END, tables,
        CASE WHEN to_holder THEN referred ELSE format('h.%I', h.key_columns[1]) END,
        sync._key_type(CASE WHEN to_holder THEN r ELSE h END));
END
$$;
COMMENT ON FUNCTION sync._step_query(sync._reference, boolean) IS 'SQL text of one step along a reference; NULL: the caller may not read it';

-- A journal entry names the record that it was made for by object and id.
CREATE FUNCTION sync._source_query(o sync.object, key_type text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT format('SELECT %s, %s AS source FROM %I.%I h WHERE h.source_object = $3 AND h.source_id = ANY ($1::%s[]) ORDER BY created_at, id LIMIT $2',
                  sync._step_columns($1, 'h'), sync._key_sql($1.table_oid, '{source_id}', 'h'), $1.schema_name, $1.table_name, format_type(b.atttypid, -1))
      FROM pg_attribute a
      JOIN pg_attribute b ON b.attrelid = a.attrelid AND b.attname = 'source_id'
      JOIN pg_type y ON y.oid = b.atttypid AND y.typnamespace = 'pg_catalog'::regnamespace
     WHERE a.attrelid = $1.table_oid AND a.attname = 'source_object' AND a.atttypid = 'text'::regtype
       AND ($2 IS NULL OR format_type(b.atttypid, -1) = $2)
       AND cardinality($1.key_columns) = 1 AND sync._may_read($1.table_oid));
END
$$;
COMMENT ON FUNCTION sync._source_query(sync.object, text) IS 'SQL text of the step to records that name others, with keys of a type, by source_object and source_id; NULL when the object has no such columns';

-- The row of a record in a few words.
CREATE FUNCTION sync._record_label(object_id integer, record_id text, OUT number text, OUT label text, OUT created_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    o sync.object;
    key_type text;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.id = _record_label.object_id;
    number := sync._record_number($1, $2);
    IF EXISTS (SELECT FROM sync._hidden_field f WHERE f.object_id = o.id AND f.field = o.number_column) THEN
        number := NULL;
    END IF;
    IF cardinality(o.key_columns) <> 1 OR NOT sync._may_read(o.table_oid) THEN
        RETURN;
    END IF;
    SELECT format_type(a.atttypid, -1) INTO key_type FROM pg_attribute a
      JOIN pg_type y ON y.oid = a.atttypid AND y.typnamespace = 'pg_catalog'::regnamespace
     WHERE a.attrelid = o.table_oid AND a.attname = o.key_columns[1];
    IF key_type IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT %s, %s FROM %I.%I t WHERE t.%I = $1::%s', sync._label_expression(o.id, 't'),
        CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = o.table_oid AND a.attname = 'created_at' AND a.atttypid = 'timestamptz'::regtype)
             THEN 't.created_at' ELSE 'NULL::timestamptz' END,
        o.schema_name, o.table_name, o.key_columns[1], key_type) INTO label, created_at USING $2;
EXCEPTION WHEN data_exception OR undefined_table OR undefined_column OR insufficient_privilege THEN
    RETURN;
END
$$;
COMMENT ON FUNCTION sync._record_label(integer, text) IS 'Number, a few words and age of a record, as far as the caller may read them';

-- All steps from records of one object, in one direction.
CREATE FUNCTION sync._steps(from_object sync.object, ids text[], down boolean, at_most integer, known sync._reference[], sources sync.object[])
RETURNS TABLE (object_id integer, record_id text, number text, label text, created_at timestamptz, via text, amends boolean, source text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
#variable_conflict use_column
DECLARE
    f sync._reference;
    o sync.object;
    step text;
BEGIN
    FOR f IN
        SELECT t.* FROM unnest(known) t WHERE CASE WHEN t.backwards = down THEN t.holder_id ELSE t.referred_id END = from_object.id
    LOOP
        step := sync._step_query(f, down <> f.backwards);
        IF step IS NOT NULL THEN
            RETURN QUERY EXECUTE format('SELECT %s, s.id, s.number, s.label, s.created_at, %L::text, %L::boolean, s.source FROM (%s) s',
                                        CASE WHEN down <> f.backwards THEN f.holder_id ELSE f.referred_id END, f.column_name, f.holder = 'amendment' AND f.backwards, step)
                USING ids, at_most;
        END IF;
    END LOOP;
    IF down THEN
        FOR o IN SELECT t.* FROM unnest(sources) t LOOP
            step := CASE WHEN sync._key_type(from_object) IS NOT NULL THEN sync._source_query(o, sync._key_type(from_object)) END;
            IF step IS NOT NULL THEN
                RETURN QUERY EXECUTE format('SELECT %s, s.id, s.number, s.label, s.created_at, %L::text, false, s.source FROM (%s) s', o.id, 'source_id', step)
                    USING ids, at_most, from_object.name;
            END IF;
        END LOOP;
    ELSIF from_object.id IN (SELECT t.id FROM unnest(sources) t) AND sync._key_type(from_object) IS NOT NULL AND sync._source_query(from_object, NULL) IS NOT NULL THEN
        RETURN QUERY EXECUTE format(
            'SELECT o.id, l.id, l.number, l.label, l.created_at, %L::text, false, l.source
               FROM (SELECT h.source_object, %s AS id, %s AS source FROM %I.%I h WHERE h.%I = ANY ($1::%s[]) LIMIT $2) h
               JOIN sync.object o ON o.name = h.source_object
              CROSS JOIN LATERAL (SELECT h.id, h.source, r.* FROM sync._record_label(o.id, h.id) r) l',
            'source_id', sync._key_sql(from_object.table_oid, '{source_id}', 'h'), sync._key_sql(from_object.table_oid, from_object.key_columns[1:1], 'h'), from_object.schema_name, from_object.table_name, from_object.key_columns[1],
            sync._key_type(from_object)) USING ids, at_most;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._steps(sync.object, text[], boolean, integer, sync._reference[], sync.object[]) IS 'Records that follow from some (down), or that these follow from';

-- Level by level, by one statement a reference. A record is reached once, by the shortest way. What an
-- amendment changed existed before it; what followed came after it. So for causes: they came before.
CREATE FUNCTION sync._walk(root_object integer, root_record text, down boolean, max_depth integer, at_most integer,
                           known sync._reference[], sources sync.object[])
RETURNS TABLE (object_id integer, record_id text, number text, label text, created_at timestamptz, depth integer, via text, parent text, node text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET intervalstyle = 'postgres' SET extra_float_digits = 1
AS $$
#variable_conflict use_column
DECLARE
    root sync.object;
    root_at timestamptz := (sync._record_label(root_object, root_record)).created_at;
    seen text[] := ARRAY[root_object || ' ' || root_record];
    front jsonb := jsonb_build_object(root_object, jsonb_build_array(root_record));
    next_front jsonb;
    k record;
    s record;
    o sync.object;
BEGIN
    SELECT * INTO root FROM sync.object t WHERE t.id = root_object;
    FOR level IN 1 .. max_depth LOOP
        next_front := '{}';
        FOR k IN SELECT j.key::integer AS object_id, ARRAY(SELECT jsonb_array_elements_text(j.value)) AS ids FROM jsonb_each(front) j ORDER BY j.key::integer LOOP
            SELECT * INTO o FROM sync.object t WHERE t.id = k.object_id;
            FOR s IN SELECT t.* FROM sync._steps(o, k.ids, down, at_most, known, sources) t LOOP
                CONTINUE WHEN s.object_id || ' ' || s.record_id = ANY (seen)
                           OR down AND root.name = 'amendment' AND level > 1 AND s.created_at < root_at
                           OR NOT down AND s.amends AND s.created_at > root_at;
                IF cardinality(seen) > at_most THEN
                    RETURN;
                END IF;
                seen := seen || (s.object_id || ' ' || s.record_id);
                next_front := jsonb_set(next_front, ARRAY[s.object_id::text], coalesce(next_front -> s.object_id::text, '[]') || to_jsonb(s.record_id));
                object_id := s.object_id; record_id := s.record_id; number := s.number; label := nullif(s.label, ''); created_at := s.created_at;
                depth := CASE WHEN down THEN level ELSE -level END; via := s.via;
                parent := k.object_id || ' ' || s.source; node := s.object_id || ' ' || s.record_id;
                RETURN NEXT;
            END LOOP;
        END LOOP;
        EXIT WHEN next_front = '{}';
        front := next_front;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._walk(integer, text, boolean, integer, integer, sync._reference[], sync.object[]) IS 'Records that a record caused (down), or that caused it, by references';
