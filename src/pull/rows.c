/*
 * rows.c: rows of sync.external_id, sync.mirror and sync.inbox, past the executor.
 *
 * What is known of a page's items is read by probes of an index, without plans: a plan made while
 * the tables were empty reads all of them once they are not, for each page of a first walk.
 *
 * New rows go through the table access method and into the indexes straight away; one statement a page
 * would spend most of its time in the executor and in the foreign keys' triggers, twice for each
 * row. What the foreign keys demand is the same for all rows of a page: that its system and its
 * object exist, and do so until commit. That is locked once, as the triggers would do it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "capture/compat.h"
#include "core/role.h"
#include "core/spi.h"
#include "pull/internal.h"

#define ROWS_AT_ONCE 256

static Oid
our_table(const char *name)
{
	Oid relid = get_relname_relid(name, get_namespace_oid("sync", false));

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table sync.%s does not exist", name)));
	return relid;
}

void
se_rows_lock_parents(int system_id, int object_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(system_id), Int32GetDatum(object_id)};
	SeRole saved;
	uint64 rows;

	/* As its owner: a row lock asks for the right to update, which workers do not have. */
	se_role_become(se_relation_owner(our_table("system")), &saved);
	rows = se_spi_execute(&plan,
						  "SELECT FROM sync.system y, sync.object o WHERE y.id = $1 AND o.id = $2"
						  " FOR KEY SHARE OF y, o",
						  2, types, values, NULL, false, 0);
	se_role_restore(&saved);
	if (rows != 1)
		ereport(ERROR, (errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
						errmsg("system %d or object %d no longer exists", system_id, object_id)));
	SPI_freetuptable(SPI_tuptable);
}

/* Attribute numbers of the columns, by name: a later version may add some, or order them anew. */
static int *
attributes(Relation rel, const char *const *columns, int ncolumns)
{
	int *attnums = palloc(sizeof(int) * ncolumns);

	for (int i = 0; i < ncolumns; i++)
	{
		attnums[i] = get_attnum(RelationGetRelid(rel), columns[i]);
		if (attnums[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("%s has no column \"%s\"", RelationGetRelationName(rel), columns[i]),
					 errhint("Run ALTER EXTENSION sync_ext UPDATE.")));
	}
	return attnums;
}

static void
fill_slot(TupleTableSlot *slot, const int *attnums, const SeArg *columns, int ncolumns, int row)
{
	TupleDesc desc = slot->tts_tupleDescriptor;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, desc->natts * sizeof(bool));
	for (int i = 0; i < ncolumns; i++)
	{
		slot->tts_values[attnums[i] - 1] = columns[i].values[row];
		slot->tts_isnull[attnums[i] - 1] = columns[i].nulls[row];
	}
	for (int i = 0; i < desc->natts; i++)
	{
		if (slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull &&
			!TupleDescAttr(desc, i)->attisdropped)
			ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
							errmsg("null value in column \"%s\"",
								   NameStr(TupleDescAttr(desc, i)->attname))));
	}
	ExecStoreVirtualTuple(slot);
}

void
se_rows_insert(const char *table, const char *const *names, const SeArg *columns, int ncolumns,
			   int n)
{
	MemoryContext cxt =
		AllocSetContextCreate(CurrentMemoryContext, "sync_ext rows", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Relation rel = table_open(our_table(table), RowExclusiveLock);
	int *attnums = attributes(rel, names, ncolumns);
	TupleTableSlot **slots = palloc0(sizeof(TupleTableSlot *) * ROWS_AT_ONCE);
	EState *estate = CreateExecutorState();
	ResultRelInfo *info = makeNode(ResultRelInfo);
	CommandId cid = GetCurrentCommandId(true);
	BulkInsertState bulk = GetBulkInsertState();

	InitResultRelInfo(info, rel, 0, NULL, 0);
	ExecOpenIndices(info, false);
	for (int i = 0; i < Min(n, ROWS_AT_ONCE); i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
	for (int from = 0; from < n; from += ROWS_AT_ONCE)
	{
		int count = Min(n - from, ROWS_AT_ONCE);

		for (int i = 0; i < count; i++)
			fill_slot(slots[i], attnums, columns, ncolumns, from + i);
		table_multi_insert(rel, slots, count, cid, 0, bulk);
		for (int i = 0; i < count; i++)
		{
			SE_INSERT_INDEX_TUPLES(info, slots[i], estate);
			ResetPerTupleExprContext(estate);
		}
	}
	FreeBulkInsertState(bulk);
	for (int i = 0; i < Min(n, ROWS_AT_ONCE); i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	ExecCloseIndices(info);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	CommandCounterIncrement();
}

/* ---- probes ---- */

bool
se_rows_none(const char *table)
{
	Relation rel = table_open(our_table(table), AccessShareLock);
	bool none = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, NoLock);
	return none;
}

/* What the three tables have in common, and by which they are unique. */
static const char *const probe_columns[] = {"remote_id", "object_id", "system_id"};

/* Whether the index is the unique one over the three columns; `keys` come in its order. */
static bool
take_index(Relation index, const int *attnums, int system_id, int object_id, ScanKey keys)
{
	const Datum values[] = {(Datum) 0, Int32GetDatum(object_id), Int32GetDatum(system_id)};
	const RegProcedure procs[] = {F_TEXTEQ, F_INT4EQ, F_INT4EQ};
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indisvalid || form->indnkeyatts != lengthof(values))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		int k = 0;

		while (k < lengthof(values) && attnums[k] != form->indkey.values[i])
			k++;
		if (k == lengthof(values))
			return false;
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], procs[k], values[k]);
	}
	return true;
}

static Relation
open_index(Relation rel, const int *attnums, int system_id, int object_id, ScanKey keys)
{
	List *indexes = RelationGetIndexList(rel);
	ListCell *lc;

	foreach (lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (take_index(index, attnums, system_id, object_id, keys))
			return index;
		index_close(index, AccessShareLock);
	}
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("%s has no unique index over remote_id, object_id, system_id",
						   RelationGetRelationName(rel))));
}

void
se_rows_find(const char *table, const SeTarget *target, SeItem **items, int n,
			 const char *const *names, int nnames,
			 void (*found)(SeItem *item, const Datum *values, const bool *nulls))
{
	Relation rel = table_open(our_table(table), AccessShareLock);
	int *keyed = attributes(rel, probe_columns, lengthof(probe_columns));
	int *wanted = attributes(rel, names, nnames);
	Datum *values = palloc(sizeof(Datum) * nnames);
	bool *nulls = palloc(sizeof(bool) * nnames);
	ScanKeyData keys[lengthof(probe_columns)];
	Relation index;
	TupleTableSlot *slot;
	Snapshot snapshot;
	IndexScanDesc scan;
	int by_id = 0;

	if (n == 0 || RelationGetNumberOfBlocks(rel) == 0)
	{
		table_close(rel, NoLock);
		return;
	}
	index = open_index(rel, keyed, target->system_id, target->object_id, keys);
	slot = table_slot_create(rel, NULL);
	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	scan = index_beginscan(rel, index, snapshot, lengthof(keys), 0);

	while (keys[by_id].sk_func.fn_oid != F_TEXTEQ)
		by_id++;
	for (int i = 0; i < n; i++)
	{
		keys[by_id].sk_argument = CStringGetTextDatum(items[i]->remote_id);
		index_rescan(scan, keys, lengthof(keys), NULL, 0);
		if (!index_getnext_slot(scan, ForwardScanDirection, slot))
			continue;
		for (int k = 0; k < nnames; k++)
			values[k] = slot_getattr(slot, wanted[k], &nulls[k]);
		found(items[i], values, nulls);
	}
	index_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(rel, NoLock);
}
