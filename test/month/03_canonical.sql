-- What the company's own application wrote into the hub, its entities apart: catalogue, customers, contracts,
-- subscriptions and their amendments. Bills and money come from billing, the books from 06_books.sql.
\set ON_ERROR_STOP on

INSERT INTO canonical.fx_rate (from_currency, to_currency, rate_date, rate, source)
SELECT f.code, t.code, month.today() - 200, t.per_euro / f.per_euro, 'ECB'
  FROM (VALUES ('EUR', 1.0), ('USD', 1.1), ('JPY', 160.0)) f (code, per_euro),
       (VALUES ('EUR', 1.0), ('USD', 1.1)) t (code, per_euro)
 WHERE f.code <> t.code;
INSERT INTO canonical.gl_account (code, name, class)
VALUES ('1200', 'Receivables', 'asset'), ('1360', 'Money in transit', 'asset'), ('1400', 'Bank', 'asset'), ('1776', 'Tax payable', 'liability'),
       ('3900', 'Deferred revenue', 'liability'), ('8400', 'Revenue', 'revenue'), ('8700', 'Credits given', 'revenue'), ('4970', 'Fees of processors', 'expense');
INSERT INTO canonical.accounting_period (legal_entity_id, start_date, end_date, status)
SELECT e.id, m::date, (m + interval '1 month')::date - 1, 'open'
  FROM month.entity e, generate_series(date_trunc('month', month.today() - interval '6 months'), date_trunc('month', month.today() + interval '15 months'), '1 month') m;

INSERT INTO canonical.product (id, code, name, kind, unit, tax_code, revenue_account, deferred_account)
SELECT month.id('product ' || v.code), v.code, v.name, v.kind, v.unit, 'txcd_10103001', '8400', '3900'
  FROM (VALUES ('SEAT', 'Seat of the platform', 'service', 'seat'), ('STORAGE', 'Storage', 'service', 'GB'),
               ('SUPPORT', 'Support plan', 'service', NULL), ('SETUP', 'Set-up', 'fee', NULL)) v (code, name, kind, unit);
INSERT INTO canonical.price (id, product_id, code, currency, model, unit_price, billing_interval)
SELECT p.id, month.id('product ' || p.product), p.code, p.currency, 'per_unit', p.unit / CASE p.currency WHEN 'JPY' THEN 1 ELSE 100 END, p.recurring
  FROM month.price p;

INSERT INTO canonical.customer (id, number, name, kind, currency, tax_exempt, status, billing_email, billing_address, legal_entity_id, payment_terms_days)
SELECT c.id, c.number, c.name, 'organization', c.currency, CASE c.tax_percent WHEN 0 THEN 'exempt' ELSE 'none' END, 'active', c.email,
       jsonb_build_object('line1', c.n || ' High Street', 'city', 'City ' || c.n % 97, 'postal_code', to_char(c.n, 'FM00000'), 'country', c.country),
       e.id, 30
  FROM month.customer c JOIN month.entity e ON e.code = c.entity;

-- Monthly revenue of a subscription as it was before its upgrade, and as it is.
CREATE TABLE month.rate AS
SELECT s.k, u.places, round(sum(t.quantity * p.unit) / u.factor / u.months, 4) AS before, round(sum(coalesce(t.upgraded, t.quantity) * p.unit) / u.factor / u.months, 4) AS now
  FROM month.subscription s JOIN month.item t USING (k) JOIN month.price p ON p.code = t.price,
       LATERAL (SELECT CASE s.currency WHEN 'JPY' THEN 0 ELSE 2 END AS places, CASE s.currency WHEN 'JPY' THEN 1 ELSE 100.0 END AS factor,
                       CASE s.recurring WHEN 'year' THEN 12 ELSE 1 END AS months) u
 GROUP BY s.k, u.places, u.factor, u.months;

-- The running period, as billing tells it too.
CREATE VIEW month.running AS
SELECT s.k, month.midnight(d.starts, s.entity) AS period_start, month.midnight(d.ends, s.entity) AS period_end,
       month.midnight((s.anchor - s.back * interval '1 month')::date, s.entity) AS began, d.starts, d.ends
  FROM month.subscription s,
       LATERAL (SELECT CASE s.state WHEN 'canceled' THEN s.anchor - interval '1 month' ELSE s.anchor END::date AS starts,
                       CASE WHEN s.state = 'canceled' THEN s.anchor WHEN s.state = 'trialing' THEN s.anchor + 40
                            WHEN s.recurring = 'year' THEN s.anchor + interval '1 year' ELSE s.anchor + interval '1 month' END::date AS ends) d;
INSERT INTO canonical.contract (id, customer_id, legal_entity_id, number, status, signed_at, start_date, currency, auto_renew, renewal_term_months)
SELECT s.contract_id, c.id, e.id, 'K' || substr(s.number, 2), CASE s.state WHEN 'canceled' THEN 'terminated' ELSE 'active' END, w.began - interval '3 days',
       (s.anchor - s.back * interval '1 month')::date, s.currency, true, 12
  FROM month.subscription s JOIN month.running w USING (k) JOIN month.customer c USING (n) JOIN month.entity e ON e.code = s.entity;
INSERT INTO canonical.subscription (id, contract_id, customer_id, legal_entity_id, number, status, start_date, trial_end, current_period_start, current_period_end,
                                    canceled_at, cancel_reason, collection_method, currency, mrr, version)
SELECT s.id, s.contract_id, c.id, e.id, s.number, s.state, (s.anchor - s.back * interval '1 month')::date,
       CASE s.state WHEN 'trialing' THEN w.period_end END, w.period_start, w.period_end,
       CASE s.state WHEN 'canceled' THEN w.period_end END, CASE s.state WHEN 'canceled' THEN 'by the customer' END,
       s.method, s.currency, CASE WHEN s.state = 'canceled' THEN 0 WHEN s.upgrade IS NOT NULL THEN r.now ELSE r.before END, CASE WHEN s.upgrade IS NULL THEN 1 ELSE 2 END
  FROM month.subscription s JOIN month.running w USING (k) JOIN month.rate r USING (k) JOIN month.customer c USING (n) JOIN month.entity e ON e.code = s.entity;
INSERT INTO canonical.subscription_item (id, subscription_id, price_id, quantity)
SELECT t.id, s.id, p.id, coalesce(t.upgraded, t.quantity)
  FROM month.item t JOIN month.subscription s USING (k) JOIN month.price p ON p.code = t.price;
INSERT INTO canonical.amendment (id, subscription_id, kind, effective_at, requested_by, status, before, after, delta_mrr, proration)
SELECT month.id('amendment ' || s.k), s.id, 'upgrade', month.midnight(u.service_start, s.entity), 'customer', 'applied',
       jsonb_build_object('subscription_item_id', t.id, 'quantity', t.quantity), jsonb_build_object('subscription_item_id', t.id, 'quantity', t.upgraded),
       r.now - r.before, true
  FROM month.subscription s JOIN month.invoice u ON u.id = 'U' || s.k JOIN month.item t ON t.k = s.k AND t.upgraded IS NOT NULL JOIN month.rate r ON r.k = s.k;
ANALYZE;
