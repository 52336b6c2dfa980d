-- Which acts need a second person: the question that every such act asks (sync._approval), and policies.

-- ---- running what others have written ----

CREATE FUNCTION sync._run_as(role name, query text, body jsonb, op text, old jsonb)
RETURNS text
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'se_run_as';
COMMENT ON FUNCTION sync._run_as(name, text, jsonb, text, jsonb) IS
    'First value of a read-only query over $1 (jsonb[]), $2 (text[]), $3 (jsonb[]), run with a role''s rights, security-restricted';

CREATE FUNCTION sync._record_now(object_id integer, record_id text)
RETURNS jsonb
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_record_now';
COMMENT ON FUNCTION sync._record_now(integer, text) IS 'A record as it stands, as an event would have it; NULL when there is none';

-- Neither an answer nor an error of the moment is swallowed: with those the asker comes again.
CREATE FUNCTION sync._holds(object_id integer, condition text, run_as name, body jsonb, op text, old jsonb,
                            OUT holds boolean, OUT error text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
AS $$
BEGIN
    holds := condition IS NULL;
    IF NOT holds THEN
        holds := sync._run_as(run_as, sync._condition_sql(object_id, condition, run_as), coalesce(body, '{}'), op, old)::boolean;
    END IF;
EXCEPTION
    WHEN transaction_rollback OR insufficient_resources OR lock_not_available THEN
        RAISE;
    WHEN OTHERS THEN
        error := SQLERRM;
END
$$;
COMMENT ON FUNCTION sync._holds(integer, text, name, jsonb, text, jsonb) IS 'Whether a condition is true for a record; where it fails, the error';

-- ---- who asks, what is at stake ----

-- sync_ext.actor is what an application says, so it can only add to who may not approve. A role set by
-- SET ROLE counts when somebody can log in as it: a group is nobody.
CREATE FUNCTION sync._identities()
RETURNS text[]
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(DISTINCT lower(btrim(who)) ORDER BY lower(btrim(who)))
      FROM (SELECT session_user::text
            UNION ALL
            SELECT r.rolname FROM pg_stat_get_activity(pg_backend_pid()) a JOIN pg_roles r ON r.oid = a.usesysid
            UNION ALL
            SELECT r.rolname FROM pg_roles r WHERE r.rolname = current_setting('role') AND r.rolcanlogin
            UNION ALL
            SELECT current_setting('sync_ext.actor', true)) i (who)
     WHERE btrim(who) <> ''
$$;
COMMENT ON FUNCTION sync._identities() IS 'All names by which this session''s person is known: session user, login, role, sync_ext.actor; in lower case';

CREATE FUNCTION sync._amount(body jsonb, OUT amount numeric, OUT currency text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT abs(CASE WHEN a.text ~ '^-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?$' THEN a.text::numeric END), body ->> 'currency'
      FROM (SELECT coalesce(body ->> 'total_amount', body ->> 'amount', body ->> 'total_value', body ->> 'gross_amount',
                            (SELECT sum((l ->> 'debit')::numeric)::text
                               FROM jsonb_array_elements(CASE jsonb_typeof(body -> 'lines') WHEN 'array' THEN body -> 'lines' ELSE '[]' END) l
                              WHERE l ->> 'debit' ~ '^[0-9]+(\.[0-9]*)?$'))) a (text)
$$;
COMMENT ON FUNCTION sync._amount(jsonb) IS
    'What a record is about in money, without sign: total_amount, amount, total_value, gross_amount, or the debits of its lines';

-- A record's state in short; volatile columns are nobody's business.
CREATE FUNCTION sync._payload_hash(body jsonb, volatile_columns name[] DEFAULT '{}')
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT encode(sha256(convert_to((body - volatile_columns::text[])::text, 'UTF8')), 'hex')
$$;
COMMENT ON FUNCTION sync._payload_hash(jsonb, name[]) IS 'SHA-256 of a record without its volatile columns';

CREATE FUNCTION sync._lines_hash(body jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT encode(sha256(convert_to((body -> 'lines')::text, 'UTF8')), 'hex')
$$;
COMMENT ON FUNCTION sync._lines_hash(jsonb) IS 'SHA-256 of a document''s lines; NULL without any';

-- ---- what demands approval ----

-- What cannot be told counts as demanding: an amount that is unknown or in another currency, a condition
-- that fails, a record that is not at hand.
CREATE FUNCTION sync._demands(operation text, object_id integer, amount numeric, currency text, body jsonb, op text, old jsonb)
RETURNS TABLE (policy text, approvers name, expires interval)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    p sync.approval_policy;
    answer record;
    why text;
BEGIN
    FOR p IN SELECT * FROM sync.approval_policy a
              WHERE a.state = 'active' AND a.operation = $1
                AND (a.object IS NULL OR a.object = (SELECT o.name FROM sync.object o WHERE o.id = $2))
              ORDER BY a.name
    LOOP
        why := NULL;
        IF p.min_amount IS NOT NULL THEN
            CONTINUE WHEN p.currency = $4 AND $3 < p.min_amount;
            why := CASE WHEN $3 IS NULL THEN 'the amount is not known'
                        WHEN p.currency IS DISTINCT FROM $4 THEN format('%s is not comparable with %s', coalesce($4, 'no currency'), p.currency)
                        ELSE format('from %s %s on', p.min_amount, p.currency) END;
        END IF;
        IF p.condition IS NOT NULL AND $5 IS NOT NULL THEN
            answer := sync._holds($2, p.condition, p.run_as, $5, $6, $7);
            CONTINUE WHEN answer.error IS NULL AND answer.holds IS NOT TRUE;
            why := concat_ws('; ', why, 'its condition failed: ' || answer.error);
        ELSIF p.condition IS NOT NULL THEN
            why := concat_ws('; ', why, 'the record is not at hand');
        END IF;
        policy := p.name || coalesce(' (' || nullif(why, '') || ')', '');
        approvers := p.approvers;
        expires := p.expires;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._demands(text, integer, numeric, text, jsonb, text, jsonb) IS 'Policies that demand approval of an act';

-- Needs that no policy can take away stand here, because the install script may put no row into a
-- dumped table.
CREATE FUNCTION sync._built_in_need(operation text, financial boolean, call jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN operation = 'set_owner' AND financial THEN 'ownership of a financial object'
                WHEN operation IN ('replay', 'edit_dead_letter') AND financial THEN 'a financial object'
                WHEN operation = 'repair' AND call ->> 'makes' = 'true' THEN 'a document that corrects the books'
                WHEN operation = 'repair' AND call ->> 'removes' = 'true' AND financial THEN 'a financial record taken away'
                WHEN operation = 'repair' AND call ->> 'calls' = 'true' AND financial THEN 'a financial record acted upon over there'
                WHEN operation = 'repair' AND call ->> 'binds' = 'true' AND financial THEN 'the identity of a financial record'
                WHEN operation = 'accept_break' THEN 'acceptance of a break'
                WHEN operation = 'mass_delete' THEN 'many deletes at once'
                WHEN operation = 'drop_approval_policy' THEN 'removal of an approval policy'
                WHEN operation = 'set_approval_policy' AND call ->> 'loosens' = 'true' THEN 'loosening of an approval policy' END
$$;
COMMENT ON FUNCTION sync._built_in_need(text, boolean, jsonb) IS 'What always needs a second person, in words; NULL: nothing of the kind';

CREATE FUNCTION sync._record_or_null(object_id integer, record_id text)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN sync._record_now(object_id, record_id);
EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
    RETURN NULL; -- no id of this table
END
$$;
COMMENT ON FUNCTION sync._record_or_null(integer, text) IS 'As _record_now(); NULL where the id is none of the table''s';

-- The gate that acts with a possible need of approval go through.
CREATE FUNCTION sync._approval(operation text, object text, record_id text, amount numeric, currency text, call jsonb, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    body jsonb;
    need record;
    built_in text;
    asked sync.approval_request;
    hash text;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.name = $2;
    body := sync._record_or_null(o.id, record_id);
    hash := sync._payload_hash(body, o.volatile_columns);
    IF amount IS NULL AND body IS NOT NULL THEN
        SELECT a.amount, a.currency INTO amount, currency FROM sync._amount(body) a;
    END IF;
    built_in := sync._built_in_need(operation, o.financial, call);
    SELECT array_agg(d.policy) AS policies, array_agg(DISTINCT d.approvers) FILTER (WHERE d.approvers IS NOT NULL) AS approvers,
           min(d.expires) AS expires
      INTO need FROM sync._demands($1, o.id, abs(amount), currency, body, 'update', NULL) d;
    IF built_in IS NULL AND need.policies IS NULL THEN
        RETURN NULL;
    END IF;

    SELECT a.* INTO asked FROM sync.approval_request a
     WHERE a.state = 'open' AND a.expires_at > clock_timestamp() AND a.operation = $1 AND a.object_id IS NOT DISTINCT FROM o.id
       AND a.record_id IS NOT DISTINCT FROM $3 AND a.call IS NOT DISTINCT FROM $6;
    IF FOUND AND asked.payload_hash IS NOT DISTINCT FROM hash THEN
        -- Who asks once more has asked, too.
        UPDATE sync.approval_request a SET requesters = ARRAY(SELECT DISTINCT u FROM unnest(a.requesters || sync._identities()) u ORDER BY u)
         WHERE a.id = asked.id AND NOT a.requesters @> sync._identities();
        RETURN asked.id;
    ELSIF FOUND THEN
        PERFORM sync._lapse(asked.id, 'the record has changed since');
    END IF;
    INSERT INTO sync.approval_request AS a (operation, object_id, record_id, amount, currency, policy, approvers, call, reason, payload_hash,
                                            requesters, expires_at)
    VALUES ($1, o.id, $3, abs(amount), currency, concat_ws('; ', built_in, array_to_string(need.policies, '; ')),
            coalesce(need.approvers, '{}'), $6, $7, hash, sync._identities(), clock_timestamp() + coalesce(need.expires, interval '7 days'))
    RETURNING a.* INTO asked;
    PERFORM sync._audit('approval.requested', $2, $3, NULL,
                        jsonb_strip_nulls(jsonb_build_object('approval', asked.id, 'operation', $1, 'policy', asked.policy, 'call', $6,
                                                             'amount', asked.amount, 'currency', asked.currency)), $7);
    RETURN asked.id;
END
$$;
COMMENT ON FUNCTION sync._approval(text, text, text, numeric, text, jsonb, text) IS
    'NULL: the act may go on; else the id of the approval it waits for, requested now or before';

CREATE FUNCTION sync._approve_hint(approval bigint)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('Another person decides: SELECT sync.approve(%s, ''reason'').', approval)
$$;
COMMENT ON FUNCTION sync._approve_hint(bigint) IS 'How what waits for an approval gets it, as a hint for who asked';

CREATE FUNCTION sync._lapse(approval bigint, why text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
BEGIN
    UPDATE sync.approval_request a SET state = 'lapsed', decided_at = clock_timestamp(), decision_reason = why
     WHERE a.id = approval AND a.state IN ('open', 'approved') AND a.used_at IS NULL
    RETURNING a.* INTO r;
    IF FOUND THEN
        PERFORM sync._audit('approval.lapsed', (SELECT o.name FROM sync.object o WHERE o.id = r.object_id), r.record_id, NULL,
                            jsonb_build_object('approval', r.id, 'operation', r.operation), why);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._lapse(bigint, text) IS 'Ends an approval that is no longer about what was shown';

CREATE FUNCTION sync._lapse_delivery(route integer, seq bigint, why text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._lapse(a.id, why) FROM sync.approval_request a
     WHERE a.route_id = route AND a.seq = $2 AND a.state = 'open'
$$;
COMMENT ON FUNCTION sync._lapse_delivery(integer, bigint, text) IS 'Ends what is asked for a delivery that is not to be sent, or needs no approval any more';

-- ---- policies ----

CREATE FUNCTION sync._check_reason(reason text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF reason IS NULL OR btrim(reason) = '' THEN
        RAISE EXCEPTION 'a reason is required'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It goes on record, for whoever asks later: reason => ''…''.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_reason(text) IS 'An error unless somebody says why';

CREATE FUNCTION sync._check_policy(operation text, object text, min_amount numeric, currency text, condition text, expires interval, approvers name)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF operation IS NULL OR sync._approved_function(operation) IS NULL THEN
        RAISE EXCEPTION 'there is no operation "%" that could need approval', operation
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('Operations are: %s.', (SELECT string_agg(substr(p.proname, 11), ', ' ORDER BY p.proname) FROM pg_proc p
                                                           WHERE p.pronamespace = 'sync'::regnamespace AND p.proname LIKE '\_approved\_%'
                                                             AND sync._approved_function(substr(p.proname, 11)) IS NOT NULL)),
                  HINT = 'deliver holds what routes send; the others are named as the functions that do them.';
    END IF;
    IF object IS NOT NULL THEN
        PERFORM sync._object_id(object);
    ELSIF condition IS NOT NULL THEN
        RAISE EXCEPTION 'a condition needs an object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is about the columns of the object''s table: make a policy for each object.';
    END IF;
    IF (min_amount IS NULL) <> (currency IS NULL) THEN
        RAISE EXCEPTION 'min_amount and currency go together'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Amounts are compared in one currency, for instance min_amount => 10000, currency => ''EUR''; what is in another one needs approval.';
    END IF;
    IF currency !~ '^[A-Z]{3}$' OR min_amount < 0 OR NOT min_amount < 'Infinity' THEN
        RAISE EXCEPTION 'invalid amount or currency of a policy'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'An amount is not negative, a currency an ISO 4217 code such as EUR.';
    END IF;
    IF expires IS NULL OR expires NOT BETWEEN interval '1 second' AND interval '1 year' THEN
        RAISE EXCEPTION 'invalid expiry of a policy'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'An approval is waited for between a second and a year, for instance ''7 days''.';
    END IF;
    IF approvers IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = approvers) THEN
        RAISE EXCEPTION 'role "%" does not exist', approvers
            USING ERRCODE = 'undefined_object', HINT = 'Members of this role and of sync_approver approve.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_policy(text, text, numeric, text, text, interval, name) IS 'An error, with the reason, when a policy would make no sense';

-- Whether everything that the old policy demands is demanded by the new one, too, and by nobody easier.
CREATE FUNCTION sync._loosens(old sync.approval_policy, new sync.approval_policy)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT (new.operation = old.operation
                AND (new.object IS NULL OR new.object IS NOT DISTINCT FROM old.object)
                AND (new.min_amount IS NULL OR new.min_amount <= old.min_amount AND new.currency = old.currency) IS TRUE
                AND (new.condition IS NULL OR new.condition = old.condition AND new.run_as = old.run_as) IS TRUE
                AND (old.approvers IS NULL OR new.approvers = old.approvers) IS TRUE
                AND new.expires <= old.expires)
$$;
COMMENT ON FUNCTION sync._loosens(sync.approval_policy, sync.approval_policy) IS 'Whether a policy that replaces another may let something pass that the other would not';

-- Runs with the caller's rights, so that run_as, which nobody may write, says whose the condition is.
CREATE FUNCTION sync.set_approval_policy(name text, operation text, object text DEFAULT NULL, min_amount numeric DEFAULT NULL,
                                         currency text DEFAULT NULL, condition text DEFAULT NULL, expires interval DEFAULT '7 days',
                                         approvers name DEFAULT NULL, reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made integer;
BEGIN
    PERFORM sync._check_reason(reason);
    IF name IS NULL OR name !~ '^[[:alnum:]_ .:-]{1,100}$' THEN
        RAISE EXCEPTION 'invalid name "%" of a policy', name
            USING ERRCODE = 'invalid_name', HINT = 'At most 100 letters, digits, spaces and _ . : -, for example large refunds.';
    END IF;
    PERFORM sync._check_policy(operation, object, min_amount, currency, condition, expires, approvers);
    IF condition IS NOT NULL THEN
        PERFORM sync._condition_check(object, condition);
    END IF;
    INSERT INTO sync.approval_policy AS p (name, operation, object, min_amount, currency, condition, expires, approvers, reason)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    RETURNING p.id INTO made;
    RETURN sync._propose_policy(made);
END
$$;
COMMENT ON FUNCTION sync.set_approval_policy(text, text, text, numeric, text, text, interval, name, text) IS
    'Makes or replaces a policy that an operation needs approval; NULL, or the approval that a loosening waits for';

CREATE FUNCTION sync._propose_policy(policy integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new sync.approval_policy;
    old sync.approval_policy;
    call jsonb;
    waits bigint;
BEGIN
    SELECT * INTO STRICT new FROM sync.approval_policy p WHERE p.id = policy AND p.state = 'proposed';
    PERFORM sync._check_policy(new.operation, new.object, new.min_amount, new.currency, new.condition, new.expires, new.approvers);
    IF new.condition IS NOT NULL THEN
        PERFORM sync._check_expression(new.condition);
    END IF;
    SELECT * INTO old FROM sync.approval_policy p WHERE p.name = new.name AND p.state = 'active' FOR UPDATE;
    call := jsonb_build_object('policy', new.id, 'name', new.name, 'replaces', old.id, 'loosens', old.id IS NOT NULL AND sync._loosens(old, new),
                               'to', to_jsonb(new) - '{id,state,set_at,ended_at}'::text[]);
    waits := sync._approval('set_approval_policy', new.object, NULL, NULL, NULL, call, new.reason);
    IF waits IS NULL THEN
        PERFORM sync._approved_set_approval_policy(call, NULL);
        RETURN NULL;
    END IF;
    RAISE NOTICE 'policy "%" waits for approval %', new.name, waits
        USING HINT = sync._approve_hint(waits) || ' Until then the old one holds.';
    RETURN waits;
END
$$;
COMMENT ON FUNCTION sync._propose_policy(integer) IS 'Puts a proposed policy into force, or asks for approval';

CREATE FUNCTION sync._approved_set_approval_policy(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new sync.approval_policy;
    old sync.approval_policy;
BEGIN
    SELECT * INTO new FROM sync.approval_policy p WHERE p.id = (args ->> 'policy')::integer AND p.state = 'proposed' FOR UPDATE;
    SELECT * INTO old FROM sync.approval_policy p WHERE p.name = args ->> 'name' AND p.state = 'active' FOR UPDATE;
    IF new.id IS NULL OR old.id IS DISTINCT FROM (args ->> 'replaces')::integer THEN
        RAISE EXCEPTION 'policy "%" was changed meanwhile', args ->> 'name'
            USING ERRCODE = 'SE067', HINT = 'Reject this request, and set the policy again.';
    END IF;
    UPDATE sync.approval_policy p SET state = 'replaced', ended_at = clock_timestamp() WHERE p.id = old.id;
    UPDATE sync.approval_policy p SET state = 'active', set_at = clock_timestamp() WHERE p.id = new.id;
    IF new.operation = 'deliver' THEN
        UPDATE sync.object o SET attributed = true WHERE o.name = coalesce(new.object, o.name) AND NOT o.attributed;
    END IF;
    PERFORM sync._audit('policy.set', new.object, NULL, NULL,
                        jsonb_build_object('policy', to_jsonb(new) - '{state,ended_at}'::text[], 'before', CASE WHEN old.id IS NOT NULL THEN to_jsonb(old) END,
                                           'approval', approval), new.reason);
    PERFORM sync._look_at_held(new.object), sync._look_at_held(old.object);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._approved_set_approval_policy(jsonb, bigint) IS 'Puts a policy into force';

CREATE FUNCTION sync.drop_approval_policy(name text, reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old sync.approval_policy;
    waits bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT * INTO old FROM sync.approval_policy p WHERE p.name = drop_approval_policy.name AND p.state = 'active';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'approval policy "%" does not exist', name
            USING ERRCODE = 'undefined_object', HINT = 'Those in force stand in sync.approval_policy, with state active.';
    END IF;
    waits := sync._approval('drop_approval_policy', old.object, NULL, NULL, NULL,
                            jsonb_build_object('policy', old.id, 'name', old.name), reason);
    RAISE NOTICE 'removal of policy "%" waits for approval %', old.name, waits
        USING HINT = sync._approve_hint(waits) || ' Until then it holds.';
    RETURN waits;
END
$$;
COMMENT ON FUNCTION sync.drop_approval_policy(text, text) IS 'Asks for the removal of a policy, which always needs a second person; returns the approval it waits for';

CREATE FUNCTION sync._approved_drop_approval_policy(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old sync.approval_policy;
BEGIN
    UPDATE sync.approval_policy p SET state = 'dropped', ended_at = clock_timestamp()
     WHERE p.id = (args ->> 'policy')::integer AND p.state = 'active'
    RETURNING p.* INTO old;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'policy "%" was changed meanwhile', args ->> 'name'
            USING ERRCODE = 'SE067', HINT = 'Reject this request.';
    END IF;
    PERFORM sync._audit('policy.dropped', old.object, NULL, NULL, jsonb_build_object('policy', to_jsonb(old), 'approval', approval),
                        (SELECT a.reason FROM sync.approval_request a WHERE a.id = approval));
    PERFORM sync._look_at_held(old.object);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._approved_drop_approval_policy(jsonb, bigint) IS 'Takes a policy out of force';

-- What is held may be free now, or held by something else.
CREATE FUNCTION sync._look_at_held(object text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.pending p SET next_attempt_at = clock_timestamp()
      FROM sync.object o
     WHERE p.state = 'held' AND o.id = p.object_id AND o.name = coalesce($1, o.name);
    SELECT sync._change();
$$;
COMMENT ON FUNCTION sync._look_at_held(text) IS 'Has the hub ask policies and guards again for what it holds of an object (NULL: of all)';
