-- Comparisons by one call: what was counted, as text. The tables are in schema rec, and the system is "billing".
CREATE FUNCTION rec.run(thing text DEFAULT 'invoice', mode text DEFAULT 'mirror', other text DEFAULT NULL, system text DEFAULT 'billing', as_of timestamptz DEFAULT NULL, period daterange DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run bigint := sync.reconcile(system, thing, period, mode, other, as_of);
BEGIN
    RETURN (SELECT format('checked %s found %s opened %s closed %s in transit %s explained %s', r.checked, r.found, r.opened, r.closed, r.in_transit, r.explained)
              FROM sync.reconciliation_run r WHERE r.id = run);
END
$$;
-- A full listing that says what the mirrors say, without the requests.
CREATE FUNCTION rec.full(thing text DEFAULT 'invoice') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run bigint := sync.reconcile('billing', thing, mode => 'full');
    job bigint := (SELECT r.job_id FROM sync.reconciliation r WHERE r.id = run);
BEGIN
    UPDATE sync.job j SET state = 'running', phase = 'listed', cursor = '{"second": true}' WHERE j.id = job;
    INSERT INTO sync.listed_record (job_id, remote_id, fields, as_of, deleted)
    SELECT job, m.remote_id, m.fields, clock_timestamp(), m.deleted FROM sync.mirror m JOIN sync.job j ON j.id = job AND (j.system_id, j.object_id) = (m.system_id, m.object_id);
    WHILE sync._job_full_listing(job) IS NOT NULL LOOP
        NULL;
    END LOOP;
    UPDATE sync.job j SET state = 'done' WHERE j.id = job;
    RETURN (SELECT format('%s full: checked %s found %s opened %s closed %s', thing, r.checked, r.found, r.opened, r.closed) FROM sync.reconciliation_run r WHERE r.id = run);
END
$$;
