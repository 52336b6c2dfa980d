/*
 * read.c: the events of a window in the order of their numbers, a piece at a time.
 *
 * They are read past the executor, straight from the indexes of the outbox's partitions, because a
 * window may hold a million events of objects that nobody here asks for: passing over one of them
 * costs a fraction of a microsecond, and a piece ends after so many, so that no transaction of ours
 * grows old, whatever the window holds.
 *
 * Of each partition two kinds of ranges are read and merged by number: transactions that began after
 * the window's start, by number; and those that were running then and have ended since, each by its
 * id. See doc/architecture.md, the cursor.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "push/internal.h"

/* What a piece holds at most. */
#define MAX_EVENTS 500
#define MAX_BYTES  (4 * 1024 * 1024)
#define MAX_PASSED 20000

/* ---- snapshots as text: xmin:xmax:xip,xip,… ---- */

typedef struct Snap
{
	uint64 xmin;
	uint64 xmax;
	uint64 *xip; /* ascending */
	int nxip;
} Snap;

static Snap *
parse_snapshot(const char *text)
{
	Snap *snap = palloc0(sizeof(Snap));
	char *at;

	snap->xmin = strtou64(text, &at, 10);
	snap->xmax = strtou64(at + 1, &at, 10);
	snap->xip = palloc(sizeof(uint64) * (strlen(at) / 2 + 1));
	for (at++; *at != '\0'; at += *at == ',')
		snap->xip[snap->nxip++] = strtou64(at, &at, 10);
	return snap;
}

static int
compare_ids(const void *a, const void *b)
{
	uint64 x = *(const uint64 *) a;
	uint64 y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Had the transaction ended when the snapshot was taken? */
static bool
shows(const Snap *snap, uint64 xid)
{
	if (xid < snap->xmin)
		return true;
	if (xid >= snap->xmax)
		return false;
	return snap->nxip == 0 ||
		   bsearch(&xid, snap->xip, snap->nxip, sizeof(uint64), compare_ids) == NULL;
}

/* ---- partitions ---- */

enum Column
{
	SEQ,
	AT,
	XID,
	INCARNATION,
	OBJECT_ID,
	OP,
	ORIGIN,
	RECORD_ID,
	BODY,
	OLD,
	CONTEXT,
	NCOLUMNS
};

typedef struct Partition
{
	Relation rel;
	Relation by_seq;
	Relation by_xid;
	AttrNumber column[NCOLUMNS];
} Partition;

/* A dump brings partitions back with the columns in the order of its own. */
static void
find_columns(Partition *p)
{
	static const char *const names[NCOLUMNS] = {"seq",		 "at",	"xid",	  "incarnation",
												"object_id", "op",	"origin", "record_id",
												"body",		 "old", "context"};
	TupleDesc desc = RelationGetDescr(p->rel);

	for (int c = 0; c < NCOLUMNS; c++)
	{
		for (int i = 0; i < desc->natts && p->column[c] == 0; i++)
		{
			Form_pg_attribute a = TupleDescAttr(desc, i);

			if (!a->attisdropped && strcmp(NameStr(a->attname), names[c]) == 0)
				p->column[c] = a->attnum;
		}
		if (p->column[c] == 0)
			elog(ERROR, "partition \"%s\" has no column \"%s\"", RelationGetRelationName(p->rel),
				 names[c]);
	}
}

static Relation
open_index(Partition *p, enum Column first)
{
	List *indexes = RelationGetIndexList(p->rel);
	ListCell *cell;

	foreach (cell, indexes)
	{
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);

		if (index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indisvalid &&
			index->rd_index->indkey.values[0] == p->column[first])
		{
			list_free(indexes);
			return index;
		}
		index_close(index, AccessShareLock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("partition \"%s\" of the outbox has no index on its column \"%s\"",
					RelationGetRelationName(p->rel), first == SEQ ? "seq" : "xid"),
			 errhint("Create it as the other partitions have it: on (seq), and on (xid, seq).")));
}

static Partition *
open_partitions(int *n)
{
	Oid outbox = get_relname_relid("outbox", get_namespace_oid("sync", false));
	List *children = find_inheritance_children(outbox, AccessShareLock);
	Partition *partitions = palloc0(sizeof(Partition) * (list_length(children) + 1));
	ListCell *cell;

	*n = 0;
	foreach (cell, children)
	{
		Partition *p = &partitions[(*n)++];

		p->rel = table_open(lfirst_oid(cell), NoLock);
		find_columns(p);
		p->by_seq = open_index(p, SEQ);
		p->by_xid = open_index(p, XID);
	}
	return partitions;
}

static void
close_partitions(Partition *partitions, int n)
{
	for (int i = 0; i < n; i++)
	{
		index_close(partitions[i].by_seq, NoLock);
		index_close(partitions[i].by_xid, NoLock);
		table_close(partitions[i].rel, NoLock);
	}
}

/* ---- ranges ---- */

typedef struct Range
{
	Partition *partition;
	IndexScanDesc scan;
	TupleTableSlot *slot; /* the range's next event */
	int64 seq;
	bool late; /* of a transaction that was running at the window's start */
} Range;

static Datum
column(Range *r, enum Column c, bool *isnull)
{
	return slot_getattr(r->slot, r->partition->column[c], isnull);
}

/* False at the range's end. */
static bool
advance(Range *r)
{
	bool isnull;

	if (!index_getnext_slot(r->scan, ForwardScanDirection, r->slot))
		return false;
	r->seq = DatumGetInt64(column(r, SEQ, &isnull));
	return true;
}

static void
end_range(Range *r)
{
	index_endscan(r->scan);
	ExecDropSingleTupleTableSlot(r->slot);
}

static bool
begin_range(Range *r, Partition *p, Relation index, ScanKey keys, int nkeys)
{
	r->partition = p;
	r->slot = table_slot_create(p->rel, NULL);
	r->scan = index_beginscan(p->rel, index, GetActiveSnapshot(), nkeys, 0);
	index_rescan(r->scan, keys, nkeys, NULL, 0);
	if (advance(r))
		return true;
	end_range(r);
	return false;
}

/* Numbers above `after`, up to the last that the window can hold. */
static bool
open_by_seq(Range *r, Partition *p, int64 after, int64 last)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(last));
	return begin_range(r, p, p->by_seq, keys, 2);
}

static bool
open_by_xid(Range *r, Partition *p, uint64 xid, int64 after)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_XID8EQ,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	r->late = true;
	return begin_range(r, p, p->by_xid, keys, 2);
}

/*
 * Transactions that were running at the window's start and whose events belong into it. Those of
 * which nothing is found are not asked for again: what a window holds is fixed.
 */
static void
find_late(SeWindow *window, const Snap *start, const Snap *end)
{
	window->late = MemoryContextAlloc(TopMemoryContext, sizeof(uint64) * (start->nxip + 1));
	window->nlate = 0;
	for (int i = 0; i < start->nxip; i++)
	{
		if (end == NULL || shows(end, start->xip[i]))
			window->late[window->nlate++] = start->xip[i];
	}
}

static Range *
open_ranges(SeWindow *window, Partition *partitions, int npartitions, int *n)
{
	Range *ranges = palloc0(sizeof(Range) * npartitions * (window->nlate + 1));
	int64 after = Max(window->start_seq, window->position);
	int nlate = 0;

	*n = 0;
	for (int i = 0; i < npartitions; i++)
		*n += open_by_seq(&ranges[*n], &partitions[i], after, window->end_after);
	for (int k = 0; k < window->nlate; k++)
	{
		int before = *n;

		for (int i = 0; i < npartitions; i++)
			*n += open_by_xid(&ranges[*n], &partitions[i], window->late[k], window->position);
		if (*n > before)
			window->late[nlate++] = window->late[k];
	}
	window->nlate = nlate;
	return ranges;
}

static Range *
lowest(Range *ranges, int n)
{
	Range *best = NULL;

	for (int i = 0; i < n; i++)
	{
		if (ranges[i].scan != NULL && (best == NULL || ranges[i].seq < best->seq))
			best = &ranges[i];
	}
	return best;
}

/* ---- events ---- */

/* Whether the window holds the event, and somebody may want it. */
static bool
belongs(Range *r, SeWindow *window, const Snap *start, const Snap *end, const Bitmapset *objects)
{
	bool isnull;
	uint64 xid;

	if (!bms_is_member(DatumGetInt32(column(r, OBJECT_ID, &isnull)), objects) ||
		DatumGetInt32(column(r, INCARNATION, &isnull)) != window->incarnation)
		return false;
	if (r->late)
		return true;
	xid = U64FromFullTransactionId(DatumGetFullTransactionId(column(r, XID, &isnull)));
	return xid >= start->xmax && (end == NULL || shows(end, xid));
}

static Jsonb *
json(Range *r, enum Column c, size_t *bytes)
{
	bool isnull;
	Datum value = column(r, c, &isnull);
	Jsonb *copy;

	if (isnull)
		return NULL;
	copy = DatumGetJsonbPCopy(value);
	*bytes += VARSIZE(copy);
	return copy;
}

static void
take(Range *r, SeEvent *e, size_t *bytes)
{
	bool isnull;

	e->seq = r->seq;
	e->at = DatumGetTimestampTz(column(r, AT, &isnull));
	e->incarnation = DatumGetInt32(column(r, INCARNATION, &isnull));
	e->object_id = DatumGetInt32(column(r, OBJECT_ID, &isnull));
	e->op = DatumGetChar(column(r, OP, &isnull));
	e->origin = DatumGetInt32(column(r, ORIGIN, &isnull));
	e->record_id = TextDatumGetCString(column(r, RECORD_ID, &isnull));
	e->body = json(r, BODY, bytes);
	e->old = json(r, OLD, bytes);
	e->context = json(r, CONTEXT, bytes);
	e->first_at = 0;
}

void
se_read_piece(SeWindow *window, const Bitmapset *objects, SePiece *piece)
{
	Snap *start = parse_snapshot(window->start);
	Snap *end = window->end ? parse_snapshot(window->end) : NULL;
	Partition *partitions;
	Range *ranges;
	Range *next;
	size_t bytes = 0;
	int npartitions;
	int nranges;
	int passed = 0;

	if (window->late == NULL)
		find_late(window, start, end);
	partitions = open_partitions(&npartitions);
	ranges = open_ranges(window, partitions, npartitions, &nranges);
	piece->events = palloc(sizeof(SeEvent) * MAX_EVENTS);
	piece->n = 0;
	piece->position = window->position;
	while ((next = lowest(ranges, nranges)) != NULL && piece->n < MAX_EVENTS && bytes < MAX_BYTES &&
		   passed++ < MAX_PASSED)
	{
		piece->position = next->seq;
		if (belongs(next, window, start, end, objects))
			take(next, &piece->events[piece->n++], &bytes);
		if (!advance(next))
		{
			end_range(next);
			next->scan = NULL;
		}
	}
	piece->through = next == NULL;
	for (int i = 0; i < nranges; i++)
	{
		if (ranges[i].scan != NULL)
			end_range(&ranges[i]);
	}
	close_partitions(partitions, npartitions);
}
