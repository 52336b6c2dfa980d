-- Long work in steps: what a step says, what fails, and what a person may do to it. No hub runs here:
-- the steps are taken by hand.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_jobs;
DROP ROLE IF EXISTS rec_op;
CREATE DATABASE sync_rec_jobs;
\c sync_rec_jobs
CREATE EXTENSION sync_ext;
CREATE ROLE rec_op LOGIN IN ROLE sync_operator;
\set SHOW_CONTEXT never
\pset null '-'
SELECT current_user AS me \gset

-- Without a job there is nothing to wait for.
SELECT sync._jobs_step() AS due_in;

-- Counts to its total, and fails on the way as often as it is told.
CREATE FUNCTION sync._job_count(id bigint) RETURNS interval LANGUAGE plpgsql AS $$
DECLARE
    job sync.job;
BEGIN
    UPDATE sync.job j SET phase = 'counting', done = j.done + 1 WHERE j.id = $1 RETURNING j.* INTO job;
    IF job.done = 2 AND job.failures < (job.params ->> 'fail')::integer THEN
        RAISE EXCEPTION 'two is too much';
    END IF;
    RETURN CASE WHEN job.done < job.total THEN interval '0' END;
END
$$;
CREATE VIEW jobs AS SELECT kind, state, phase, done, total, failures, last_error, finished_at IS NOT NULL AS finished FROM sync.job;
CREATE FUNCTION due_now() RETURNS void LANGUAGE sql AS $$UPDATE sync.job SET next_step_at = clock_timestamp() WHERE state = 'running'$$;

SELECT sync._job_start('count', NULL, NULL, '{"fail": 0}', 'to see', 3) AS job \gset
SELECT sync._jobs_step() AS due_in FROM generate_series(1, 3);
TABLE jobs;
DELETE FROM sync.job;

-- A step that fails leaves nothing of itself, comes again later, and hinders no other.
SELECT sync._job_start('count', NULL, NULL, '{"fail": 2}', 'to see', 3) AS job \gset
SELECT sync._jobs_step() AS due_in;
SELECT sync._jobs_step() > 0 AS later;
TABLE jobs;
SELECT sync._job_start('count', NULL, NULL, '{"fail": 0}', 'another', 1) AS other \gset
SELECT sync._jobs_step() > 0 AS later;
SELECT state, done FROM sync.job WHERE id = :other;
SELECT due_now();
SELECT sync._jobs_step() > 0 AS later;
SELECT due_now();
SELECT sync._jobs_step(), due_now();
SELECT sync._jobs_step();
TABLE jobs;
DELETE FROM sync.job;

-- Somebody's lock is no failure, however often it is met, and a step does not wait for one for long.
CREATE FUNCTION sync._job_locked(id bigint) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'canceling statement due to lock timeout of %', current_setting('lock_timeout') USING ERRCODE = 'lock_not_available';
END
$$;
SELECT sync._job_start('locked', NULL, NULL, '{}', 'to see') AS job \gset
SELECT count(sync._jobs_step()), count(due_now()) FROM generate_series(1, 11);
SELECT sync._jobs_step() BETWEEN 4000 AND 5000 AS later;
SELECT state, failures, last_error, finished_at IS NOT NULL AS finished FROM sync.job;
DELETE FROM sync.job;

-- After ten failures in a row it is given up, and can be taken up again.
SELECT sync._job_start('count', NULL, NULL, '{"fail": 12}', 'to see', 3) AS job \gset
SELECT count(sync._jobs_step()), count(due_now()) FROM generate_series(1, 11);
TABLE jobs;
SELECT sync._jobs_step() AS due_in;
\c - rec_op
SELECT sync.pause_job(:job);
SELECT sync.resume_job(:job, 'now it will do');
SELECT sync.pause_job(:job);
SELECT sync.stop_job(:job, '');
SELECT sync.stop_job(:job, 'enough');
SELECT sync.resume_job(:job);
SELECT sync.stop_job(0, 'x');
SELECT sync._jobs_step();
\c - :me
TABLE jobs;
SELECT action, detail ->> 'kind' AS kind, detail ->> 'error' AS error, reason
  FROM sync.audit WHERE action LIKE 'job.%' AND (detail ->> 'job')::bigint = :job ORDER BY id;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_jobs;
DROP ROLE rec_op;
