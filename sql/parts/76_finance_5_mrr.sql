-- Monthly recurring revenue: how it moved, from subscriptions and their amendments.

-- Months that one charge of a price is for; NULL for what does not recur.
CREATE FUNCTION sync._price_months(billing_interval text, interval_count numeric)
RETURNS numeric
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT interval_count * CASE billing_interval WHEN 'month' THEN 1 WHEN 'year' THEN 12 WHEN 'week' THEN 12 / 52.0 WHEN 'day' THEN 12 / 365.0 END
$$;
COMMENT ON FUNCTION sync._price_months(text, numeric) IS 'Months that one charge of a price is for';

-- Days on which the rate of a subscription changed, and what it was from then on: the rate as it is (or
-- was, when it ended) less the amendments after; nothing before it began or its trial ended, while it was
-- paused, and since it ended. Rates go to six decimals. Days are those of the legal entity.
CREATE FUNCTION sync._mrr_steps()
RETURNS TABLE (subscription_id uuid, entity text, currency text, customer_id uuid, day date, mrr numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH change AS MATERIALIZED (
            SELECT a.subscription_id, a.kind, a.effective_at, coalesce(a.delta_mrr, 0) AS delta
              FROM canonical.amendment a WHERE a.status = 'applied' AND a.effective_at IS NOT NULL
        ), sums AS MATERIALIZED (
            SELECT c.subscription_id, coalesce(sum(c.delta) FILTER (WHERE c.kind NOT IN ('pause', 'resume', 'cancel')), 0) AS delta,
                   bool_or(c.kind = 'pause') AS paused,
                   (array_agg(-c.delta ORDER BY c.effective_at DESC) FILTER (WHERE c.kind IN ('pause', 'cancel') AND c.delta < 0))[1] AS last_rate
              FROM change c GROUP BY c.subscription_id
        ), listed AS MATERIALIZED (
            SELECT t.subscription_id, sum(CASE WHEN p.model = 'flat' THEN 1 ELSE t.quantity END * coalesce(t.unit_price, p.unit_price) * (100 - t.discount_pct) / 100
                                          / sync._price_months(p.billing_interval, p.interval_count)) AS mrr
              FROM canonical.subscription_item t JOIN canonical.price p ON p.id = t.price_id AND p.model IN ('flat', 'per_unit') AND p.billing_interval IS NOT NULL
             GROUP BY t.subscription_id
        ), sub AS MATERIALIZED (
            SELECT s.id, e.code, s.currency, s.customer_id, s.status, z.zone,
                   greatest(coalesce(s.start_date, (s.created_at AT TIME ZONE z.zone)::date), (s.trial_end AT TIME ZONE z.zone)::date) AS first_day,
                   CASE WHEN s.status IN ('canceled', 'expired')
                        THEN (coalesce(s.canceled_at, s.cancel_at, s.current_period_end, s.updated_at) AT TIME ZONE z.zone)::date END AS end_day,
                   -- A subscription that is over may be told with a rate of 0: what it was stands in its last amendment, else in its items.
                   CASE WHEN s.status IN ('active', 'past_due') THEN coalesce(s.mrr, l.mrr, 0)
                        ELSE coalesce(u.last_rate, nullif(s.mrr, 0), l.mrr, 0) END AS rate, coalesce(u.delta, 0) AS changed, u.paused,
                   (s.current_period_start AT TIME ZONE z.zone)::date AS period_day
              FROM canonical.subscription s
              JOIN canonical.customer k ON k.id = s.customer_id
              LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, k.legal_entity_id)
             CROSS JOIN LATERAL (SELECT coalesce(e.timezone, 'UTC')) z (zone)
              LEFT JOIN listed l ON l.subscription_id = s.id
              LEFT JOIN sums u ON u.subscription_id = s.id
             WHERE s.status NOT IN ('draft', 'trialing')
        ), point AS (
            SELECT s.id, s.first_day AS day, 1 AS switch, s.rate - s.changed AS delta FROM sub s
            UNION ALL
            SELECT s.id, greatest((c.effective_at AT TIME ZONE s.zone)::date, s.first_day), CASE c.kind WHEN 'pause' THEN -1 WHEN 'resume' THEN 1 ELSE 0 END,
                   CASE WHEN c.kind IN ('pause', 'resume') THEN 0 ELSE c.delta END
              FROM sub s JOIN change c ON c.subscription_id = s.id AND c.kind <> 'cancel'
            UNION ALL
            -- Paused, nobody says since when: since the running period began.
            SELECT s.id, greatest(s.period_day, s.first_day), -1, 0 FROM sub s WHERE s.status = 'paused' AND s.paused IS NOT TRUE
            UNION ALL
            SELECT s.id, greatest(s.end_day, s.first_day), -1000, 0 FROM sub s WHERE s.end_day IS NOT NULL
        ), daily AS (
            SELECT p.id, p.day, sum(p.switch) AS switch, sum(p.delta) AS delta FROM point p GROUP BY p.id, p.day
        )
        SELECT s.id, s.code, s.currency::text, s.customer_id, d.day,
               CASE WHEN sum(d.switch) OVER w > 0 THEN round(greatest(sum(d.delta) OVER w, 0), 6) ELSE 0 END
          FROM daily d JOIN sub s ON s.id = d.id
        WINDOW w AS (PARTITION BY d.id ORDER BY d.day) $q$);
END
$$;
COMMENT ON FUNCTION sync._mrr_steps() IS 'Days on which the monthly rate of a subscription changed, and the rate from then on';

-- What invoices say of the rate on a day: lines of service on that day, as charged for their interval. A line
-- for a part of one is taken for the whole, so that a change within a month nets out to the new rate.
CREATE FUNCTION sync._invoiced_mrr(day date)
RETURNS TABLE (entity text, currency text, mrr numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        SELECT e.code, i.currency::text,
               sum(l.net_amount / v.months * CASE WHEN l.proration THEN (v.last - v.whole_from)::numeric / (v.last - l.service_start) ELSE 1 END)
          FROM canonical.invoice i
          JOIN canonical.invoice_line l ON l.invoice_id = i.id AND $1 BETWEEN l.service_start AND l.service_end
          JOIN canonical.customer c ON c.id = i.customer_id
          LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
          LEFT JOIN canonical.price p ON p.id = l.price_id
         CROSS JOIN LATERAL (SELECT coalesce(sync._price_months(p.billing_interval, p.interval_count),
                                             greatest(extract(year FROM age(l.service_end + 1, l.service_start)) * 12
                                                      + extract(month FROM age(l.service_end + 1, l.service_start)), 1)) AS months,
                                    l.service_end + 1 AS last,
                                    (l.service_end + 1 - CASE WHEN p.billing_interval IS NULL THEN interval '1 month'
                                                              ELSE p.interval_count * ('1 ' || p.billing_interval)::interval END)::date AS whole_from) v
         WHERE i.type = 'standard' AND i.status NOT IN ('draft', 'void') AND p.model IS DISTINCT FROM 'usage'
           AND (i.subscription_id IS NOT NULL OR l.subscription_item_id IS NOT NULL)
         GROUP BY e.code, i.currency $q$)
    USING day;
END
$$;
COMMENT ON FUNCTION sync._invoiced_mrr(date) IS 'Monthly recurring revenue on a day as invoices tell it';

-- Per customer, entity and currency: what a customer changes on one day nets out, so that one subscription
-- that replaces another is an expansion or contraction and no churn.
CREATE FUNCTION sync._mrr_moves(before date)
RETURNS TABLE (entity text, currency text, customer_id uuid, day date, kind text, delta numeric)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH daily AS (
        SELECT s.entity, s.currency, s.customer_id, s.day, sum(s.delta) AS delta
          FROM (SELECT t.*, t.mrr - lag(t.mrr, 1, 0::numeric) OVER (PARTITION BY t.subscription_id ORDER BY t.day) AS delta FROM sync._mrr_steps() t) s
         WHERE s.day < before
         GROUP BY s.entity, s.currency, s.customer_id, s.day
        HAVING sum(s.delta) <> 0
    )
    SELECT d.entity, d.currency, d.customer_id, d.day,
           CASE WHEN d.after = d.delta AND d.n = 1 THEN 'new' WHEN d.after = d.delta THEN 'reactivation' WHEN d.after = 0 THEN 'churn'
                WHEN d.delta > 0 THEN 'expansion' ELSE 'contraction' END, d.delta
      FROM (SELECT t.*, sum(t.delta) OVER w AS after, row_number() OVER w AS n
              FROM daily t WINDOW w AS (PARTITION BY t.entity, t.currency, t.customer_id ORDER BY t.day)) d
$$;
COMMENT ON FUNCTION sync._mrr_moves(date) IS 'What moved monthly recurring revenue before a day, per customer';

CREATE FUNCTION sync.mrr_waterfall(period daterange, reporting_currency text DEFAULT NULL)
RETURNS TABLE (entity text, currency text, opening_mrr numeric, new numeric, expansion numeric, contraction numeric, churn numeric, reactivation numeric, fx numeric,
               closing_mrr numeric, opening_arr numeric, closing_arr numeric, customers bigint, invoiced_mrr numeric, difference numeric, subscription_mrr numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing record;
BEGIN
    PERFORM sync._check_period(period);
    IF reporting_currency IS NOT NULL THEN
        PERFORM sync._check_currency(reporting_currency);
        SELECT k.currency, k.day INTO missing
          FROM (SELECT m.currency, unnest(ARRAY[lower(period) - 1, upper(period) - 1, greatest(m.day, lower(period) - 1)]) AS day
                  FROM sync._mrr_moves(upper(period)) m GROUP BY 1, 2) k
         WHERE sync._rate(k.currency, reporting_currency, k.day) IS NULL
         ORDER BY k.currency, k.day LIMIT 1;
        IF FOUND THEN
            PERFORM sync._no_rate(missing.currency, reporting_currency, missing.day);
        END IF;
    END IF;
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH move AS MATERIALIZED (
            SELECT m.* FROM sync._mrr_moves(upper($1)) m
        ), rate AS MATERIALIZED (
            SELECT k.currency, k.day, CASE WHEN $2 IS NULL THEN 1 ELSE sync._rate(k.currency, $2, k.day) END AS rate
              FROM (SELECT m.currency, m.day FROM move m WHERE m.day >= lower($1) UNION SELECT m.currency, d.day FROM move m, (VALUES (lower($1) - 1), (upper($1) - 1)) d (day)
                   ) k
        ), part AS (
            SELECT m.entity, m.currency, 'opening' AS kind, sum(m.delta) * r.rate AS amount
              FROM move m JOIN rate r ON r.currency = m.currency AND r.day = lower($1) - 1 WHERE m.day < lower($1) GROUP BY m.entity, m.currency, r.rate
            UNION ALL
            SELECT m.entity, m.currency, 'closing', sum(m.delta) * r.rate
              FROM move m JOIN rate r ON r.currency = m.currency AND r.day = upper($1) - 1 GROUP BY m.entity, m.currency, r.rate
            UNION ALL
            SELECT m.entity, m.currency, m.kind, m.delta * r.rate
              FROM move m JOIN rate r ON r.currency = m.currency AND r.day = m.day WHERE m.day >= lower($1)
            UNION ALL
            SELECT v.entity, v.currency, 'invoiced', v.mrr * CASE WHEN $2 IS NULL THEN 1 ELSE sync._rate(v.currency, $2, upper($1) - 1) END
              FROM sync._invoiced_mrr(upper($1) - 1) v
            UNION ALL
            SELECT e.code, s.currency::text, 'subscriptions', s.mrr * CASE WHEN $2 IS NULL THEN 1 ELSE sync._rate(s.currency, $2, upper($1) - 1) END
              FROM canonical.subscription s JOIN canonical.customer c ON c.id = s.customer_id
              LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
             WHERE s.status IN ('active', 'past_due') AND upper($1) > current_date
        ), summed AS (
            SELECT p.entity, coalesce($2, p.currency) AS currency, canonical.minor_units(coalesce($2, p.currency)::bpchar) AS digits,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'opening'), 0) AS opening, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'new'), 0) AS new,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'expansion'), 0) AS expansion, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'contraction'), 0) AS contraction,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'churn'), 0) AS churn, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'reactivation'), 0) AS reactivation,
                   coalesce(sum(p.amount) FILTER (WHERE p.kind = 'closing'), 0) AS closing, coalesce(sum(p.amount) FILTER (WHERE p.kind = 'invoiced'), 0) AS invoiced,
                   CASE WHEN upper($1) > current_date THEN coalesce(sum(p.amount) FILTER (WHERE p.kind = 'subscriptions'), 0) END AS subscriptions
              FROM part p GROUP BY p.entity, coalesce($2, p.currency)
        ), paying AS (
            SELECT c.entity, coalesce($2, c.currency) AS currency, count(DISTINCT c.customer_id) AS n
              FROM (SELECT m.entity, m.currency, m.customer_id FROM move m GROUP BY 1, 2, 3 HAVING sum(m.delta) > 0) c GROUP BY 1, 2
        )
        SELECT s.entity, s.currency, r.opening, r.new, r.expansion, r.contraction, r.churn, r.reactivation,
               trim_scale(r.closing - r.opening - r.new - r.expansion - r.contraction - r.churn - r.reactivation), r.closing, 12 * r.opening, 12 * r.closing,
               coalesce(p.n, 0), r.invoiced, round(r.closing, s.digits) - r.invoiced, r.subscriptions
          FROM summed s
         -- A rate is free in scale, so in its own currency nothing is rounded and nothing is left over.
         CROSS JOIN LATERAL (SELECT CASE WHEN $2 IS NULL THEN 6 ELSE s.digits END) d (digits)
         CROSS JOIN LATERAL (SELECT trim_scale(round(s.opening, d.digits)) AS opening, trim_scale(round(s.new, d.digits)) AS new,
                                    trim_scale(round(s.expansion, d.digits)) AS expansion, trim_scale(round(s.contraction, d.digits)) AS contraction,
                                    trim_scale(round(s.churn, d.digits)) AS churn, trim_scale(round(s.reactivation, d.digits)) AS reactivation,
                                    trim_scale(round(s.closing, d.digits)) AS closing, round(s.invoiced, s.digits) AS invoiced,
                                    trim_scale(round(s.subscriptions, d.digits)) AS subscriptions) r
          LEFT JOIN paying p ON p.entity IS NOT DISTINCT FROM s.entity AND p.currency = s.currency
         ORDER BY s.entity, s.currency $q$)
    USING period, reporting_currency;
END
$$;
COMMENT ON FUNCTION sync.mrr_waterfall(daterange, text) IS
    'Monthly recurring revenue of a period by entity and currency: opening, what moved it, closing, and what invoices say on the last day';
