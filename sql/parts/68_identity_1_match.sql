-- Which remote record is which of ours: declared rules, preview, decisions.

-- Not for people: whoever could call it would have the rights of every table's owner.
CREATE FUNCTION sync._as_owner(relation regclass, statement text, argument jsonb DEFAULT NULL)
RETURNS jsonb
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
-- keys are compared as the texts that events and external ids hold
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
SET standard_conforming_strings = on
AS 'MODULE_PATHNAME', 'se_as_owner';
COMMENT ON FUNCTION sync._as_owner(regclass, text, jsonb) IS 'Runs one statement as the owner of a table; $1 in it is the argument. Returns the jsonb that it returns';

-- Who acts, whatever function runs for him: the rights of the extension's owner are not his.
CREATE FUNCTION sync._caller()
RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END
$$;
COMMENT ON FUNCTION sync._caller() IS 'The role that acts in this session';

-- What row_security_active() says of the current user, for another: policies bind neither who bypasses them, nor who has
-- the owner's rights, unless they are forced.
CREATE FUNCTION sync._role_reads(role name, relation oid)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_roles r ON r.rolname = $1
                    WHERE c.oid = $2 AND has_table_privilege(r.oid, c.oid, 'SELECT')
                      AND (NOT c.relrowsecurity OR r.rolsuper OR r.rolbypassrls OR pg_has_role(r.oid, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity))
$$;
COMMENT ON FUNCTION sync._role_reads(name, oid) IS 'Whether a role may read all rows of a table';

-- The table behind an object, and SQL over its alias t: the record id as text.
CREATE FUNCTION sync._identity_table(object_id integer, OUT relation regclass, OUT record_sql text, OUT key_columns name[],
                                     OUT key_types text[], OUT has_merged boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid,
           sync._key_sql(c.oid, o.key_columns, 't'), o.key_columns, key.types,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'merged_into_id' AND NOT a.attisdropped)
             AND cardinality(o.key_columns) = 1
      FROM sync.object o
      JOIN pg_namespace n ON n.nspname = o.schema_name
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = o.table_name
      CROSS JOIN LATERAL (SELECT array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY u.n) AS types
                            FROM unnest(o.key_columns) WITH ORDINALITY u (k, n)
                            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = u.k) key
     WHERE o.id = _identity_table.object_id
$$;
COMMENT ON FUNCTION sync._identity_table(integer) IS 'Table of an object, how its record ids are made, and whether it marks merged rows';

-- A record's row as jsonb; NULL: there is none of that id. Locked against changes and new references
-- until the transaction ends, when asked for.
CREATE FUNCTION sync._record_row(object_id integer, record_id text, locked boolean DEFAULT false)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := sync._identity_table(object_id);
    keys text[] := ARRAY[record_id];
    condition text;
BEGIN
    IF t.relation IS NULL OR record_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF cardinality(t.key_columns) > 1 THEN
        keys := ARRAY(SELECT jsonb_array_elements_text(record_id::jsonb));
    END IF;
    SELECT string_agg(format('t.%I = CAST(%L AS %s)', t.key_columns[i], keys[i], t.key_types[i]), ' AND ') INTO condition
      FROM generate_subscripts(t.key_columns, 1) i;
    RETURN sync._as_owner(t.relation, format('SELECT to_jsonb(t.*) || jsonb_build_object(''__id'', %s) FROM %s t WHERE %s%s',
                                             t.record_sql, t.relation, condition, CASE WHEN locked THEN ' FOR UPDATE' ELSE '' END));
EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range OR invalid_datetime_format OR invalid_parameter_value THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._record_row(integer, text, boolean) IS 'Row of a record, with its id as __id; NULL when there is none';

-- ---- normalisers ----

-- One text for what a function does and for what is asked of a users' table, whose owner may have no
-- right to our schema: built-in functions only. '<x>' stands for the value.
CREATE FUNCTION sync._normal_sql(how text, place integer, operand text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT replace(CASE
        WHEN how = 'email' THEN 'nullif(pg_catalog.lower(pg_catalog.btrim(<x>)), '''')'
        WHEN how = 'tax_number' THEN 'nullif(pg_catalog.upper(pg_catalog.regexp_replace(<x>, ''[^A-Za-z0-9]'', '''', ''g'')), '''')'
        WHEN how = 'name_country' AND place = 2 THEN 'nullif(pg_catalog.upper(pg_catalog.btrim(<x>)), '''')'
        WHEN how = 'name_country' THEN
            'nullif(pg_catalog.btrim(pg_catalog.regexp_replace(pg_catalog.regexp_replace(pg_catalog.regexp_replace('
            -- lower, without accents; what is no letter with an accent is spelled out
            || 'pg_catalog.replace(pg_catalog.lower('
            || CASE WHEN current_setting('server_encoding') = 'UTF8' THEN
                    'pg_catalog.regexp_replace(pg_catalog.normalize(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace('
                    || 'pg_catalog.lower(<x>), pg_catalog.chr(223), ''ss''), pg_catalog.chr(230), ''ae''), pg_catalog.chr(248), ''o''), pg_catalog.chr(322), ''l''), ''NFKD''), ''[\u0300-\u036F]'', '''', ''g'')'
               ELSE '<x>' END
            || '), ''&'', '' and ''), '
            -- S.A. is SA; other punctuation parts words
            || '''[.'''']'', '''', ''g''), '
            || '''[][!"#$%()*+,/:;<=>?@\\^_`{|}~[:space:]-]+'', '' '', ''g''), '
            || '''( (and|inc|incorporated|corp|corporation|co|company|llc|llp|lp|ltd|limited|plc|gmbh|mbh|ag|kg|kgaa|ohg|ug|se|sa|sas|sarl|srl|spa|sl|bv|nv|ab|as|asa|aps|oy|oyj|ev|eg|pty|pte|pvt))+ *$'', ''''))'
            || ', '''')'
        ELSE 'nullif(<x>, '''')' END, '<x>', operand)
$$;
COMMENT ON FUNCTION sync._normal_sql(text, integer, text) IS 'SQL that makes a value comparable';

-- Without SET, so that they are inlined and an index over them serves the look-ups of a rule.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT * FROM (VALUES
        ('normal_email', 'email', 1, 'An e-mail address as rules compare it: trimmed and in lower case'),
        ('normal_tax_number', 'tax_number', 1, 'A tax number as rules compare it: letters and digits, in capitals'),
        ('normal_name', 'name_country', 1, 'A name as rules compare it: lower case, without accents, punctuation and legal form'),
        ('normal_country', 'name_country', 2, 'A country as rules compare it: trimmed and in capitals')) v (name, how, place, said)
    LOOP
        EXECUTE format('CREATE FUNCTION sync.%I(value text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS %L',
                       item.name, 'SELECT ' || sync._normal_sql(item.how, item.place, 'value'));
        EXECUTE format('COMMENT ON FUNCTION sync.%I(text) IS %L', item.name, item.said);
    END LOOP;
END
$$;

-- ---- rules ----

CREATE FUNCTION sync._check_match_rule()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := sync._identity_table(NEW.object_id);
    field text;
    type text;
BEGIN
    IF NEW.how = 'name_country' AND cardinality(NEW.fields) <> 2 OR NEW.how IN ('email', 'tax_number') AND cardinality(NEW.fields) <> 1 THEN
        RAISE EXCEPTION 'a rule by % takes %', NEW.how, CASE NEW.how WHEN 'name_country' THEN 'two fields' ELSE 'one field' END
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given %s: %s.', cardinality(NEW.fields), array_to_string(NEW.fields, ', ')),
                  HINT = CASE NEW.how WHEN 'name_country' THEN 'Name first, then country: ''{name,billing_address.country}''.'
                                      ELSE 'Declare a further rule with a higher rank for another field.' END;
    END IF;
    FOREACH field IN ARRAY NEW.fields LOOP
        SELECT format_type(a.atttypid, NULL) INTO type FROM pg_attribute a
         WHERE a.attrelid = t.relation AND a.attname = split_part(field, '.', 1) AND a.attnum > 0 AND NOT a.attisdropped;
        IF type IS NULL OR (field LIKE '%.%' AND type NOT IN ('jsonb', 'json')) THEN
            RAISE EXCEPTION '"%" is no field of table %', field, t.relation
                USING ERRCODE = 'undefined_column',
                      HINT = 'Fields are columns; column.member reaches into a column of type jsonb.';
        END IF;
    END LOOP;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync._check_match_rule() IS 'Refuses a rule that could not be asked of the table';
CREATE TRIGGER check_rule BEFORE INSERT OR UPDATE ON sync.match_rule FOR EACH ROW EXECUTE FUNCTION sync._check_match_rule();
COMMENT ON TRIGGER check_rule ON sync.match_rule IS 'Refuses a rule that could not be asked of the table';

CREATE FUNCTION sync.set_match_rule(object text, system text, rank integer, fields text[], how text DEFAULT 'exact', reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_object integer := sync._object_id(set_match_rule.object);
    the_system integer := CASE WHEN set_match_rule.system IS NOT NULL THEN sync._system_id(set_match_rule.system) END;
    old jsonb;
BEGIN
    IF rank IS NULL OR rank < 1 THEN
        RAISE EXCEPTION 'rank must be 1 or more'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Rules are tried from rank 1 on; the first that finds a record decides.';
    END IF;
    IF how IS NULL OR how <> ALL ('{exact,email,tax_number,name_country}') THEN
        RAISE EXCEPTION 'records cannot be matched by "%"', how
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A rule is exact, email, tax_number or name_country.';
    END IF;
    IF cardinality(fields) = 0 OR array_ndims(fields) > 1 OR EXISTS (SELECT FROM unnest(fields) f WHERE f IS NULL) THEN
        RAISE EXCEPTION 'invalid fields of a rule'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'The list is empty, holds NULL, or is a list of lists.',
                  HINT = 'Name the fields that are compared, for instance ''{email}''. NULL instead of a list removes the rule of that rank.';
    END IF;
    SELECT jsonb_build_object('fields', r.fields, 'how', r.how) INTO old FROM sync.match_rule r
     WHERE r.object_id = the_object AND r.system_id IS NOT DISTINCT FROM the_system AND r.rank = set_match_rule.rank;
    DELETE FROM sync.match_rule r
     WHERE r.object_id = the_object AND r.system_id IS NOT DISTINCT FROM the_system AND r.rank = set_match_rule.rank;
    IF fields IS NOT NULL THEN
        INSERT INTO sync.match_rule (object_id, system_id, rank, fields, how)
        VALUES (the_object, the_system, set_match_rule.rank, set_match_rule.fields, set_match_rule.how);
    END IF;
    PERFORM sync._audit('match_rule.set', set_match_rule.object, NULL, set_match_rule.system,
                        jsonb_build_object('rank', rank, 'fields', fields, 'how', how, 'before', old), reason);
END
$$;
COMMENT ON FUNCTION sync.set_match_rule(text, text, integer, text[], text, text) IS
    'Declares how remote records find ours, for one system or (NULL) for all; rules replace the manifest''s match. fields NULL removes the rule of that rank';

-- Declared rules; without any, the alternatives of the connector's manifest.
CREATE FUNCTION sync._match_rules(the_system integer, the_object integer)
RETURNS TABLE (rank bigint, fields text[], how text, declared boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH declared AS (
        SELECT r.* FROM sync.match_rule r
         WHERE r.object_id = the_object
           AND (r.system_id = the_system
                OR r.system_id IS NULL AND NOT EXISTS (SELECT FROM sync.match_rule s
                                                        WHERE s.object_id = the_object AND s.system_id = the_system)))
    SELECT d.rank::bigint, d.fields, d.how, true FROM declared d
    UNION ALL
    SELECT m.n, CASE jsonb_typeof(m.columns) WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(m.columns))
                                             ELSE ARRAY[m.columns #>> '{}'] END, 'exact', false
      FROM sync.system y
     CROSS JOIN sync.object o
     CROSS JOIN LATERAL jsonb_array_elements(coalesce(sync._manifest(y.name) -> 'objects' -> o.name -> 'pull' -> 'match', '[]'))
                        WITH ORDINALITY m (columns, n)
     WHERE y.id = the_system AND o.id = the_object AND NOT EXISTS (SELECT FROM declared)
     ORDER BY 1
$$;
COMMENT ON FUNCTION sync._match_rules(integer, integer) IS 'Rules by which records of a system find ours, in order';

-- The condition of one rule, over t (our row) and i (the remote record's fields as jsonb f).
CREATE FUNCTION sync._match_condition(relation regclass, fields text[], how text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(
             format('%s = (%s) COLLATE %s',
                    sync._normal_sql(how, u.n::integer,
                        CASE WHEN cardinality(p.path) > 1 THEN format('(t.%I #>> %L)', p.path[1], p.path[2:])
                             WHEN y.typcategory = 'S' THEN format('t.%I', p.path[1])
                             ELSE format('t.%I::text', p.path[1]) END),
                    sync._normal_sql(how, u.n::integer, format('(i.f #>> %L)', p.path)),
                    -- that of the column, so that its index serves
                    coalesce(CASE WHEN how = 'exact' AND cardinality(p.path) = 1 THEN format('%I.%I', n.nspname, c.collname) END,
                             'pg_catalog."default"')),
             ' AND ' ORDER BY u.n)
      FROM unnest(fields) WITH ORDINALITY u (field, n)
     CROSS JOIN LATERAL (SELECT string_to_array(u.field, '.') AS path) p
      JOIN pg_attribute a ON a.attrelid = relation AND a.attname = p.path[1]
      JOIN pg_type y ON y.oid = a.atttypid
      LEFT JOIN pg_collation c ON c.oid = a.attcollation
      LEFT JOIN pg_namespace n ON n.oid = c.collnamespace
$$;
COMMENT ON FUNCTION sync._match_condition(regclass, text[], text) IS 'SQL condition of a rule';

-- Candidates of remote records: items is [{"n": 1, "our_id": …, "f": {fields}}]. The first rule that
-- finds any record decides; what is bound in the system already is no candidate, except by our id,
-- where it is an answer, too. At most 100 a record are told.
CREATE FUNCTION sync._match(the_system integer, the_object integer, items jsonb)
RETURNS TABLE (n integer, rule text, record_id text, bound_to text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record := sync._identity_table(the_object);
    remaining jsonb;
    step record;
    answer jsonb;
    hits integer[];
BEGIN
    -- A system may spell our id in its own way.
    SELECT coalesce(jsonb_agg(CASE WHEN i.value ->> 'our_id' IS NULL THEN i.value
                                   ELSE i.value || jsonb_build_object('our_id', sync._record_id(the_object, i.value ->> 'our_id', false)) END ORDER BY i.n), '[]')
      INTO remaining FROM jsonb_array_elements(items) WITH ORDINALITY i (value, n);
    FOR step IN
        SELECT 0::bigint AS rank, 'our_id' AS said, format('%s = i.our_id', t.record_sql) AS condition
        UNION ALL
        SELECT r.rank, format('%s (%s)', r.how, array_to_string(r.fields, ', ')), sync._match_condition(t.relation, r.fields, r.how)
          FROM sync._match_rules(the_system, the_object) r
         ORDER BY 1
    LOOP
        EXIT WHEN jsonb_array_length(remaining) = 0;
        answer := sync._as_owner(t.relation, format(
            'SELECT jsonb_agg(jsonb_build_array(i.n, %s)) FROM jsonb_to_recordset($1) i (n integer, our_id text, f jsonb) JOIN %s t ON %s%s',
            t.record_sql, t.relation, step.condition,
            CASE WHEN t.has_merged AND step.rank > 0 THEN ' AND coalesce(t.merged_into_id::text, '''') = ''''' ELSE '' END), remaining);
        CONTINUE WHEN answer IS NULL;
        hits := '{}';
        FOR n, rule, record_id, bound_to IN
            SELECT q.n, step.said, q.record_id, q.remote_id
              FROM (SELECT (e ->> 0)::integer AS n, e ->> 1 AS record_id, x.remote_id,
                           row_number() OVER (PARTITION BY e -> 0 ORDER BY e ->> 1) AS k
                      FROM jsonb_array_elements(answer) e
                      LEFT JOIN sync.external_id x ON x.object_id = the_object AND x.system_id = the_system AND x.record_id = e ->> 1
                     WHERE x.remote_id IS NULL OR step.rank = 0) q
             WHERE q.k <= 100
             ORDER BY q.n, q.record_id
        LOOP
            hits := hits || n;
            RETURN NEXT;
        END LOOP;
        SELECT coalesce(jsonb_agg(e), '[]') INTO remaining FROM jsonb_array_elements(remaining) e
         WHERE (e ->> 'n')::integer <> ALL (hits);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._match(integer, integer, jsonb) IS 'Records of ours that remote records could be, by the first rule that finds any';
