-- What a certificate rests on: comparisons of the whole period, made after it had ended, with what the
-- systems are known to have had then.

-- Documents that are in the books of nobody: the certificates of all entities together lack them.
CREATE FUNCTION sync._of_no_entity(period daterange)
RETURNS TABLE (object text, n bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.object, d.n
      FROM jsonb_to_recordset(sync._as_model_owner(sync._model_query($q$
               SELECT coalesce(jsonb_agg(jsonb_build_object('object', t.object, 'n', t.n)), '[]')
                 FROM (SELECT 'invoice' AS object, count(*) AS n FROM canonical.invoice i LEFT JOIN canonical.customer c ON c.id = i.customer_id
                        WHERE coalesce(i.legal_entity_id, c.legal_entity_id) IS NULL AND i.status NOT IN ('draft', 'void')
                          AND sync._accounting_day(i.posting_date, i.issue_date) <@ ($1[1] ->> 'period')::daterange
                       UNION ALL
                       SELECT 'payment', count(*) FROM canonical.payment p LEFT JOIN canonical.customer c ON c.id = p.customer_id
                        WHERE coalesce(p.legal_entity_id, c.legal_entity_id) IS NULL AND p.status IN ('succeeded', 'disputed')
                          AND sync._accounting_day(p.posting_date, NULL, NULL, p.settled_at, p.attempted_at, NULL) <@ ($1[1] ->> 'period')::daterange) t $q$),
               jsonb_build_object('period', format('[%s,%s)', to_char(lower($1), 'YYYY-MM-DD'), to_char(upper($1), 'YYYY-MM-DD'))))) d (object text, n bigint)
     WHERE d.n > 0
$$;
COMMENT ON FUNCTION sync._of_no_entity(daterange) IS 'How many invoices and payments of a period are of no legal entity, not even by their customer';

-- What is missing of it. Each financial object has to be compared with each system that gets or gives it and keeps
-- this entity's books, and each rule that is on has to be run; of the rest (customers, pairs of systems) it is enough
-- that the last run, if there was one, did not fail. Of runs that are newer than the end of the period any may show
-- how much is known of the other side: a mirror that went stale does not undo what a full listing has shown.
CREATE FUNCTION sync._evidence_gaps(period daterange, entity text, zone text)
RETURNS TABLE (source text, gap text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    WITH bound AS (
        SELECT lower($1)::timestamp AT TIME ZONE $3 AS begins, upper($1)::timestamp AT TIME ZONE $3 AS ends),
    connected AS (
        SELECT f.system_id, f.object_id, y.name AS system, o.name AS object, o.financial
          FROM (SELECT t.system_id, t.object_id FROM sync.stream t WHERE t.state = 'active'
                UNION SELECT r.system_id, r.object_id FROM sync.route r WHERE r.state <> 'dropped') f
          JOIN sync.system y ON y.id = f.system_id
          JOIN sync.object o ON o.id = f.object_id
          LEFT JOIN sync._server s ON s.name = y.name
         WHERE coalesce(s.options ->> 'legal_entity', $2) = $2),
    asked AS (
        SELECT format('record:%s:%s', c.system, c.object) AS source, c.financial AS required, c.system_id, c.object_id, c.system FROM connected c
        UNION ALL
        SELECT 'rule:' || r.name, true, NULL, NULL, NULL FROM sync._rules() r WHERE r.enabled AND r.lacks IS NULL
        UNION
        SELECT r.source, false, NULL, NULL, NULL FROM sync.reconciliation r WHERE r.kind = 'pair' AND r.as_of IS NULL),
    run AS (
        SELECT r.* FROM sync.reconciliation r
         WHERE r.state IN ('done', 'failed') AND r.as_of IS NULL AND (r.period IS NULL OR r.period @> $1)),
    newest AS (
        SELECT DISTINCT ON (r.source) r.source, r.state, r.error, r.started_at FROM run r ORDER BY r.source, r.id DESC),
    proof AS (
        SELECT r.source, max(r.known_as_of) AS known, bool_or(r.mode = 'full') AS listed
          FROM run r, bound b WHERE r.state = 'done' AND r.started_at >= b.ends GROUP BY r.source)
    SELECT w.source, w.gap FROM (
    SELECT a.source, g.gap
      FROM asked a
     CROSS JOIN bound b
      LEFT JOIN newest n ON n.source = a.source
      LEFT JOIN proof p ON p.source = a.source
      LEFT JOIN sync.stream t ON t.system_id = a.system_id AND t.object_id = a.object_id AND t.state = 'active'
     CROSS JOIN LATERAL (
           SELECT CASE WHEN n.state = 'failed' THEN 'its last run failed: ' || coalesce(split_part(n.error, E'\n', 1), 'nobody knows why')
                       WHEN NOT a.required THEN NULL
                       WHEN n.source IS NULL THEN 'it was never run over the whole period'
                       WHEN n.started_at < b.ends THEN format('it was run last at %s, before the period had ended', sync._minute(n.started_at, $3))
                       WHEN a.system_id IS NULL THEN NULL
                       WHEN p.known IS NULL THEN format('what system "%s" has was never read: only its answers to what was sent are known', a.system)
                       WHEN p.known < b.ends THEN format('what system "%s" has is known as of %s, before the period had ended', a.system, sync._minute(p.known, $3))
                       WHEN t.since > b.begins AND NOT p.listed
                            AND NOT EXISTS (SELECT FROM sync.job j
                                             WHERE j.kind = 'backfill_pull' AND j.state = 'done' AND j.system_id = a.system_id AND j.object_id = a.object_id
                                               AND coalesce((j.params ->> 'since')::timestamptz <= b.begins, true)
                                               AND coalesce((j.params ->> 'until')::timestamptz >= t.since, true))
                            THEN format('what system "%s" has is read since %s, after the period began', a.system, sync._minute(t.since, $3)) END) g (gap)
     WHERE g.gap IS NOT NULL
    UNION ALL
    SELECT 'canonical.' || d.object, format('%s of the period of no legal entity: no certificate holds them', d.n) FROM sync._of_no_entity($1) d) w
     ORDER BY w.source COLLATE "C"
$$;
COMMENT ON FUNCTION sync._evidence_gaps(daterange, text, text) IS 'Comparisons and rules that a certificate of a period should rest on and cannot, with the reason';

CREATE FUNCTION sync._minute(at timestamptz, zone text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_char(at AT TIME ZONE zone, 'YYYY-MM-DD HH24:MI') || ' ' || zone
$$;
COMMENT ON FUNCTION sync._minute(timestamptz, text) IS 'An instant as a person reads it, in a time zone';

-- What stands against certifying: breaks that are errors and open, always; missing evidence, unless somebody
-- says why it is certified all the same (despite). Returns what is missing then, for the certificate.
CREATE FUNCTION sync._check_certifiable(period daterange, entity text, despite text)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said record;
    its record := sync._entity_of(entity);
BEGIN
    IF its.id IS NULL THEN
        RAISE EXCEPTION 'there is no legal entity "%"', entity USING ERRCODE = 'undefined_object', HINT = 'Entities go by their code in legal_entity.';
    ELSIF upper(period)::timestamp AT TIME ZONE its.timezone > clock_timestamp() THEN
        RAISE EXCEPTION 'the period has not ended'
            USING ERRCODE = 'SE084', DETAIL = format('Its last day is %s, in time zone %s.', upper(period) - 1, its.timezone), HINT = 'Certify it when it has.';
    END IF;
    SELECT count(*) AS n, string_agg(b.id::text, ', ' ORDER BY b.id) FILTER (WHERE b.place <= 10) AS ids INTO said
      FROM (SELECT t.id, row_number() OVER (ORDER BY t.id) AS place FROM sync.break_entry t
             WHERE t.status = 'open' AND t.severity = 'error' AND t.as_of IS NULL AND (t.entity IS NULL OR t.entity = $2)
               AND (t.period IS NULL OR daterange(t.period, (t.period + interval '1 month')::date) && $1)) b;
    IF said.n > 0 THEN
        RAISE EXCEPTION 'open breaks of severity error stand against certifying: %', said.n
            USING ERRCODE = 'SE084', DETAIL = format('Breaks %s%s.', said.ids, CASE WHEN said.n > 10 THEN ', …' ELSE '' END),
                  HINT = 'Repair each with sync.repair(), explain it with sync.explain_break() or have it accepted with sync.accept_break().';
    END IF;
    SELECT count(*) AS n, coalesce(jsonb_agg(jsonb_build_object('source', g.source, 'gap', g.gap) ORDER BY g.place), '[]') AS gaps,
           string_agg(format('%s: %s', g.source, g.gap), E'\n' ORDER BY g.place) FILTER (WHERE g.place <= 10) AS words INTO said
      FROM (SELECT e.*, row_number() OVER () AS place FROM sync._evidence_gaps($1, $2, its.timezone) e) g;
    IF said.n > 0 AND despite IS NULL THEN
        RAISE EXCEPTION 'the period is not proven: of the comparisons that it should rest on, % cannot be relied on', said.n
            USING ERRCODE = 'SE084', DETAIL = said.words || CASE WHEN said.n > 10 THEN E'\n…' ELSE '' END,
                  HINT = format('Have the systems read and compare again: SELECT * FROM sync.reconcile_all(daterange(%L, %L)). Who certifies all the same says why, which goes on record: despite => ''…''.',
                                lower($1), upper($1));
    END IF;
    RETURN said.gaps;
END
$$;
COMMENT ON FUNCTION sync._check_certifiable(daterange, text, text) IS
    'An error unless a period may be certified; returns the evidence that is missing, where despite says why it may all the same';
