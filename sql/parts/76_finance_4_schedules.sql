-- Revenue schedules: made from invoice lines, and recognized month by month. Both write canonical tables
-- with the rights of whoever calls them.

-- What each month of a term takes, by days: what is earned until the end of the month, rounded, less what
-- was before. So the parts sum to the total, none has the other sign, and the last takes what rounding leaves.
CREATE FUNCTION sync._straight_line(total numeric, first_day date, last_day date, digits integer)
RETURNS TABLE (period date, amount numeric)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.month, round(total * m.until / m.days, digits) - coalesce(lag(round(total * m.until / m.days, digits)) OVER (ORDER BY m.month), 0)
      FROM (SELECT g::date AS month, least(last_day, (g + interval '1 month')::date - 1) - first_day + 1 AS until, last_day - first_day + 1 AS days
              FROM generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp, interval '1 month') g) m
$$;
COMMENT ON FUNCTION sync._straight_line(numeric, date, date, integer) IS 'Months of a term and the share of each in a total, by days';

-- The same by what was rated in each month, in proportion; nothing where that is nothing in all.
CREATE FUNCTION sync._by_usage(total numeric, months date[], rated numeric[], digits integer)
RETURNS TABLE (period date, amount numeric)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT u.month, round(total * u.until / u.whole, digits) - coalesce(lag(round(total * u.until / u.whole, digits)) OVER (ORDER BY u.month), 0)
      FROM (SELECT r.month, sum(r.rated) OVER (ORDER BY r.month) AS until, sum(r.rated) OVER () AS whole FROM unnest(months, rated) r (month, rated)) u
     WHERE u.whole > 0
$$;
COMMENT ON FUNCTION sync._by_usage(numeric, date[], numeric[], integer) IS 'Months of usage and the share of each in a total, by what was rated';

-- Who recognizes revenue, or makes schedules, and who plans them anew come one after the other: between a plan and
-- its writing no month becomes a journal.
CREATE FUNCTION sync._lock_schedules(standard text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sync_ext revenue'), hashtext(standard));
END
$$;
COMMENT ON FUNCTION sync._lock_schedules(text) IS 'Keeps others from recognizing revenue, or making schedules, of a standard until the transaction ends';

-- Lines billed in the period that have a term of service, an account to defer to and no schedule of the standard.
CREATE FUNCTION sync._lines_to_schedule(period daterange, standard text)
RETURNS TABLE (line uuid, contract uuid, entity uuid, timezone text, currency text, digits integer, total numeric, first_day date, last_day date, usage boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        SELECT l.id, i.contract_id, e.id, e.timezone, i.currency::text, canonical.minor_units(i.currency), l.net_amount, l.service_start,
               coalesce(l.service_end, l.service_start), coalesce(p.model = 'usage', false)
          FROM canonical.invoice_line l
          JOIN canonical.invoice i ON i.id = l.invoice_id AND i.type = 'standard' AND i.status NOT IN ('draft', 'void')
          JOIN canonical.customer c ON c.id = i.customer_id
          JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
          JOIN canonical.product d ON d.id = l.product_id AND d.deferred_account IS NOT NULL
          LEFT JOIN canonical.price p ON p.id = l.price_id
         WHERE coalesce(i.posting_date, i.issue_date) <@ $1 AND l.service_start IS NOT NULL AND l.net_amount <> 0
           AND NOT EXISTS (SELECT FROM canonical.revenue_schedule r WHERE r.invoice_line_id = l.id AND r.standard = $2 AND r.status <> 'canceled') $q$)
    USING period, standard;
END
$$;
COMMENT ON FUNCTION sync._lines_to_schedule(daterange, text) IS 'Invoice lines of a period that lack a revenue schedule';

-- Usage is earned when it was used: by the months of what was rated, in proportion. A usage line without
-- rated records goes by days.
CREATE FUNCTION sync.build_revenue_schedules(period daterange, standard text DEFAULT 'IFRS15')
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made bigint;
BEGIN
    PERFORM sync._check_period(period);
    PERFORM sync._check_standard(standard);
    -- Who comes second finds them made.
    PERFORM sync._lock_schedules(standard);
    EXECUTE sync._model_query($q$
        WITH todo AS MATERIALIZED (
            SELECT t.*, gen_random_uuid() AS schedule FROM sync._lines_to_schedule($1, $2) t
        ), used AS MATERIALIZED (
            SELECT t.schedule, date_trunc('month', u.occurred_at AT TIME ZONE t.timezone)::date AS period, sum(u.rated_amount) AS rated
              FROM todo t JOIN canonical.usage_record u ON u.invoice_line_id = t.line AND u.rated_amount IS NOT NULL
             WHERE t.usage GROUP BY 1, 2
        ), weight AS (
            SELECT u.schedule, array_agg(u.period) AS months, array_agg(u.rated) AS rated FROM used u GROUP BY u.schedule HAVING sum(u.rated) > 0
        ), part AS (
            SELECT t.schedule, s.period, s.amount FROM todo t JOIN weight w ON w.schedule = t.schedule CROSS JOIN LATERAL sync._by_usage(t.total, w.months, w.rated, t.digits) s
            UNION ALL
            SELECT t.schedule, s.period, s.amount FROM todo t CROSS JOIN LATERAL sync._straight_line(t.total, t.first_day, t.last_day, t.digits) s
             WHERE NOT EXISTS (SELECT FROM weight w WHERE w.schedule = t.schedule)
        ), header AS (
            INSERT INTO canonical.revenue_schedule (id, invoice_line_id, contract_id, legal_entity_id, method, currency, total_amount, start_date, end_date, standard)
            SELECT t.schedule, t.line, t.contract, t.entity, CASE WHEN t.usage THEN 'usage' ELSE 'straight_line' END, t.currency, t.total, t.first_day, t.last_day, $2
              FROM todo t RETURNING id
        ), line AS (
            INSERT INTO canonical.revenue_schedule_line (schedule_id, period, amount)
            SELECT p.schedule, p.period, p.amount FROM part p JOIN header h ON h.id = p.schedule WHERE p.amount <> 0
        )
        SELECT count(*) FROM header $q$)
       INTO made USING period, standard;
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync.build_revenue_schedules(daterange, text) IS
    'Makes the revenue schedules that invoice lines of a period lack: by days, or by usage; returns how many';

-- ---- recognized ----

-- Days on which the revenue of a period's months is posted: the last of each.
CREATE FUNCTION sync._posting_days(period daterange)
RETURNS SETOF date
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (m + interval '1 month')::date - 1 FROM generate_series(lower(period)::timestamp, (upper(period) - 1)::timestamp, interval '1 month') m
$$;
COMMENT ON FUNCTION sync._posting_days(daterange) IS 'The last day of each month of a period';

CREATE FUNCTION sync._check_open_periods(period daterange, entity text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    closed record;
    wrong text;
BEGIN
    EXECUTE sync._model_query($q$
        SELECT e.code, p.start_date, p.status FROM canonical.accounting_period p JOIN canonical.legal_entity e ON e.id = p.legal_entity_id
         WHERE p.status <> 'open' AND ($2 IS NULL OR e.code = $2) AND EXISTS (SELECT FROM sync._posting_days($1) d WHERE d BETWEEN p.start_date AND p.end_date)
         ORDER BY e.code, p.start_date LIMIT 1 $q$) INTO closed USING period, entity;
    IF closed.code IS NOT NULL THEN
        RAISE EXCEPTION 'the period that begins on % is % for entity "%"', to_char(closed.start_date, 'YYYY-MM-DD'), replace(closed.status, '_', ' '), closed.code
            USING ERRCODE = 'SE084', DETAIL = 'Nothing is recognized in a period that takes no postings.',
                  HINT = 'Recognize an open period, or have the controller open this one in accounting_period.';
    END IF;
    EXECUTE sync._model_query($q$SELECT $1 WHERE NOT EXISTS (SELECT FROM canonical.legal_entity e WHERE e.code = $1)$q$) INTO wrong USING entity;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'there is no legal entity "%"', wrong USING ERRCODE = 'undefined_object', HINT = 'Entities go by their code in legal_entity.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_open_periods(daterange, text) IS 'An error where an accounting period of the entity, or of any, takes no postings of the revenue of a period';

-- Schedules go by months, and a month is posted on its last day: a part of one would recognize all of it. It has ended
-- when it has where the entity is.
CREATE FUNCTION sync._check_months_ended(period daterange, entity text, at timestamptz)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    early record;
BEGIN
    PERFORM sync._check_whole_months(period);
    EXECUTE sync._model_query($q$
        SELECT e.code, e.timezone, ($3 AT TIME ZONE e.timezone)::date AS today FROM canonical.legal_entity e
         WHERE ($2 IS NULL OR e.code = $2) AND ($3 AT TIME ZONE e.timezone)::date < upper($1)
         ORDER BY e.code LIMIT 1 $q$) INTO early USING period, entity, at;
    IF early.code IS NOT NULL THEN
        RAISE EXCEPTION 'the period has not ended for entity "%"', early.code
            USING ERRCODE = 'SE084', DETAIL = format('Its last day is %s; in %s it is %s.', to_char(upper(period) - 1, 'YYYY-MM-DD'), early.timezone, to_char(early.today, 'YYYY-MM-DD')),
                  HINT = 'Revenue is recognized when it is earned: wait for the end of the month, or name an entity where it has ended.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_months_ended(daterange, text, timestamptz) IS 'An error unless a period is whole months that have ended where the entity is, or each entity';

-- A journal for each entity, currency, month and pair of accounts, posted on the last day of the month.
-- Schedules on hold and of invoices that were voided wait for a person.
CREATE FUNCTION sync.recognize_revenue(period daterange, entity text DEFAULT NULL, standard text DEFAULT 'IFRS15')
RETURNS TABLE (journal uuid, legal_entity text, currency text, month date, deferred_account text, revenue_account text, amount numeric, lines bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._check_period(period);
    PERFORM sync._check_standard(standard);
    PERFORM sync._check_months_ended(period, entity, now());
    -- One after the other, so that the last month of a schedule ends it; and the periods stay open until this has committed.
    PERFORM sync._lock_schedules(standard);
    EXECUTE sync._model_query($q$
        SELECT FROM canonical.accounting_period p JOIN canonical.legal_entity e ON e.id = p.legal_entity_id
         WHERE ($2 IS NULL OR e.code = $2) AND EXISTS (SELECT FROM sync._posting_days($1) d WHERE d BETWEEN p.start_date AND p.end_date) FOR SHARE OF p $q$) USING period, entity;
    PERFORM sync._check_open_periods(period, entity);
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH due AS MATERIALIZED (
            SELECT s.id, s.schedule_id, e.id AS entity_id, e.code, e.functional_currency, r.currency, date_trunc('month', s.period::timestamp)::date AS period, d.deferred_account, d.revenue_account, s.amount
              FROM canonical.revenue_schedule_line s
              JOIN canonical.revenue_schedule r ON r.id = s.schedule_id AND r.status IN ('planned', 'active') AND r.standard = $3
              JOIN canonical.invoice_line l ON l.id = r.invoice_line_id
              JOIN canonical.invoice i ON i.id = l.invoice_id AND i.status NOT IN ('draft', 'void')
              JOIN canonical.legal_entity e ON e.id = r.legal_entity_id
              JOIN canonical.product d ON d.id = l.product_id AND d.deferred_account IS NOT NULL AND d.revenue_account IS NOT NULL
             WHERE s.status = 'planned' AND s.period <@ $1 AND ($2 IS NULL OR e.code = $2)
               FOR UPDATE OF s
        ), journal AS MATERIALIZED (
            SELECT gen_random_uuid() AS id, u.entity_id, u.code, u.functional_currency, u.currency, u.period, (u.period + interval '1 month')::date - 1 AS day, u.deferred_account, u.revenue_account,
                   sum(u.amount) AS amount, count(*) AS n
              FROM due u GROUP BY u.entity_id, u.code, u.functional_currency, u.currency, u.period, u.deferred_account, u.revenue_account
        ), header AS (
            INSERT INTO canonical.gl_entry (id, legal_entity_id, posting_date, accounting_period, currency, fx_rate, memo, status, posted_at)
            SELECT j.id, j.entity_id, j.day,
                   coalesce((SELECT max(p.start_date) FROM canonical.accounting_period p WHERE p.legal_entity_id = j.entity_id AND j.day BETWEEN p.start_date AND p.end_date), j.period),
                   j.currency, coalesce(sync._rate(j.currency, j.functional_currency, j.day), sync._no_rate(j.currency, j.functional_currency, j.day)), 'Revenue recognized, ' || to_char(j.period, 'YYYY-MM'), 'posted', now()
              FROM journal j WHERE j.amount <> 0
        ), body AS (
            INSERT INTO canonical.gl_entry_line (gl_entry_id, line_no, account_code, debit, credit, description)
            SELECT j.id, v.line_no, v.account, greatest(v.amount, 0), greatest(-v.amount, 0), 'Revenue recognized'
              FROM journal j CROSS JOIN LATERAL (VALUES (1, j.deferred_account, j.amount), (2, j.revenue_account, -j.amount)) v (line_no, account, amount)
             WHERE j.amount <> 0
        ), done AS (
            UPDATE canonical.revenue_schedule_line s SET status = 'recognized', recognized_at = now(), gl_entry_id = CASE WHEN j.amount <> 0 THEN j.id END
              FROM due u JOIN journal j ON (j.entity_id, j.currency, j.period, j.deferred_account, j.revenue_account) = (u.entity_id, u.currency, u.period, u.deferred_account, u.revenue_account)
             WHERE s.id = u.id
        ), moved AS (
            UPDATE canonical.revenue_schedule r
               SET status = CASE WHEN EXISTS (SELECT FROM canonical.revenue_schedule_line s
                                               WHERE s.schedule_id = r.id AND s.status = 'planned' AND s.id NOT IN (SELECT u.id FROM due u)) THEN 'active' ELSE 'completed' END
             WHERE r.id IN (SELECT u.schedule_id FROM due u)
        )
        SELECT CASE WHEN j.amount <> 0 THEN j.id END, j.code, j.currency::text, j.period, j.deferred_account, j.revenue_account, j.amount, j.n
          FROM journal j ORDER BY 2, 3, 4, 5, 6 $q$)
    USING period, entity, standard;
END
$$;
COMMENT ON FUNCTION sync.recognize_revenue(daterange, text, text) IS
    'Recognizes what schedules plan for a period, with a posted journal per entity, currency, month and accounts; refuses periods that take no postings';
