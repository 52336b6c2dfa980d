-- The company, as a pure function of the seed: who its customers are, what they subscribe to, what is
-- billed and what became of it. Everything else (canonical rows, what billing and the ERP hold, the
-- books) is derived from these tables, which are the oracle of the test and stand in schema month.
--
-- Variables: seed, customers, today. Amounts are integers of minor units. Instants are midnight where
-- the entity is, so that accounting days are exact.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS month CASCADE;
CREATE SCHEMA month;

-- Random numbers by name: the same whatever order rows are made in, and however many there are.
SELECT format($$
    CREATE FUNCTION month.r(what text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((hashtextextended(what, %1$s) >> 11) & 9007199254740991)::double precision / 9007199254740992;
    CREATE FUNCTION month.id(what text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN md5(%1$s || ':' || what)::uuid;
    CREATE FUNCTION month.remote(prefix text, what text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN prefix || substr(md5(%1$s || '=' || what), 1, 16);
    CREATE FUNCTION month.today() RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %2$L::date
$$, :seed, :'today') \gexec
CREATE FUNCTION month.pick(what text, list text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN list[1 + floor(month.r(what) * cardinality(list))::int];
CREATE FUNCTION month.between(what text, lowest int, highest int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lowest + floor(month.r(what) * (highest - lowest + 1))::int;

CREATE TABLE month.entity (code text PRIMARY KEY, id uuid, name text, country text, currency text, timezone text);
INSERT INTO month.entity
SELECT v.code, month.id('entity ' || v.code), v.name, v.country, v.currency, v.timezone
  FROM (VALUES ('DE', 'Nordstern GmbH', 'DE', 'EUR', 'Europe/Berlin'),
               ('US', 'Nordstern Inc', 'US', 'USD', 'America/New_York')) v (code, name, country, currency, timezone);
CREATE FUNCTION month.midnight(day date, entity text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN day::timestamp AT TIME ZONE (SELECT e.timezone FROM month.entity e WHERE e.code = entity);

CREATE TABLE month.price (code text PRIMARY KEY, id uuid, product text, currency text, recurring text, unit numeric);
INSERT INTO month.price
SELECT concat_ws('-', v.product, c.currency, v.recurring), month.id(concat_ws('-', 'price', v.product, c.currency, v.recurring)),
       v.product, c.currency, v.recurring, round(v.eur * c.factor, CASE v.product WHEN 'STORAGE' THEN c.digits ELSE 0 END)
  FROM (VALUES ('SEAT', 'month', 1250.0), ('STORAGE', 'month', 5.75), ('SUPPORT', 'month', 12500.0),
               ('SEAT', 'year', 12000.0), ('STORAGE', 'year', 60.5), ('SUPPORT', 'year', 120000.0), ('SETUP', NULL, 50000.0)) v (product, recurring, eur),
       (VALUES ('EUR', 1.0, 2), ('USD', 1.1, 2), ('JPY', 1.6, 0)) c (currency, factor, digits);

CREATE TABLE month.customer (n int PRIMARY KEY, id uuid, number text, remote text, entity text, currency text, tax_percent int,
                             name text, email text, country text, method text);
INSERT INTO month.customer
SELECT n, month.id('customer ' || n), to_char(n, '"C-"FM00000'), month.remote('cus_', 'customer ' || n), e.entity, c.currency,
       CASE c.currency WHEN 'EUR' THEN 19 WHEN 'USD' THEN 8 ELSE 0 END,
       month.pick('family ' || n, '{Nuñez,Müller & Söhne,Acme,O''Neill,Åkermark,さくら商店,Dupont,Schmidt,Al-Khalifa,Zoë}') || ' '
           || month.pick('trade ' || n, '{Logistics,Robotics,Foods,Energy,Media,Labs,Textiles}') || ' ' || n,
       'billing' || n || '@customer.example',
       CASE c.currency WHEN 'EUR' THEN month.pick('country ' || n, '{DE,AT,FR,IE,ES}') WHEN 'USD' THEN 'US' ELSE 'JP' END,
       CASE WHEN month.r('method ' || n) < 0.85 THEN 'charge_automatically' ELSE 'send_invoice' END
  FROM generate_series(1, :customers) n,
       LATERAL (SELECT CASE WHEN month.r('entity ' || n) < 0.6 THEN 'DE' ELSE 'US' END) e (entity),
       LATERAL (SELECT CASE WHEN month.r('currency ' || n) < 0.18 THEN 'JPY' WHEN e.entity = 'DE' THEN 'EUR' ELSE 'USD' END) c (currency);

-- Each customer has one, others go by chance: 12 to 5 customers. The running period began 3 to 26 days
-- ago, so that none begins while we run; before it lie back months. Eight of a hundred pay by the year.
CREATE TABLE month.subscription (k int PRIMARY KEY, id uuid, contract_id uuid, number text, remote text, n int, entity text, currency text, method text,
                                 recurring text, anchor date, back int, state text, upgrade int);
INSERT INTO month.subscription
SELECT k, month.id('subscription ' || k), month.id('contract ' || k), to_char(k, '"S-"FM000000'), month.remote('sub_', 'subscription ' || k),
       c.n, c.entity, c.currency, c.method, i.recurring, month.today() - month.between('anchor ' || k, 3, 26), b.back,
       CASE WHEN month.r('state ' || k) < 0.05 AND b.back > 0 THEN 'canceled'
            WHEN month.r('state ' || k) BETWEEN 0.05 AND 0.07 THEN 'trialing'
            WHEN month.r('state ' || k) BETWEEN 0.07 AND 0.09 AND c.method = 'charge_automatically' THEN 'past_due'
            ELSE 'active' END,
       -- In which of the periods before the running one it was upgraded; NULL: never.
       CASE WHEN b.back > 0 AND i.recurring = 'month' AND month.r('upgrade ' || k) < 0.2 AND month.r('state ' || k) > 0.07
            THEN month.between('upgraded ' || k, 0, b.back - 1) END
  FROM generate_series(1, :customers * 12 / 5) k
  JOIN month.customer c ON c.n = CASE WHEN k <= :customers THEN k ELSE month.between('customer of ' || k, 1, :customers) END,
       LATERAL (SELECT CASE WHEN month.r('interval ' || k) < 0.08 THEN 'year' ELSE 'month' END) i (recurring),
       LATERAL (SELECT CASE WHEN i.recurring = 'month' AND month.r('state ' || k) NOT BETWEEN 0.05 AND 0.07
                            THEN floor(0.7 + 4.3 * month.r('back ' || k))::int ELSE 0 END) b (back);

CREATE TABLE month.item (id uuid PRIMARY KEY, remote text, k int, place int, price text, quantity int, upgraded int);
INSERT INTO month.item
SELECT month.id(format('item %s %s', s.k, p.place)), month.remote('si_', format('item %s %s', s.k, p.place)), s.k,
       row_number() OVER (PARTITION BY s.k ORDER BY p.place), p.product || '-' || s.currency || '-' || s.recurring, q.quantity,
       CASE WHEN s.upgrade IS NOT NULL AND p.place = 1 THEN q.quantity + month.between('more ' || s.k, 1, 10) END
  FROM month.subscription s,
       (VALUES (1, 'SEAT', 1.0), (2, 'STORAGE', 0.25), (3, 'SUPPORT', 0.08)) p (place, product, chance),
       LATERAL (SELECT CASE p.product WHEN 'SEAT' THEN month.between('seats ' || s.k, 1, 24) WHEN 'STORAGE' THEN month.between('storage ' || s.k, 50, 900) ELSE 1 END) q (quantity)
 WHERE month.r(format('has %s %s', s.k, p.place)) < p.chance;

-- One invoice for each period that has begun, one for each upgrade (in the middle of a period), and
-- fees beside subscriptions that make them eight a customer.
CREATE TABLE month.invoice (id text PRIMARY KEY, kind text, n int, k int, entity text, currency text, tax_percent int, method text, period int,
                            service_start date, service_end date, issued date, newest boolean, number text, remote text,
                            net bigint, discount bigint, tax bigint, total bigint,
                            state text, paid bigint DEFAULT 0, credited bigint DEFAULT 0, settled date, place int);
WITH span AS (
    SELECT s.*, s.anchor - s.back * interval '1 month' AS began
      FROM month.subscription s WHERE s.state <> 'trialing'
), recurring AS (
    SELECT format('R%s-%s', k, p) AS id, 'period' AS kind, n, k, entity, p AS period,
           (anchor - (back - p) * interval '1 month')::date AS service_start,
           CASE recurring WHEN 'year' THEN anchor + interval '1 year' ELSE anchor - (back - p - 1) * interval '1 month' END::date - 1 AS service_end,
           (anchor - (back - p) * interval '1 month')::date AS issued, p = back AS newest
      FROM span, generate_series(0, back - CASE state WHEN 'canceled' THEN 1 ELSE 0 END) p
), upgrade AS (
    SELECT format('U%s', r.k) AS id, 'upgrade' AS kind, r.n, r.k, r.entity, r.period,
           r.service_start + month.between('upgrade day ' || r.k, 3, 20) AS service_start, r.service_end,
           r.service_start + month.between('upgrade day ' || r.k, 3, 20) AS issued, false AS newest
      FROM recurring r JOIN month.subscription s ON s.k = r.k AND s.upgrade = r.period
), both_kinds AS (
    SELECT * FROM recurring UNION ALL SELECT * FROM upgrade
), fee AS (
    SELECT 'F' || f AS id, 'fee' AS kind, c.n, NULL::int AS k, c.entity, NULL::int AS period,
           d.issued AS service_start, d.issued AS service_end, d.issued, false AS newest
      FROM generate_series(1, greatest(0, 8 * :customers - (SELECT count(*) FROM both_kinds))) f
      JOIN month.customer c ON c.n = month.between('fee of ' || f, 1, :customers),
           LATERAL (SELECT month.today() - month.between('fee day ' || f, 3, 110)) d (issued)
)
INSERT INTO month.invoice (id, kind, n, k, entity, currency, tax_percent, method, period, service_start, service_end, issued, newest, number, remote)
SELECT i.id, i.kind, i.n, i.k, i.entity, c.currency, c.tax_percent, c.method, i.period, i.service_start, i.service_end, i.issued, i.newest,
       i.entity || to_char(row_number() OVER (PARTITION BY i.entity ORDER BY i.issued, i.id), '"-"FM000000'), month.remote('in_', 'invoice ' || i.id)
  FROM (SELECT * FROM both_kinds UNION ALL SELECT * FROM fee) i JOIN month.customer c USING (n);
CREATE INDEX ON month.invoice (k);
CREATE INDEX ON month.invoice (n);

CREATE TABLE month.line (invoice text, line_no int, remote text, price text, product text, item uuid, item_remote text, description text, quantity int,
                         unit numeric, amount bigint, discount bigint, tax bigint, proration boolean, PRIMARY KEY (invoice, line_no));
WITH part AS (
    -- Share of the period that is left on the day of the upgrade.
    SELECT u.id, u.k, (u.service_end - u.service_start + 1)::numeric / (u.service_end - r.service_start + 1) AS share
      FROM month.invoice u JOIN month.invoice r ON r.k = u.k AND r.period = u.period AND r.kind = 'period'
     WHERE u.kind = 'upgrade'
), line AS (
    SELECT i.id, t.place AS line_no, p.code, p.product, t.id AS item, t.remote AS item_remote, p.product AS description,
           CASE WHEN i.period > s.upgrade THEN coalesce(t.upgraded, t.quantity) ELSE t.quantity END AS quantity, p.unit, 1::numeric AS share, false AS proration
      FROM month.invoice i JOIN month.subscription s USING (k) JOIN month.item t USING (k) JOIN month.price p ON p.code = t.price
     WHERE i.kind = 'period'
    UNION ALL
    SELECT i.id, v.line_no, p.code, p.product, t.id, t.remote, v.text, v.quantity, p.unit, part.share * v.sign, true
      FROM part JOIN month.invoice i USING (id) JOIN month.item t ON t.k = i.k AND t.upgraded IS NOT NULL JOIN month.price p ON p.code = t.price,
           LATERAL (VALUES (1, 'Unused time', t.quantity, -1), (2, 'Remaining time', t.upgraded, 1)) v (line_no, text, quantity, sign)
    UNION ALL
    SELECT i.id, 1, p.code, p.product, NULL, NULL, 'Set-up', 1, p.unit, 1, false
      FROM month.invoice i JOIN month.price p ON p.product = 'SETUP' AND p.currency = i.currency
     WHERE i.kind = 'fee'
), priced AS (
    SELECT l.*, round(l.quantity * l.unit * l.share)::bigint AS amount, i.tax_percent, i.kind FROM line l JOIN month.invoice i USING (id)
), reduced AS (
    SELECT p.*, CASE WHEN p.kind = 'period' AND month.r('discount ' || p.id) < 0.03 THEN round(p.amount * 0.1)::bigint ELSE 0 END AS discount FROM priced p
)
INSERT INTO month.line
SELECT r.id, r.line_no, month.remote('il_', format('line %s %s', r.id, r.line_no)), r.code, r.product, r.item, r.item_remote, r.description, r.quantity,
       r.unit, r.amount, r.discount, round((r.amount - r.discount) * r.tax_percent / 100.0)::bigint, r.proration
  FROM reduced r;
UPDATE month.invoice i
   SET net = l.net, discount = l.discount, tax = l.tax, total = l.net + l.tax
  FROM (SELECT invoice, sum(amount - discount) AS net, sum(discount) AS discount, sum(tax) AS tax FROM month.line GROUP BY 1) l
 WHERE l.invoice = i.id;

-- What became of them. What is older than its term has been settled one way or another.
UPDATE month.invoice i
   SET state = w.state, settled = w.day, place = CASE w.state WHEN 'paid' THEN 1 END,
       paid = CASE w.state WHEN 'paid' THEN i.total WHEN 'partial' THEN i.total * month.between('part ' || i.id, 20, 80) / 100 ELSE 0 END
  FROM (SELECT i.id, c.state, CASE WHEN c.state IN ('paid', 'partial') THEN c.day END AS day
          FROM month.invoice i LEFT JOIN month.subscription s USING (k),
               LATERAL (SELECT month.r('fate ' || i.id) AS fate,
                               CASE i.method WHEN 'send_invoice' THEN i.issued + month.between('pays ' || i.id, 3, 28) ELSE i.issued END AS day) f,
               LATERAL (SELECT CASE WHEN i.total <= 0 THEN 'paid'
                                    WHEN f.fate < 0.003 AND i.kind = 'fee' THEN 'void'
                                    WHEN i.newest AND s.state = 'past_due' THEN 'failed'
                                    WHEN f.fate < 0.012 AND i.kind = 'fee' AND month.today() - i.issued > 60 THEN 'uncollectible'
                                    WHEN f.day > month.today() - 3 THEN CASE WHEN f.fate < 0.1 AND f.day - 7 > i.issued THEN 'partial' ELSE 'open' END
                                    ELSE 'paid' END AS state, CASE WHEN f.day > month.today() - 3 THEN i.issued + 1 ELSE f.day END AS day) c) w
 WHERE w.id = i.id;
ANALYZE month.invoice;
