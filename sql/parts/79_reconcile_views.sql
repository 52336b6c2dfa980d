-- Reconciliation: what an analyst reads. The columns of these views are documented and fixed: doc/reconciliation.md.

CREATE VIEW sync.reconciliation_run AS
SELECT r.id, r.source, r.kind, y.name AS system, z.name AS other_system, o.name AS object, q.name AS rule, r.mode, r.period, r.as_of, r.state,
       r.checked, r.found, r.opened, r.closed, r.in_transit, r.explained, r.error, r.job_id, r.started_at, r.finished_at, r.requested_by, r.known_as_of
  FROM sync.reconciliation r
  LEFT JOIN sync.system y ON y.id = r.system_id
  LEFT JOIN sync.system z ON z.id = r.other_system_id
  LEFT JOIN sync.object o ON o.id = r.object_id
  LEFT JOIN sync.reconciliation_rule q ON q.id = r.rule_id;
COMMENT ON VIEW sync.reconciliation_run IS 'Runs of comparisons and rules, with what each found';

CREATE FUNCTION sync._kind_remedy(kind text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE kind
           WHEN 'missing_here' THEN 'pull it again, or bind it to the record that it is'
           WHEN 'missing_there' THEN 'push it again; if the system deleted it, decide whether it is to be there'
           WHEN 'field_differs' THEN 'correct it by ownership: the owner''s value is taken by the other side'
           WHEN 'amount_differs' THEN 'correct it by ownership; of a posted document by a credit note or an adjustment'
           WHEN 'duplicate' THEN 'void or merge the one too many in the system, or bind it in place of the other'
           WHEN 'orphan' THEN 'unbind it, or restore the record'
           WHEN 'stale' THEN 'read it again by id' END
$$;
COMMENT ON FUNCTION sync._kind_remedy(text) IS 'What a person does about a kind of break';

-- A sentence about personal values is withheld from who may not see them.
CREATE VIEW sync.reconciliation_break WITH (security_barrier) AS
SELECT b.id, b.kind, b.severity, b.status, b.object, b.record_id, b.record_number, b.customer, b.entity, b.period, b.system, b.other_system, b.remote_id, b.field,
       CASE WHEN o.id IS NULL THEN b.ours ELSE sync._shown_value(o.id, b.field, b.ours) END AS ours,
       CASE WHEN o.id IS NULL THEN b.theirs ELSE sync._shown_value(o.id, b.field, b.theirs) END AS theirs,
       b.difference, b.currency, b.at_risk,
       CASE WHEN EXISTS (SELECT FROM sync._hidden_field h WHERE h.object_id = o.id AND h.field = b.field) THEN '(personal)' ELSE b.detail END AS detail,
       b.explanation, coalesce(q.remedy, sync._kind_remedy(b.kind)) AS remedy, b.assignee,
       coalesce(b.resolved_at, clock_timestamp()) - b.first_seen AS age, b.first_seen, b.last_seen, b.times_seen, b.first_run, b.last_run, b.resolved_at, b.resolved_by,
       (SELECT count(*) FROM sync.break_note n WHERE n.break_id = b.id) AS notes, b.source
  FROM sync.break_entry b
  LEFT JOIN sync.object o ON o.name = b.object
  LEFT JOIN sync._rules() q ON b.source = 'rule:' || q.name;
COMMENT ON VIEW sync.reconciliation_break IS 'Differences that reconciliations found, open and settled, with age, amount at risk and what to do';

-- Of each comparison the newest run that has totals.
CREATE VIEW sync.reconciliation_summary AS
SELECT t.entity, t.object, t.period, t.currency, y.name AS system, z.name AS other_system, t.account, t.our_count, t.our_amount, t.their_count, t.their_amount,
       t.their_count - t.our_count AS difference_count, coalesce(t.their_amount, 0) - coalesce(t.our_amount, 0) AS difference,
       coalesce(t.in_transit_amount, 0) AS in_transit, coalesce(t.explained_amount, 0) AS explained, coalesce(t.unexplained_amount, 0) AS unexplained,
       t.in_transit_count, t.explained_count, t.unexplained_count, coalesce(r.as_of, r.started_at) AS as_of, r.id AS reconciliation, r.known_as_of
  FROM (SELECT DISTINCT ON (r.source) r.* FROM sync.reconciliation r
         WHERE r.state = 'done' AND r.kind IN ('record', 'pair') AND r.mode <> 'delta' ORDER BY r.source, r.id DESC) r
  JOIN sync.reconciliation_total t ON t.reconciliation_id = r.id
  LEFT JOIN sync.system y ON y.id = r.system_id
  LEFT JOIN sync.system z ON z.id = r.other_system_id;
COMMENT ON VIEW sync.reconciliation_summary IS 'Counts and amounts of both sides of each comparison, by entity, object, period and currency, as of its newest run';

COMMENT ON COLUMN sync.reconciliation_run.source IS 'What is compared, in one word that identifies its breaks';
COMMENT ON COLUMN sync.reconciliation_run.rule IS 'The completeness rule that was run';
COMMENT ON COLUMN sync.reconciliation_run.period IS 'Accounting days it is about; NULL: all';
COMMENT ON COLUMN sync.reconciliation_run.checked IS 'Records compared';
COMMENT ON COLUMN sync.reconciliation_run.found IS 'Breaks found';
COMMENT ON COLUMN sync.reconciliation_run.opened IS 'Of these, breaks that were new';
COMMENT ON COLUMN sync.reconciliation_run.closed IS 'Breaks of earlier runs that occur no longer';
COMMENT ON COLUMN sync.reconciliation_run.in_transit IS 'Differences that something on its way will settle';
COMMENT ON COLUMN sync.reconciliation_run.explained IS 'Differences that a policy explains';
COMMENT ON COLUMN sync.reconciliation_run.known_as_of IS 'As of when it is known what the system has; NULL: it was never read';
COMMENT ON COLUMN sync.reconciliation_run.error IS 'Why it failed';
COMMENT ON COLUMN sync.reconciliation_break.period IS 'First day of the accounting month it belongs to';
COMMENT ON COLUMN sync.reconciliation_break.at_risk IS 'Amount at risk, in currency, never negative';
COMMENT ON COLUMN sync.reconciliation_break.detail IS 'What is wrong, in a sentence';
COMMENT ON COLUMN sync.reconciliation_break.explanation IS 'Why it is explained or accepted';
COMMENT ON COLUMN sync.reconciliation_break.remedy IS 'What a person does about it';
COMMENT ON COLUMN sync.reconciliation_break.times_seen IS 'In how many runs it was seen';
COMMENT ON COLUMN sync.reconciliation_break.first_run IS 'Reconciliation that found it first';
COMMENT ON COLUMN sync.reconciliation_break.last_run IS 'Reconciliation that saw it last, or that no longer did';
COMMENT ON COLUMN sync.reconciliation_break.resolved_at IS 'Since when it occurs no longer; NULL: it does';
COMMENT ON COLUMN sync.reconciliation_break.resolved_by IS 'Who explained or accepted it; NULL: nobody did';
COMMENT ON COLUMN sync.reconciliation_break.notes IS 'How many notes people wrote about it';
COMMENT ON COLUMN sync.reconciliation_break.source IS 'What comparison or rule it is of';
COMMENT ON COLUMN sync.reconciliation_summary.period IS 'First day of the accounting month';
COMMENT ON COLUMN sync.reconciliation_summary.our_count IS 'Records in the hub, or in the first system';
COMMENT ON COLUMN sync.reconciliation_summary.our_amount IS 'Their amount; NULL: it is no matter of amounts';
COMMENT ON COLUMN sync.reconciliation_summary.their_count IS 'Records in the system, or in the second one';
COMMENT ON COLUMN sync.reconciliation_summary.their_amount IS 'Their amount; NULL: it is no matter of amounts';
COMMENT ON COLUMN sync.reconciliation_summary.difference_count IS 'their_count - our_count';
COMMENT ON COLUMN sync.reconciliation_summary.difference IS 'their_amount - our_amount';
COMMENT ON COLUMN sync.reconciliation_summary.in_transit IS 'Part of the difference that is on its way';
COMMENT ON COLUMN sync.reconciliation_summary.explained IS 'Part of the difference that a policy explains';
COMMENT ON COLUMN sync.reconciliation_summary.unexplained IS 'What remains of the difference';
COMMENT ON COLUMN sync.reconciliation_summary.as_of IS 'Moment whose state was compared';
COMMENT ON COLUMN sync.reconciliation_summary.known_as_of IS 'As of when it is known what the system has; NULL: it was never read';
COMMENT ON COLUMN sync.reconciliation_summary.reconciliation IS 'The run';
