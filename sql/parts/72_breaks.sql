-- Breaks: how what a run found becomes breaks that live on from run to run.

-- What a policy explained may be open again, and the other way round; what a person said stays, as long as the
-- amounts that he said it about.
CREATE FUNCTION sync._break_status(b sync.break_entry, f sync.finding)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN f.class = 'explained' THEN 'explained'
                WHEN (b.difference, b.theirs, b.ours) IS NOT DISTINCT FROM (f.difference, f.theirs, f.ours)
                     AND (b.status = 'accepted' OR b.status = 'explained' AND b.resolved_by IS NOT NULL) THEN b.status
                ELSE 'open' END
$$;
COMMENT ON FUNCTION sync._break_status(sync.break_entry, sync.finding) IS 'The status of a break that a run has found again';

-- Turns the findings of a run into breaks: the same break again is only seen again, a new one is opened,
-- one that occurs no longer is resolved. One that something on its way may settle is neither: it stays
-- as it is. What a run did not look at it leaves alone: `looked` holds the record ids of a run that
-- looked at some only; NULL: it looked at all of its period.
CREATE FUNCTION sync._settle_breaks(reconciliation bigint, looked text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.reconciliation;
    n_found bigint;
    n_opened bigint;
    n_closed bigint;
    newest jsonb;
BEGIN
    SELECT r.* INTO STRICT run FROM sync.reconciliation r WHERE r.id = reconciliation FOR UPDATE;
    -- Two runs of one comparison settle one after the other.
    PERFORM pg_advisory_xact_lock(hashtext('sync_ext breaks'), hashtext(run.source));

    -- Marked where they stand: a temporary table for each run would leave its rows in the catalogs, and these are
    -- read by everybody.
    UPDATE sync.finding f SET fingerprint = k.fingerprint
      FROM (SELECT DISTINCT ON (n.fingerprint) n.place, n.fingerprint
              FROM (SELECT t.ctid AS place, t.class,
                           md5(jsonb_build_array(t.kind, t.object, t.record_id, t.system, t.other_system, t.remote_id, t.field, t.currency)::text) AS fingerprint
                      FROM sync.finding t WHERE t.reconciliation_id = run.id AND t.class IN ('break', 'explained', 'in_transit')) n
             ORDER BY n.fingerprint, n.class) k
     WHERE f.ctid = k.place;

    UPDATE sync.break_entry b
       SET last_seen = clock_timestamp(), last_run = run.id, times_seen = b.times_seen + 1, ours = f.ours, theirs = f.theirs,
           difference = f.difference, at_risk = abs(coalesce(f.at_risk, f.difference)), record_number = coalesce(f.record_number, b.record_number),
           entity = f.entity, period = f.period, customer = f.customer, detail = f.detail,
           status = sync._break_status(b, f),
           explanation = CASE WHEN f.class = 'explained' THEN f.explanation WHEN sync._break_status(b, f) <> 'open' THEN b.explanation END,
           resolved_by = CASE WHEN f.class <> 'explained' AND sync._break_status(b, f) <> 'open' THEN b.resolved_by END
      -- No second look at breaks: where a row was locked by who explained it, that would still say what it was before.
      FROM sync.finding f
     WHERE f.reconciliation_id = run.id AND f.class <> 'in_transit' AND b.source = run.source AND b.fingerprint = f.fingerprint AND b.status <> 'resolved';

    WITH made AS (
        INSERT INTO sync.break_entry AS b
               (source, fingerprint, kind, object, record_id, record_number, system, other_system, remote_id, field, ours, theirs, difference,
                currency, at_risk, entity, period, customer, severity, status, explanation, detail, first_run, last_run, as_of)
        SELECT run.source, f.fingerprint, f.kind, f.object, f.record_id, f.record_number, f.system, f.other_system, f.remote_id, f.field, f.ours,
               f.theirs, f.difference, f.currency, abs(coalesce(f.at_risk, f.difference)), f.entity, f.period, f.customer,
               coalesce(f.severity, 'error'), CASE f.class WHEN 'explained' THEN 'explained' ELSE 'open' END, f.explanation, f.detail, run.id, run.id, run.as_of
          FROM sync.finding f
         WHERE f.reconciliation_id = run.id AND f.fingerprint IS NOT NULL AND f.class <> 'in_transit'
           AND NOT EXISTS (SELECT FROM sync.break_entry b
                            WHERE b.source = run.source AND b.fingerprint = f.fingerprint AND b.status <> 'resolved')
        RETURNING b.id, b.status)
    SELECT count(*) FILTER (WHERE m.status = 'open'), to_jsonb((array_agg(m.id) FILTER (WHERE m.status = 'open'))[1:20])
      INTO n_opened, newest FROM made m;

    WITH gone AS (
        UPDATE sync.break_entry b
           SET status = 'resolved', resolved_at = clock_timestamp(), last_run = run.id
         WHERE b.source = run.source AND b.status <> 'resolved'
           -- A break has a month, not a day: a run over half of it may not have looked at its day.
           AND (run.period IS NULL OR b.period IS NULL OR daterange(b.period, (b.period + interval '1 month')::date) <@ run.period)
           AND (looked IS NULL OR b.record_id = ANY (looked) OR b.remote_id = ANY (looked))
           -- What only a fresh listing has shown, the last known state does not disprove before there is news of it,
           -- or where it is what the listing said: then our side has changed.
           AND NOT (run.mode IN ('mirror', 'delta') AND b.remote_id IS NOT NULL
                    AND EXISTS (SELECT FROM sync.reconciliation e WHERE e.id = b.last_run AND e.mode = 'full')
                    AND NOT EXISTS (SELECT FROM sync.mirror m WHERE m.system_id = run.system_id AND m.object_id = run.object_id AND m.remote_id = b.remote_id
                                       AND (greatest(m.seen_at, m.pushed_at) > b.last_seen OR m.fields -> b.field = b.theirs)))
           AND NOT EXISTS (SELECT FROM sync.finding f WHERE f.reconciliation_id = run.id AND f.fingerprint = b.fingerprint)
        RETURNING b.id)
    SELECT count(*) INTO n_closed FROM gone;

    SELECT count(*) INTO n_found FROM sync.finding f WHERE f.reconciliation_id = run.id AND f.fingerprint IS NOT NULL AND f.class = 'break';
    UPDATE sync.reconciliation r
       SET state = 'done', finished_at = clock_timestamp(), found = n_found, opened = n_opened, closed = n_closed,
           in_transit = (SELECT count(*) FROM sync.finding f WHERE f.reconciliation_id = run.id AND f.class IN ('in_transit', 'timing')),
           explained = (SELECT count(*) FROM sync.finding f WHERE f.reconciliation_id = run.id AND f.fingerprint IS NOT NULL AND f.class = 'explained')
     WHERE r.id = run.id;
    DELETE FROM sync.finding f WHERE f.reconciliation_id = run.id;
    PERFORM sync._breaks_told(run.id, newest);
END
$$;
COMMENT ON FUNCTION sync._settle_breaks(bigint, text[]) IS 'Ends a run: its findings become breaks, breaks that occur no longer are resolved, and who listens is told';
