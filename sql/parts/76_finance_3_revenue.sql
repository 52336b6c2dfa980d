-- Deferred revenue: what was billed and is not yet earned, how it moved, and what the ledger says.

-- Per invoice line with a deferred account: what was billed, on which day, and at which rate. A line is
-- deferred that has a term of service or a schedule. Of two standards IFRS15 is followed unless told otherwise.
--
-- Everything that moves deferred revenue, as rows: opening and closing are sums over them, and so the
-- closing of a month is the opening of the next. rate is the rate it moved at, booked the one it was
-- billed at: the balance stays at that (it is not monetary), and what differs is fx.
--
-- All of it is read, and the planner knows little of how many rows a step leaves: loops within loops would take hours.
-- Rates are looked up here and not by _rate(), whose own queries would have to do without loops, too: 50 ms a line.
CREATE FUNCTION sync._deferred_moves(before date, standard text)
RETURNS TABLE (entity text, currency text, functional text, account text, day date, kind text, amount numeric, rate numeric, booked numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH plan AS MATERIALIZED (
            SELECT s.id, s.invoice_line_id FROM (
                SELECT r.id, r.invoice_line_id, r.standard, max(r.standard) OVER (PARTITION BY r.invoice_line_id) AS followed
                  FROM canonical.revenue_schedule r WHERE r.invoice_line_id IS NOT NULL AND ($2 IS NULL OR r.standard = $2)) s
             WHERE s.standard = s.followed
        ), line AS MATERIALIZED (
            SELECT l.id, e.code AS entity, e.timezone, i.currency::text, e.functional_currency::text AS functional, p.deferred_account AS account, i.status, i.voided_at,
                   coalesce(i.posting_date, i.issue_date) AS day, l.net_amount,
                   coalesce(i.fx_rate, CASE WHEN i.currency = e.functional_currency THEN 1 ELSE (SELECT x.rate FROM canonical.fx_rate x WHERE x.from_currency = i.currency AND x.to_currency = e.functional_currency AND x.rate_date <= i.issue_date ORDER BY x.rate_date DESC, x.source LIMIT 1) END) AS rate
              FROM canonical.invoice_line l
              JOIN canonical.invoice i ON i.id = l.invoice_id AND i.type = 'standard' AND i.status <> 'draft' AND i.issue_date IS NOT NULL
              JOIN canonical.customer c ON c.id = i.customer_id
              JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
              JOIN canonical.product p ON p.id = l.product_id AND p.deferred_account IS NOT NULL
              LEFT JOIN (SELECT DISTINCT s.invoice_line_id FROM plan s) h ON h.invoice_line_id = l.id
             WHERE l.service_start IS NOT NULL OR h.invoice_line_id IS NOT NULL
        )
        SELECT l.entity, l.currency, l.functional, l.account, l.day, 'billed', l.net_amount, l.rate, l.rate FROM line l WHERE l.day < $1
        UNION ALL
        SELECT l.entity, l.currency, l.functional, l.account, v.day, 'reversed', -l.net_amount, l.rate, l.rate
          FROM line l CROSS JOIN LATERAL (SELECT coalesce((l.voided_at AT TIME ZONE l.timezone)::date, l.day)) v (day)
         WHERE l.status = 'void' AND v.day < $1
        UNION ALL
        SELECT l.entity, l.currency, l.functional, l.account, s.period, CASE WHEN s.amount < 0 THEN 'reversed' ELSE 'recognized' END, -s.amount,
               coalesce(g.fx_rate, CASE WHEN l.currency <> l.functional THEN (SELECT x.rate FROM canonical.fx_rate x WHERE x.from_currency = l.currency AND x.to_currency = l.functional AND x.rate_date <= g.posting_date ORDER BY x.rate_date DESC, x.source LIMIT 1) END,
                        l.rate), l.rate
          FROM line l JOIN plan r ON r.invoice_line_id = l.id
          JOIN canonical.revenue_schedule_line s ON s.schedule_id = r.id AND s.status IN ('recognized', 'reversed') AND s.period < $1
          LEFT JOIN canonical.gl_entry g ON g.id = s.gl_entry_id
        UNION ALL
        -- A credit goes against deferred revenue where its line says so by its account.
        SELECT e.code, n.currency::text, e.functional_currency::text, l.account_code, n.issue_date, 'reversed', -l.net_amount, r.rate, r.rate
          FROM canonical.credit_note_line l
          JOIN canonical.credit_note n ON n.id = l.credit_note_id AND n.status IN ('posted', 'applied') AND n.issue_date < $1
          JOIN canonical.customer c ON c.id = n.customer_id
          LEFT JOIN canonical.invoice i ON i.id = n.invoice_id
          JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
         CROSS JOIN LATERAL (SELECT coalesce(i.fx_rate, CASE WHEN n.currency = e.functional_currency THEN 1
                                                             ELSE (SELECT x.rate FROM canonical.fx_rate x WHERE x.from_currency = n.currency AND x.to_currency = e.functional_currency AND x.rate_date <= n.issue_date ORDER BY x.rate_date DESC, x.source LIMIT 1) END) AS rate) r
         WHERE l.account_code IN (SELECT p.deferred_account FROM canonical.product p WHERE p.deferred_account IS NOT NULL) $q$)
    USING before, standard;
END
$$;
COMMENT ON FUNCTION sync._deferred_moves(date, text) IS 'What moved deferred revenue before a day: billed, recognized, reversed';

CREATE FUNCTION sync._check_whole_months(period daterange)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF extract(day FROM lower(period)) <> 1 OR extract(day FROM upper(period)) <> 1 THEN
        RAISE EXCEPTION 'revenue is recognized by whole months' USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('The period goes from %s to %s.', to_char(lower(period), 'YYYY-MM-DD'), to_char(upper(period) - 1, 'YYYY-MM-DD')),
            HINT = 'October 2026 is daterange(''2026-10-01'', ''2026-11-01'').';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_whole_months(daterange) IS 'An error unless a period is of whole months';

CREATE FUNCTION sync._check_standard(standard text, without text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF standard NOT IN ('ASC606', 'IFRS15') OR standard IS NULL AND without IS NULL THEN
        RAISE EXCEPTION 'invalid accounting standard "%"', standard
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is ASC606 or IFRS15' || coalesce('; ' || without, '') || '.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_standard(text, text) IS 'An error unless an accounting standard is known; without: what happens without one, NULL where it is needed';

-- Schedules go by months and journals by their last days: of a part of one the two would say different things.
CREATE FUNCTION sync.deferred_rollforward(period daterange, standard text DEFAULT NULL, functional boolean DEFAULT false)
RETURNS TABLE (entity text, currency text, account text, opening numeric, billed numeric, recognized numeric, reversed numeric, fx numeric, closing numeric,
               ledger_balance numeric, difference numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._check_period(period);
    PERFORM sync._check_whole_months(period);
    PERFORM sync._check_standard(standard, 'NULL follows IFRS15 where a line has a schedule of each');
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH move AS (
            SELECT m.entity, CASE WHEN $3 THEN m.functional ELSE m.currency END AS currency, m.account, m.day, m.kind,
                   CASE WHEN $3 AND m.amount <> 0 THEN m.amount * coalesce(m.rate, sync._no_rate(m.currency, m.functional, m.day)) ELSE m.amount END AS amount,
                   CASE WHEN $3 AND m.amount <> 0 THEN m.amount * coalesce(m.booked, sync._no_rate(m.currency, m.functional, m.day)) ELSE m.amount END AS booked
              FROM sync._deferred_moves(upper($1), $2) m
        ), ours AS (
            SELECT m.entity, m.currency, m.account,
                   coalesce(sum(m.booked) FILTER (WHERE m.day < lower($1)), 0) AS opening,
                   coalesce(sum(m.amount) FILTER (WHERE m.day >= lower($1) AND m.kind = 'billed'), 0) AS billed,
                   -coalesce(sum(m.amount) FILTER (WHERE m.day >= lower($1) AND m.kind = 'recognized'), 0) AS recognized,
                   coalesce(sum(m.amount) FILTER (WHERE m.day >= lower($1) AND m.kind = 'reversed'), 0) AS reversed,
                   sum(m.booked) AS closing
              FROM move m GROUP BY m.entity, m.currency, m.account
        ), books AS (
            SELECT e.code AS entity, CASE WHEN $3 THEN e.functional_currency ELSE g.currency END::text AS currency, l.account_code AS account,
                   -- A journal that tells no rate counts at that of its day, as an invoice does.
                   sum((l.credit - l.debit) * CASE WHEN $3 AND g.currency <> e.functional_currency AND l.credit <> l.debit
                                                   THEN coalesce(g.fx_rate, sync._rate(g.currency, e.functional_currency, g.posting_date), sync._no_rate(g.currency, e.functional_currency, g.posting_date))
                                                   ELSE 1 END) AS amount
              FROM canonical.gl_entry g
              JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id
              JOIN canonical.legal_entity e ON e.id = g.legal_entity_id
             WHERE g.status IN ('posted', 'reversed') AND g.posting_date < upper($1)
               AND l.account_code IN (SELECT p.deferred_account FROM canonical.product p WHERE p.deferred_account IS NOT NULL)
             GROUP BY 1, 2, 3
        ), both_sides AS (
            SELECT coalesce(o.entity, b.entity) AS entity, coalesce(o.currency, b.currency) AS currency, coalesce(o.account, b.account) AS account,
                   d.digits, round(coalesce(o.opening, 0), d.digits) AS opening, round(coalesce(o.billed, 0), d.digits) AS billed,
                   round(coalesce(o.recognized, 0), d.digits) AS recognized, round(coalesce(o.reversed, 0), d.digits) AS reversed,
                   round(coalesce(o.closing, 0), d.digits) AS closing, round(coalesce(b.amount, 0), d.digits) AS ledger
              FROM ours o FULL JOIN books b ON b.entity = o.entity AND b.currency = o.currency AND b.account = o.account
             CROSS JOIN LATERAL (SELECT canonical.minor_units(coalesce(o.currency, b.currency)::bpchar)) d (digits)
        )
        SELECT s.entity, s.currency, s.account, s.opening, s.billed, s.recognized, s.reversed, s.closing - (s.opening + s.billed - s.recognized + s.reversed),
               s.closing, s.ledger, s.closing - s.ledger
          FROM both_sides s ORDER BY s.entity, s.currency, s.account $q$)
    USING period, standard, functional;
END
$$;
COMMENT ON FUNCTION sync.deferred_rollforward(daterange, text, boolean) IS
    'Deferred revenue of a period by entity, currency and account: opening + billed - recognized + reversed + fx = closing, and the ledger''s balance';
