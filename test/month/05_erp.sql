-- What an ERP holds of an entity, as statements for its own database (Tryton on SQLite): parties, posted
-- invoices with their moves, and the payments of them, in the same rows that its own posting makes.
-- A month of pushes in a minute; what is pushed by the hub itself the traffic of the test shows.
--
-- Invoices carry no sequence: they were taken over, and documents that are posted later may be older.
-- Variables: entity; ids of the ERP: company, receivable, revenue, tax, journal, currencies as JSON.
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned

CREATE TEMPORARY TABLE stamp AS SELECT to_char(now() AT TIME ZONE 'UTC' - interval '1 day', 'YYYY-MM-DD HH24:MI:SS.US') AS at;
CREATE TEMPORARY TABLE party AS
SELECT c.*, 1000 + row_number() OVER (ORDER BY c.number) AS party
  FROM canonical.customer c JOIN canonical.legal_entity e ON e.id = c.legal_entity_id AND e.code = :'entity';
CREATE UNIQUE INDEX ON party (id);

-- Amounts in the books' currency. The receivable is what the other lines sum to.
CREATE TEMPORARY TABLE book AS
SELECT i.*, 1000 + row_number() OVER (ORDER BY i.issue_date, i.number) AS n, p.party, l.country AS entity_country, m.units,
       i.currency <> l.functional_currency AS foreign_currency, coalesce(f.rate, 1) AS rate
  FROM canonical.invoice i JOIN party p ON p.id = i.customer_id JOIN canonical.legal_entity l ON l.id = i.legal_entity_id
  LEFT JOIN canonical.fx_rate f ON f.from_currency = i.currency AND f.to_currency = l.functional_currency
  JOIN LATERAL (SELECT (:'currencies'::jsonb ->> i.currency)::int AS units) m ON true
 WHERE i.status IN ('open', 'posted', 'paid', 'partially_paid', 'uncollectible');
CREATE UNIQUE INDEX ON book (id);
CREATE TEMPORARY TABLE entry AS
SELECT b.n, 1 AS place, b.id, -l.net_amount AS amount, :revenue AS account
  FROM book b JOIN canonical.invoice_line l ON l.invoice_id = b.id WHERE l.net_amount <> 0
UNION ALL
SELECT b.n, 2, b.id, -b.tax_amount, :tax FROM book b WHERE b.tax_amount <> 0;

SELECT 'PRAGMA synchronous = OFF; BEGIN;';
SELECT format('INSERT INTO party_party (id, active, code, name, create_date, create_uid) VALUES (%s, 1, %L, %s, %L, 1);', party, number, replace(quote_literal(name), 'E''', ''''), at)
  FROM party, stamp;
SELECT format('INSERT INTO party_address (active, party, street, city, postal_code, country, create_date, create_uid) VALUES (1, %s, %L, %L, %L, (SELECT id FROM country_country WHERE code = %L), %L, 1);',
              party, billing_address ->> 'line1', billing_address ->> 'city', billing_address ->> 'postal_code', billing_address ->> 'country', at)
  FROM party, stamp;
SELECT format('INSERT INTO party_contact_mechanism (active, party, type, value, create_date, create_uid) VALUES (1, %s, ''email'', %L, %L, 1);', party, billing_email, at)
  FROM party, stamp WHERE billing_email IS NOT NULL;

SELECT format('INSERT INTO account_move (id, company, journal, date, post_date, number, post_number, state, origin, period, create_date, create_uid) '
              'SELECT %1$s, %2$s, %3$s, %4$L, %4$L, ''M/%1$s'', ''M/%1$s'', ''posted'', ''account.invoice,%1$s'', p.id, %5$L, 1 '
              'FROM account_period p JOIN account_fiscalyear y ON y.id = p.fiscalyear AND y.company = %2$s WHERE %4$L BETWEEN p.start_date AND p.end_date AND p.type = ''standard'';',
              n, :company, :journal, issue_date, at)
  FROM book, stamp;
SELECT format('INSERT INTO account_invoice (id, company, type, state, number, reference, description, party, invoice_address, invoice_date, currency, account, journal, move, create_date, create_uid) '
              'VALUES (%1$s, %2$s, ''out'', %3$L, ''M/%1$s'', %4$L, %5$L, %6$s, (SELECT id FROM party_address WHERE party = %6$s), %7$L, %8$s, %9$s, %10$s, %1$s, %11$L, 1);',
              n, :company, CASE status WHEN 'paid' THEN 'posted' ELSE 'posted' END, number, id, party, issue_date, units, :receivable, :journal, at)
  FROM book, stamp;
SELECT format('INSERT INTO account_invoice_line (invoice, sequence, type, company, currency, description, quantity, unit_price, account, create_date, create_uid) '
              'VALUES (%s, %s, ''line'', %s, %s, %L, 1, %s, %s, %L, 1);', b.n, l.line_no, :company, b.units, l.description, l.net_amount, :revenue, at)
  FROM book b JOIN canonical.invoice_line l ON l.invoice_id = b.id, stamp;
SELECT format('INSERT INTO account_invoice_tax (invoice, description, account, base, amount, manual, create_date, create_uid) VALUES (%s, ''Tax'', %s, %s, %s, 1, %L, 1);',
              n, :tax, net_amount, tax_amount, at)
  FROM book, stamp WHERE tax_amount <> 0;
SELECT format('INSERT INTO account_move_line (move, account, party, debit, credit, second_currency, amount_second_currency, maturity_date, state, create_date, create_uid) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, ''valid'', %L, 1);',
              w.n, w.account, coalesce(w.party::text, 'NULL'), greatest(w.booked, 0), greatest(-w.booked, 0),
              CASE WHEN w.foreign_currency THEN w.units::text ELSE 'NULL' END, CASE WHEN w.foreign_currency THEN w.amount::text ELSE 'NULL' END,
              coalesce(quote_literal(w.due), 'NULL'), at)
  FROM (SELECT e.n, e.account, NULL::bigint AS party, e.amount, round(e.amount * b.rate, CASE WHEN b.foreign_currency THEN 2 ELSE 4 END) AS booked, b.foreign_currency, b.units, NULL::date AS due
          FROM entry e JOIN book b ON b.id = e.id
        UNION ALL
        SELECT b.n, :receivable, b.party, b.total_amount, -sum(round(e.amount * b.rate, CASE WHEN b.foreign_currency THEN 2 ELSE 4 END)), b.foreign_currency, b.units, coalesce(b.due_date, b.issue_date)
          FROM book b JOIN entry e ON e.id = b.id GROUP BY b.n, b.party, b.total_amount, b.foreign_currency, b.units, b.due_date, b.issue_date) w, stamp;
SELECT 'COMMIT;';
