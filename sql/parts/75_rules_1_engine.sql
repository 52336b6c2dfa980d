-- Completeness rules: queries that return what is wrong, the extension's own and those of users.
--
-- A user's rule is a row of sync.reconciliation_rule. The extension's own are functions that return
-- them as rows (sync._shipped_rules), for two reasons: the install script may put no row into a dumped
-- table, and an update brings their better text. Their row is made when one is first run or switched,
-- and holds only what a person decided: whether it is enabled.
--
-- A query runs with the rights of the role that defined it; ours with those of the owner of the canonical
-- tables. Never with those of the extension: tables, views and operators are their owners' code.

CREATE FUNCTION sync._rule_check(query text)
RETURNS void
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', 'se_rule_check';
COMMENT ON FUNCTION sync._rule_check(text) IS 'An error, with the reason, unless the caller could define a rule with this query';

CREATE FUNCTION sync._rule_rows(role name, query text, whole boolean, milliseconds integer)
RETURNS SETOF jsonb
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', 'se_rule_rows';
COMMENT ON FUNCTION sync._rule_rows(name, text, boolean, integer) IS
    'Rows of a rule''s query, run with a role''s rights, read-only and within a time; whole: what a row policy hides is an error';

-- ---- where the canonical tables are ----

-- Of several models the one that the hub is told most about; canonical while it is told of none.
CREATE FUNCTION sync._canonical_schema()
RETURNS name
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT o.schema_name FROM sync.object o
                      WHERE o.table_name IN (SELECT m.tbl FROM sync._canonical_columns() m WHERE m.col = '')
                      GROUP BY o.schema_name ORDER BY count(*) DESC, o.schema_name LIMIT 1), 'canonical')
$$;
COMMENT ON FUNCTION sync._canonical_schema() IS 'Schema of the canonical tables that rules and reports look at';

-- Rules are written with schema canonical.
CREATE FUNCTION sync._shipped_query(query text, schema_name name)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT replace(query, 'canonical.', quote_ident(schema_name) || '.')
$$;
COMMENT ON FUNCTION sync._shipped_query(text, name) IS 'A shipped rule''s query for a schema of the model';

CREATE FUNCTION sync._rules()
RETURNS TABLE (id integer, name text, query text, severity text, description text, remedy text, shipped boolean, enabled boolean, run_as name, lacks text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    -- Asked once: folded into the rest, the question would be put ten times for each rule, and takes a millisecond.
    WITH model AS MATERIALIZED (SELECT sync._canonical_schema() AS schema)
    SELECT r.id, r.name, r.query, r.severity, r.description, r.remedy, false, r.enabled, r.run_as, NULL::text
      FROM sync.reconciliation_rule r WHERE NOT r.shipped
    UNION ALL
    SELECT r.id, s.name, sync._shipped_query(s.query, c.schema), s.severity, s.description, s.remedy, true, coalesce(r.enabled, true),
           (SELECT pg_get_userbyid(t.relowner) FROM pg_class t WHERE t.oid = to_regclass(format('%I.invoice', c.schema))),
           -- Every rule needs the model, if only to know whose rights it runs with.
           (SELECT string_agg(DISTINCT format('%I.%I', c.schema, t), ', ')
              FROM (SELECT 'invoice' UNION SELECT m[1] FROM regexp_matches(s.query, 'canonical\.([a-z_]+)[^a-z_(]', 'g') m) n (t)
             WHERE to_regclass(format('%I.%I', c.schema, t)) IS NULL)
      FROM model c
     CROSS JOIN sync._shipped_rules() s
      LEFT JOIN sync.reconciliation_rule r ON r.name = s.name AND r.shipped
     -- A later version may ship what somebody has defined under that name: his stands.
     WHERE NOT EXISTS (SELECT FROM sync.reconciliation_rule u WHERE u.name = s.name AND NOT u.shipped)
$$;
COMMENT ON FUNCTION sync._rules() IS 'All rules, with the query as it is run and the role that it runs as; lacks: tables that are not there';

-- ---- defining ----

-- Whoever may define rules may also insert the row, so the row is what is watched; a restore brings those
-- of before, and these are no act.
CREATE FUNCTION sync._rule_defined()
RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT NEW.shipped AND NEW.created_at >= transaction_timestamp() THEN
        IF EXISTS (SELECT FROM sync._shipped_rules() s WHERE s.name = NEW.name) THEN
            RAISE EXCEPTION 'a rule "%" comes with the extension', NEW.name
                USING ERRCODE = 'duplicate_object', HINT = 'Take another name; sync.set_rule_enabled() switches ours off.';
        END IF;
        PERFORM sync._audit('rule.created', detail => jsonb_build_object('rule', NEW.name, 'query', NEW.query, 'severity', NEW.severity, 'run_as', NEW.run_as));
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync._rule_defined() IS 'Keeps names of shipped rules free, and writes the audit row of a new one';
CREATE TRIGGER defined BEFORE INSERT ON sync.reconciliation_rule FOR EACH ROW EXECUTE FUNCTION sync._rule_defined();
COMMENT ON TRIGGER defined ON sync.reconciliation_rule IS 'Keeps names of shipped rules free, and writes the audit row of a new one';

-- Runs with the caller's rights: the role that defines a rule is the role its query runs as, and run_as
-- is the column's default because nobody may write it.
CREATE FUNCTION sync.create_reconciliation_rule(name text, query text, description text, remedy text, severity text DEFAULT 'error')
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made integer;
    said text;
BEGIN
    IF $1 IS NULL OR $1 !~ '^[a-z][a-z0-9_]{0,62}$' THEN
        RAISE EXCEPTION 'invalid name "%" of a rule', $1
            USING ERRCODE = 'invalid_name', HINT = 'Small letters, digits and underscores, for example overdue_prepayments.';
    ELSIF $2 IS NULL OR btrim(coalesce($3, '')) = '' OR btrim(coalesce($4, '')) = '' THEN
        RAISE EXCEPTION 'a rule has a query, a description and a remedy'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Say what is wrong when it finds something, and what a person does about it.';
    ELSIF $5 IS NULL OR $5 NOT IN ('info', 'warning', 'error') THEN
        RAISE EXCEPTION 'invalid severity "%"', $5 USING ERRCODE = 'invalid_parameter_value', HINT = 'It is info, warning or error.';
    ELSIF EXISTS (SELECT FROM sync.reconciliation_rule r WHERE r.name = $1 AND NOT r.shipped) THEN
        RAISE EXCEPTION 'rule "%" exists already', $1
            USING ERRCODE = 'duplicate_object', HINT = 'Drop it first with sync.drop_reconciliation_rule(), or take another name.';
    END IF;
    BEGIN
        PERFORM sync._rule_check($2);
    EXCEPTION WHEN undefined_table OR undefined_function OR undefined_object THEN
        GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
        RAISE EXCEPTION 'the query cannot be planned: %', said
            USING ERRCODE = 'SE082', HINT = 'search_path is pg_catalog alone while a rule runs: write the schema before the name, also of functions, operators and types.';
    WHEN insufficient_privilege THEN
        RAISE;
    WHEN syntax_error_or_access_rule_violation THEN
        GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
        RAISE EXCEPTION 'the query cannot be planned: %', said
            USING ERRCODE = 'SE082', HINT = 'Try it by itself: a rule is a query without parameters.';
    END;
    INSERT INTO sync.reconciliation_rule AS r (name, query, description, remedy, severity) VALUES ($1, $2, $3, $4, $5) RETURNING r.id INTO made;
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync.create_reconciliation_rule(text, text, text, text, text) IS
    'Defines a rule: a SELECT that returns what is wrong, run with the caller''s rights; returns its id';

-- The rule, locked, if the session's user may change it.
CREATE FUNCTION sync._rule_of(name text)
RETURNS sync.reconciliation_rule
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.reconciliation_rule;
BEGIN
    SELECT t.* INTO r FROM sync.reconciliation_rule t WHERE t.name = $1 FOR UPDATE;
    IF NOT FOUND AND EXISTS (SELECT FROM sync._shipped_rules() s WHERE s.name = $1) THEN
        INSERT INTO sync.reconciliation_rule (name, shipped) VALUES ($1, true) ON CONFLICT DO NOTHING;
        SELECT t.* INTO r FROM sync.reconciliation_rule t WHERE t.name = $1 FOR UPDATE;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no rule "%"', $1 USING ERRCODE = 'undefined_object', HINT = 'View sync.rule lists them.';
    END IF;
    RETURN r;
END
$$;
COMMENT ON FUNCTION sync._rule_of(text) IS 'A rule''s row, locked; made for a shipped one that has none yet';

CREATE FUNCTION sync._check_rule_rights(r sync.reconciliation_rule)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_has_role(session_user, 'sync_admin', 'MEMBER')
       AND (r.shipped OR NOT EXISTS (SELECT FROM pg_roles g WHERE g.rolname = r.run_as AND pg_has_role(session_user, g.oid, 'MEMBER'))) THEN
        RAISE EXCEPTION 'rule "%" is not yours', r.name
            USING ERRCODE = 'insufficient_privilege', DETAIL = CASE WHEN r.shipped THEN 'It comes with the extension.' ELSE format('It runs as "%s".', r.run_as) END,
                  HINT = 'Who defined it may change it, and members of sync_admin.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_rule_rights(sync.reconciliation_rule) IS 'An error unless the session''s user defined the rule or is an administrator';

-- Nobody looks at its breaks any more: they are closed with a note that says why. Runs stay, by source.
CREATE FUNCTION sync.drop_reconciliation_rule(name text, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.reconciliation_rule;
    closed bigint;
BEGIN
    PERFORM sync._check_reason($2);
    -- In the order in which a run locks: else the two would wait for each other.
    PERFORM pg_advisory_xact_lock(hashtext('sync_ext breaks'), hashtext('rule:' || $1));
    r := sync._rule_of($1);
    PERFORM sync._check_rule_rights(r);
    IF r.shipped THEN
        RAISE EXCEPTION 'rule "%" comes with the extension', r.name
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('Switch it off: SELECT sync.set_rule_enabled(%L, false, ''reason'').', r.name);
    END IF;
    WITH gone AS (
        UPDATE sync.break_entry b SET status = 'resolved', resolved_at = clock_timestamp(), resolved_by = session_user
         WHERE b.source = 'rule:' || r.name AND b.status <> 'resolved' RETURNING b.id),
    said AS (
        INSERT INTO sync.break_note (break_id, note) SELECT g.id, 'Its rule was dropped: ' || $2 FROM gone g RETURNING 1)
    SELECT count(*) INTO closed FROM said;
    UPDATE sync.reconciliation u SET rule_id = NULL WHERE u.rule_id = r.id;
    DELETE FROM sync.reconciliation_rule t WHERE t.id = r.id;
    PERFORM sync._audit('rule.dropped', detail => jsonb_build_object('rule', r.name, 'query', r.query, 'closed', closed), reason => $2);
END
$$;
COMMENT ON FUNCTION sync.drop_reconciliation_rule(text, text) IS 'Removes a rule; its open breaks are closed';

CREATE FUNCTION sync.set_rule_enabled(name text, enabled boolean, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.reconciliation_rule := sync._rule_of($1);
BEGIN
    PERFORM sync._check_reason($3);
    PERFORM sync._check_rule_rights(r);
    IF $2 IS NULL THEN
        RAISE EXCEPTION 'enabled must not be null' USING ERRCODE = 'null_value_not_allowed', HINT = 'true or false.';
    ELSIF r.enabled <> $2 THEN
        UPDATE sync.reconciliation_rule t SET enabled = $2 WHERE t.id = r.id;
        PERFORM sync._audit(CASE WHEN $2 THEN 'rule.enabled' ELSE 'rule.disabled' END, detail => jsonb_build_object('rule', r.name), reason => $3);
    END IF;
END
$$;
COMMENT ON FUNCTION sync.set_rule_enabled(text, boolean, text) IS 'Switches a rule on or off; breaks of one that is off stay as they are';

-- ---- running ----

CREATE FUNCTION sync._one_of(value text, words text[], what text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value <> ALL (words) THEN
        RAISE EXCEPTION 'a rule returned % "%"', what, value USING ERRCODE = 'SE082', HINT = 'It is ' || array_to_string(words, ', ') || '.';
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION sync._one_of(text, text[], text) IS 'The value, if it is one of the words';

-- One amount that is none would make every total none that it goes into.
CREATE FUNCTION sync._finite(value numeric, rule text, col text)
RETURNS numeric
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value IN ('NaN', 'Infinity', '-Infinity') THEN
        RAISE EXCEPTION 'rule "%" returned % as %', rule, value, col
            USING ERRCODE = 'SE082', DETAIL = 'It is no amount that could be added to others.', HINT = 'Return a finite number, or NULL where the amount is not known.';
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION sync._finite(numeric, text, text) IS 'The amount that a rule returned in a column, if it is a finite one';

CREATE FUNCTION sync._finite_day(value date, rule text)
RETURNS date
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT isfinite(value) THEN
        RAISE EXCEPTION 'rule "%" returned % as period', rule, value
            USING ERRCODE = 'SE082', DETAIL = 'It is in no month.', HINT = 'Return the accounting day, or NULL where it is not known.';
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION sync._finite_day(date, text) IS 'The day that a rule returned as period, if it is one';

CREATE FUNCTION sync._currency_of(value text, rule text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value !~ '^[A-Z]{3}$' THEN
        RAISE EXCEPTION 'rule "%" returned "%" as currency', rule, value
            USING ERRCODE = 'SE082', DETAIL = 'A currency is three capital letters.', HINT = 'Return an ISO 4217 code, for example EUR, or NULL where there is no amount.';
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION sync._currency_of(text, text) IS 'The currency that a rule returned, if it can be one';

-- What the query returns becomes findings of the run. A finding has a month: one of the period's months counts.
CREATE FUNCTION sync._rule_findings(run bigint, name text, query text, severity text, run_as name, whole boolean, timeout interval)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH model AS MATERIALIZED (SELECT sync._canonical_schema() AS schema)
    INSERT INTO sync.finding (reconciliation_id, class, kind, object, record_id, record_number, system, other_system, remote_id, field, ours, theirs,
                              difference, currency, at_risk, entity, period, customer, severity, explanation, delivery, detail)
    SELECT run, coalesce(sync._one_of(f.class, '{break,explained,in_transit,timing}', 'class'), 'break'), coalesce(f.kind, $2),
           coalesce((SELECT o.name FROM sync.object o WHERE whole AND o.schema_name = c.schema AND o.table_name = f.object), f.object),
           f.record_id, f.record_number, f.system, f.other_system, f.remote_id, f.field, f.ours, f.theirs,
           sync._finite(f.difference, $2, 'difference'), sync._currency_of(f.currency, $2), sync._finite(f.at_risk, $2, 'at_risk'), f.entity,
           m.month, f.customer, coalesce(sync._one_of(f.severity, '{info,warning,error}', 'severity'), $4), f.explanation, f.delivery, f.detail
      FROM sync._rule_rows(run_as, query, whole, least(extract(epoch FROM timeout) * 1000, 2147483647)::integer) r
     CROSS JOIN LATERAL jsonb_to_record(r) AS f (
           class text, kind text, object text, record_id text, record_number text, system text, other_system text, remote_id text, field text, ours jsonb,
           theirs jsonb, difference numeric, currency text, at_risk numeric, entity text, period date, customer text, severity text, explanation text,
           delivery text, detail text)
     CROSS JOIN model c
     CROSS JOIN LATERAL (SELECT date_trunc('month', sync._finite_day(f.period, $2)::timestamp)::date) m (month)
      JOIN sync.reconciliation u ON u.id = run
     WHERE u.period IS NULL OR m.month IS NULL OR u.period && daterange(m.month, (m.month + interval '1 month')::date)
$$;
COMMENT ON FUNCTION sync._rule_findings(bigint, text, text, text, name, boolean, interval) IS 'Runs a rule''s query for a run of it';

-- What makes it the same break in the next run must tell it from the others of this one, or one would
-- hide the other.
CREATE FUNCTION sync._check_findings(run bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    twice record;
BEGIN
    SELECT f.kind, concat_ws(' ', f.object, coalesce(f.record_number, f.record_id, f.remote_id), f.system, f.field) AS what, count(*) AS n INTO twice
      FROM sync.finding f WHERE f.reconciliation_id = run AND f.class <> 'timing'
     GROUP BY f.kind, f.object, f.record_id, f.record_number, f.system, f.other_system, f.remote_id, f.field, f.currency HAVING count(*) > 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the rule returned "%" % times', twice.what, twice.n
            USING ERRCODE = 'SE082', DETAIL = 'A break is known again by kind, object, record, remote record, systems, field and currency.',
                  HINT = 'Group the rows, or give each a field of its own.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_findings(bigint) IS 'An error when two findings of a run would be one break';

-- One run of one rule. Runs of the same rule come one after the other, each with a view of the data that
-- is younger than the end of the one before. What fails leaves a failed run, and breaks as they were.
CREATE FUNCTION sync._rule_run(rule record, period daterange, timeout interval)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
    said text;
    more text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sync_ext breaks'), hashtext('rule:' || rule.name));
    INSERT INTO sync.reconciliation AS r (source, kind, rule_id, period)
    VALUES ('rule:' || rule.name, 'rule', (sync._rule_of(rule.name)).id, $2) RETURNING r.id INTO run;
    BEGIN
        PERFORM sync._rule_findings(run, rule.name, rule.query, rule.severity, rule.run_as, rule.shipped, timeout);
        PERFORM sync._check_findings(run);
        PERFORM sync._settle_breaks(run);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
        IF SQLSTATE = '42501' AND rule.shipped THEN
            more := format('It runs as role "%s", the owner of the canonical tables, which has to read schema sync, too: GRANT sync_admin.', rule.run_as);
        END IF;
        UPDATE sync.reconciliation r
           SET state = 'failed', finished_at = clock_timestamp(), error = said || coalesce(E'\n' || nullif(more, ''), '') WHERE r.id = run;
    END;
    RETURN run;
END
$$;
COMMENT ON FUNCTION sync._rule_run(record, daterange, interval) IS 'Runs a rule; returns the run''s id';

CREATE FUNCTION sync.run_rules(period daterange DEFAULT NULL, names text[] DEFAULT NULL, timeout interval DEFAULT '5 min')
RETURNS TABLE (rule text, reconciliation bigint, found bigint, opened bigint, error text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    run bigint;
    wrong text;
BEGIN
    IF isempty($1) THEN
        RAISE EXCEPTION 'the period is empty' USING ERRCODE = 'invalid_parameter_value', HINT = 'For example daterange(''2026-10-01'', ''2026-11-01'').';
    ELSIF $3 IS NULL OR $3 < interval '1 ms' THEN
        RAISE EXCEPTION 'invalid time-out' USING ERRCODE = 'invalid_parameter_value', HINT = 'It is how long each rule may take, for example ''5 min''.';
    ELSIF cardinality($2) = 0 OR EXISTS (SELECT FROM unnest($2) n WHERE n IS NULL) THEN
        RAISE EXCEPTION 'invalid names of rules'
            USING ERRCODE = CASE WHEN cardinality($2) = 0 THEN 'invalid_parameter_value' ELSE 'null_value_not_allowed' END,
                  DETAIL = CASE WHEN cardinality($2) = 0 THEN 'The list is empty.' ELSE 'One of them is NULL.' END,
                  HINT = 'View sync.rule lists them. NULL instead of a list runs all that are switched on.';
    END IF;
    SELECT n INTO wrong FROM unnest($2) n WHERE NOT EXISTS (SELECT FROM sync._rules() s WHERE s.name = n) LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'there is no rule "%"', wrong USING ERRCODE = 'undefined_object', HINT = 'View sync.rule lists them.';
    END IF;
    SELECT format('rule "%s" %s', s.name, CASE WHEN s.enabled THEN 'looks at tables that are not there: ' || s.lacks ELSE 'is switched off' END) INTO wrong
      FROM sync._rules() s WHERE s.name = ANY ($2) AND (NOT s.enabled OR s.lacks IS NOT NULL) LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', wrong
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'View sync.rule tells; sync.set_rule_enabled() switches, sync.upgrade_canonical_model() adds tables.';
    END IF;
    FOR r IN SELECT s.* FROM sync._rules() s
              WHERE s.enabled AND s.lacks IS NULL AND ($2 IS NULL OR s.name = ANY ($2)) ORDER BY s.name COLLATE "C"
    LOOP
        run := sync._rule_run(r, $1, $3);
        RETURN QUERY SELECT r.name, u.id, u.found, u.opened, u.error FROM sync.reconciliation u WHERE u.id = run;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.run_rules(daterange, text[], interval) IS
    'Runs completeness rules, all that are enabled unless named, each with its own time-out; a row for each, with the error of one that failed';

CREATE VIEW sync.rule AS
SELECT r.name AS rule, r.enabled, r.shipped, r.severity, r.description, r.remedy, r.run_as, r.query, r.lacks,
       u.started_at AS last_run_at, u.state AS last_state, u.error AS last_error,
       (SELECT count(*) FROM sync.break_entry b WHERE b.source = 'rule:' || r.name AND b.status = 'open') AS open_breaks
  FROM sync._rules() r
  LEFT JOIN LATERAL (SELECT u.* FROM sync.reconciliation u WHERE u.source = 'rule:' || r.name ORDER BY u.id DESC LIMIT 1) u ON true;
COMMENT ON VIEW sync.rule IS 'The rule catalogue: what each rule looks for, what to do about what it finds, and how it ran last';
COMMENT ON COLUMN sync.rule.rule IS 'Name of the rule';
COMMENT ON COLUMN sync.rule.enabled IS 'Whether run_rules() runs it';
COMMENT ON COLUMN sync.rule.shipped IS 'Whether it came with the extension';
COMMENT ON COLUMN sync.rule.description IS 'What has to be true';
COMMENT ON COLUMN sync.rule.remedy IS 'What a person does about a break of it';
COMMENT ON COLUMN sync.rule.query IS 'The query as it is run';
COMMENT ON COLUMN sync.rule.last_run_at IS 'When it ran last';
COMMENT ON COLUMN sync.rule.last_state IS 'How that ended: done or failed';
COMMENT ON COLUMN sync.rule.run_as IS 'Role whose rights its query runs with';
COMMENT ON COLUMN sync.rule.lacks IS 'Tables that it needs and that are not there: it is not run';
COMMENT ON COLUMN sync.rule.open_breaks IS 'Breaks of it that are open';
