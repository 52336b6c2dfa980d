-- Shape of the public API: names, arguments and results that applications rely on.
BEGIN;
SELECT no_plan();

SELECT has_schema('sync');
SELECT has_extension('sync_ext');
SELECT has_role(r) FROM unnest('{sync_admin,sync_operator,sync_approver,sync_auditor,sync_analyst,sync_app,sync_worker}'::name[]) r;

-- Functions with the types of their arguments and of their result.
SELECT function_returns('sync', f.name::name, f.arguments, f.result)
  FROM (VALUES
    ('track', '{regclass,text,name[],name,name[],text,boolean,regclass,name[],name[],boolean,boolean,boolean}'::text[], 'text'),
    ('untrack', '{text,boolean}', 'void'),
    ('register_connector', '{jsonb,boolean}', 'text'),
    ('activate_connector', '{text,text}', 'text'),
    ('manifest_preview', '{text,text,integer}', 'setof record'),
    ('event_schema', '{text,integer}', 'jsonb'),
    ('set_event_compatibility', '{text,text}', 'void'),
    ('set_match_rule', '{text,text,integer,text[],text,text}', 'void'),
    ('start_matching', '{text,text,text}', 'void'),
    ('match_preview', '{text,text}', 'setof record'),
    ('accept_matches', '{text,text,text,boolean}', 'record'),
    ('decide_match', '{text,text,text,text,text}', 'void'),
    ('merge_records', '{text,text,text,text}', 'bigint'),
    ('undo_merge', '{bigint,text}', 'bigint'),
    ('keep_apart', '{bigint,text}', 'void'),
    ('set_merge_policy', '{text,text,text,text}', 'void'),
    ('set_delete_policy', '{text,text,text,jsonb,integer,integer,text}', 'void'),
    ('normal_name', '{text}', 'text'),
    ('set_personal', '{text,text,interval}', 'void'),
    ('drop_personal', '{text,text}', 'void'),
    ('erase', '{text,text,text,boolean}', 'bigint'),
    ('verify_audit', '{text}', 'setof record'),
    ('cut_audit', '{"timestamp with time zone",text}', 'bigint'),
    ('check_system', '{text}', 'setof record'),
    ('adopt_cluster', '{boolean,uuid}', 'text'),
    ('start_workers', '{}', 'void'),
    ('create_route', '{text,text,text,text,text,text[],interval,date}', 'integer'),
    ('drop_route', '{text,boolean}', 'void'),
    ('drop_route', '{integer,boolean}', 'void'),
    ('create_stream', '{text,text,text,"timestamp with time zone",text}', 'integer'),
    ('drop_stream', '{text,text}', 'void'),
    ('forget_system', '{text}', 'void'),
    ('request_pull', '{text,text}', 'void'),
    ('pause', '{text,text}', 'void'),
    ('resume', '{text}', 'void'),
    ('call', '{text,text,jsonb}', 'bigint'),
    ('retry_inbox', '{bigint}', 'integer'),
    ('discard_inbox', '{bigint,text}', 'void'),
    ('preview', '{text,text,text}', 'setof record'),
    ('fetch', '{text,text,text,interval}', 'jsonb'),
    ('replay', '{text,text,"timestamp with time zone","timestamp with time zone",text,boolean,text,text,text}', 'setof record'),
    ('replay_inbound', '{text,text,"timestamp with time zone","timestamp with time zone",text,boolean,text,text}', 'setof record'),
    ('repair', '{bigint,boolean,text,text,jsonb}', 'setof record'),
    ('edit_dead_letter', '{text,jsonb,text}', 'bigint'),
    ('retry_all', '{text,text,text,text,integer,text,boolean}', 'integer'),
    ('retry_inbox_all', '{text,text,text,text,integer,text}', 'integer'),
    ('retry', '{text,boolean}', 'void'),
    ('retry', '{bigint,boolean}', 'void'),
    ('discard', '{text,text}', 'void'),
    ('discard', '{bigint,text}', 'void'),
    ('wait_for', '{text,text,text,interval}', 'setof record'),
    ('wait_idle', '{interval}', 'boolean'),
    ('remote_id', '{text,text,text}', 'text'),
    ('find', '{text}', 'setof record'),
    ('lineage', '{text,text,integer}', 'setof sync.lineage_row'),
    ('lineage_tree', '{text,text,integer}', 'setof text'),
    ('trace', '{text}', 'setof sync.lineage_row'),
    ('health', '{}', 'setof record'),
    ('hub_status', '{}', 'record'),
    ('check_invariants', '{}', 'setof record'),
    ('backfill', '{text,text,text,"timestamp with time zone","timestamp with time zone",text,integer,text,date}', 'bigint'),
    ('pause_job', '{bigint,text}', 'void'),
    ('resume_job', '{bigint,text}', 'void'),
    ('stop_job', '{bigint,text}', 'void'),
    ('set_owner', '{text,text,text,text,text}', 'bigint'),
    ('drop_owner', '{text,text,text}', 'bigint'),
    ('set_conflict_policy', '{text,text,text}', 'bigint')) f (name, arguments, result);

-- Views and the columns that scripts select.
SELECT has_view('sync', v.name::name, 'view sync.' || v.name) FROM unnest('{record_status,system_status,route_status,stream_status,delivery,delivery_attempt,
    dead_letter,conflict,ownership,progress,task,audit_trail}'::text[]) v (name);
SELECT columns_are('sync', 'record_status', '{object,record_id,record_number,system,state,waiting_for,remote_id,remote_number,last_error,
    next_attempt_at,last_event_at,last_done_at,delivery}'::name[]);
SELECT has_column('sync', t.relation::name, c.name::name, format('sync.%s has column %s', t.relation, c.name))
  FROM (VALUES
    ('system_status', '{system,connector,mode,queued,in_flight,retry,waiting,ambiguous,behind,dead,conflict,inbox}'::text[]),
    ('progress', '{kind,system,object,done_last_minute,remaining,held,time_left,as_of,job,phase,done,total,rate,estimate,state}'),
    ('route_status', '{route,system,object,state,lag_events,lag_time,queued,in_flight,dead,cursor}'),
    ('stream_status', '{system,object,every,schedule,state,requested_at,finished_at,failures,last_error}'),
    ('delivery', '{delivery,route,system,object,record_id,record_number,state,issue,attempts,code,message}'),
    ('delivery_attempt', '{delivery,attempt_id,step,method,target,request,outcome,status,latency_ms,message,response}'),
    ('dead_letter', '{id,delivery,system,object,record_number,message,request,response,how_to_retry}'),
    ('dead_letter_reason', '{direction,system,object,code,message,count,oldest,newest,example,behind,how_to_retry}'),
    ('conflict', '{id,delivery,system,object,record_number,message}'),
    ('amendment_reached', '{amendment_id,subscription_number,customer_number,kind,status,effective_at,delta_mrr,currency,system,via,document_number,reached,state,reached_at,remote_id,last_error}'),
    ('invoice_posted_in_erp', '{invoice_id,invoice_number,customer_number,entity,issue_date,currency,total_amount,status,posting_status,posting_date,accounting_period,system,posted,state,remote_id,remote_number,amount_there,difference,waiting_for,last_error}'),
    ('payment_failure_collections', '{payment_id,processor_ref,customer_number,invoice_number,attempted_at,amount,currency,failure_code,collections_started,found_by,stage,opened_at,hours_after,closed_at,outcome}'),
    ('provisioning_paused', '{subscription_id,subscription_number,customer_number,status,mrr,currency,paused,entitlements,still_active,features,services,not_told}'),
    ('ownership', '{object,field,owner,on_violation,origin,set_by,set_at,conflict_policy}'),
    ('worker', '{database,pid,state,started_at,failures,restart_at,reason}'),
    ('external_id', '{system_id,object_id,record_id,remote_id,remote_number}')) t (relation, columns)
 CROSS JOIN LATERAL unnest(t.columns) c (name);

SELECT columns_are('sync', 'lineage_row', '{at,kind,object,record_id,record_number,system,what,actor,status,latency_ms,remote_id,request_id,correlation_id,causation_id,
    delivery,reason,depth,path}'::name[]);

-- Every member function and relation that people use is commented.
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'sync'::regnamespace AND p.proname !~ '^_'
                     AND obj_description(p.oid, 'pg_proc') IS NULL$$, 'every public function has a comment');
SELECT fdw_privs_are('sync_ext', 'sync_admin', '{USAGE}');
SELECT function_privs_are('sync', 'pause', '{text,text}'::name[], 'sync_operator', '{EXECUTE}'::name[], 'sync_operator may pause');
SELECT function_privs_are('sync', 'pause', '{text,text}'::name[], 'sync_app', '{}'::name[], 'sync_app may not pause');
SELECT * FROM finish();
ROLLBACK;
