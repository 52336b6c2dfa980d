/*
 * The canonical model as data: one row a column, in the order in which a
 * reader meets them. 50_canonical_8_create.sql turns these rows into tables,
 * so that creating, upgrading and commenting all read the same text.
 *
 *   tbl, col   the table and its column; a row with col = '' describes the table
 *   def        type, default and checks as in CREATE TABLE; %2$I is the column.
 *              Three words stand for what recurs:
 *                enum(a b c)  text, checked to be one of the values
 *                amount       numeric, held at the minor units of the row's currency
 *                decimal      numeric, free in scale, never NaN or infinite
 *   refs       referenced table; "CASCADE" after it: lines go with their header
 *   note       the column's comment
 *
 * id, attrs, created_at and updated_at are added to every table.
 */
CREATE FUNCTION sync._canonical_parties()
RETURNS TABLE (tbl text, col text, def text, refs text, note text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $parties$
VALUES
    ('legal_entity', '', NULL, NULL, 'A company of the group that sells, invoices and keeps books'),
    ('legal_entity', 'parent_id', 'uuid CONSTRAINT legal_entity_parent_id_other CHECK (%2$I <> id)', 'legal_entity', 'The entity that consolidates this one; empty at the top'),
    ('legal_entity', 'code', 'text NOT NULL UNIQUE', NULL, 'Short code of the entity, as the books use it'),
    ('legal_entity', 'name', 'text NOT NULL', NULL, 'Registered name'),
    ('legal_entity', 'country', 'char(2) CHECK (%2$I ~ ''^[A-Z]{2}$'')', NULL, 'Country of registration, ISO 3166-1 alpha-2'),
    ('legal_entity', 'functional_currency', 'char(3) NOT NULL', 'currency', 'Currency in which the entity keeps its books, ISO 4217'),
    ('legal_entity', 'tax_number', 'text', NULL, 'Tax or VAT number of the entity'),
    ('legal_entity', 'fiscal_year_start_month', 'smallint NOT NULL DEFAULT 1 CHECK (%2$I BETWEEN 1 AND 12)', NULL, 'First month of the fiscal year, 1 to 12'),
    ('legal_entity', 'timezone', 'text NOT NULL DEFAULT ''UTC'' CHECK (timestamptz ''epoch'' AT TIME ZONE %2$I IS NOT NULL)', NULL, 'Time zone in which the entity''s accounting days begin and end, for instance Europe/Berlin'),
    ('legal_entity', 'status', 'enum(active inactive) NOT NULL DEFAULT ''active''', NULL, 'active: trades; inactive: kept for its history only'),

    ('customer', '', NULL, NULL, 'A party that buys: an organization or a person'),
    ('customer', 'parent_id', 'uuid CONSTRAINT customer_parent_id_other CHECK (%2$I <> id)', 'customer', 'Parent customer of a group of companies; empty at the top'),
    ('customer', 'kind', 'enum(organization person) NOT NULL DEFAULT ''organization''', NULL, 'organization: a company or public body; person: a natural person'),
    ('customer', 'number', 'text UNIQUE', NULL, 'Customer number on the customer''s paper; one system owns it'),
    ('customer', 'name', 'text NOT NULL', NULL, 'Name in daily use'),
    ('customer', 'legal_name', 'text', NULL, 'Registered name, as it stands on invoices'),
    ('customer', 'tax_number', 'text', NULL, 'Tax or VAT number of the customer'),
    ('customer', 'tax_exempt', 'enum(none exempt reverse) NOT NULL DEFAULT ''none''', NULL, 'none: taxed; exempt: not taxed; reverse: the customer accounts for the tax'),
    ('customer', 'currency', 'char(3)', 'currency', 'Currency the customer is usually invoiced in, ISO 4217'),
    ('customer', 'payment_terms_days', 'integer CHECK (%2$I >= 0)', NULL, 'Days from issue to due date; empty: the entity''s default'),
    ('customer', 'status', 'enum(prospect active delinquent suspended churned) NOT NULL DEFAULT ''active''', NULL, 'prospect: has not bought; active; delinquent: overdue; suspended: service withheld; churned: has left'),
    ('customer', 'billing_email', 'text', NULL, 'Address that invoices are sent to'),
    ('customer', 'billing_address', 'jsonb', NULL, 'Billing address as an object: line1, line2, city, postal_code, state, country (alpha-2)'),
    ('customer', 'shipping_address', 'jsonb', NULL, 'Place of supply, same keys as billing_address'),
    ('customer', 'legal_entity_id', 'uuid', 'legal_entity', 'Entity that usually sells to the customer; further ones in customer_entity'),
    ('customer', 'merged_into_id', 'uuid CONSTRAINT customer_merged_into_id_other CHECK (%2$I <> id)', 'customer', 'The surviving customer after a merge of duplicates; empty while this one counts'),

    ('customer_entity', '', NULL, NULL, 'Terms of a customer with one of the legal entities it trades with'),
    ('customer_entity', 'customer_id', 'uuid NOT NULL', 'customer', 'The customer'),
    ('customer_entity', 'legal_entity_id', 'uuid NOT NULL', 'legal_entity', 'The entity that sells'),
    ('customer_entity', 'receivable_account', 'text', NULL, 'Code of the receivable account in the entity''s books'),
    ('customer_entity', 'payment_terms_days', 'integer CHECK (%2$I >= 0)', NULL, 'Days from issue to due date with this entity; empty: the customer''s own'),
    ('customer_entity', 'tax_registration', 'text', NULL, 'The customer''s tax registration that applies to this entity''s sales'),
    ('customer_entity', 'status', 'enum(active inactive) NOT NULL DEFAULT ''active''', NULL, 'active: trades; inactive: no new business'),

    ('contact', '', NULL, NULL, 'A person to speak to at a customer'),
    ('contact', 'customer_id', 'uuid NOT NULL', 'customer', 'The customer the person belongs to'),
    ('contact', 'given_name', 'text', NULL, 'Given name'),
    ('contact', 'family_name', 'text', NULL, 'Family name'),
    ('contact', 'email', 'text', NULL, 'E-mail address'),
    ('contact', 'phone', 'text', NULL, 'Telephone number, best in international form'),
    ('contact', 'title', 'text', NULL, 'Job title'),
    ('contact', 'role', 'enum(billing technical admin other) NOT NULL DEFAULT ''other''', NULL, 'What the person is asked about: billing, technical, admin or other'),
    ('contact', 'status', 'enum(active inactive) NOT NULL DEFAULT ''active''', NULL, 'active: may be written to; inactive: has left'),

    ('product', '', NULL, NULL, 'Something sold: a service, a good, a fee or a discount'),
    ('product', 'code', 'text UNIQUE', NULL, 'Product code on offers and invoices; one system owns it'),
    ('product', 'name', 'text NOT NULL', NULL, 'Name on the invoice line'),
    ('product', 'kind', 'enum(service good fee discount) NOT NULL DEFAULT ''service''', NULL, 'service: over time; good: delivered; fee: one-off charge; discount: reduces a document'),
    ('product', 'unit', 'text', NULL, 'Unit of the quantity, for instance seat, GB, hour'),
    ('product', 'tax_code', 'text', NULL, 'Tax category of the product in the tax system'),
    ('product', 'revenue_account', 'text', NULL, 'Code of the account that recognized revenue goes to'),
    ('product', 'deferred_account', 'text', NULL, 'Code of the account that holds revenue not yet recognized'),
    ('product', 'active', 'boolean NOT NULL DEFAULT true', NULL, 'false: no longer sold'),

    ('price', '', NULL, NULL, 'What a product costs in one currency, billing interval and model'),
    ('price', 'product_id', 'uuid NOT NULL', 'product', 'The product that is priced'),
    ('price', 'code', 'text UNIQUE', NULL, 'Price code; one system owns it'),
    ('price', 'currency', 'char(3) NOT NULL', 'currency', 'Currency of unit_price and tiers, ISO 4217'),
    ('price', 'model', 'enum(flat per_unit tiered volume package usage) NOT NULL DEFAULT ''per_unit''', NULL, 'flat: one amount; per_unit: times quantity; tiered: each unit at its tier; volume: all units at the tier reached; package: per full package; usage: metered'),
    ('price', 'unit_price', 'decimal', NULL, 'Price of one unit in currency, free in scale; empty where tiers say it'),
    ('price', 'tiers', 'jsonb', NULL, 'Tiers as an array of objects: up_to (null: no limit), unit_price, flat_price; amounts as strings'),
    ('price', 'billing_interval', 'enum(day week month year)', NULL, 'Length of one billing interval; empty: charged once'),
    ('price', 'interval_count', 'integer NOT NULL DEFAULT 1 CHECK (%2$I > 0)', NULL, 'Intervals from one bill to the next, 3 with month: quarterly'),
    ('price', 'tax_behavior', 'enum(inclusive exclusive) NOT NULL DEFAULT ''exclusive''', NULL, 'inclusive: the price contains tax; exclusive: tax is added'),
    ('price', 'meter_code', 'text', NULL, 'Meter whose usage_record quantities are charged; empty unless model is usage'),
    ('price', 'valid_from', 'timestamptz', NULL, 'Instant from which the price may be sold; empty: always'),
    ('price', 'valid_to', 'timestamptz', NULL, 'Instant at which it is no longer sold; empty: open end'),
    ('price', 'active', 'boolean NOT NULL DEFAULT true', NULL, 'false: not for new subscriptions')
$parties$;
