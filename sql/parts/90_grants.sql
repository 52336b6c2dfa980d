-- Who may do what, and what a dump carries. PUBLIC can do nothing.

DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT p.oid::regprocedure AS signature, p.prokind
                  FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'sync'::regnamespace LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', item.signature);
    END LOOP;
END
$$;
REVOKE ALL ON ALL TABLES IN SCHEMA sync FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA sync FROM PUBLIC;

-- ---- people ----

GRANT USAGE ON FOREIGN DATA WRAPPER sync_ext TO sync_admin;

-- Functions by name, whatever their arguments; a name that is not there is a mistake of this list.
DO $$
DECLARE
    -- the month's reports, what they and the postings call with their caller's rights, and the postings
    reports constant text[] := ARRAY['_mirrored_invoices', '_open_invoices', '_check_report_system', 'ar_aging', 'ar_aging_tie_out', 'payout_reconciliation',
        '_deferred_moves', 'deferred_rollforward', '_price_months', '_mrr_steps', '_invoiced_mrr', '_mrr_moves', 'mrr_waterfall', '_churn_exposure',
        'customer_profitability', '_certificate_of', 'verify_certificate', 'certificate_changes', '_drift_since'];
    reporting constant text[] := ARRAY['_canonical_schema', '_model_query', '_check_period', '_check_day', '_check_currency', '_rate', '_no_rate',
        '_check_whole_months', '_check_standard'];
    posting constant text[] := ARRAY['_straight_line', '_by_usage', '_lock_schedules', '_lines_to_schedule', 'build_revenue_schedules', '_posting_days',
        '_check_open_periods', '_check_months_ended', 'recognize_revenue'];
    grantee record;
    function_name text;
    signature regprocedure;
BEGIN
    FOR grantee IN
        SELECT *
          FROM (VALUES
            ('sync_admin', ARRAY['_hides', '_shown', '_shown_raw', '_shown_message', 
                'adopt_cluster', 'start_workers', 'create_route', 'drop_route', 'create_stream', 'drop_stream',
                'forget_system', 'check_system', 'call', 'fetch', 'pause', 'resume', 'retry', 'discard', 'request_pull', 'activate_connector',
                'manifest_preview', 'set_event_compatibility', 'event_schema', 'set_personal', 'drop_personal', 'erase', '_erase', '_erase_fields', '_erase_row', '_upkeep_personal', 'wait_for', 'wait_idle', 'remote_id', 'find', 'health', 'hub_status', 'check_invariants',
                'set_owner', 'drop_owner', 'set_conflict_policy',
                'assign_task', 'drop_approval_policy', 'drop_guard', 'request_approval', 'set_approval_policy', 'set_guard', 'set_period_policy',
                '_check_guard', '_check_policy', '_propose_guard', '_propose_policy', '_check_reason',
                -- what set_owner and track call with their caller's rights
                'guard', '_owner_act', '_guards_of', '_set_guards',
                -- what create_route calls with its caller's rights
                '_system_id', '_object_id', '_manifest_object', '_manifest', '_system_options', '_condition_check',
                '_condition_sql', '_check_expression', '_check_history', '_first_checkpoint', '_route_id', '_pending_id', '_record_number', '_sees_all',
                '_preview_push', '_preview_pull', '_preview_targets', '_preview_with', '_differences', '_connector_id', '_current_connector',
                'accept_matches', 'decide_match', 'keep_apart', 'match_preview', 'merge_records', 'set_delete_policy', 'set_match_rule', 'set_merge_policy',
                'start_matching', 'undo_merge', 'normal_country', 'normal_email', 'normal_name', 'normal_tax_number',
                '_condition_type', '_connector_names', '_queued', '_partitions', '_hub_slots', '_incarnation']),
            ('sync_operator', ARRAY['_hides', '_shown', '_shown_raw', '_shown_message', 
                'assign_task', 'request_approval', 'check_system', 'call', 'fetch', 'pause', 'resume', 'retry', 'discard', 'request_pull', 'wait_for', 'wait_idle',
                'remote_id', 'find', 'health', 'hub_status', 'check_invariants', '_pending_id', '_record_number', '_sees_all',
                'manifest_preview', 'event_schema', '_preview_push', '_preview_pull', '_preview_targets', '_preview_with', '_differences',
                '_connector_id', '_current_connector', '_object_id',
                'accept_matches', 'decide_match', 'keep_apart', 'match_preview', 'merge_records', 'start_matching', 'undo_merge',
                '_hub_slots', '_queued', '_system_options', '_manifest']),
            ('sync_approver', ARRAY['_hides', '_shown', '_shown_raw', '_shown_message', 'approve', 'assign_task', 'find', 'reject', '_record_number', '_sees_all']),
            ('sync_auditor', ARRAY['_hides', '_shown', '_shown_raw', '_shown_message', 'find', 'health', 'hub_status', 'check_invariants', 'remote_id', '_record_number', '_sees_all',
                '_hub_slots', '_queued']),
            ('sync_analyst', ARRAY['_hides', '_shown', '_shown_raw', '_shown_message', 'find', 'remote_id', '_record_number', '_sees_all']),
            ('sync_app', ARRAY['_hides', '_shown', '_shown_raw', '_shown_message', 'request_approval', 'wait_for', 'remote_id', '_record_number', '_sees_all',
                'normal_country', 'normal_email', 'normal_name', 'normal_tax_number']),
            -- what status views call
            ('sync_admin', ARRAY['_backlog']),
            ('sync_operator', ARRAY['_backlog']),
            ('sync_approver', ARRAY['_backlog']),
            ('sync_auditor', ARRAY['_backlog']),
            ('sync_analyst', ARRAY['_backlog']),
            -- audit
            ('sync_admin', ARRAY['verify_audit', 'cut_audit', '_audit_without']),
            ('sync_operator', ARRAY['_audit_without']),
            ('sync_approver', ARRAY['_audit_without']),
            ('sync_auditor', ARRAY['verify_audit', '_audit_without']),
            -- lineage
            ('sync_admin', ARRAY['lineage', 'lineage_tree', 'trace', '_changed_names', '_label_expression', '_may_read', '_step_columns', '_key_text_sql', '_key_sql', '_key_type', '_step_query', '_source_query',
                '_record_label', '_steps', '_walk', '_find_record', '_record_id', '_family', '_attempts', '_outcomes', '_lineage_entries', '_correlated', '_places_text', '_tree_details', '_beside', '_amendment_reached', '_invoice_posted_in_erp', '_payment_failure_collections', '_provisioning_paused', '_sees_all', '_record_number']),
            ('sync_operator', ARRAY['lineage', 'lineage_tree', 'trace', '_changed_names', '_label_expression', '_may_read', '_step_columns', '_key_text_sql', '_key_sql', '_key_type', '_step_query', '_source_query',
                '_record_label', '_steps', '_walk', '_find_record', '_record_id', '_family', '_attempts', '_outcomes', '_lineage_entries', '_correlated', '_places_text', '_tree_details', '_beside', '_amendment_reached', '_invoice_posted_in_erp', '_payment_failure_collections', '_provisioning_paused', '_sees_all', '_record_number']),
            ('sync_approver', ARRAY['lineage', 'lineage_tree', 'trace', '_changed_names', '_label_expression', '_may_read', '_step_columns', '_key_text_sql', '_key_sql', '_key_type', '_step_query', '_source_query',
                '_record_label', '_steps', '_walk', '_find_record', '_record_id', '_family', '_attempts', '_outcomes', '_lineage_entries', '_correlated', '_places_text', '_tree_details', '_beside', '_amendment_reached', '_invoice_posted_in_erp', '_payment_failure_collections', '_provisioning_paused', '_sees_all', '_record_number']),
            ('sync_auditor', ARRAY['lineage', 'lineage_tree', 'trace', '_changed_names', '_label_expression', '_may_read', '_step_columns', '_key_text_sql', '_key_sql', '_key_type', '_step_query', '_source_query',
                '_record_label', '_steps', '_walk', '_find_record', '_record_id', '_family', '_attempts', '_outcomes', '_lineage_entries', '_correlated', '_places_text', '_tree_details', '_beside', '_amendment_reached', '_invoice_posted_in_erp', '_payment_failure_collections', '_provisioning_paused', '_sees_all', '_record_number']),
            ('sync_analyst', ARRAY['lineage', 'lineage_tree', 'trace', '_changed_names', '_label_expression', '_may_read', '_step_columns', '_key_text_sql', '_key_sql', '_key_type', '_step_query', '_source_query',
                '_record_label', '_steps', '_walk', '_find_record', '_record_id', '_family', '_attempts', '_outcomes', '_lineage_entries', '_correlated', '_places_text', '_tree_details', '_beside', '_amendment_reached', '_invoice_posted_in_erp', '_payment_failure_collections', '_provisioning_paused', '_sees_all', '_record_number']),
            -- reconciliation
            ('sync_admin', ARRAY['reconcile', 'set_tolerance', '_kind_remedy']),
            ('sync_operator', ARRAY['reconcile', '_kind_remedy']),
            ('sync_analyst', ARRAY['reconcile', '_kind_remedy']),
            ('sync_approver', ARRAY['_kind_remedy']),
            ('sync_auditor', ARRAY['_kind_remedy']),
            -- jobs
            ('sync_admin', ARRAY['pause_job', 'resume_job', 'stop_job']),
            ('sync_operator', ARRAY['pause_job', 'resume_job', 'stop_job']),
            ('sync_admin', ARRAY['backfill', '_backfill_start', '_identity_table']),
            -- what backfill calls with its caller's rights
            ('sync_operator', ARRAY['backfill', '_backfill_start', '_identity_table', '_check_expression', '_condition_check', '_condition_sql', '_condition_type']),
            ('sync_worker', ARRAY['_jobs_step', '_job_end']),
            -- rules
            ('sync_admin', ARRAY['create_reconciliation_rule', 'drop_reconciliation_rule', 'set_rule_enabled', 'run_rules', '_rule_check', '_rules',
                -- what shipped rules call with the rights of the tables' owner
                '_wanted']),
            ('sync_operator', ARRAY['run_rules', '_rules']),
            ('sync_approver', ARRAY['_rules']),
            ('sync_auditor', ARRAY['_rules']),
            ('sync_analyst', ARRAY['create_reconciliation_rule', 'drop_reconciliation_rule', 'set_rule_enabled', 'run_rules', '_rule_check', '_rules']),
            -- breaks
            ('sync_admin', ARRAY['assign_break', 'note_break', 'explain_break', 'accept_break', 'reopen_break', 'reconcile_all', 'reconcile_each', '_check_can_commit', '_reconcile_steps', '_reconcile_step', 'schedule_reconciliation', 'create_drift_events',
                'unschedule_reconciliation']),
            ('sync_operator', ARRAY['assign_break', 'note_break', 'explain_break', 'accept_break', 'reopen_break', 'reconcile_all', 'reconcile_each', '_check_can_commit', '_reconcile_steps', '_reconcile_step']),
            ('sync_approver', ARRAY['note_break', 'reopen_break']),
            ('sync_auditor', ARRAY['note_break']),
            ('sync_analyst', ARRAY['assign_break', 'note_break']),
            -- replay, dead letters, repair
            ('sync_admin', ARRAY['replay', '_reads', '_replay_period', '_per_second', '_replay_route', '_replay_begin', '_replay_add', '_replay_go', '_replay_pieces',
                '_replay_records', '_replay_merged', '_replay_filtered', '_replay_shown', '_replay_check', '_request_members', '_differing', '_preview_events']),
            ('sync_operator', ARRAY['replay', '_reads', '_replay_period', '_per_second', '_replay_route', '_replay_begin', '_replay_add', '_replay_go', '_replay_pieces',
                '_replay_records', '_replay_merged', '_replay_filtered', '_replay_shown', '_replay_check', '_request_members', '_differing', '_preview_events',
                '_condition_check', '_condition_sql', '_condition_type', '_check_expression', '_system_id']),
            ('sync_admin', ARRAY['edit_dead_letter', 'retry_all', 'retry_inbox_all', '_message_pattern',
                'repair', '_repair_begin', '_repair_shown', '_read_request', '_repair_requests', '_repair_request',
                'replay_inbound', '_inbound_check', '_inbound_ids', '_inbound_pieces', '_inbound_verdict', '_for_reader']),
            ('sync_operator', ARRAY['edit_dead_letter', 'retry_all', 'retry_inbox_all', '_message_pattern',
                'repair', '_repair_begin', '_repair_shown', '_read_request', '_repair_requests', '_repair_request',
                'replay_inbound', '_inbound_check', '_inbound_ids', '_inbound_pieces', '_inbound_verdict', '_for_reader']),
            ('sync_auditor', ARRAY['_reads', '_message_pattern']),
            ('sync_worker', ARRAY['_seal_audit', '_anchors_after', '_upkeep_audit']),
            -- reports of the month end
            ('sync_admin', reports || reporting || posting || ARRAY['_accounting_day', '_date', '_instant', 'certify', '_certificate_figures', '_period_changes']),
            ('sync_approver', reports || reporting || ARRAY['certify']),
            ('sync_operator', reports || reporting),
            ('sync_auditor', reports || reporting),
            ('sync_analyst', reports || reporting),
            ('sync_app', reporting || posting),
            -- conflicts
            ('sync_admin', ARRAY['resolve_conflict', '_hub_value', '_shown_value']),
            ('sync_operator', ARRAY['resolve_conflict', '_hub_value', '_shown_value']),
            ('sync_approver', ARRAY['_hub_value', '_shown_value']),
            ('sync_auditor', ARRAY['_hub_value', '_shown_value']),
            ('sync_analyst', ARRAY['_hub_value', '_shown_value']),
            ('sync_worker', ARRAY[
                '_incarnation', '_identity', '_condition_sql', '_condition_type', '_check_expression', '_system_options', '_system_secrets', '_manifest',
                '_manifest_object', '_connector_names', '_release_behind', '_open_claim', '_queued', '_record_number', '_sees_all', '_partitions',
                '_library_version', '_preloaded', '_change', '_wake', '_object_id', '_drift', '_audit', '_upkeep_personal', '_expire_approvals', '_gate', '_gated_routes',
                '_match', '_match_ambiguous', '_match_settled', '_is_deciding', '_identity_hold', '_alias_gone', '_follow_merge', '_sweep_merges',
                '_guard_deletes', '_held_alive', '_hold_deletes', '_too_many_deletes'])) g (role, functions)
    LOOP
        FOREACH function_name IN ARRAY grantee.functions LOOP
            signature := NULL;
            FOR signature IN SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
                              WHERE p.pronamespace = 'sync'::regnamespace AND p.proname = function_name LOOP
                EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', signature, grantee.role);
            END LOOP;
            IF signature IS NULL THEN
                RAISE EXCEPTION 'there is no function sync.% to grant', function_name;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

GRANT SELECT ON ALL TABLES IN SCHEMA sync TO sync_admin, sync_operator, sync_auditor;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA sync TO sync_admin, sync_auditor;
-- Bodies may hold personal data. Operators and auditors read them through views, which show personal fields
-- to those who may read them in the object's own table; of these tables they see all columns but the bodies.
DO $$
DECLARE
    body record;
    columns text;
BEGIN
    FOR body IN
        SELECT * FROM (VALUES
            ('outbox', '{body,old}'::name[]), ('pending', '{body,old,frozen,message}'), ('claim', '{request,target}'),
            ('break_entry', '{ours,theirs,detail}'), ('finding', '{ours,theirs,detail}'), ('outcome', '{response,message}'), ('mirror', '{fields,raw}'), ('mirror_history', '{fields}'), ('inbox', '{item,mapped,reason}'),
            ('conflict_entry', '{hub_value,remote_value,taken_value,message}'), ('drift_entry', '{got}'), ('merge', '{loser_row}'), ('payload_edit', '{patch,before}'), ('audit', '{detail,salt,content_hash}'), ('listed_record', '{fields,problem}')) b (name, hidden)
    LOOP
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO columns
          FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = format('sync.%I', body.name)::regclass AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attname <> ALL (body.hidden);
        EXECUTE format('REVOKE SELECT ON sync.%I FROM sync_operator, sync_auditor', body.name);
        EXECUTE format('GRANT SELECT (%s) ON sync.%I TO sync_operator, sync_auditor', columns, body.name);
    END LOOP;
END
$$;
-- Bodies of requests, answers and remote records are for those above; what a delivery waits for is not.
GRANT SELECT ON sync.record_status, sync.system_status, sync.route_status, sync.stream_status, sync.delivery,
    sync.dead_letter, sync.conflict, sync.progress, sync.external_id, sync.object, sync.system, sync.route,
    sync.ownership, sync._object_columns, sync.reconciliation_run, sync.reconciliation_break, sync.reconciliation_summary,
    sync.certificate, sync.period_drift, sync.churn_exposure, sync.break_aging, sync.break_trend
    TO sync_analyst, sync_approver;
-- lineage
GRANT SELECT ON sync._lineage_entry, sync._hub_mark, sync._reference, sync._record_place, sync._correlated_event, sync._event_record, sync._attempt_place, sync._visible_object,
    sync._sent_to, sync._remote_amount, sync.amendment_reached, sync.invoice_posted_in_erp, sync.payment_failure_collections, sync.provisioning_paused
    TO sync_analyst, sync_approver;
GRANT SELECT (id, route_id, seq, event_at, object_id, record_id, op, origin, state, issue, attempts, step,
              wait_object_id, wait_record_id, wait_state, next_attempt_at, code, merged, created_at)
    ON sync.pending TO sync_analyst, sync_approver;
GRANT SELECT ON sync.record_status, sync.ownership, sync._object_columns TO sync_app;
GRANT SELECT ON sync.audit_trail TO sync_approver;
GRANT SELECT ON sync.approval, sync.task, sync.approval_policy, sync.guard, sync.period_policy, sync.period_move TO sync_approver;
-- run_as is left out: the default says who inserted the row. So is state: a row is a proposal.
GRANT INSERT (name, operation, object, min_amount, currency, condition, expires, approvers, reason) ON sync.approval_policy TO sync_admin;
GRANT INSERT (name, object, kind, system, applies, condition, message, field, recheck, reason) ON sync.guard TO sync_admin;
GRANT INSERT (name, query, description, remedy, severity) ON sync.reconciliation_rule TO sync_admin, sync_analyst;
GRANT SELECT (id, name, shipped) ON sync.reconciliation_rule TO sync_analyst;
GRANT SELECT ON sync.rule TO sync_analyst, sync_approver;
GRANT INSERT (system_id, object_id, name, condition, operations, start_kind, start_at, cutover_date, max_lag)
    ON sync.route TO sync_admin;

GRANT INSERT (job_id, filter) ON sync.job_filter TO sync_admin, sync_operator;

-- ---- the workers ----

GRANT SELECT ON ALL TABLES IN SCHEMA sync TO sync_worker;
GRANT INSERT ON sync.outbox, sync.claim, sync.outcome, sync.checkpoint TO sync_worker;
GRANT DELETE ON sync.checkpoint TO sync_worker;
GRANT INSERT, UPDATE, DELETE ON sync.pending, sync.external_id, sync.mirror, sync.inbox, sync.stream_cursor,
    sync.api_call, sync.notice TO sync_worker;
GRANT INSERT, UPDATE ON sync.drift_entry TO sync_worker;
GRANT INSERT, UPDATE ON sync.conflict_entry TO sync_worker;
GRANT DELETE ON sync.correction TO sync_worker;
GRANT INSERT, UPDATE ON sync.listed_record TO sync_worker;
GRANT UPDATE (phase, done, total, cursor, result, failures, last_error, next_step_at, step_at) ON sync.job TO sync_worker;
GRANT UPDATE (timeline, suspect_before) ON sync.hub TO sync_worker;
GRANT UPDATE (name, server_oid) ON sync.system TO sync_worker;
GRANT UPDATE (state) ON sync.route TO sync_worker;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA sync TO sync_worker;

-- ---- what a dump carries ----

-- Every table and sequence that the install script made. Partitions of the logs are ordinary tables
-- and dumped as such; their parents hold no rows.
DO $$
DECLARE
    member regclass;
BEGIN
    FOR member IN
        SELECT c.oid::regclass
          FROM pg_catalog.pg_class c
         WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'S') AND NOT c.relispartition
         ORDER BY c.oid
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(member, '');
    END LOOP;
END
$$;
