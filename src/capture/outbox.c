/*
 * outbox.c: rows into sync.outbox, past executor, rights and row security.
 *
 * A row goes to the partition of its `at`, chosen by the parent's partition descriptor, as the
 * executor would, and into the indexes of that partition. Many rows at a time share the page
 * accesses and WAL records.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "access/xloginsert.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/builtins.h"

#include "capture/events.h"
#include "core/compat.h"

#define OUTBOX_COLUMNS 11
#define ROWS_AT_ONCE   128

static Oid
find_relation(const char *name)
{
	Oid schema = get_namespace_oid("sync", false);
	Oid relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation \"sync.%s\" does not exist", name)));
	return relid;
}

/*
 * Where the number is to be had: the tuple on the only page of the sequence, under an exclusive
 * lock of its buffer.
 */
static Form_pg_sequence_data
lock_sequence_row(Relation rel, Buffer *buffer, HeapTupleData *tuple)
{
	Page page;
	ItemId item;

	*buffer = ReadBuffer(rel, 0);
	LockBuffer(*buffer, BUFFER_LOCK_EXCLUSIVE);
	page = BufferGetPage(*buffer);
	item = PageGetItemId(page, FirstOffsetNumber);
	Assert(ItemIdIsNormal(item));
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	return (Form_pg_sequence_data) GETSTRUCT(tuple);
}

/* How many numbers one WAL record gives away; after a crash those not drawn are skipped. */
#define SEQUENCE_PREFETCH 32

/*
 * nextval('sync.outbox_seq') without a trace in the session. The server's nextval would make the
 * outbox the answer to lastval(), which applications use to learn the id of the row that they have
 * just inserted. It would also look the sequence up in a catalog for each number.
 *
 * As nextval does: a WAL record holds a value a little ahead, so that most numbers need none; the
 * first number after a checkpoint writes one, because recovery starts there.
 */
int64
se_outbox_next_seq(void)
{
	Relation rel = relation_open(find_relation("outbox_seq"), RowExclusiveLock);
	Buffer buffer;
	HeapTupleData tuple;
	Form_pg_sequence_data row;
	int64 result;
	int64 left;
	bool write_wal = false;

	/* An xid first: the record must not be the only trace of a transaction without one. */
	(void) GetTopTransactionId();

	row = lock_sequence_row(rel, &buffer, &tuple);
	result = row->is_called ? row->last_value + 1 : row->last_value;
	left = row->log_cnt - 1;
	if (left < 0 || !row->is_called || PageGetLSN(BufferGetPage(buffer)) <= GetRedoRecPtr())
	{
		left = SEQUENCE_PREFETCH;
		write_wal = RelationNeedsWAL(rel);
	}

	START_CRIT_SECTION();
	MarkBufferDirty(buffer);
	row->is_called = true;
	if (write_wal)
	{
		xl_seq_rec record;
		XLogRecPtr end;

		row->last_value = result + left;
		row->log_cnt = 0;
		SE_SET_SEQ_REC_LOCATOR(record, rel);
		XLogBeginInsert();
		XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
		XLogRegisterData((char *) &record, sizeof(record));
		XLogRegisterData((char *) tuple.t_data, tuple.t_len);
		end = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
		PageSetLSN(BufferGetPage(buffer), end);
	}
	row->last_value = result;
	row->log_cnt = left;
	END_CRIT_SECTION();

	UnlockReleaseBuffer(buffer);
	relation_close(rel, NoLock);
	return result;
}

/* A partition open for writing. */
typedef struct Target
{
	Oid relid;
	Relation rel;
	ResultRelInfo *info;
	EState *estate;
	AttrMap *map; /* when its columns stand in another order */
	TupleTableSlot **slots;
	BulkInsertState bulk;
} Target;

/* The partition for an instant; InvalidOid when there is none, not even a default one. */
static Oid
choose_partition(Relation root, TimestampTz at)
{
	PartitionDesc desc = RelationGetPartitionDesc(root, true);
	PartitionKey key = RelationGetPartitionKey(root);
	PartitionBoundInfo bounds = desc->boundinfo;
	Datum value = TimestampTzGetDatum(at);
	bool equal;
	int offset;
	int index;

	if (desc->nparts == 0)
		return InvalidOid;
	offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, bounds, 1, &value,
										   &equal);
	index = bounds->indexes[offset + 1];
	if (index < 0)
		index = bounds->default_index;
	return index < 0 ? InvalidOid : desc->oids[index];
}

static void
close_target(Target *target)
{
	if (target->rel == NULL)
		return;
	if (target->bulk != NULL)
		FreeBulkInsertState(target->bulk);
	for (int i = 0; i < ROWS_AT_ONCE && target->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(target->slots[i]);
	ExecCloseIndices(target->info);
	FreeExecutorState(target->estate);
	table_close(target->rel, NoLock);
	memset(target, 0, sizeof(Target));
}

static void
open_target(Target *target, Relation root, TimestampTz at)
{
	Oid relid = choose_partition(root, at);

	for (;;)
	{
		Oid again;

		if (!OidIsValid(relid))
			ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
							errmsg("sync.outbox has no partition for an event"),
							errhint("Run SELECT sync._upkeep() as a member of sync_admin.")));
		if (target->rel != NULL && target->relid == relid)
			return;
		close_target(target);
		target->rel = table_open(relid, RowExclusiveLock);
		target->relid = relid;

		/*
		 * Our lock on the parent keeps partitions from going, not from coming: while we waited
		 * for the default partition, one for this very instant may have been attached.
		 */
		again = choose_partition(root, at);
		if (again == relid)
			break;
		table_close(target->rel, NoLock);
		target->rel = NULL;
		relid = again;
	}

	target->estate = CreateExecutorState();
	target->info = makeNode(ResultRelInfo);
	InitResultRelInfo(target->info, target->rel, 0, NULL, 0);
	ExecOpenIndices(target->info, false);
	target->map = build_attrmap_by_name_if_req(RelationGetDescr(root),
											   RelationGetDescr(target->rel) SE_ATTRMAP_MISSING_OK);
	target->slots = palloc0(sizeof(TupleTableSlot *) * ROWS_AT_ONCE);
}

static void
set_column(TupleTableSlot *slot, int attnum, Datum value, bool isnull)
{
	slot->tts_values[attnum - 1] = value;
	slot->tts_isnull[attnum - 1] = isnull;
}

/* Puts an event into a slot of the partition, column by column of the parent. */
static void
fill_slot(Target *target, TupleTableSlot *slot, const SeEventCommon *common, const SeEvent *event)
{
	const Datum values[OUTBOX_COLUMNS] = {
		Int64GetDatum(event->seq),
		TimestampTzGetDatum(event->at),
		UInt64GetDatum(U64FromFullTransactionId(common->xid)),
		Int32GetDatum(common->incarnation),
		Int32GetDatum(event->object_id),
		CharGetDatum(event->op),
		Int32GetDatum(event->origin),
		PointerGetDatum(event->record_id),
		PointerGetDatum(event->body),
		PointerGetDatum(event->old),
		PointerGetDatum(event->context),
	};

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		int source = target->map ? target->map->attnums[i] : i + 1;

		if (source > 0 && source <= OUTBOX_COLUMNS)
			set_column(slot, i + 1, values[source - 1],
					   source >= 8 && DatumGetPointer(values[source - 1]) == NULL);
	}
	ExecStoreVirtualTuple(slot);
}

static void
write_rows(Target *target, const SeEventCommon *common, const SeEvent *events, int count,
		   MemoryContext scratch)
{
	CommandId cid = GetCurrentCommandId(true);
	MemoryContext old;

	for (int i = 0; i < count; i++)
	{
		if (target->slots[i] == NULL)
			target->slots[i] =
				MakeSingleTupleTableSlot(RelationGetDescr(target->rel), &TTSOpsVirtual);
		fill_slot(target, target->slots[i], common, &events[i]);
	}
	if (count > 1 && target->bulk == NULL)
		target->bulk = GetBulkInsertState();
	/* The copies that are made of the rows last for this call only. */
	old = MemoryContextSwitchTo(scratch);
	table_multi_insert(target->rel, target->slots, count, cid, 0, target->bulk);
	MemoryContextSwitchTo(old);
	MemoryContextReset(scratch);
	if (target->info->ri_NumIndices == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		SE_INSERT_INDEX_TUPLES(target->info, target->slots[i], target->estate);
		ResetPerTupleExprContext(target->estate);
	}
}

/* Writes events in the order given, which is that of their instants but for clock steps. */
void
se_outbox_insert(const SeEventCommon *common, SeEvent *events, int count)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "sync_ext outbox insert",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	MemoryContext rows =
		AllocSetContextCreate(work, "sync_ext outbox rows", ALLOCSET_DEFAULT_SIZES);
	Relation root = table_open(find_relation("outbox"), RowExclusiveLock);
	Target target = {0};
	int done = 0;

	/* Writing to a table that has a TOAST table takes a snapshot; before commit there is none. */
	bool push_snapshot = !ActiveSnapshotSet();

	if (RelationGetDescr(root)->natts < OUTBOX_COLUMNS)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("sync.outbox is older than the library of sync_ext"),
						errhint("Run ALTER EXTENSION sync_ext UPDATE.")));

	if (push_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	while (done < count)
	{
		int n = 1;

		open_target(&target, root, events[done].at);
		while (done + n < count && n < ROWS_AT_ONCE &&
			   choose_partition(root, events[done + n].at) == target.relid)
			n++;
		write_rows(&target, common, events + done, n, rows);
		done += n;
	}
	close_target(&target);
	if (push_snapshot)
		PopActiveSnapshot();
	table_close(root, NoLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
}
