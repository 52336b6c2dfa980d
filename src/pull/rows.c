/*
 * rows.c: rows of sync.external_id, sync.mirror and sync.inbox, past the executor.
 *
 * What is known of a page's items is read by probes of an index, without plans: a plan made while
 * the tables were empty reads all of them once they are not, for each page of a first walk. New rows
 * go through the table access method and into the indexes straight away.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/compat.h"
#include "core/lookup.h"
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

void
se_rows_find(const char *table, const char *index, const SeTarget *target, SeItem **items, int n,
			 void (*found)(SeItem *item, SeLookup *row))
{
	SeLookup lookup;

	if (n == 0 || se_rows_none(table))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	se_lookup_open(&lookup, table, index, 3);
	for (int i = 0; i < n; i++)
	{
		const Datum keys[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
							  CStringGetTextDatum(items[i]->remote_id)};

		if (se_lookup_find(&lookup, keys))
			found(items[i], &lookup);
	}
	se_lookup_close(&lookup);
	PopActiveSnapshot();
}
