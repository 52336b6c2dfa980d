-- Full reconciliation, the verdict: suspects that were read again, and the steps of the job.

-- Judges one suspect. True: it is settled, as a finding or as nothing; false: something is on its way,
-- and it is to be read once more.
CREATE FUNCTION sync._judge(job sync.job, run sync.reconciliation, o sync.object, suspect sync.listed_suspect, last_round boolean)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed sync.listed_record;
    bound record;
    there text := suspect.remote_id;
    agreed jsonb;
    conflicts text[];
    ours jsonb;
    way record;
    said text;
    d record;
    system text := (SELECT y.name FROM sync.system y WHERE y.id = job.system_id);
BEGIN
    SELECT x.record_id, x.remote_id, x.remote_number INTO bound FROM sync.external_id x
     WHERE x.system_id = job.system_id AND x.object_id = job.object_id
       AND CASE WHEN there <> '' THEN x.remote_id = there ELSE x.record_id = suspect.record_id END;
    IF there = '' AND bound.remote_id IS NOT NULL THEN
        RETURN true; -- bound meanwhile: it is there
    END IF;
    SELECT l.* INTO listed FROM sync.listed_record l WHERE l.job_id = job.id AND l.remote_id = there;
    IF bound.record_id IS NULL AND EXISTS (SELECT FROM sync.external_alias a WHERE a.system_id = job.system_id AND a.object_id = job.object_id AND a.remote_id = there) THEN
        RETURN true;
    END IF;
    SELECT m.agreed INTO agreed FROM sync.mirror m WHERE m.system_id = job.system_id AND m.object_id = job.object_id AND m.remote_id = there;
    conflicts := ARRAY(SELECT c.field FROM sync.conflict_entry c WHERE c.object_id = job.object_id AND c.system_id = job.system_id
                          AND c.record_id = bound.record_id AND c.resolved_at IS NULL);
    ours := sync._bodies(job.object_id, ARRAY[coalesce(bound.record_id, nullif(suspect.record_id, ''))]) -> coalesce(bound.record_id, suspect.record_id);
    way := sync._on_its_way(job.system_id, job.object_id, coalesce(bound.record_id, nullif(suspect.record_id, ''), listed.our_id), there,
                            coalesce(nullif(listed.as_of, '-infinity'), job.step_at));
    FOR d IN
        SELECT * FROM sync._record_differs(o, job.system_id, sync._pull_refs(job.system_id, job.object_id), coalesce((job.cursor ->> 'resolution_ms')::bigint, 1), bound.record_id, ours, listed, agreed, conflicts)
        UNION ALL
        SELECT 'missing_there', NULL, ours, NULL, 'break', NULL, 'no record of the system is bound to it' WHERE there = '' AND ours IS NOT NULL
    LOOP
        IF way.why IS NOT NULL AND NOT last_round THEN
            RETURN false;
        END IF;
        said := concat_ws('; ', d.detail, way.why, CASE WHEN d.kind = 'missing_here' AND way.why IS NULL THEN
                    (SELECT 'in the inbox: ' || i.reason FROM sync.inbox i WHERE i.system_id = job.system_id AND i.object_id = job.object_id AND i.remote_id = there) END);
        PERFORM sync._put_finding(run, o, system, CASE WHEN way.why IS NOT NULL AND d.class = 'break' THEN 'in_transit' ELSE d.class END,
                                  CASE WHEN d.kind = 'missing_here' AND EXISTS (SELECT FROM sync.external_id x WHERE x.system_id = job.system_id
                                            AND x.object_id = job.object_id AND x.record_id = listed.our_id) THEN 'duplicate' ELSE d.kind END,
                                  coalesce(bound.record_id, nullif(suspect.record_id, ''), listed.our_id), nullif(there, ''), d.field, d.our_value, d.their_value,
                                  coalesce(ours, listed.fields, '{}'), said, d.explanation, way.delivery, coalesce(bound.remote_number, listed.remote_number), NULL,
                                  coalesce(listed.deleted, false), listed.fields);
    END LOOP;
    PERFORM sync._add_totals(run, ARRAY[CASE WHEN bound.record_id IS NOT NULL THEN ours END],
                             ARRAY[CASE WHEN NOT listed.deleted AND listed.as_of > '-infinity' AND (listed.expected OR bound.record_id IS NOT NULL)
                                        THEN coalesce(listed.fields, '{}') END]);
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._judge(sync.job, sync.reconciliation, sync.object, sync.listed_suspect, boolean) IS
    'Whether a suspect is settled, as a finding or as nothing; false: it is to be read once more';

CREATE FUNCTION sync._judge_some(job sync.job, at_most integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.reconciliation;
    o sync.object;
    suspect sync.listed_suspect;
    round integer := coalesce((job.cursor ->> 'round')::integer, 0);
    judged integer := 0;
BEGIN
    SELECT r.* INTO STRICT run FROM sync.reconciliation r WHERE r.job_id = job.id;
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = job.object_id;
    FOR suspect IN SELECT s.* FROM sync.listed_suspect s WHERE s.job_id = job.id AND NOT s.judged AND s.rounds = round
                    ORDER BY s.remote_id, s.record_id LIMIT at_most
    LOOP
        judged := judged + 1;
        IF sync._judge(job, run, o, suspect, round >= 4) THEN
            UPDATE sync.listed_suspect s SET judged = true WHERE (s.job_id, s.remote_id, s.record_id) = (suspect.job_id, suspect.remote_id, suspect.record_id);
        ELSE
            UPDATE sync.listed_suspect s SET rounds = round + 1 WHERE (s.job_id, s.remote_id, s.record_id) = (suspect.job_id, suspect.remote_id, suspect.record_id);
        END IF;
    END LOOP;
    UPDATE sync.job j SET done = j.done + judged WHERE j.id = job.id;
    RETURN judged > 0;
END
$$;
COMMENT ON FUNCTION sync._judge_some(sync.job, integer) IS 'Judges the next suspects of a round; false: there are no more';

-- Has suspects read again by id. Those that only we have need no reading, nor those that were listed twice.
CREATE FUNCTION sync._read_suspects(job sync.job, unlisted boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE sync.listed_record l SET to_read = true, tries = 0
      FROM sync.listed_suspect s
     WHERE s.job_id = job.id AND NOT s.judged AND l.job_id = job.id AND l.remote_id = s.remote_id AND s.remote_id <> ''
       AND (l.as_of = '-infinity' OR NOT unlisted);
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM sync._listing_phase(job.id, 'reading', n);
END
$$;
COMMENT ON FUNCTION sync._read_suspects(sync.job, boolean) IS 'Has the suspects of a listing read again by id';

-- A stream that polls by itself gets its chance first: what changed there since it last looked is on its way here.
CREATE FUNCTION sync._catch_up(job sync.job)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked timestamptz := (job.cursor ->> 'asked_at')::timestamptz;
BEGIN
    IF asked IS NULL THEN
        asked := clock_timestamp();
        UPDATE sync.stream_cursor c SET requested_at = asked
          FROM sync.stream t
         WHERE t.id = c.stream_id AND t.state = 'active' AND t.system_id = job.system_id AND t.object_id = job.object_id
           AND (t.every IS NOT NULL OR t.schedule IS NOT NULL);
        UPDATE sync.job j SET cursor = j.cursor || jsonb_build_object('asked_at', asked) WHERE j.id = job.id;
        PERFORM sync._wake();
    END IF;
    RETURN clock_timestamp() > asked + interval '2 min'
        OR NOT EXISTS (SELECT FROM sync.stream t JOIN sync.stream_cursor c ON c.stream_id = t.id
                        WHERE t.state = 'active' AND t.system_id = job.system_id AND t.object_id = job.object_id
                          AND (t.every IS NOT NULL OR t.schedule IS NOT NULL)
                          AND NOT coalesce(c.started_at >= asked AND c.finished_at >= c.started_at, false));
END
$$;
COMMENT ON FUNCTION sync._catch_up(sync.job) IS 'Asks the stream of what is compared for a walk, once; whether that walk has ended, or has taken too long';

-- Where no record can be read by id, or so many differ that it would take longer, everything is listed a
-- second time: what a page missed because it moved meanwhile is on one of that walk.
CREATE FUNCTION sync._listing_again(job sync.job, can_fetch boolean)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    suspects bigint;
BEGIN
    SELECT count(*) INTO suspects FROM sync.listed_suspect s WHERE s.job_id = job.id AND s.remote_id <> '';
    IF job.cursor ? 'second' OR suspects <= (CASE WHEN can_fetch THEN greatest(500, (job.result ->> 'listed')::bigint / 20) ELSE 0 END) THEN
        RETURN false;
    END IF;
    DELETE FROM sync.listed_suspect s WHERE s.job_id = job.id;
    DELETE FROM sync.reconciliation_total t USING sync.reconciliation r WHERE r.job_id = job.id AND t.reconciliation_id = r.id;
    UPDATE sync.job j SET cursor = (j.cursor - '{walk,after,part}'::text[]) WHERE j.id = job.id;
    PERFORM sync._listing_phase(job.id, 'listing', job.total, '{"second": true}');
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._listing_again(sync.job, boolean) IS 'Lists everything again where suspects cannot be read by id, or are too many for that';

CREATE FUNCTION sync._listing_compared(job sync.job)
RETURNS interval
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part text := coalesce(job.cursor ->> 'part', 'listed');
    more boolean;
BEGIN
    more := CASE part WHEN 'listed' THEN sync._compare_listed(job, 200)
                      WHEN 'bound' THEN sync._compare_bound(job, 1000)
                      ELSE sync._compare_unbound(job, 200) END;
    IF more THEN
        RETURN '0';
    END IF;
    IF part <> 'unbound' THEN
        UPDATE sync.job j SET cursor = (j.cursor - 'after') || jsonb_build_object('part', CASE part WHEN 'listed' THEN 'bound' ELSE 'unbound' END) WHERE j.id = job.id;
        RETURN '0';
    END IF;
    -- Remote records, and ours that should be there and are bound to none.
    UPDATE sync.reconciliation r
       SET checked = (SELECT count(*) FROM sync.listed_record l WHERE l.job_id = job.id)
                   + (SELECT count(*) FROM sync.listed_suspect s WHERE s.job_id = job.id AND s.remote_id = '')
     WHERE r.job_id = job.id;
    UPDATE sync.job j SET result = j.result || jsonb_build_object('suspects', (SELECT count(*) FROM sync.listed_suspect s WHERE s.job_id = job.id)) WHERE j.id = job.id;
    PERFORM sync._listing_phase(job.id, 'catching_up', NULL);
    RETURN '0';
END
$$;
COMMENT ON FUNCTION sync._listing_compared(sync.job) IS 'A step of comparing: the next piece, or the next phase';

CREATE FUNCTION sync._listing_judged(job sync.job)
RETURNS interval
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    round integer := coalesce((job.cursor ->> 'round')::integer, 0);
BEGIN
    IF sync._judge_some(job, 10) THEN
        RETURN '0';
    END IF;
    IF EXISTS (SELECT FROM sync.listed_suspect s WHERE s.job_id = job.id AND NOT s.judged) THEN
        UPDATE sync.job j SET cursor = j.cursor || jsonb_build_object('round', round + 1) WHERE j.id = job.id;
        PERFORM sync._listing_phase(job.id, 'waiting', NULL);
        RETURN interval '1 s' * (round + 1);
    END IF;
    -- Somebody's open transaction may have them, for hours: of another run of the same comparison, or of a certificate.
    BEGIN
        LOCK TABLE sync.break_entry IN ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN '5 s';
    END;
    IF NOT (SELECT pg_try_advisory_xact_lock(hashtext('sync_ext breaks'), hashtext(r.source)) FROM sync.reconciliation r WHERE r.job_id = job.id) THEN
        RETURN '5 s';
    END IF;
    PERFORM sync._explain_totals(r.id), sync._settle_breaks(r.id) FROM sync.reconciliation r WHERE r.job_id = job.id;
    UPDATE sync.job j
       SET result = j.result || (SELECT jsonb_build_object('checked', r.checked, 'found', r.found, 'opened', r.opened, 'closed', r.closed)
                                   FROM sync.reconciliation r WHERE r.job_id = job.id)
     WHERE j.id = job.id;
    PERFORM sync._listing_phase(job.id, 'clearing', NULL);
    -- Clearing counts nothing: from here on, and once it has ended, a job shows all that it compared, and since when.
    UPDATE sync.job j SET done = r.checked, total = r.checked, cursor = j.cursor - 'phase_at' FROM sync.reconciliation r WHERE j.id = job.id AND r.job_id = j.id;
    RETURN '0';
END
$$;
COMMENT ON FUNCTION sync._listing_judged(sync.job) IS 'A step of judging: the next suspects, another round, or the end of the run';

CREATE FUNCTION sync._job_full_listing(id bigint)
RETURNS interval
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job sync.job;
    pull jsonb;
BEGIN
    SELECT j.* INTO STRICT job FROM sync.job j WHERE j.id = _job_full_listing.id;
    SELECT sync._manifest_object(y.name, o.name, 'pull') -> 'pull' INTO pull
      FROM sync.system y, sync.object o WHERE y.id = job.system_id AND o.id = job.object_id;
    CASE job.phase
        WHEN 'listed' THEN
            PERFORM sync._listing_phase(job.id, 'comparing', NULL, jsonb_build_object(
                        'resolution_ms', sync._resolution_ms(job.system_id, job.object_id)));
            UPDATE sync.job j SET result = j.result || jsonb_build_object('listed', (SELECT count(*) FROM sync.listed_record l WHERE l.job_id = job.id)) WHERE j.id = job.id;
            RETURN '0';
        WHEN 'comparing' THEN
            RETURN sync._listing_compared(job);
        WHEN 'catching_up' THEN
            IF sync._listing_again(job, pull -> 'fetch' IS NOT NULL) THEN
                RETURN interval '1 h';
            ELSIF NOT sync._catch_up(job) THEN
                RETURN interval '200 ms';
            ELSIF pull -> 'fetch' IS NULL THEN
                PERFORM sync._listing_phase(job.id, 'judging', NULL);
                RETURN '0';
            END IF;
            PERFORM sync._read_suspects(job, job.cursor ? 'second');
            RETURN interval '1 h';
        WHEN 'waiting' THEN
            IF pull -> 'fetch' IS NULL THEN
                PERFORM sync._listing_phase(job.id, 'judging', NULL);
                RETURN '0';
            END IF;
            PERFORM sync._read_suspects(job);
            RETURN interval '1 h';
        WHEN 'read' THEN
            -- What the system has told since its stream looked is news and no break: before the verdict it looks once more.
            UPDATE sync.job j SET cursor = j.cursor - 'asked_at' WHERE j.id = job.id;
            PERFORM sync._listing_phase(job.id, 'looking_again', NULL);
            RETURN '0';
        WHEN 'looking_again' THEN
            IF NOT sync._catch_up(job) THEN
                RETURN interval '200 ms';
            END IF;
            PERFORM sync._listing_phase(job.id, 'judging', (SELECT count(*) FROM sync.listed_suspect s WHERE s.job_id = job.id AND NOT s.judged));
            RETURN '0';
        WHEN 'judging' THEN
            RETURN sync._listing_judged(job);
        WHEN 'clearing' THEN
            RETURN CASE WHEN sync._clear_listed() > 0 THEN interval '0' END;
        ELSE
            -- counting, listing, reading: src/reconcile is at it, and sets the time of the next step when it is done.
            IF job.phase IS NULL THEN
                PERFORM sync._listing_phase(job.id, 'counting', NULL);
            END IF;
            RETURN interval '1 h';
    END CASE;
END
$$;
COMMENT ON FUNCTION sync._job_full_listing(bigint) IS 'A step of a full reconciliation';
