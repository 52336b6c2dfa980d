-- Full reconciliation, the job: everything that a system lists, what differs read again by id, and what
-- then still differs a break.
--
--   counting, listing (src/reconcile) ──▶ comparing ──▶ catching_up ──▶ reading (src/reconcile) ──▶ judging ──▶ done
--                                                                          ▲                        │
--                                                                          └── still on its way ────┘

CREATE FUNCTION sync._reconcile_full(run bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.reconciliation;
    system text;
    object text;
    busy bigint;
    job bigint;
BEGIN
    SELECT t.* INTO STRICT r FROM sync.reconciliation t WHERE t.id = run FOR UPDATE;
    SELECT y.name INTO STRICT system FROM sync.system y WHERE y.id = r.system_id;
    SELECT o.name INTO STRICT object FROM sync.object o WHERE o.id = r.object_id;
    IF sync._manifest_object(system, object, 'pull') -> 'pull' -> 'list' IS NULL THEN
        RAISE EXCEPTION 'the connector of system "%" cannot list object "%"', system, object
            USING ERRCODE = 'SE081', DETAIL = 'It has a journal of changes only, and that does not reach back for ever.',
                  HINT = 'Compare with the last known state: sync.reconcile(…, mode => ''mirror'').';
    END IF;
    SELECT j.id INTO busy FROM sync.job j
     WHERE j.kind = 'full_listing' AND j.system_id = r.system_id AND j.object_id = r.object_id AND j.state IN ('queued', 'running', 'paused');
    IF FOUND THEN
        RAISE EXCEPTION 'object "%" of system "%" is being listed already', object, system
            USING ERRCODE = 'SE081', DETAIL = format('Job %s does it.', busy),
                  HINT = format('Wait for it (sync.progress), or end it: SELECT sync.stop_job(%s, ''reason'').', busy);
    END IF;
    job := sync._job_start('full_listing', r.system_id, r.object_id, jsonb_build_object('reconciliation', run));
    UPDATE sync.reconciliation t SET job_id = job WHERE t.id = run;
    RETURN job;
END
$$;
COMMENT ON FUNCTION sync._reconcile_full(bigint) IS 'Begins the job of a run in mode full; returns its id';

-- A run ends with its job, whoever ends that, and goes on with it.
CREATE FUNCTION sync._listing_job_changed()
RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.reconciliation r
       SET state = NEW.state, error = CASE WHEN NEW.state <> 'running' THEN coalesce(NEW.last_error, 'its job was stopped') END,
           finished_at = CASE WHEN NEW.state <> 'running' THEN clock_timestamp() END
     WHERE r.job_id = NEW.id AND r.state <> 'done';
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._listing_job_changed() IS 'Ends or continues the reconciliation of a job';
CREATE TRIGGER listing_changed AFTER UPDATE OF state ON sync.job FOR EACH ROW
    WHEN (NEW.kind = 'full_listing' AND OLD.state <> NEW.state AND NEW.state IN ('running', 'failed', 'stopped'))
    EXECUTE FUNCTION sync._listing_job_changed();
COMMENT ON TRIGGER listing_changed ON sync.job IS 'Ends or continues the reconciliation of a job';

-- What listings leave behind when they have ended, a piece at a time; how many rows it removed.
CREATE FUNCTION sync._clear_listed(at_most integer DEFAULT 5000)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone integer;
    more integer;
BEGIN
    DELETE FROM sync.listed_record l
     WHERE (l.job_id, l.remote_id) IN (SELECT d.job_id, d.remote_id FROM sync.listed_record d JOIN sync.job j ON j.id = d.job_id
                                        WHERE j.state IN ('done', 'stopped') OR j.phase = 'clearing' LIMIT at_most);
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM sync.listed_suspect l
     WHERE (l.job_id, l.remote_id, l.record_id) IN (
           SELECT d.job_id, d.remote_id, d.record_id FROM sync.listed_suspect d JOIN sync.job j ON j.id = d.job_id
            WHERE j.state IN ('done', 'stopped') OR j.phase = 'clearing' LIMIT at_most);
    GET DIAGNOSTICS more = ROW_COUNT;
    RETURN gone + more;
END
$$;
COMMENT ON FUNCTION sync._clear_listed(integer) IS 'Removes a piece of what listings that have ended left behind';

CREATE FUNCTION sync._listing_phase(job bigint, phase text, total bigint, added jsonb DEFAULT '{}')
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.job j SET phase = $2, done = 0, total = $3, cursor = j.cursor || jsonb_build_object('phase_at', clock_timestamp()) || $4 WHERE j.id = $1
$$;
COMMENT ON FUNCTION sync._listing_phase(bigint, text, bigint, jsonb) IS 'Begins a phase of a listing';

-- ---- comparing: everything, in pieces; what differs becomes a suspect ----

CREATE FUNCTION sync._compare_listed(job sync.job, at_most integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    resolution bigint := coalesce((job.cursor ->> 'resolution_ms')::bigint, 1);
    remotes text[];
    records text[];
    fields jsonb[];
    gone boolean[];
    expected boolean[];
    bodies jsonb;
    ours jsonb[];
    differs jsonb[];
    suspect boolean[];
BEGIN
    SELECT array_agg(l.remote_id), array_agg(l.record_id), array_agg(l.fields), array_agg(l.deleted), array_agg(l.expected)
      INTO remotes, records, fields, gone, expected
      FROM (SELECT l.*, x.record_id
              FROM (SELECT l.* FROM sync.listed_record l
                     WHERE l.job_id = job.id AND l.remote_id > coalesce(job.cursor ->> 'after', '') ORDER BY l.remote_id LIMIT at_most) l
              LEFT JOIN sync.external_id x ON x.system_id = job.system_id AND x.object_id = job.object_id AND x.remote_id = l.remote_id
             ORDER BY l.remote_id) l;
    IF remotes IS NULL THEN
        RETURN false;
    END IF;
    bodies := sync._bodies(job.object_id, records);
    ours := ARRAY(SELECT bodies -> u.id FROM unnest(records) WITH ORDINALITY u (id, n) ORDER BY u.n);
    differs := sync._differing(job.object_id, resolution, ours, fields, sync._pull_refs(job.system_id, job.object_id), job.system_id);
    suspect := ARRAY(SELECT CASE WHEN u.record_id IS NULL THEN u.expected AND NOT u.gone WHEN u.ours IS NULL THEN NOT u.gone
                                 ELSE u.fields IS NULL OR u.differs IS NOT NULL END
                       FROM unnest(records, fields, gone, expected, ours, differs) WITH ORDINALITY u (record_id, fields, gone, expected, ours, differs, n) ORDER BY u.n);
    INSERT INTO sync.listed_suspect (job_id, remote_id)
    SELECT job.id, u.remote_id FROM unnest(remotes, suspect) u (remote_id, suspect) WHERE u.suspect
    ON CONFLICT DO NOTHING;
    PERFORM sync._add_totals(r, (SELECT array_agg(u.ours) FROM unnest(ours, suspect, gone) u (ours, suspect, gone) WHERE NOT u.suspect AND NOT u.gone),
                             (SELECT array_agg(u.fields) FROM unnest(fields, suspect, gone) u (fields, suspect, gone) WHERE NOT u.suspect AND NOT u.gone))
       FROM sync.reconciliation r WHERE r.job_id = job.id;
    UPDATE sync.job j SET done = j.done + cardinality(remotes), cursor = j.cursor || jsonb_build_object('after', remotes[cardinality(remotes)])
     WHERE j.id = job.id;
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._compare_listed(sync.job, integer) IS 'Compares the next records that were listed; false: there are no more';

-- Bound, and not listed: vanished, or missed by the list. They are read by id like other suspects.
CREATE FUNCTION sync._compare_bound(job sync.job, at_most integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last text;
    n bigint;
BEGIN
    SELECT max(x.remote_id), count(*) INTO last, n
      FROM (SELECT x.remote_id FROM sync.external_id x
             WHERE x.system_id = job.system_id AND x.object_id = job.object_id AND x.remote_id > coalesce(job.cursor ->> 'after', '')
             ORDER BY x.remote_id LIMIT at_most) x;
    IF n = 0 THEN
        RETURN false;
    END IF;
    WITH missed AS (
        INSERT INTO sync.listed_record AS l (job_id, remote_id, as_of, problem)
        SELECT job.id, x.remote_id, '-infinity', 'it was not listed'
          FROM sync.external_id x
         WHERE x.system_id = job.system_id AND x.object_id = job.object_id
           AND x.remote_id > coalesce(job.cursor ->> 'after', '') AND x.remote_id <= last
           AND NOT EXISTS (SELECT FROM sync.listed_record k WHERE k.job_id = job.id AND k.remote_id = x.remote_id)
        RETURNING l.remote_id)
    INSERT INTO sync.listed_suspect (job_id, remote_id) SELECT job.id, m.remote_id FROM missed m ON CONFLICT DO NOTHING;
    UPDATE sync.job j SET done = j.done + n, cursor = j.cursor || jsonb_build_object('after', last) WHERE j.id = job.id;
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._compare_bound(sync.job, integer) IS 'Finds which of the next bound records were not listed; false: there are no more';

-- Records that are bound to nothing there, and should be.
CREATE FUNCTION sync._compare_unbound(job sync.job, at_most integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    route sync.route;
    ids text[];
    unbound text[];
    bodies jsonb;
BEGIN
    route := sync._route_of(job.system_id, job.object_id);
    IF route.id IS NULL THEN
        RETURN false;
    END IF;
    ids := sync._next_ids(job.object_id, job.cursor ->> 'after', at_most);
    IF cardinality(ids) = 0 THEN
        RETURN false;
    END IF;
    unbound := ARRAY(SELECT i FROM unnest(ids) i
                      WHERE NOT EXISTS (SELECT FROM sync.external_id x WHERE x.object_id = job.object_id AND x.record_id = i AND x.system_id = job.system_id));
    bodies := sync._bodies(job.object_id, unbound);
    INSERT INTO sync.listed_suspect (job_id, record_id)
    SELECT job.id, b.key FROM jsonb_each(bodies) b WHERE sync._is_expected_there(route, b.value)
    ON CONFLICT DO NOTHING;
    UPDATE sync.job j SET done = j.done + cardinality(ids), cursor = j.cursor || jsonb_build_object('after', ids[cardinality(ids)]) WHERE j.id = job.id;
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._compare_unbound(sync.job, integer) IS 'Finds which of the next records should be in the system and are bound to nothing there; false: there are no more';
