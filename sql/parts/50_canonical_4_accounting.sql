/* Canonical model: revenue, ledger, periods and rates. */
CREATE FUNCTION sync._canonical_accounting()
RETURNS TABLE (tbl text, col text, def text, refs text, note text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $accounting$
VALUES
    ('revenue_schedule', '', NULL, NULL, 'The plan by which the revenue of an invoice line is recognized'),
    ('revenue_schedule', 'invoice_line_id', 'uuid', 'invoice_line', 'The invoice line whose revenue it is; empty: not yet billed'),
    ('revenue_schedule', 'contract_id', 'uuid', 'contract', 'The contract that the performance obligation comes from'),
    ('revenue_schedule', 'legal_entity_id', 'uuid', 'legal_entity', 'The entity that recognizes'),
    ('revenue_schedule', 'method', 'enum(straight_line usage point_in_time milestone) NOT NULL DEFAULT ''straight_line''', NULL, 'straight_line: evenly over the days; usage: as consumed; point_in_time: at once; milestone: as milestones are met'),
    ('revenue_schedule', 'currency', 'char(3) NOT NULL', 'currency', 'Currency of total_amount and lines, ISO 4217'),
    ('revenue_schedule', 'total_amount', 'amount NOT NULL', NULL, 'Revenue to recognize in currency; its lines sum to it'),
    ('revenue_schedule', 'start_date', 'date', NULL, 'First day of recognition'),
    ('revenue_schedule', 'end_date', 'date', NULL, 'Last day of recognition'),
    ('revenue_schedule', 'status', 'enum(planned active hold completed canceled) NOT NULL DEFAULT ''planned''', NULL, 'planned: not begun; active; hold: stopped for review; completed: all recognized; canceled: replaced or dropped'),
    ('revenue_schedule', 'standard', 'enum(ASC606 IFRS15) NOT NULL DEFAULT ''IFRS15''', NULL, 'Accounting standard: ASC606 or IFRS15'),

    ('revenue_schedule_line', '', NULL, NULL, 'The revenue of one accounting period in a schedule'),
    ('revenue_schedule_line', 'schedule_id', 'uuid NOT NULL', 'revenue_schedule CASCADE', 'The schedule'),
    ('revenue_schedule_line', 'period', 'date NOT NULL', NULL, 'First day of the accounting period'),
    ('revenue_schedule_line', 'amount', 'decimal NOT NULL', NULL, 'Revenue of the period in the schedule''s currency; negative: takes back'),
    ('revenue_schedule_line', 'status', 'enum(planned recognized reversed) NOT NULL DEFAULT ''planned''', NULL, 'planned: to come; recognized: in the ledger; reversed: taken back by another line'),
    ('revenue_schedule_line', 'gl_entry_id', 'uuid', 'gl_entry', 'The journal that recognized it'),
    ('revenue_schedule_line', 'recognized_at', 'timestamptz', NULL, 'Instant at which it was recognized'),

    ('gl_account', '', NULL, NULL, 'An account of the general ledger'),
    ('gl_account', 'code', 'text NOT NULL UNIQUE', NULL, 'Account code; account columns of other tables name accounts by it'),
    ('gl_account', 'name', 'text NOT NULL', NULL, 'Name of the account'),
    ('gl_account', 'class', 'enum(asset liability equity revenue expense) NOT NULL', NULL, 'asset, liability, equity, revenue or expense'),
    ('gl_account', 'active', 'boolean NOT NULL DEFAULT true', NULL, 'false: no new postings'),

    ('accounting_period', '', NULL, NULL, 'An accounting period of a legal entity and whether it takes postings'),
    ('accounting_period', 'legal_entity_id', 'uuid NOT NULL', 'legal_entity', 'The entity'),
    ('accounting_period', 'start_date', 'date NOT NULL', NULL, 'First day; accounting_period columns of other tables name the period by it'),
    ('accounting_period', 'end_date', 'date NOT NULL', NULL, 'Last day'),
    ('accounting_period', 'status', 'enum(open soft_closed closed) NOT NULL DEFAULT ''open''', NULL, 'open: takes postings; soft_closed: only with approval; closed: none'),
    ('accounting_period', 'closed_at', 'timestamptz', NULL, 'Instant since which it is closed; empty: it is not. Kept by a trigger, which takes one that is given'),
    ('accounting_period', 'was_closed', 'tstzmultirange NOT NULL DEFAULT ''{}''', NULL, 'Times before during which it was closed, until it was opened again; kept by a trigger'),

    ('fx_rate', '', NULL, NULL, 'The rate of exchange between two currencies on a day'),
    ('fx_rate', 'from_currency', 'char(3) NOT NULL', 'currency', 'Currency converted from, ISO 4217'),
    ('fx_rate', 'to_currency', 'char(3) NOT NULL', 'currency', 'Currency converted to, ISO 4217'),
    ('fx_rate', 'rate_date', 'date NOT NULL', NULL, 'Day for which the rate holds'),
    ('fx_rate', 'rate', 'numeric NOT NULL CHECK (%2$I > 0 AND %2$I < ''Infinity'')', NULL, 'Units of to_currency for one unit of from_currency'),
    ('fx_rate', 'source', 'text NOT NULL', NULL, 'Who published the rate, for instance ECB'),

    ('gl_entry', '', NULL, NULL, 'A journal entry; with its lines one document, balanced, closed once posted'),
    ('gl_entry', 'legal_entity_id', 'uuid', 'legal_entity', 'The entity in whose books it stands'),
    ('gl_entry', 'number', 'text', NULL, 'Journal number, unique in the entity; one system owns it'),
    ('gl_entry', 'posting_date', 'date', NULL, 'Accounting day'),
    ('gl_entry', 'accounting_period', 'date', NULL, 'First day of the accounting period'),
    ('gl_entry', 'currency', 'char(3) NOT NULL', 'currency', 'Currency of the lines, ISO 4217'),
    ('gl_entry', 'fx_rate', 'numeric CHECK (%2$I > 0 AND %2$I < ''Infinity'')', NULL, 'Units of the entity''s functional currency for one unit of currency'),
    ('gl_entry', 'source_object', 'text', NULL, 'Kind of record that caused the entry, for instance invoice'),
    ('gl_entry', 'source_id', 'uuid', NULL, 'Id of that record'),
    ('gl_entry', 'memo', 'text', NULL, 'Text of the entry'),
    ('gl_entry', 'status', 'enum(draft pending posted reversed) NOT NULL DEFAULT ''draft''', NULL, 'draft; pending: waits for approval; posted: in the ledger; reversed: taken back by another entry'),
    ('gl_entry', 'reversal_of', 'uuid CONSTRAINT gl_entry_reversal_of_other CHECK (%2$I <> id)', 'gl_entry', 'The entry that this one takes back'),
    ('gl_entry', 'posted_at', 'timestamptz', NULL, 'Instant of posting'),
    ('gl_entry', 'approved_by', 'text', NULL, 'Who approved it'),

    ('gl_entry_line', '', NULL, NULL, 'A line of a journal entry: a debit or a credit of one account'),
    ('gl_entry_line', 'gl_entry_id', 'uuid NOT NULL', 'gl_entry CASCADE', 'The journal entry'),
    ('gl_entry_line', 'line_no', 'integer NOT NULL CHECK (%2$I > 0)', NULL, 'Position in the entry, from 1'),
    ('gl_entry_line', 'account_code', 'text NOT NULL', NULL, 'Code of the account'),
    ('gl_entry_line', 'debit', 'decimal NOT NULL DEFAULT 0 CHECK (%2$I >= 0)', NULL, 'Debit in the entry''s currency; 0 on a credit line'),
    ('gl_entry_line', 'credit', 'decimal NOT NULL DEFAULT 0 CHECK (%2$I >= 0)', NULL, 'Credit in the entry''s currency; 0 on a debit line'),
    ('gl_entry_line', 'customer_id', 'uuid', 'customer', 'The customer of a receivable'),
    ('gl_entry_line', 'tracking', 'jsonb', NULL, 'Dimensions as an object, for instance department, project'),
    ('gl_entry_line', 'tax_code', 'text', NULL, 'Tax category of the line'),
    ('gl_entry_line', 'description', 'text', NULL, 'Text of the line')
$accounting$;
