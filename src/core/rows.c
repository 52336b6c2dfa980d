/*
 * rows.c: see rows.h.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "core/rows.h"

#define ROWS_AT_ONCE 256

/* ---- columns ---- */

SeArg
se_arg_make(int n)
{
	SeArg arg = {palloc(sizeof(Datum) * Max(n, 1)), palloc(sizeof(bool) * Max(n, 1)), 0};

	return arg;
}

void
se_arg_add(SeArg *arg, Datum value, bool isnull)
{
	arg->values[arg->n] = value;
	arg->nulls[arg->n++] = isnull;
}

void
se_arg_text(SeArg *arg, const char *text)
{
	se_arg_add(arg, text != NULL ? CStringGetTextDatum(text) : (Datum) 0, text == NULL);
}

void
se_arg_json(SeArg *arg, Jsonb *json)
{
	se_arg_add(arg, JsonbPGetDatum(json), json == NULL);
}

Datum
se_arg_array(const SeArg *arg, Oid type)
{
	int dims[1] = {arg->n};
	int lower[1] = {1};
	int16 len;
	bool by_value;
	char align;

	get_typlenbyvalalign(type, &len, &by_value, &align);
	return PointerGetDatum(
		construct_md_array(arg->values, arg->nulls, 1, dims, lower, type, len, by_value, align));
}

/* ---- tables ---- */

static Oid
our_table(const char *name)
{
	Oid relid = get_relname_relid(name, get_namespace_oid("sync", false));

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table sync.%s does not exist", name)));
	return relid;
}

/* The partition for an instant; InvalidOid when there is none, not even a default one. */
static Oid
partition_at(Relation root, TimestampTz at)
{
	PartitionDesc desc = RelationGetPartitionDesc(root, true);
	PartitionKey key = RelationGetPartitionKey(root);
	Datum value = TimestampTzGetDatum(at);
	bool equal;
	int offset;
	int index;

	if (desc->nparts == 0)
		return InvalidOid;
	offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, desc->boundinfo, 1,
										   &value, &equal);
	index = desc->boundinfo->indexes[offset + 1];
	if (index < 0)
		index = desc->boundinfo->default_index;
	return index < 0 ? InvalidOid : desc->oids[index];
}

/*
 * Our lock on the parent keeps partitions from going, not from coming: while we waited for the
 * default partition, one for this very instant may have been attached.
 */
static Relation
open_partition(Relation root, TimestampTz at)
{
	for (;;)
	{
		Oid relid = partition_at(root, at);
		Relation rel;

		if (!OidIsValid(relid))
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg("sync.%s has no partition for today", RelationGetRelationName(root)),
					 errhint("Run SELECT sync._upkeep() as a member of sync_admin.")));
		rel = table_open(relid, RowExclusiveLock);
		if (partition_at(root, at) == relid)
			return rel;
		table_close(rel, NoLock);
	}
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
fill_slot(TupleTableSlot *slot, TupleDesc desc, const int *attnums, const SeArg *columns,
		  int ncolumns, int row)
{
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

/* One index after the other, so that its upper pages stay in the processor's cache. */
static void
insert_index_entries(ResultRelInfo *info, TupleTableSlot **slots, int n, EState *estate)
{
	RelationPtr indexes = info->ri_IndexRelationDescs;
	IndexInfo **infos = info->ri_IndexRelationInfo;
	int nindexes = info->ri_NumIndices;

	info->ri_NumIndices = 1;
	for (int k = 0; k < nindexes; k++)
	{
		info->ri_IndexRelationDescs = indexes + k;
		info->ri_IndexRelationInfo = infos + k;
		for (int i = 0; i < n; i++)
		{
			SE_INSERT_INDEX_TUPLES(info, slots[i], estate);
			ResetPerTupleExprContext(estate);
		}
	}
	info->ri_IndexRelationDescs = indexes;
	info->ri_IndexRelationInfo = infos;
	info->ri_NumIndices = nindexes;
}

/* Into one table or partition. */
static void
insert_into(Relation rel, const char *const *names, const SeArg *columns, int ncolumns, int n)
{
	int *attnums = attributes(rel, names, ncolumns);
	TupleTableSlot **slots = palloc0(sizeof(TupleTableSlot *) * ROWS_AT_ONCE);
	/* A copy is not counted in the resource owner, slot by slot. */
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(rel));
	EState *estate = CreateExecutorState();
	ResultRelInfo *info = makeNode(ResultRelInfo);
	CommandId cid = GetCurrentCommandId(true);
	BulkInsertState bulk = GetBulkInsertState();

	InitResultRelInfo(info, rel, 0, NULL, 0);
	ExecOpenIndices(info, false);
	for (int i = 0; i < Min(n, ROWS_AT_ONCE); i++)
		slots[i] = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	for (int from = 0; from < n; from += ROWS_AT_ONCE)
	{
		int count = Min(n - from, ROWS_AT_ONCE);

		for (int i = 0; i < count; i++)
			fill_slot(slots[i], RelationGetDescr(rel), attnums, columns, ncolumns, from + i);
		table_multi_insert(rel, slots, count, cid, 0, bulk);
		insert_index_entries(info, slots, count, estate);
	}
	FreeBulkInsertState(bulk);
	ExecCloseIndices(info);
	FreeExecutorState(estate);
}

void
se_rows_insert(const char *table, TimestampTz at, const char *const *names, const SeArg *columns,
			   int ncolumns, int n)
{
	MemoryContext cxt;
	MemoryContext old;
	Relation rel;

	if (n == 0)
		return;
	cxt = AllocSetContextCreate(CurrentMemoryContext, "sync_ext rows", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	rel = table_open(our_table(table), RowExclusiveLock);
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		Relation partition = open_partition(rel, at);

		insert_into(partition, names, columns, ncolumns, n);
		table_close(partition, NoLock);
	}
	else
		insert_into(rel, names, columns, ncolumns, n);
	table_close(rel, NoLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	CommandCounterIncrement();
}

bool
se_rows_none(const char *table)
{
	Relation rel = table_open(our_table(table), AccessShareLock);
	bool none = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, NoLock);
	return none;
}
