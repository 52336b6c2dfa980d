-- What the reports of the month end share: where the canonical tables are, and of what period they speak.
--
-- Reports read canonical tables with the rights of whoever asks: the tables are not the extension's, and
-- row security of their owner holds here, too. What mirrors say comes from functions that return amounts alone.

-- Queries are written for schema canonical, and come out for the one where the model stands.
CREATE FUNCTION sync._model_query(query text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stands name := sync._canonical_schema();
    lacks text;
BEGIN
    SELECT string_agg(DISTINCT format('%I.%I', stands, m[1]), ', ') INTO lacks
      FROM regexp_matches(query, '\mcanonical\.(\w+)\M(?!\()', 'g') m
     WHERE to_regclass(format('%I.%I', stands, m[1])) IS NULL;
    IF lacks IS NOT NULL THEN
        RAISE EXCEPTION 'the canonical model is missing, or incomplete, in schema "%"', stands
            USING ERRCODE = 'SE084', DETAIL = format('There is no %s.', lacks),
                  HINT = format('Make it with sync.create_canonical_model(%1$L), bring an older one up to date with sync.upgrade_canonical_model(%1$L), '
                                'or, where it stands in another schema, sync.track() its tables.', stands);
    END IF;
    RETURN regexp_replace(query, '\mcanonical\.', replace(quote_ident(stands), '\', '\\') || '.', 'g');
END
$$;
COMMENT ON FUNCTION sync._model_query(text) IS 'A query over schema canonical, for the schema where the model stands; an error where it lacks a table';

-- Beyond these the ends of months and days in time zones are no dates or times any more.
CREATE FUNCTION sync._check_day(day date)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
BEGIN
    IF day NOT BETWEEN '0001-01-01' AND '9999-12-31' THEN
        RAISE EXCEPTION 'a report cannot speak of %', day
            USING ERRCODE = 'datetime_field_overflow', DETAIL = 'Its days are those of the years 1 to 9999.',
                  HINT = 'For all that there is, take a first day and a last day that lie around it, such as 1970-01-01 and 2100-01-01.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_day(date) IS 'An error unless a day is in a year from 1 to 9999';

CREATE FUNCTION sync._check_period(period daterange)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF period IS NULL OR isempty(period) OR lower_inf(period) OR upper_inf(period)
       OR lower(period) = '-infinity' OR upper(period) = 'infinity' THEN
        RAISE EXCEPTION 'a report needs a period with a first and a last day'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'October 2026 is daterange(''2026-10-01'', ''2026-11-01'').';
    END IF;
    PERFORM sync._check_day(lower(period)), sync._check_day(upper(period) - 1);
END
$$;
COMMENT ON FUNCTION sync._check_period(daterange) IS 'An error unless the period has a first and a last day';

-- Every currency that the model knows, whether there is an amount in it or not: a report in one that is misspelt would
-- be empty where there is nothing to translate, and speak of rates where there is.
CREATE FUNCTION sync._check_currency(currency text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known boolean;
BEGIN
    EXECUTE sync._model_query('SELECT EXISTS (SELECT FROM canonical.currency c WHERE c.code::text = $1)') INTO known USING currency;
    IF NOT known THEN
        RAISE EXCEPTION 'there is no currency "%"', currency
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'The canonical table currency has no such code.',
                  HINT = 'A currency is three capital letters, such as EUR.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_currency(text) IS 'An error unless the model has the currency';

-- The rate of a day is the last one published until then; of several sources the first by name. NULL: there is none.
CREATE FUNCTION sync._rate(from_currency text, to_currency text, day date)
RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = on -- reports that do without loops call it row by row
AS $$
DECLARE
    found numeric;
BEGIN
    IF from_currency = to_currency THEN
        RETURN 1;
    END IF;
    EXECUTE sync._model_query($q$
        SELECT r.rate FROM canonical.fx_rate r
         WHERE r.from_currency = $1 AND r.to_currency = $2 AND r.rate_date <= $3 ORDER BY r.rate_date DESC, r.source LIMIT 1 $q$)
       INTO found USING from_currency::bpchar, to_currency::bpchar, day;
    RETURN found;
END
$$;
COMMENT ON FUNCTION sync._rate(text, text, date) IS 'Rate of exchange of a day, by the canonical table fx_rate';

-- In the place of a rate that is missing: an amount that is left out would make a sum that looks right.
CREATE FUNCTION sync._no_rate(from_currency text, to_currency text, day date)
RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'there is no rate from % to % on %', from_currency, to_currency, to_char(day, 'YYYY-MM-DD')
        USING ERRCODE = 'SE084', DETAIL = 'Without it the amounts are not known in that currency.',
              HINT = 'Rates stand in the canonical table fx_rate; the newest one until a day holds.';
END
$$;
COMMENT ON FUNCTION sync._no_rate(text, text, date) IS 'The error of a rate of exchange that is missing';

-- ---- with the rights of the owner of the tables ----

CREATE FUNCTION sync._as_model_owner(query text, args jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner name;
BEGIN
    SELECT pg_get_userbyid(c.relowner) INTO owner FROM pg_class c WHERE c.oid = to_regclass(sync._model_query('canonical.invoice'));
    RETURN sync._run_as(owner, query, args, NULL, NULL)::jsonb;
END
$$;
COMMENT ON FUNCTION sync._as_model_owner(text, jsonb) IS 'Answer of a query over $1[1], run with the rights of who owns the canonical tables';

CREATE FUNCTION sync._entity_of(code text, OUT id text, OUT timezone text)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e ->> 'id', e ->> 'timezone'
      FROM sync._as_model_owner(sync._model_query($q$
               SELECT jsonb_build_object('id', t.id, 'timezone', t.timezone) FROM canonical.legal_entity t WHERE t.code = $1[1] ->> 'entity' $q$),
               jsonb_build_object('entity', code)) e
$$;
COMMENT ON FUNCTION sync._entity_of(text) IS 'Id and time zone of a legal entity; NULL when there is none';
