-- Rules about service and what goes with money, and about identities. And all shipped rules together.

-- Bindings whose record is gone, table by table so that each join knows the key; and documents over
-- there that nobody here knows. What is deleted over there, too, is none, nor what waits in the inbox.
CREATE FUNCTION sync._orphan_query()
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $orphans$
    SELECT format($query$
WITH bound AS (
    SELECT o.name AS object, o.table_oid, x.object_id, x.system_id, x.record_id, x.remote_id, x.remote_number
      FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id
), gone AS (
%s
)
SELECT g.object, g.record_id, coalesce(m.fields ->> 'number', g.remote_number) AS record_number, y.name AS system, g.remote_id, m.fields ->> 'currency' AS currency,
       (coalesce(m.fields ->> 'total_amount', m.fields ->> 'amount'))::numeric AS at_risk,
       sync._accounting_day(m.fields, NULL) AS period, 'is bound, and the record is not here' AS detail,
       CASE WHEN f.record_id IS NOT NULL THEN 'in_transit' ELSE 'break' END AS class, f.delivery
  FROM gone g
  JOIN sync.system y ON y.id = g.system_id
  LEFT JOIN sync.mirror m ON m.system_id = g.system_id AND m.object_id = g.object_id AND m.remote_id = g.remote_id
  LEFT JOIN LATERAL (SELECT u.record_id, u.route_id || '/' || u.seq AS delivery FROM sync._unfinished u
                      WHERE u.system_id = g.system_id AND u.object_id = g.object_id AND u.record_id = g.record_id AND u.state NOT IN ('dead', 'conflict')
                      ORDER BY u.seq LIMIT 1) f ON true
 WHERE NOT coalesce(m.deleted, false)
UNION ALL
SELECT o.name, NULL, m.fields ->> 'number', y.name, m.remote_id, m.fields ->> 'currency', (coalesce(m.fields ->> 'total_amount', m.fields ->> 'amount'))::numeric,
       coalesce(m.fields ->> 'issue_date', m.fields ->> 'posting_date')::date, 'stands there, and is bound to no record', 'break', NULL
  FROM sync.mirror m
  JOIN sync.object o ON o.id = m.object_id AND o.financial
  JOIN sync.system y ON y.id = m.system_id
 WHERE NOT m.deleted
   AND NOT EXISTS (SELECT FROM sync.external_id x WHERE x.system_id = m.system_id AND x.object_id = m.object_id AND x.remote_id = m.remote_id)
   AND NOT EXISTS (SELECT FROM sync.external_alias a WHERE a.system_id = m.system_id AND a.object_id = m.object_id AND a.remote_id = m.remote_id)
   AND NOT EXISTS (SELECT FROM sync.inbox i WHERE i.system_id = m.system_id AND i.object_id = m.object_id AND i.remote_id = m.remote_id)
$query$, (SELECT string_agg(format($part$    SELECT b.* FROM bound b
     WHERE b.table_oid = 'canonical.%1$s'::regclass AND NOT EXISTS (SELECT FROM canonical.%1$s t WHERE t.id::text COLLATE "C" = b.record_id)$part$, t.name),
                             E'\n    UNION ALL\n')
            FROM unnest(ARRAY['legal_entity', 'customer', 'contact', 'product', 'price', 'contract', 'subscription', 'invoice', 'credit_note', 'payment', 'payout',
                              'balance_transaction', 'payment_allocation', 'gl_entry', 'revenue_schedule', 'tax_determination', 'entitlement', 'support_case']) t (name)))
$orphans$;
COMMENT ON FUNCTION sync._orphan_query() IS 'Query of rule no_orphans';

CREATE FUNCTION sync._rules_service()
RETURNS TABLE (name text, severity text, description text, remedy text, query text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $rules$
VALUES
    ('entitlement_paid', 'error',
     'A right of use is active only if its subscription is in trial or paid: not past due, and no invoice of it overdue for two weeks. Allowed all the same: one granted by hand, without a subscription, and one whose attrs have allowed_until, a day that is not over',
     'Suspend the right (sync.repair: suspend), collect the money, or allow it: attrs || {"allowed_until": "2026-12-31"}.',
     $query$
WITH owed AS (
    SELECT i.subscription_id, sum(i.amount_due) AS amount, min(coalesce(i.due_date, i.issue_date)) AS since, string_agg(i.number, ', ' ORDER BY i.issue_date, i.number) AS numbers
      FROM canonical.invoice i
     WHERE i.type = 'standard' AND i.status IN ('open', 'posted', 'partially_paid', 'uncollectible') AND i.amount_due > 0
       AND coalesce(i.due_date, i.issue_date) < current_date - 14 AND i.subscription_id IS NOT NULL
     GROUP BY i.subscription_id
)
SELECT 'entitlement' AS object, n.id AS record_id, s.number || ' ' || n.feature_code AS record_number, 'status' AS field, to_jsonb(n.status) AS ours, to_jsonb(s.status) AS theirs, s.currency,
       coalesce(o.amount, s.mrr) AS at_risk, e.code AS entity, coalesce(o.since, (s.current_period_start AT TIME ZONE coalesce(e.timezone, 'UTC'))::date, current_date) AS period, c.number AS customer,
       CASE WHEN o.numbers IS NOT NULL THEN 'is active, and overdue since ' || o.since || ': ' || o.numbers ELSE 'is active, its subscription is ' || s.status END AS detail,
       CASE WHEN o.subscription_id IS NULL AND s.updated_at > now() - interval '1 hour' AND s.current_period_start > now() - interval '1 day' THEN 'timing' ELSE 'break' END AS class
  FROM canonical.entitlement n
  JOIN canonical.subscription s ON s.id = n.subscription_id
  JOIN canonical.customer c ON c.id = n.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
  LEFT JOIN owed o ON o.subscription_id = s.id
 WHERE n.status = 'active' AND coalesce(n.valid_from, '-infinity') <= now() AND coalesce(n.valid_to, 'infinity') > now()
   -- One of a subscription that has ended is canceled_revoked's.
   AND (s.status IN ('draft', 'past_due') OR s.status IN ('active', 'paused') AND o.subscription_id IS NOT NULL)
   AND NOT coalesce(n.attrs ->> 'allowed_until' >= to_char(current_date, 'YYYY-MM-DD'), false)
$query$),
    ('canceled_revoked', 'error',
     'When a subscription has ended, its rights of use are revoked or over within an hour',
     'Revoke the right (sync.repair: revoke); where the subscription goes on, correct it in billing.',
     $query$
SELECT 'entitlement' AS object, n.id AS record_id, s.number || ' ' || n.feature_code AS record_number, 'status' AS field, to_jsonb(n.status) AS ours, to_jsonb('revoked'::text) AS theirs,
       s.currency, s.mrr AS at_risk, e.code AS entity, z.day AS period, c.number AS customer,
       format('is %s, its subscription was %s on %s', n.status, s.status, z.day) AS detail,
       CASE WHEN coalesce(s.canceled_at, s.updated_at) > now() - interval '1 hour' THEN 'timing' ELSE 'break' END AS class
  FROM canonical.entitlement n
  JOIN canonical.subscription s ON s.id = n.subscription_id
  JOIN canonical.customer c ON c.id = n.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
 CROSS JOIN LATERAL (SELECT (coalesce(s.canceled_at, s.updated_at) AT TIME ZONE coalesce(e.timezone, 'UTC'))::date) z (day)
 WHERE n.status <> 'revoked' AND coalesce(n.valid_to, 'infinity') > now()
   AND s.status IN ('canceled', 'expired') AND coalesce(s.canceled_at, '-infinity') <= now()
$query$),
    ('failure_collected', 'warning',
     'Every failed payment started a collection case within a day: one for it, or one of the customer opened since that names no payment',
     'Open a collection case for the payment (sync.repair: open_case), closed at once where it is settled.',
     $query$
SELECT 'payment' AS object, p.id AS record_id, p.processor_ref AS record_number, to_jsonb(p.failure_code) AS theirs, p.currency, p.amount AS at_risk, e.code AS entity,
       sync._accounting_day(p.posting_date, NULL, NULL, p.settled_at, coalesce(p.attempted_at, p.created_at), e.timezone) AS period, c.number AS customer, 'failed, and no collection case was opened' AS detail,
       CASE WHEN coalesce(p.attempted_at, p.created_at) > now() - interval '1 day' THEN 'timing' ELSE 'break' END AS class
  FROM canonical.payment p
  LEFT JOIN canonical.customer c ON c.id = p.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(p.legal_entity_id, c.legal_entity_id)
 WHERE p.kind = 'charge' AND p.status = 'failed'
   AND NOT EXISTS (SELECT FROM canonical.collection_case k WHERE k.payment_id = p.id)
   AND NOT EXISTS (SELECT FROM canonical.collection_case k
                    WHERE k.customer_id = p.customer_id AND k.payment_id IS NULL AND k.opened_at >= coalesce(p.attempted_at, p.created_at))
$query$),
    ('amendment_arrived', 'error',
     'A change of a subscription that is in force reached billing: the subscription was sent after it, or an invoice since charges or credits a part of a period for it. That its invoices stand in the ERP is invoice_in_erp''s',
     'Push the subscription again (sync.repair), or make the change in billing.',
     $query$
WITH flying AS MATERIALIZED (
    SELECT DISTINCT ON (u.record_id) u.record_id, u.route_id || '/' || u.seq AS delivery, u.state, u.event_at
      FROM sync._unfinished u JOIN sync.object o ON o.id = u.object_id AND o.table_oid = 'canonical.subscription'::regclass
     ORDER BY u.record_id, u.seq
), sent AS (
    SELECT x.record_id, max(m.pushed_at) AS at
      FROM sync.object o JOIN sync.external_id x ON x.object_id = o.id
      JOIN sync.mirror m ON m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
      -- To those that bill, not to whoever else gets subscriptions.
      JOIN sync._read_until b ON b.system_id = x.system_id AND b.table_oid = 'canonical.invoice'::regclass
     WHERE o.table_oid = 'canonical.subscription'::regclass AND NOT EXISTS (SELECT FROM sync._ledger l WHERE l.system_id = x.system_id)
     GROUP BY x.record_id
)
SELECT 'amendment' AS object, a.id AS record_id, s.number || ' ' || a.kind AS record_number, a.before AS ours, a.after AS theirs, s.currency, abs(a.delta_mrr) AS at_risk,
       e.code AS entity, z.day AS period, c.number AS customer,
       format('%s of %s is in force since %s, and billing does not know', a.kind, s.number, z.day)
           || CASE f.state WHEN 'dead' THEN '; the delivery of the subscription failed' WHEN 'conflict' THEN '; the delivery of the subscription is in conflict' ELSE '' END AS detail,
       CASE WHEN f.state NOT IN ('dead', 'conflict') AND f.event_at > now() - interval '7 days' THEN 'in_transit' ELSE 'break' END AS class, f.delivery
  FROM canonical.amendment a
  JOIN canonical.subscription s ON s.id = a.subscription_id
  JOIN canonical.customer c ON c.id = s.customer_id
  LEFT JOIN canonical.legal_entity e ON e.id = coalesce(s.legal_entity_id, c.legal_entity_id)
 CROSS JOIN LATERAL (SELECT (a.effective_at AT TIME ZONE coalesce(e.timezone, 'UTC'))::date) z (day)
  LEFT JOIN sent t ON t.record_id = s.id::text COLLATE "C"
  LEFT JOIN flying f ON f.record_id = s.id::text COLLATE "C"
 WHERE a.status IN ('applied', 'approved') AND a.effective_at <= now() AND a.kind <> 'cancel'
   -- Made in billing itself: it came from there.
   AND coalesce(a.attrs ->> 'origin', '') <> 'billing'
   AND NOT coalesce(t.at >= a.created_at, false)
   AND NOT EXISTS (SELECT FROM canonical.invoice i JOIN canonical.invoice_line l ON l.invoice_id = i.id
                    WHERE i.subscription_id = s.id AND i.status NOT IN ('draft', 'void') AND l.proration
                      AND i.issue_date >= z.day)
$query$),
    ('bound_once', 'error',
     'No remote record is bound to two records of ours and none of ours to two of a system: not by id where two systems are one account, nor by document number, nor in the mirror',
     'Find out which is right, then unbind the other (sync.repair, remedy unbind).',
     $query$
SELECT o.name AS object, v.record_id, coalesce(r.fields ->> 'number', v.number) AS record_number, v.system, v.remote_id, v.field, v.ours, v.theirs,
       r.fields ->> 'currency' AS currency, (coalesce(r.fields ->> 'total_amount', r.fields ->> 'amount'))::numeric AS at_risk,
       sync._accounting_day(r.fields, NULL) AS period, v.detail
  FROM (SELECT x.object_id, x.system_id, x.record_id, x.remote_number AS number, y.name AS system, x.remote_id, 'remote_number' AS field, to_jsonb(x.remote_number) AS ours, to_jsonb(x.others) AS theirs,
               'shares remote number ' || x.remote_number || ' with ' || x.others AS detail
          FROM (SELECT t.object_id, t.system_id, t.record_id, t.remote_id, t.remote_number, count(*) OVER w AS n,
                       string_agg(t.remote_id, ', ') OVER w AS others
                  FROM sync.external_id t WHERE t.remote_number IS NOT NULL
                WINDOW w AS (PARTITION BY t.system_id, t.object_id, t.remote_number ORDER BY t.remote_id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)) x
          JOIN sync.system y ON y.id = x.system_id
         WHERE x.n > 1
        UNION ALL
        SELECT x.object_id, x.system_id, x.record_id, x.remote_number, y.name, x.remote_id, 'record_id', to_jsonb(x.record_id), to_jsonb(m.record_id), 'the mirror has it as another record of ours'
          FROM sync.external_id x
          JOIN sync.mirror m ON m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
          JOIN sync.system y ON y.id = x.system_id
         WHERE m.record_id <> x.record_id AND NOT m.deleted
        UNION ALL
        SELECT x.object_id, x.system_id, x.record_id, x.remote_number, s.name, x.remote_id, 'remote_id in ' || t.name, to_jsonb(x.record_id), to_jsonb(z.record_id), 'systems ' || s.name || ' and ' || t.name || ' are one account, and bind it to two records'
          FROM sync._server s
          JOIN sync._server t ON t.name > s.name AND t.options ->> 'connector' = s.options ->> 'connector' AND t.options ->> 'base_url' = s.options ->> 'base_url'
                             AND t.options - 'legal_entity' - 'mode' = s.options - 'legal_entity' - 'mode'
          JOIN sync.system ys ON ys.name = s.name
          JOIN sync.system yt ON yt.name = t.name
          JOIN sync.external_id x ON x.system_id = ys.id
          JOIN sync.external_id z ON z.system_id = yt.id AND z.object_id = x.object_id AND z.remote_id = x.remote_id
         WHERE z.record_id <> x.record_id) v
  JOIN sync.object o ON o.id = v.object_id
  LEFT JOIN sync.mirror r ON r.system_id = v.system_id AND r.object_id = v.object_id AND r.remote_id = v.remote_id
$query$),
    ('no_orphans', 'error',
     'Every binding has a record of ours, and every remote document that is mirrored has a binding',
     'A record that is gone: pull it again or unbind it (sync.repair). A remote one without ours: bind it, pull it, or have it taken back there.',
     sync._orphan_query())
$rules$;
COMMENT ON FUNCTION sync._rules_service() IS 'Rules about rights of use, collections, amendments and identities';

CREATE FUNCTION sync._shipped_rules()
RETURNS TABLE (name text, severity text, description text, remedy text, query text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.* FROM sync._rules_billing() r
    UNION ALL SELECT r.* FROM sync._rules_ledger() r
    UNION ALL SELECT r.* FROM sync._rules_revenue() r
    UNION ALL SELECT r.* FROM sync._rules_service() r
$$;
COMMENT ON FUNCTION sync._shipped_rules() IS 'The rules that come with the extension, written for schema canonical';
