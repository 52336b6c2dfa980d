/*
 * guard.c: holds applications to the owners of fields. See guard.h.
 *
 * Nobody is exempt: neither members of sync_admin nor superusers. What is pulled from a system
 * is judged by the pull (se_origin_system), and the hub's own acts are not judged.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

#include "capture/guard.h"
#include "capture/origin.h"
#include "core/errors.h"

/* The object, or table, that the hub itself writes now, and the trigger depth that it writes from. */
static int bypassed_object = 0;
static Oid bypassed_relid = InvalidOid;
static int bypassed_depth = 0;
static SubTransactionId bypassed_subid = InvalidSubTransactionId;

/*
 * A row on its way to another partition: after its update was judged, its old version is deleted and
 * the new one inserted, which are no deletion and no creation of a record. Beforehand the two are told
 * by the row's place, then by the record; afterwards the deleted version says so itself.
 */
static struct
{
	Oid relid;
	ItemPointerData tid;
	SubTransactionId subid;
} updated_row;
static uint64 moving_before = 0;
static uint64 moving_after = 0;

static int
trigger_depth(void)
{
	return DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
}

void
se_owner_bypass(int object_id)
{
	bypassed_object = object_id;
	bypassed_relid = InvalidOid;
	bypassed_depth = trigger_depth();
	bypassed_subid = GetCurrentSubTransactionId();
}

void
se_owner_bypass_table(Oid relid)
{
	se_owner_bypass(0);
	bypassed_relid = relid;
}

static bool
is_bypassed(const SeTable *table)
{
	bool named = bypassed_object == table->object_id;

	if (OidIsValid(bypassed_relid))
		named = bypassed_relid == table->relid || bypassed_relid == table->header_relid ||
				bypassed_relid == table->line_relid;
	return named && trigger_depth() == bypassed_depth + 1;
}

void
se_guard_end_sub(SubTransactionId subid, SubTransactionId parent, bool commit)
{
	if (bypassed_subid != subid)
		return;
	if (commit)
		bypassed_subid = parent;
	else
		se_owner_bypass(0);
}

void
se_guard_forget(void)
{
	bypassed_object = 0;
	bypassed_relid = InvalidOid;
	updated_row.relid = InvalidOid;
	moving_before = moving_after = 0;
}

bool
se_guard_binds(const SeTable *table)
{
	if (table->guard == NULL)
		return false;
	/* Only the statement itself is the pull's, or the hub's: triggers write for an application. */
	if (se_origin_system != 0)
		return trigger_depth() > 1;
	return !is_bypassed(table);
}

/* Foreign keys would be broken by what is undone: their actions pass or fail. */
static bool
can_undo(void)
{
	return !InNoForceRLSOperation();
}

/* Whether the owner is a system that has no part in what is written now. */
static bool
binds(SeOwner owner)
{
	return se_owner_binds(owner, SE_OWNER_HUB) && se_owner_binds(owner, se_origin_system);
}

static SeVerdict
judge(SeOwner owner, bool undoable)
{
	return binds(owner) ? se_owner_verdict(owner, SE_OWNER_HUB, undoable) : SE_VERDICT_PASS;
}

static uint64
record_mark(SeTable *table, const Datum *values, const bool *nulls)
{
	char *record_id;

	if (table->role == SE_TABLE_LINES)
		return (uint64) table->object_id | UINT64CONST(1) << 63;
	record_id = se_table_record_id(table, values, nulls);
	return hash_combine64(hash_bytes_extended((const unsigned char *) record_id, strlen(record_id),
											  0),
						  (uint64) table->object_id);
}

/* Whether the values differ as their type sees it: 1.0 is 1.00. */
static bool
differs(SeGuardField *field, Datum a, bool a_null, Datum b, bool b_null)
{
	if (a_null || b_null)
		return a_null != b_null;
	if (se_same_image(field->column, a, b))
		return false;
	return !OidIsValid(field->equal.fn_oid) ||
		   !DatumGetBool(FunctionCall2Coll(&field->equal, C_COLLATION_OID, a, b));
}

/* Whether a new row has a value of its writer's in an owned column. */
static bool
given(SeGuardField *field, const Datum *values, const bool *nulls)
{
	int at = field->column->attnum - 1;

	if (nulls[at] || field->computed)
		return false;
	return !field->has_default || differs(field, values[at], false, field->preset, false);
}

/* What a correction has to put back: with another key the record as it was is gone. */
static const char *
corrected(const SeTable *table, const SeGuardField *field)
{
	if (table->role == SE_TABLE_LINES)
		return "lines";
	return field->is_key ? "*" : field->column->name;
}

/*
 * Afterwards: everything that should have been undone was, unless it could not be. A correction comes
 * to nothing where the owner does not know the record; a new one may be known, under an id of before.
 */

void
se_guard_inserted(SeTable *table, const Datum *values, const bool *nulls, bool is_partition)
{
	SeGuard *guard = table->guard;
	bool moved =
		is_partition && moving_after != 0 && moving_after == record_mark(table, values, nulls);

	moving_after = 0;
	if (moved || !se_guard_binds(table))
		return;
	if (binds(guard->record))
	{
		if (judge(guard->record, false) == SE_VERDICT_REFUSE)
			se_guard_refuse(table, NULL, guard->record, "insert one");
		se_guard_correct(table, table->role == SE_TABLE_LINES ? "lines" : "*", guard->record.owner,
						 values, nulls);
		return;
	}
	for (int i = 0; i < guard->count; i++)
	{
		SeGuardField *field = &guard->fields[i];

		if (!binds(field->owner) || !given(field, values, nulls))
			continue;
		if (judge(field->owner, false) == SE_VERDICT_REFUSE)
			se_guard_refuse(table, field, field->owner, "insert a record with a value in it");
		se_guard_correct(table, field->column->name, field->owner.owner, values, nulls);
	}
}

/* `changed` may be NULL; `undone`: what was to be undone has been, so that the rest of it fails. */
static void
check_updated(SeTable *table, const Datum *old_values, const bool *old_nulls, const Datum *values,
			  const bool *nulls, const bool *changed, bool undone)
{
	SeGuard *guard = table->guard;

	for (int i = 0; i < guard->count; i++)
	{
		SeGuardField *field = &guard->fields[i];
		SeVerdict verdict = judge(field->owner, !undone);
		int at = field->column->attnum - 1;

		if (verdict == SE_VERDICT_PASS || (changed != NULL && !changed[field->index]))
			continue;
		if (verdict == SE_VERDICT_UNDO || verdict == SE_VERDICT_HOLD)
			continue;
		if (!differs(field, old_values[at], old_nulls[at], values[at], nulls[at]))
			continue;
		if (verdict == SE_VERDICT_REFUSE)
			se_guard_refuse(table, field, field->owner, "change it");
		se_guard_correct(table, corrected(table, field), field->owner.owner, old_values, old_nulls);
		if (table->role == SE_TABLE_LINES)
			break;
	}
}

void
se_guard_updated(SeTable *table, const Datum *old_values, const bool *old_nulls,
				 const Datum *values, const bool *nulls, const bool *changed)
{
	if (se_guard_binds(table))
		check_updated(table, old_values, old_nulls, values, nulls, changed, true);
}

void
se_guard_deleted(SeTable *table, const Datum *values, const bool *nulls, bool moved)
{
	SeGuard *guard = table->guard;
	bool lines = table->role == SE_TABLE_LINES;

	moving_after = moved ? record_mark(table, values, nulls) : 0;
	if (moved || !se_guard_binds(table) || !binds(guard->record))
		return;
	/* Lines go with their document: whether that may go was asked of itself. */
	if (lines && se_guard_document_gone(table, values, nulls))
		return;
	if (judge(guard->record, false) == SE_VERDICT_REFUSE)
		se_guard_refuse(table, NULL, guard->record, "delete one");
	se_guard_correct(table, lines ? "lines" : "*", guard->record.owner, values, nulls);
}

/*
 * Beforehand: what is undone, and rows that move to another partition.
 */

static bool
undoes(SeVerdict verdict)
{
	return verdict == SE_VERDICT_UNDO || verdict == SE_VERDICT_HOLD;
}

/* Takes the values that a new record may not bring out of it again. */
static HeapTuple
strip_insert(SeTable *table, Relation rel, HeapTuple tuple, TupleTableSlot *slot)
{
	SeGuard *guard = table->guard;
	int natts = RelationGetDescr(rel)->natts;
	Datum *values = palloc(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	bool *replace = palloc0(sizeof(bool) * natts);

	memcpy(values, slot->tts_values, sizeof(Datum) * natts);
	memcpy(nulls, slot->tts_isnull, sizeof(bool) * natts);
	for (int i = 0; i < guard->count; i++)
	{
		SeGuardField *field = &guard->fields[i];
		SeVerdict verdict = judge(field->owner, !field->must_stay);
		int at = field->column->attnum - 1;

		if (!undoes(verdict) || !given(field, slot->tts_values, slot->tts_isnull))
			continue;
		values[at] = field->preset;
		nulls[at] = !field->has_default;
		replace[at] = true;
		if (verdict == SE_VERDICT_HOLD)
			se_guard_hold(table, field, field->owner.owner, values, nulls, slot->tts_values,
						  slot->tts_isnull);
	}
	return heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
}

/* Whether a new record brings a value that can and must be taken out of it. */
static bool
needs_strip(SeGuard *guard, TupleTableSlot *slot)
{
	for (int i = 0; i < guard->count; i++)
	{
		SeGuardField *field = &guard->fields[i];

		if (undoes(judge(field->owner, !field->must_stay)) &&
			given(field, slot->tts_values, slot->tts_isnull))
			return true;
	}
	return false;
}

static HeapTuple
judge_insert(SeTable *table, Relation rel, HeapTuple tuple, TupleTableSlot *slot)
{
	SeOwner record = table->guard->record;
	SeVerdict verdict = judge(record, true);
	bool moved;

	slot_getallattrs(slot);
	moved = moving_before != 0 &&
			moving_before == record_mark(table, slot->tts_values, slot->tts_isnull);
	moving_before = 0;
	if (moved || !can_undo())
		return tuple;
	if (!undoes(verdict) && (verdict != SE_VERDICT_PASS || !needs_strip(table->guard, slot)))
		return tuple;
	/* It is not inserted: ON CONFLICT makes an update of it, which is judged itself, or it fails. */
	if (se_guard_collides(rel, slot))
		return tuple;
	if (verdict == SE_VERDICT_PASS)
		return strip_insert(table, rel, tuple, slot);
	if (verdict == SE_VERDICT_HOLD)
		se_guard_hold(table, NULL, record.owner, NULL, NULL, slot->tts_values, slot->tts_isnull);
	return NULL;
}

/* Puts what was changed against its owner back; NULL when nothing is left to do. */
static HeapTuple
judge_update(SeTable *table, Relation rel, HeapTuple tuple, TupleTableSlot *old,
			 TupleTableSlot *new)
{
	SeGuard *guard = table->guard;
	int natts = RelationGetDescr(rel)->natts;
	bool undoable = can_undo();
	bool *replace = NULL;

	slot_getallattrs(old);
	slot_getallattrs(new);
	if (rel->rd_rel->relispartition)
		check_updated(table, old->tts_values, old->tts_isnull, new->tts_values, new->tts_isnull,
					  NULL, !undoable);
	for (int i = 0; i < guard->count; i++)
	{
		SeGuardField *field = &guard->fields[i];
		SeVerdict verdict = judge(field->owner, undoable);
		int at = field->column->attnum - 1;

		if (!undoes(verdict) || !differs(field, old->tts_values[at], old->tts_isnull[at],
										 new->tts_values[at], new->tts_isnull[at]))
			continue;
		if (verdict == SE_VERDICT_HOLD)
			se_guard_hold(table, field, field->owner.owner, old->tts_values, old->tts_isnull,
						  new->tts_values, new->tts_isnull);
		if (table->role == SE_TABLE_LINES)
			return NULL;
		if (replace == NULL)
			replace = palloc0(sizeof(bool) * natts);
		replace[at] = true;
	}
	if (replace == NULL)
		return tuple;
	return heap_modify_tuple(tuple, RelationGetDescr(rel), old->tts_values, old->tts_isnull,
							 replace);
}

static HeapTuple
judge_delete(SeTable *table, Relation rel, HeapTuple tuple, TupleTableSlot *slot)
{
	SeOwner record = table->guard->record;
	SeVerdict verdict = judge(record, true);

	slot_getallattrs(slot);
	if (updated_row.relid == RelationGetRelid(rel) &&
		ItemPointerEquals(&updated_row.tid, &tuple->t_self) &&
		updated_row.subid == GetCurrentSubTransactionId())
	{
		updated_row.relid = InvalidOid;
		moving_before = record_mark(table, slot->tts_values, slot->tts_isnull);
		return tuple;
	}
	if (!undoes(verdict) || !can_undo())
		return tuple;
	if (verdict == SE_VERDICT_HOLD)
		se_guard_hold(table, NULL, record.owner, slot->tts_values, slot->tts_isnull, NULL, NULL);
	return NULL;
}

static HeapTuple
guard_before(SeTable *table, TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;
	HeapTuple tuple = trigdata->tg_trigtuple;

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		return judge_insert(table, rel, tuple, trigdata->tg_trigslot);
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		return judge_delete(table, rel, tuple, trigdata->tg_trigslot);
	if (rel->rd_rel->relispartition)
	{
		updated_row.relid = RelationGetRelid(rel);
		updated_row.tid = tuple->t_self;
		updated_row.subid = GetCurrentSubTransactionId();
	}
	return judge_update(table, rel, trigdata->tg_newtuple, trigdata->tg_trigslot,
						trigdata->tg_newslot);
}

/* Of a table that is not captured. */
static void
guard_after(SeTable *table, TriggerData *trigdata)
{
	TupleTableSlot *slot = trigdata->tg_trigslot;
	bool is_partition = trigdata->tg_relation->rd_rel->relispartition;

	slot_getallattrs(slot);
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		se_guard_inserted(table, slot->tts_values, slot->tts_isnull, is_partition);
	else if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		se_guard_deleted(table, slot->tts_values, slot->tts_isnull,
						 is_partition && HeapTupleHeaderIndicatesMovedPartitions(
											 trigdata->tg_trigtuple->t_data));
	else
	{
		TupleTableSlot *new = trigdata->tg_newslot;

		slot_getallattrs(new);
		se_guard_updated(table, slot->tts_values, slot->tts_isnull, new->tts_values,
						 new->tts_isnull, NULL);
	}
}

/* The row that goes on when nothing is to be done about it. */
static HeapTuple
unchanged(TriggerData *trigdata)
{
	return TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple
													   : trigdata->tg_trigtuple;
}

PG_FUNCTION_INFO_V1(se_guard);
PG_FUNCTION_INFO_V1(se_owner_bypass_sql);

/* sync.guard(): trigger of a table of which something belongs to a system. */
PGDLLEXPORT Datum
se_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	SeTable *table;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigdata->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called by a trigger, with an object's name as its "
						"only argument",
						"sync.guard"),
				 errhint("Let sync.set_owner() make the triggers.")));
	table = se_table_lookup(trigdata->tg_relation, trigdata->tg_trigger->tgargs[0]);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		if (se_guard_binds(table) && binds(table->guard->record))
			se_guard_refuse(table, NULL, table->guard->record, "truncate the table");
		return PointerGetDatum(NULL);
	}
	if (TRIGGER_FIRED_AFTER(trigdata->tg_event))
	{
		if (table->guard != NULL)
			guard_after(table, trigdata);
		return PointerGetDatum(NULL);
	}
	if (!se_guard_binds(table))
		return PointerGetDatum(unchanged(trigdata));
	return PointerGetDatum(guard_before(table, trigdata));
}

/*
 * sync._owner_bypass(object_id): see se_owner_bypass(). Nobody may call it but the extension's owner;
 * and he not by himself, but in a function that runs with other rights than its caller's.
 */
PGDLLEXPORT Datum
se_owner_bypass_sql(PG_FUNCTION_ARGS)
{
	if (!InLocalUserIdChange())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("function \"%s\" is for the hub's own acts", "sync._owner_bypass"),
						errhint("Declare another owner with sync.set_owner().")));
	se_owner_bypass(PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}
