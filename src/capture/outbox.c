/*
 * outbox.c: rows into sync.outbox, past executor, rights and row security.
 *
 * A row goes to the partition of its `at`, chosen by the parent's partition descriptor, as the
 * executor would, and into the indexes of that partition. Many rows at a time share the page
 * accesses and WAL records. An application pays for this at each of its commits, so what does not
 * change between two of them is remembered, and locks are given back with the transaction's own.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_index.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "capture/events.h"
#include "core/compat.h"

#define ROWS_AT_ONCE 128

/* The columns that an event fills; from record_id on they are what a datum points to. */
static const char *const columns[] = {"seq",	   "at",  "xid",	"incarnation",
									  "object_id", "op",  "origin", "record_id",
									  "body",	   "old", "context"};

#define OUTBOX_COLUMNS lengthof(columns)
#define FIRST_POINTER  7

/* What is remembered between flushes; a callback forgets it when one of the tables changes. */
static struct
{
	Oid outbox;
	Oid sequence;
	Oid partition;		 /* InvalidOid, or: */
	TimestampTz from;	 /* it takes instants from here on … */
	TimestampTz until;	 /* … before this */
	Buffer sequence_row; /* where the sequence's page was last seen */
} known;

static void
forget(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == known.outbox)
		known.outbox = InvalidOid;
	if (!OidIsValid(relid) || relid == known.sequence)
		known.sequence = InvalidOid;
	if (!OidIsValid(relid) || !OidIsValid(known.outbox) || relid == known.partition)
		known.partition = InvalidOid;
}

static Oid
find_relation(const char *name)
{
	static bool registered = false;
	Oid schema = get_namespace_oid("sync", false);
	Oid relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation \"sync.%s\" does not exist", name)));
	if (!registered)
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
	registered = true;
	return relid;
}

static Oid
outbox_relid(void)
{
	if (!OidIsValid(known.outbox))
		known.outbox = find_relation("outbox");
	return known.outbox;
}

/*
 * The sequence, locked once a transaction, as the server's nextval does. The lock is the top
 * transaction's: one that a subtransaction takes goes when that aborts.
 */
static Relation
open_sequence(void)
{
	static LocalTransactionId locked_by = InvalidLocalTransactionId;
	static Oid locked = InvalidOid;

	if (!OidIsValid(known.sequence))
		known.sequence = find_relation("outbox_seq");
	if (locked_by != SE_LXID || locked != known.sequence)
	{
		ResourceOwner owner = CurrentResourceOwner;
		Oid relid = known.sequence;

		CurrentResourceOwner = TopTransactionResourceOwner;
		LockRelationOid(relid, RowExclusiveLock);
		CurrentResourceOwner = owner;
		locked_by = SE_LXID;
		locked = relid;
	}
	return relation_open(locked, NoLock);
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

	if (BufferIsValid(known.sequence_row) &&
		ReadRecentBuffer(SE_LOCATOR(rel), MAIN_FORKNUM, 0, known.sequence_row))
		*buffer = known.sequence_row;
	else
		*buffer = ReadBuffer(rel, 0);
	known.sequence_row = *buffer;
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
	Relation rel = open_sequence();
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
	Relation rel;
	TimestampTz from;  /* takes instants from here on … */
	TimestampTz until; /* … before this */
	ResultRelInfo *info;
	EState *estate;
	int *sources; /* for each of its columns, the place in columns[], -1: none of them */
	TupleTableSlot **slots;
	BulkInsertState bulk;
} Target;

/* The bound at a place in the descriptor; beyond the first or last one there is none. */
static TimestampTz
bound_at(PartitionBoundInfo bounds, int at, TimestampTz beyond)
{
	if (at < 0 || at >= bounds->ndatums)
		return beyond;
	switch (bounds->kind[at][0])
	{
		case PARTITION_RANGE_DATUM_MINVALUE:
			return DT_NOBEGIN;
		case PARTITION_RANGE_DATUM_MAXVALUE:
			return DT_NOEND;
		default:
			return DatumGetTimestampTz(bounds->datums[at][0]);
	}
}

/*
 * Finds the partition for an instant and remembers it. What no other partition takes is the default
 * partition's, from the bound before it to the bound after it.
 */
static void
choose_partition(TimestampTz at)
{
	Relation root = table_open(outbox_relid(), AccessShareLock);
	PartitionDesc desc = RelationGetPartitionDesc(root, true);
	PartitionKey key = RelationGetPartitionKey(root);
	PartitionBoundInfo bounds = desc->boundinfo;
	Datum value = TimestampTzGetDatum(at);
	int index = -1;

	if (desc->nparts > 0)
	{
		bool equal;
		int offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, bounds, 1,
												   &value, &equal);

		index = bounds->indexes[offset + 1];
		if (index < 0)
			index = bounds->default_index;
		known.from = bound_at(bounds, offset, DT_NOBEGIN);
		known.until = bound_at(bounds, offset + 1, DT_NOEND);
	}
	if (index < 0)
		ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
						errmsg("sync.outbox has no partition for an event"),
						errhint("Run SELECT sync._upkeep() as a member of sync_admin.")));
	known.partition = desc->oids[index];
	table_close(root, NoLock);
}

static bool
partition_is_known(TimestampTz at)
{
	return OidIsValid(known.partition) && at >= known.from && at < known.until;
}

/* Locks stay until the transaction ends, which is soon. */
static void
close_target(Target *target)
{
	if (target->rel == NULL)
		return;
	if (target->bulk != NULL)
		FreeBulkInsertState(target->bulk);
	for (int i = 0; i < ROWS_AT_ONCE && target->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(target->slots[i]);
	for (int i = 0; i < target->info->ri_NumIndices; i++)
		index_close(target->info->ri_IndexRelationDescs[i], NoLock);
	FreeExecutorState(target->estate);
	table_close(target->rel, NoLock);
	memset(target, 0, sizeof(Target));
}

/* A partition may have its columns in another order than the parent, or more of them. */
static int *
find_sources(TupleDesc desc)
{
	int *sources = palloc(sizeof(int) * desc->natts);
	int found = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int source = i; /* likely */

		if (source >= OUTBOX_COLUMNS || strcmp(columns[source], NameStr(att->attname)) != 0)
		{
			for (source = OUTBOX_COLUMNS - 1; source >= 0; source--)
			{
				if (strcmp(columns[source], NameStr(att->attname)) == 0)
					break;
			}
		}
		sources[i] = att->attisdropped ? -1 : source;
		found += sources[i] >= 0;
	}
	if (found < OUTBOX_COLUMNS)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("sync.outbox is older than the library of sync_ext"),
						errhint("Run ALTER EXTENSION sync_ext UPDATE.")));
	return sources;
}

static bool
takes(const Target *target, TimestampTz at)
{
	return target->rel != NULL && at >= target->from && at < target->until;
}

/*
 * As ExecOpenIndices(), but for the index of correlation ids when no event has one: an application that
 * sets none would pay for its predicate at each commit.
 */
static void
open_indexes(ResultRelInfo *info, bool with_context)
{
	List *oids = RelationGetIndexList(info->ri_RelationDesc);
	int room = list_length(oids);
	ListCell *lc;

	info->ri_IndexRelationDescs = palloc(sizeof(Relation) * Max(room, 1));
	info->ri_IndexRelationInfo = palloc(sizeof(IndexInfo *) * Max(room, 1));
	info->ri_NumIndices = 0;
	foreach (lc, oids)
	{
		Relation index = index_open(lfirst_oid(lc), RowExclusiveLock);

		if (!with_context && !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		{
			index_close(index, NoLock);
			continue;
		}
		info->ri_IndexRelationDescs[info->ri_NumIndices] = index;
		info->ri_IndexRelationInfo[info->ri_NumIndices++] = BuildIndexInfo(index);
	}
	list_free(oids);
}

static bool
has_context(const SeEvent *events, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (events[i].context != NULL)
			return true;
	}
	return false;
}

static void
open_target(Target *target, TimestampTz at, bool with_context)
{
	if (takes(target, at))
		return;
	close_target(target);
	while (target->rel == NULL)
	{
		if (!partition_is_known(at))
			choose_partition(at);
		target->from = known.from;
		target->until = known.until;
		target->rel = try_relation_open(known.partition, RowExclusiveLock);

		/*
		 * With the lock come all invalidations up to now. While we waited for it, the partition may
		 * have gone, or one for this very instant may have been attached beside the default one.
		 * From here on neither can happen: both need a lock that ours keeps away.
		 */
		if (!partition_is_known(at) && target->rel != NULL)
		{
			relation_close(target->rel, NoLock);
			target->rel = NULL;
		}
		CHECK_FOR_INTERRUPTS();
	}

	target->estate = CreateExecutorState();
	target->info = makeNode(ResultRelInfo);
	InitResultRelInfo(target->info, target->rel, 0, NULL, 0);
	open_indexes(target->info, with_context);
	target->sources = find_sources(RelationGetDescr(target->rel));
	target->slots = palloc0(sizeof(TupleTableSlot *) * ROWS_AT_ONCE);
}

/* Puts an event into a slot of the partition. */
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
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		int source = target->sources[i];

		slot->tts_isnull[i] =
			source < 0 || (source >= FIRST_POINTER && DatumGetPointer(values[source]) == NULL);
		slot->tts_values[i] = slot->tts_isnull[i] ? (Datum) 0 : values[source];
	}
	ExecStoreVirtualTuple(slot);
}

static void
write_rows(Target *target, const SeEventCommon *common, const SeEvent *events, int count)
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
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(target->estate));
	table_multi_insert(target->rel, target->slots, count, cid, 0, target->bulk);
	MemoryContextSwitchTo(old);
	ResetPerTupleExprContext(target->estate);
	if (target->info->ri_NumIndices == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		SE_INSERT_INDEX_TUPLES(target->info, target->slots[i], target->estate);
		ResetPerTupleExprContext(target->estate);
	}
}

/* Whether a row of these may go to the TOAST table; a server with assertions takes it for granted. */
static bool
may_be_toasted(const SeEvent *events, int count)
{
#ifdef USE_ASSERT_CHECKING
	return true;
#endif
	for (int i = 0; i < count; i++)
	{
		if (se_event_bytes(&events[i]) >= TOAST_TUPLE_THRESHOLD / 2)
			return true;
	}
	return false;
}

/* Writes events in the order given, which is that of their instants but for clock steps. */
void
se_outbox_insert(const SeEventCommon *common, SeEvent *events, int count)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "sync_ext outbox insert",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	Target target = {0};
	int done = 0;
	/* Whoever writes to a TOAST table must have a snapshot; before commit there is none. */
	bool with_context = has_context(events, count);
	bool push_snapshot = !ActiveSnapshotSet() && may_be_toasted(events, count);

	if (push_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	while (done < count)
	{
		int n = 1;

		open_target(&target, events[done].at, with_context);
		while (done + n < count && n < ROWS_AT_ONCE && takes(&target, events[done + n].at))
			n++;
		write_rows(&target, common, events + done, n);
		done += n;
	}
	close_target(&target);
	if (push_snapshot)
		PopActiveSnapshot();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
}
