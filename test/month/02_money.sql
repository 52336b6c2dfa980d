-- Money: what was paid for the invoices of 01_company.sql, failed, was given back, disputed and credited,
-- and what the processor made of it. Fees and balances are in the currency of the payment.

-- A failed try stands beside a later one that succeeded; the newest of a past-due subscription stands alone.
CREATE TABLE month.payment (id text PRIMARY KEY, invoice text, n int, entity text, currency text, remote text, charge text, amount bigint,
                            fee bigint, state text, day date, instant timestamptz);
INSERT INTO month.payment
SELECT p.id, i.id, i.n, i.entity, i.currency, month.remote('pi_', p.id), month.remote('ch_', p.id), p.amount, p.fee, p.state, p.day,
       month.midnight(p.day, i.entity) + month.between('minute ' || p.id, 60, 1200) * interval '1 minute'
  FROM month.invoice i,
       LATERAL (SELECT 'P' || i.id AS id, i.paid AS amount, i.settled AS day, 'succeeded' AS state,
                       round(i.paid * 0.029)::bigint + CASE i.currency WHEN 'JPY' THEN 40 ELSE 25 END AS fee
                 WHERE i.paid > 0
                UNION ALL
                SELECT 'X' || i.id, i.total, i.issued, 'failed', NULL
                 WHERE i.state = 'failed' OR i.state = 'paid' AND i.method = 'send_invoice' AND i.total > 0 AND month.r('first try ' || i.id) < 0.05) p;
CREATE INDEX ON month.payment (invoice);

-- Money that was given back, always with a credit note; and claims that the bank took back.
CREATE TABLE month.refund (id text PRIMARY KEY, payment text, invoice text, entity text, currency text, remote text, amount bigint, day date, instant timestamptz);
INSERT INTO month.refund
SELECT 'B' || p.id, p.id, p.invoice, p.entity, p.currency, month.remote('re_', 'B' || p.id),
       CASE WHEN month.r('whole ' || p.id) < 0.5 THEN p.amount ELSE greatest(1, p.amount * month.between('back ' || p.id, 10, 60) / 100) END,
       d.day, month.midnight(d.day, p.entity) + interval '15 hours'
  FROM month.payment p, LATERAL (SELECT p.day + month.between('back after ' || p.id, 1, 12)) d (day)
 WHERE p.state = 'succeeded' AND month.r('refund ' || p.id) < 0.015 AND d.day < month.today() - 2;

CREATE TABLE month.dispute (id text PRIMARY KEY, payment text, entity text, currency text, remote text, amount bigint, fee bigint, state text, day date, instant timestamptz);
INSERT INTO month.dispute
SELECT 'D' || p.id, p.id, p.entity, p.currency, month.remote('dp_', 'D' || p.id), p.amount, CASE p.currency WHEN 'JPY' THEN 2400 ELSE 1500 END,
       CASE WHEN month.r('lost ' || p.id) < 0.7 THEN 'lost' ELSE 'needs_response' END,
       d.day, month.midnight(d.day, p.entity) + interval '16 hours'
  FROM month.payment p, LATERAL (SELECT p.day + month.between('disputed after ' || p.id, 2, 14)) d (day)
 WHERE p.state = 'succeeded' AND month.r('dispute ' || p.id) < 0.004 AND d.day < month.today() - 2
       AND NOT EXISTS (SELECT FROM month.refund r WHERE r.payment = p.id);

CREATE TABLE month.credit (id text PRIMARY KEY, invoice text, refund text, n int, entity text, currency text, remote text, number text,
                           net bigint, tax bigint, total bigint, reason text, day date, instant timestamptz);
INSERT INTO month.credit
SELECT c.id, c.invoice, c.refund, i.n, i.entity, i.currency, month.remote('cn_', c.id),
       i.number || '-CN1', c.total - t.tax, t.tax, c.total, c.reason, c.day, month.midnight(c.day, i.entity) + interval '15 hours'
  FROM (SELECT 'C' || r.id AS id, r.invoice, r.id AS refund, r.amount AS total, 'order_change' AS reason, r.day FROM month.refund r
        UNION ALL
        SELECT 'C' || o.id, o.id, NULL, greatest(1, o.total / 10), 'product_unsatisfactory', o.issued + 1
          FROM month.invoice o WHERE o.state = 'open' AND o.total > 100 AND month.r('credit ' || o.id) < 0.12) c
  JOIN month.invoice i ON i.id = c.invoice,
       LATERAL (SELECT CASE WHEN c.total = i.total THEN i.tax ELSE round(c.total * i.tax_percent / (100.0 + i.tax_percent))::bigint END) t (tax);
UPDATE month.invoice i SET credited = c.total FROM month.credit c WHERE c.invoice = i.id AND c.refund IS NULL;

-- The processor's balance, and what it pays out of it each Monday, by entity and currency.
CREATE TABLE month.balance (id text PRIMARY KEY, kind text, source text, payment text, entity text, currency text, remote text, gross bigint, fee bigint, day date, instant timestamptz,
                            payout text);
INSERT INTO month.balance
SELECT b.id, b.kind, b.source, b.payment, b.entity, b.currency, month.remote('txn_', b.id), b.gross, b.fee, b.day, b.instant, NULL
  FROM (SELECT 'T' || p.id AS id, 'charge' AS kind, p.charge AS source, p.id AS payment, p.entity, p.currency, p.amount AS gross, p.fee, p.day, p.instant
          FROM month.payment p WHERE p.state = 'succeeded'
        UNION ALL
        SELECT 'T' || r.id, 'refund', r.remote, r.payment, r.entity, r.currency, -r.amount, 0, r.day, r.instant FROM month.refund r
        UNION ALL
        SELECT 'T' || d.id, 'adjustment', d.remote, d.payment, d.entity, d.currency, -d.amount, d.fee, d.day, d.instant FROM month.dispute d) b;
CREATE TABLE month.payout (id text PRIMARY KEY, entity text, currency text, remote text, amount bigint, day date, instant timestamptz, arrives date);
INSERT INTO month.payout
SELECT format('O%s%s-%s', b.entity, b.currency, w.monday), b.entity, b.currency, month.remote('po_', format('O%s%s-%s', b.entity, b.currency, w.monday)),
       sum(b.gross - b.fee), w.monday, month.midnight(w.monday, b.entity) + interval '6 hours', w.monday + 2
  FROM month.balance b, LATERAL (SELECT (date_trunc('week', b.day) + interval '7 days')::date) w (monday)
 WHERE w.monday < month.today() - 3
 GROUP BY b.entity, b.currency, w.monday;
UPDATE month.balance b SET payout = o.id
  FROM month.payout o
 WHERE o.id = format('O%s%s-%s', b.entity, b.currency, (date_trunc('week', b.day) + interval '7 days')::date);
ANALYZE month.payment;
ANALYZE month.balance;
