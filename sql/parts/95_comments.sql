-- Comments on the columns that have none where they are made. Most words mean the same wherever they
-- stand, so they are explained once; a line for one relation goes before the line for all of them.

DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT DISTINCT ON (c.oid, a.attnum) c.oid::regclass AS relation, a.attname, d.said
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN (VALUES
            ('*', 'activity', 'What the process does now'),
            ('*', 'adopted_at', 'When this cluster was adopted'),
            ('*', 'adopted_by', 'Who adopted it'),
            ('*', 'age', 'Time since the remote record came in'),
            ('*', 'ambiguous', 'Deliveries whose effect is unknown until they are looked up'),
            ('*', 'answered_at', 'When the answer was read, or given up'),
            ('*', 'applied', 'Records of which something was written to the tables'),
            ('*', 'as_of', 'When these figures were taken'),
            ('*', 'at', 'When the row was written'),
            ('*', 'attempt', 'Number of the try within its delivery and issue'),
            ('*', 'attempt_id', 'The try; ids grow with time'),
            ('*', 'attempts', 'Tries so far; throttled ones do not count'),
            ('api_call', 'attempts', 'Tries so far'),
            ('inbox', 'attempts', 'Times that it was mapped and applied in vain'),
            ('inbox_status', 'attempts', 'Times that it was mapped and applied in vain'),
            ('*', 'base_url', 'Where it is spoken to: the server''s option, else the connector''s'),
            ('*', 'behind', 'Deliveries that stand behind an unfinished one of their record'),
            ('_held', 'behind', 'Later changes of the record that wait for this one'),
            ('dead_letter', 'behind', 'Later changes of the record that wait for this one'),
            ('conflict', 'behind', 'Later changes of the record that wait for this one'),
            ('*', 'body', 'The row after the change (before it, for a delete)'),
            ('*', 'bound', 'Records bound to one of ours'),
            ('*', 'bound_at', 'When the two were bound'),
            ('*', 'code', 'Short reason: the system''s own error code, or one of ours'),
            ('*', 'condition', 'SQL expression over the record as of the event; NULL means every event'),
            ('*', 'conflict', 'Documents whose remote copy differs from ours'),
            ('*', 'connector', 'Connector that it speaks through'),
            ('delivery_attempt', 'batch', 'Attempts with the same number travelled in one request; NULL: alone'),
            ('delivery_attempt', 'connector', 'Name and version of the manifest that rendered the request'),
            ('*', 'connector_version', 'Version of the current manifest'),
            ('*', 'context', 'actor, reason, correlation_id, causation_id, session user; NULL when none was set'),
            ('*', 'count', 'How often it was seen'),
            ('*', 'created_at', 'When the row was made'),
            ('*', 'created_by', 'Session user who made it'),
            ('*', 'cursor', 'How far it has read'),
            ('*', 'cursor_at', 'When the cursor was last written'),
            ('*', 'cursor_seq', 'Highest event number in the window being read up to which all is finished or held'),
            ('*', 'database', 'Database of the hub'),
            ('*', 'database_oid', 'OID of the database that was adopted'),
            ('*', 'dead', 'Deliveries that failed for good'),
            ('*', 'deleted', 'Whether the system deleted it'),
            ('*', 'delivery', 'Event and route, as route/seq: what sync.retry() and sync.discard() take'),
            ('*', 'done_last_minute', 'Deliveries that ended within the last minute'),
            ('*', 'ended_at', 'When it ended; NULL while it is unfinished'),
            ('*', 'ended_last_minute', 'Deliveries that ended within the last minute'),
            ('*', 'event_at', 'When the change was captured'),
            ('*', 'every', 'Interval between polls by the worker'),
            ('*', 'failed_at', 'When its last try failed'),
            ('*', 'failures', 'Failures in a row'),
            ('*', 'finished', 'Every event visible in this snapshot is finished, or held'),
            ('*', 'finished_at', 'When it ended'),
            ('*', 'finished_seq', 'Numbers beyond this one are of transactions later than the snapshot'),
            ('*', 'first_at', 'When it was first seen'),
            ('*', 'first_claim_at', 'When its request was first claimed: the idempotency key''s lifetime counts from here'),
            ('*', 'held', 'What needs a person or another record first'),
            ('*', 'hint', 'What to do about it'),
            ('*', 'how_to_retry', 'Statement that sends it again'),
            ('*', 'id', 'The row''s own number'),
            ('*', 'idempotency_key', 'Key under which the system recognises a repeated request'),
            ('*', 'in_flight', 'Deliveries whose request was claimed and has no outcome'),
            ('*', 'inbox', 'Inbound records that could not be applied yet'),
            ('*', 'incarnation', 'Incarnation of the hub that wrote it; transaction ids of another one mean nothing'),
            ('*', 'issue', 'Counts deliberate re-issues; a new issue has a new idempotency key'),
            ('*', 'item', 'The newest state of the remote record as it came'),
            ('*', 'key', 'The condition, as kind:name'),
            ('*', 'key_columns', 'Primary key columns in key order'),
            ('*', 'kind', 'Which of several kinds the row is'),
            ('progress', 'kind', 'push or pull'),
            ('api_call', 'kind', 'call: as sync.call() asked; fetch: a fresh read'),
            ('*', 'lag_events', 'Events that were committed and are not claimed'),
            ('*', 'lag_time', 'Age of the oldest of them'),
            ('*', 'last_at', 'When it was last seen'),
            ('*', 'last_attempt_id', 'Its last try'),
            ('*', 'last_done_at', 'When a change of the record last reached the system'),
            ('*', 'last_error', 'Why the last try failed'),
            ('*', 'last_event_at', 'When its newest unfinished change was captured'),
            ('*', 'latency_ms', 'Time from the first byte sent to the last byte read'),
            ('*', 'line_schema', 'Schema of the document''s line table'),
            ('*', 'manifest', 'The whole manifest'),
            ('*', 'mapped', 'Canonical fields, as far as the mapping got'),
            ('*', 'max_lag', 'A route further behind than this becomes needs_backfill'),
            ('*', 'merged', 'How many earlier waiting events of the record this row has taken in'),
            ('*', 'message', 'What happened, in the words of the system or of the hub'),
            ('*', 'method', 'HTTP method'),
            ('*', 'mode', 'live, dry_run or paused'),
            ('*', 'name', 'Name, as functions and views use it'),
            ('*', 'next_at', 'When it is read next'),
            ('*', 'next_attempt_at', 'When it is tried next'),
            ('*', 'notice', 'The newest warning or error about it'),
            ('*', 'number_column', 'Column with the business number'),
            ('*', 'object', 'Kind of record'),
            ('*', 'object_id', 'Kind of record'),
            ('*', 'old', 'Old values of the changed columns of an update'),
            ('*', 'on_truncate', 'What TRUNCATE of the table does: it is refused, or recorded as an event'),
            ('*', 'op', 'I insert, U update, D delete, T truncate, K key only'),
            ('*', 'operation', 'What the event is: insert, update, delete, truncate, key only'),
            ('api_call', 'operation', 'object.operation of the manifest'),
            ('*', 'operations', 'Kinds of event that are sent'),
            ('*', 'options', 'Options of the server'),
            ('*', 'origin', 'System whose pull caused the change; 0 for an app'),
            ('*', 'outcome', 'done, rejected, throttled, ambiguous or auth; open while there is none'),
            ('*', 'owner', 'Owner of the server'),
            ('*', 'oid', 'OID of the server'),
            ('*', 'pages', 'Pages read'),
            ('*', 'params', 'Parameters of the operation'),
            ('*', 'paused', 'Whether sync.pause() stopped it'),
            ('*', 'paused_at', 'When it was paused'),
            ('*', 'paused_by', 'Session user who paused it'),
            ('*', 'paused_reason', 'Why it was paused'),
            ('*', 'pending_id', 'Row of sync.pending; NULL while it is in the steady flow'),
            ('*', 'pid', 'Process id; NULL when it does not run'),
            ('*', 'queued', 'Deliveries on their way to a claim'),
            ('*', 'reason', 'Why'),
            ('inbox', 'reason', 'Why it could not be applied'),
            ('inbox_status', 'reason', 'Why it could not be applied'),
            ('*', 'received_at', 'When it came in first'),
            ('*', 'record_id', 'Our record: the text of its key, or a JSON array of texts'),
            ('*', 'record_number', 'Its business number, where the caller may know it'),
            ('*', 'records', 'Remote records read'),
            ('*', 'registered_at', 'When it was registered'),
            ('*', 'registered_by', 'Session user who registered it'),
            ('*', 'remaining', 'Deliveries still to be sent'),
            ('*', 'remote_id', 'Id that the system knows the record by'),
            ('*', 'remote_number', 'Business number that the system gave it'),
            ('*', 'remote_version', 'Version that the system gave it'),
            ('*', 'request', 'Rendered body, cut; NULL when empty, too long or not for the caller'),
            ('*', 'request_id', 'The vendor''s own id of the request, for a support case'),
            ('*', 'requested_at', 'When it was asked for'),
            ('*', 'requested_by', 'Session user who asked'),
            ('*', 'response', 'Answer, secrets redacted, cut; NULL when there was none or it is not for the caller'),
            ('*', 'restart_at', 'When a hub that ended starts again'),
            ('*', 'retry', 'Deliveries that will be tried again'),
            ('*', 'retry_at', 'When it is tried next; NULL for not by itself'),
            ('*', 'route', 'Name of the route'),
            ('*', 'route_id', 'The route'),
            ('*', 'routes', 'Routes that send to it'),
            ('*', 'run_as', 'Role whose rights the condition is evaluated with'),
            ('*', 'schedule', 'pg_cron schedule'),
            ('*', 'schema_name', 'Schema of its table'),
            ('*', 'seen_at', 'When it was last read or written there'),
            ('*', 'sent_at', 'When the try was claimed, just before it was sent'),
            ('*', 'seq', 'Number of the event; order of events of one record'),
            ('*', 'severity', 'info, warning or error'),
            ('*', 'since', 'Instant from which the first poll reads'),
            ('*', 'singleton', 'There is one row at most'),
            ('*', 'sqlstate', 'SQLSTATE of the refusal, when a statement failed'),
            ('*', 'start_kind', 'now, timestamp or all'),
            ('*', 'started_at', 'When it began'),
            ('*', 'state', 'Where it stands'),
            ('record_status', 'state', 'queued, in_flight, retry, waiting, ambiguous, behind, dead, conflict, synced, or unsynced when the system deleted it'),
            ('delivery', 'state', 'queued, in_flight, retry, waiting, ambiguous, behind, dead, conflict while unfinished; done, ignored, discarded, merged, dry_run at the end'),
            ('stream_status', 'state', 'new, requested, reading, idle or failing'),
            ('route_status', 'state', 'active or needs_backfill'),
            ('stream', 'state', 'dropped streams stay as a tombstone'),
            ('api_call', 'state', 'queued, sent, done, failed, ambiguous'),
            ('*', 'status', 'HTTP status'),
            ('*', 'step', 'Operation of the manifest'),
            ('*', 'stream_id', 'The stream'),
            ('*', 'streams', 'Streams that read from it'),
            ('*', 'system', 'External system'),
            ('*', 'system_id', 'External system'),
            ('*', 'system_identifier', 'System identifier of the cluster that was adopted'),
            ('*', 'table_name', 'Its table'),
            ('*', 'table_oid', 'OID of its table'),
            ('*', 'target', 'Path and query of the request'),
            ('*', 'time_left', 'Time that the rest takes at the present rate'),
            ('*', 'version', 'Version'),
            ('mirror', 'version', 'Version that the system gave this state'),
            ('*', 'version_at', 'When the system says that it changed'),
            ('*', 'wait_object', 'Object of the record that it waits for'),
            ('*', 'wait_object_id', 'Object of the record that it waits for'),
            ('*', 'wait_record_id', 'Record that it waits for'),
            ('*', 'wait_remote_id', 'Remote id of the record that it waits for'),
            ('*', 'waiting', 'Deliveries that wait for another record'),
            ('*', 'waiting_for', 'What it waits for'),
            ('*', 'window_end_seq', 'Sequence value read before that snapshot was taken'),
            ('*', 'xid', 'Top-level transaction of the writer')) d (relation, attname, said)
            ON d.attname = a.attname AND d.relation IN (c.relname, '*')
         WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
           AND pg_catalog.col_description(c.oid, a.attnum) IS NULL
         ORDER BY c.oid, a.attnum, d.relation = '*'
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', item.relation, item.attname, item.said);
    END LOOP;
    FOR item IN
        SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_catalog.pg_trigger t
          JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid AND c.relnamespace = 'sync'::regnamespace
         WHERE t.tgname = 'registry_changed'
    LOOP
        EXECUTE format('COMMENT ON TRIGGER %I ON %s IS %L', item.tgname, item.relation,
                       'Tells every backend that what it has cached of this table is stale');
    END LOOP;
    FOR item IN
        SELECT s.oid::regclass AS sequence, d.refobjid::regclass AS relation FROM pg_catalog.pg_class s
          JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid
               AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
         WHERE s.relnamespace = 'sync'::regnamespace AND s.relkind = 'S'
    LOOP
        EXECUTE format('COMMENT ON SEQUENCE %s IS %L', item.sequence, format('Ids of %s', item.relation));
    END LOOP;
    -- The parts of the canonical model, for who reads \df.
    FOR item IN
        SELECT p.oid::regprocedure AS signature, d.said
          FROM pg_catalog.pg_proc p
          JOIN (VALUES
            ('_canonical_parties', 'Canonical tables of parties: columns and comments'),
            ('_canonical_contracts', 'Canonical tables of contracts: columns and comments'),
            ('_canonical_billing', 'Canonical tables of billing: columns and comments'),
            ('_canonical_accounting', 'Canonical tables of accounting: columns and comments'),
            ('_canonical_service', 'Canonical tables of service: columns and comments'),
            ('_canonical_columns', 'All columns of the canonical model'),
            ('_canonical_rules', 'Keys, checks, indexes and triggers of the canonical model'),
            ('_canonical_column_sql', 'Definition of one column'),
            ('_canonical_references', 'Makes the foreign keys of new tables'),
            ('_canonical_currencies', 'Fills the table of currencies'),
            ('_canonical_money_functions', 'Makes the functions of the checks on amounts'),
            ('_canonical_trigger_functions', 'Makes the trigger functions of the canonical tables'),
            ('_canonical_grants', 'Grants on new canonical tables and their functions'),
            ('_canonical_build', 'Makes what a canonical model lacks and tells what')) d (name, said) ON d.name = p.proname
         WHERE p.pronamespace = 'sync'::regnamespace AND pg_catalog.obj_description(p.oid, 'pg_proc') IS NULL
    LOOP
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', item.signature, item.said);
    END LOOP;
END
$$;
