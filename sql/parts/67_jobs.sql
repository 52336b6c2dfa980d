-- Long work in steps. The hub runs one step at a time, between its other work: a step is a short
-- transaction that commits what it did together with where the next one goes on, so that a crash
-- repeats nothing and loses nothing.
--
-- A step is sync._job_<kind>(id bigint) RETURNS interval: how long to wait before the next, '0' for as
-- soon as may be, NULL when the work is done. It runs with the hub's rights, and takes some tens of
-- milliseconds: all that time nothing is sent. So it does not wait for the locks of others: where somebody
-- holds one, in a transaction that may stay open for hours, it comes again.

CREATE FUNCTION sync._job_start(kind text, system_id integer, object_id integer, params jsonb, reason text DEFAULT NULL, total bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made bigint;
BEGIN
    INSERT INTO sync.job AS j (kind, system_id, object_id, params, reason, total)
    VALUES ($1, $2, $3, $4, $5, $6) RETURNING j.id INTO made;
    PERFORM sync._audit('job.requested', (SELECT o.name FROM sync.object o WHERE o.id = $3), NULL, (SELECT y.name FROM sync.system y WHERE y.id = $2),
                        jsonb_build_object('job', made, 'kind', $1, 'params', $4), $5);
    PERFORM sync._wake();
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync._job_start(text, integer, integer, jsonb, text, bigint) IS 'Queues long work for the hub; returns its id';

CREATE FUNCTION sync._job_end(job sync.job, state text, error text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.job j
       SET state = $2, finished_at = clock_timestamp(), step_at = clock_timestamp(), next_step_at = NULL, last_error = coalesce($3, j.last_error)
     WHERE j.id = job.id;
    PERFORM sync._audit('job.' || $2, (SELECT o.name FROM sync.object o WHERE o.id = job.object_id), NULL,
                        (SELECT y.name FROM sync.system y WHERE y.id = job.system_id),
                        (SELECT jsonb_build_object('job', j.id, 'kind', j.kind, 'done', j.done, 'result', j.result)
                                || jsonb_strip_nulls(jsonb_build_object('error', $3)) FROM sync.job j WHERE j.id = job.id), job.reason);
    PERFORM pg_notify('sync_job', jsonb_build_object('job', job.id, 'kind', job.kind, 'state', $2)::text);
END
$$;
COMMENT ON FUNCTION sync._job_end(sync.job, text, text) IS 'Ends a job, and says so';

-- One step of the job that is due longest. How many milliseconds until another is due; NULL: none is.
-- A job that fails waits longer each time and stops nobody; after ten failures in a row it has failed. To
-- meet somebody's lock is no failure: it comes again until the lock is gone.
CREATE FUNCTION sync._jobs_step()
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    job sync.job;
    wait interval;
    said text;
    due timestamptz;
BEGIN
    SELECT j.* INTO job FROM sync.job j
     WHERE j.state IN ('queued', 'running') AND j.next_step_at <= clock_timestamp()
     ORDER BY j.next_step_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        BEGIN
            UPDATE sync.job j SET state = 'running', started_at = coalesce(j.started_at, clock_timestamp()) WHERE j.id = job.id;
            EXECUTE format('SELECT sync.%I($1)', '_job_' || job.kind) INTO wait USING job.id;
            IF wait IS NULL THEN
                PERFORM sync._job_end(job, 'done');
            ELSE
                UPDATE sync.job j SET failures = 0, step_at = clock_timestamp(), next_step_at = clock_timestamp() + wait WHERE j.id = job.id;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
            UPDATE sync.job j
               SET state = 'running', last_error = said, step_at = clock_timestamp(), next_step_at = clock_timestamp() + interval '5 s'
             WHERE j.id = job.id;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
            IF job.failures >= 9 THEN
                UPDATE sync.job j SET failures = j.failures + 1 WHERE j.id = job.id;
                PERFORM sync._job_end(job, 'failed', said);
            ELSE
                UPDATE sync.job j
                   SET state = 'running', failures = j.failures + 1, last_error = said, step_at = clock_timestamp(),
                       next_step_at = clock_timestamp() + least(interval '1 s' * 2 ^ job.failures, interval '5 min')
                 WHERE j.id = job.id;
            END IF;
        END;
    END IF;
    SELECT min(j.next_step_at) INTO due FROM sync.job j WHERE j.state IN ('queued', 'running');
    -- greatest() of NULL and 0 is 0, and the hub would never rest.
    RETURN CASE WHEN due IS NOT NULL THEN greatest(0, ceil(extract(epoch FROM due - clock_timestamp()) * 1000)) END::bigint;
END
$$;
COMMENT ON FUNCTION sync._jobs_step() IS 'One step of the job that is due longest; milliseconds until another is due, NULL: none is. Run by the hub';

CREATE FUNCTION sync._job_change(id bigint, states text[], state text, reason text)
RETURNS sync.job
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job sync.job;
BEGIN
    -- Waits for a step that is under way.
    SELECT j.* INTO job FROM sync.job j WHERE j.id = _job_change.id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.progress lists jobs.';
    ELSIF job.state <> ALL (states) THEN
        RAISE EXCEPTION 'job % is %', id, job.state
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It must be %s for that.', array_to_string(states, ' or ')),
                  HINT = 'View sync.progress lists jobs.';
    END IF;
    UPDATE sync.job j
       SET state = _job_change.state, next_step_at = CASE WHEN _job_change.state = 'running' THEN clock_timestamp() END,
           failures = 0
     WHERE j.id = job.id;
    PERFORM sync._audit('job.' || CASE _job_change.state WHEN 'running' THEN 'resumed' ELSE _job_change.state END,
                        (SELECT o.name FROM sync.object o WHERE o.id = job.object_id), NULL,
                        (SELECT y.name FROM sync.system y WHERE y.id = job.system_id),
                        jsonb_build_object('job', job.id, 'kind', job.kind, 'done', job.done), _job_change.reason);
    PERFORM sync._wake();
    RETURN job;
END
$$;
COMMENT ON FUNCTION sync._job_change(bigint, text[], text, text) IS 'Sets a job''s state for a person, or an error';

CREATE FUNCTION sync.pause_job(id bigint, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._job_change($1, '{queued,running}', 'paused', $2);
END
$$;
COMMENT ON FUNCTION sync.pause_job(bigint, text) IS 'Has a job wait for resume_job()';

CREATE FUNCTION sync.resume_job(id bigint, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._job_change($1, '{paused,failed}', 'running', $2);
    UPDATE sync.job j SET finished_at = NULL WHERE j.id = $1;
END
$$;
COMMENT ON FUNCTION sync.resume_job(bigint, text) IS 'Lets a paused or failed job go on where it was';

CREATE FUNCTION sync.stop_job(id bigint, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._check_reason($2);
    PERFORM sync._job_change($1, '{queued,running,paused,failed}', 'stopped', $2);
    UPDATE sync.job j SET finished_at = clock_timestamp() WHERE j.id = $1;
END
$$;
COMMENT ON FUNCTION sync.stop_job(bigint, text) IS 'Ends a job where it is; what it did stays done';
