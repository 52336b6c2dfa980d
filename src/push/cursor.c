/*
 * cursor.c: windows over the outbox, and checkpoints.
 *
 * A scanner has at most three windows: the oldest, whose deliveries must end before the cursor
 * moves on; the newest, which is being read; and one between them, which takes in every window
 * that was read while the oldest was not finished. So a slow request delays the cursor, never the
 * reading.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/crash.h"
#include "core/guc.h"
#include "core/spi.h"
#include "push/internal.h"

/*
 * Samples of (next transaction id, last sequence value), the sequence read first: a transaction
 * with an id at or above `next_xid` got it after the sample, so it drew higher numbers than `seq`.
 *
 * Why a snapshot's own xmax does not do: ids at or above it are not only of transactions to come,
 * but also of those running now that are younger than the last finished one, and these may have
 * drawn their numbers long before the snapshot.
 */
typedef struct Sample
{
	uint64 next_xid;
	int64 seq;
} Sample;

#define MAX_SAMPLES 64

static Sample samples[MAX_SAMPLES];
static int nsamples = 0;

static void
add_sample(uint64 next_xid, int64 seq)
{
	if (nsamples > 0 && samples[nsamples - 1].next_xid == next_xid)
	{
		samples[nsamples - 1].seq = seq;
		return;
	}
	if (nsamples == MAX_SAMPLES)
	{
		/* Thinning keeps the oldest: a coarser bound, never a wrong one. */
		for (int i = 0; i < MAX_SAMPLES / 2; i++)
			samples[i] = samples[i * 2];
		nsamples = MAX_SAMPLES / 2;
	}
	samples[nsamples].next_xid = next_xid;
	samples[nsamples].seq = seq;
	nsamples++;
}

/* Numbers of transactions with ids at or above xmax are higher than this. xmax never goes back. */
static int64
sample_bound(uint64 xmax)
{
	int best = -1;

	while (best + 1 < nsamples && samples[best + 1].next_xid <= xmax)
		best++;
	if (best < 0)
		return 0;
	if (best > 0)
	{
		memmove(samples, samples + best, sizeof(Sample) * (nsamples - best));
		nsamples -= best;
	}
	return samples[0].seq;
}

static void
free_window(SeWindow *window)
{
	pfree(window->start);
	if (window->end != NULL)
		pfree(window->end);
	if (window->late != NULL)
		pfree(window->late);
	pfree(window);
}

/* Where the next window begins. */
static void
next_start(SeScanner *scanner, int *incarnation, char **start, int64 *start_seq)
{
	SeWindow *last;

	if (dlist_is_empty(&scanner->windows))
	{
		*incarnation = scanner->incarnation;
		*start = scanner->finished;
		*start_seq = scanner->finished_seq;
		return;
	}
	last = dlist_tail_element(SeWindow, node, &scanner->windows);
	*incarnation = last->incarnation;
	*start = last->end;
	*start_seq = last->end_bound;
}

/*
 * Goes on in the window that an earlier process has left, behind the events that it had finished. The
 * windows after it may hold others that it had handled.
 */
void
se_cursor_restore(SeScanner *scanner, const char *end, int64 end_after, int64 position)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	SeWindow *window = palloc0(sizeof(SeWindow));

	window->incarnation = scanner->incarnation;
	window->start = pstrdup(scanner->finished);
	window->start_seq = scanner->finished_seq;
	window->end = pstrdup(end);
	/* How far the next window may begin is not on record: no further than this one. */
	window->end_bound = scanner->finished_seq;
	window->end_after = end_after;
	window->position = position;
	window->recovering = true;
	dlist_init(&window->deliveries);
	dlist_push_tail(&scanner->windows, &window->node);
	MemoryContextSwitchTo(old);
}

static void
open_window(SeScanner *scanner, const char *now, int64 bound, int64 after)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	SeWindow *window = palloc0(sizeof(SeWindow));
	char *start;

	next_start(scanner, &window->incarnation, &start, &window->start_seq);
	window->start = pstrdup(start);
	if (window->incarnation == se_hub_incarnation)
	{
		window->end = pstrdup(now);
		window->end_bound = Max(bound, window->start_seq);
		window->end_after = after;
	}
	else
		window->end_after = PG_INT64_MAX;
	/*
	 * What an earlier process handled was committed before this one began, so it is visible in the
	 * first snapshot taken here: only the first window can hold any of it.
	 */
	window->recovering = scanner->recovering;
	if (window->end != NULL)
		scanner->recovering = false;
	dlist_init(&window->deliveries);
	dlist_push_tail(&scanner->windows, &window->node);
	MemoryContextSwitchTo(old);
}

/*
 * Looks that find nothing for us, because the writers are busy with objects that have no route, come
 * in ever longer steps: an idle route must not cost what a busy one does. A step is shorter than
 * anybody would notice, and one event of ours ends it.
 */
#define EMPTY_LOOKS	 8 /* before it begins */
#define MAX_QUIET_MS 10
#define CALM_MS		 20 /* looks further apart are no burden */

static int empty_looks = 0;
static TimestampTz looked_at = 0;
static TimestampTz quiet_until = 0;

void
se_cursor_look(void)
{
	ListCell *cell;

	foreach (cell, se_scanners)
		((SeScanner *) lfirst(cell))->look = true;
}

void
se_cursor_found(void)
{
	empty_looks = 0;
	quiet_until = 0;
}

TimestampTz
se_cursor_quiet_until(void)
{
	return quiet_until;
}

static void
note_look(TimestampTz now)
{
	int steps;

	if (TimestampDifferenceExceeds(looked_at, now, CALM_MS))
		empty_looks = 0;
	looked_at = now;
	steps = ++empty_looks - EMPTY_LOOKS;
	if (steps > 0)
		quiet_until = TimestampTzPlusMilliseconds(now, Min(steps, MAX_QUIET_MS));
}

/* A scanner whose newest window is read through and that has been told of new events. */
static bool
wants_window(SeScanner *scanner)
{
	SeWindow *last;

	if (!scanner->look || !scanner->system->held)
		return false;
	if (dlist_is_empty(&scanner->windows))
		return true;
	last = dlist_tail_element(SeWindow, node, &scanner->windows);
	/* An incarnation that is over ends with its one window. */
	return last->scanned && last->end != NULL;
}

/* The last number drawn; 0: none yet. */
static int64
last_drawn(void)
{
	Oid sequence = get_relname_relid("outbox_seq", get_namespace_oid("sync", false));
	LOCAL_FCINFO(fcinfo, 1);
	Datum value;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(sequence);
	fcinfo->args[0].isnull = false;
	value = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? 0 : DatumGetInt64(value);
}

static int
next_incarnation(SeScanner *scanner)
{
	int incarnation;
	char *start;
	int64 start_seq;

	next_start(scanner, &incarnation, &start, &start_seq);
	return incarnation;
}

bool
se_cursor_open_windows(TimestampTz now)
{
	bool any = false;
	int64 before;
	int64 after;
	int64 bound;
	uint64 oldest;
	char *end;
	char *at;
	ListCell *cell;

	if (quiet_until > now)
		return false;
	foreach (cell, se_scanners)
		any |= wants_window(lfirst(cell));
	if (!any)
		return false;
	note_look(now);

	se_txn_begin("looking for events");
	/*
	 * The order of these reads is what the bounds rest on. The snapshot is a new one; whatever is
	 * finished in it drew its numbers before `after` was read.
	 */
	before = last_drawn();
	add_sample(U64FromFullTransactionId(ReadNextFullTransactionId()), before);
	PushActiveSnapshot(GetLatestSnapshot());
	end = OidOutputFunctionCall(F_PG_SNAPSHOT_OUT, OidFunctionCall0(F_PG_CURRENT_SNAPSHOT));
	PopActiveSnapshot();
	after = last_drawn();
	oldest = strtou64(end, &at, 10);
	bound = sample_bound(strtou64(at + 1, NULL, 10));
	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);

		if (!wants_window(scanner))
			continue;
		/*
		 * Writers that were running at the adoption may still commit events of the incarnation
		 * before. It is read once, so only when none of them is left.
		 */
		if (next_incarnation(scanner) != se_hub_incarnation && oldest <= se_hub_adopted_xid)
			continue;
		open_window(scanner, end, bound, after);
		scanner->look = false;
	}
	se_txn_commit();
	return true;
}

void
se_cursor_finished(SeDelivery *delivery)
{
	if (delivery->window == NULL)
		return;
	dlist_delete(&delivery->window_node);
	delivery->window->unfinished--;
	delivery->window = NULL;
	delivery->route->scanner->dirty = delivery->route->scanner->hurry = true;
}

/* Moves on over a finished window: its end becomes the place where everything is finished. */
static void
pass_window(SeScanner *scanner, SeWindow *window)
{
	pfree(scanner->finished);
	if (window->end == NULL)
	{
		/* The next incarnation is read from its beginning. */
		scanner->incarnation++;
		scanner->finished = MemoryContextStrdup(TopMemoryContext, "3:3:");
		scanner->finished_seq = 0;
		scanner->look = true;
		scanner->dirty = scanner->hurry = true;
	}
	else
	{
		scanner->finished = MemoryContextStrdup(TopMemoryContext, window->end);
		scanner->finished_seq = window->end_bound;
	}
	dlist_delete(&window->node);
	free_window(window);
}

/* Puts window b, which follows a, into a; both are read through. */
static void
merge_windows(SeWindow *a, SeWindow *b)
{
	while (!dlist_is_empty(&b->deliveries))
	{
		SeDelivery *d = dlist_head_element(SeDelivery, window_node, &b->deliveries);

		dlist_delete(&d->window_node);
		dlist_push_tail(&a->deliveries, &d->window_node);
		d->window = a;
	}
	a->unfinished += b->unfinished;
	pfree(a->end);
	a->end = b->end;
	a->end_bound = b->end_bound;
	a->end_after = b->end_after;
	/* Numbers of b may be lower than those of a: nothing is known to be finished up to a number. */
	a->position = 0;
	b->end = NULL;
	dlist_delete(&b->node);
	free_window(b);
}

void
se_cursor_settle(SeScanner *scanner)
{
	SeWindow *first;
	SeWindow *second;

	while (!dlist_is_empty(&scanner->windows))
	{
		first = dlist_head_element(SeWindow, node, &scanner->windows);
		if (!first->scanned || first->unfinished > 0)
			break;
		pass_window(scanner, first);
	}
	if (dlist_is_empty(&scanner->windows))
		return;
	first = dlist_head_element(SeWindow, node, &scanner->windows);
	while (dlist_has_next(&scanner->windows, &first->node))
	{
		second = dlist_container(SeWindow, node, dlist_next_node(&scanner->windows, &first->node));
		if (!dlist_has_next(&scanner->windows, &second->node) || !second->scanned)
			break;
		if (!dlist_container(SeWindow, node, dlist_next_node(&scanner->windows, &second->node))
				 ->scanned)
			break;
		merge_windows(second, dlist_container(SeWindow, node,
											  dlist_next_node(&scanner->windows, &second->node)));
	}
}

bool
se_cursor_checkpoint_due(TimestampTz now, bool idle)
{
	ListCell *cell;

	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);

		if (scanner->dirty && scanner->routes != NIL &&
			((idle && scanner->hurry && dlist_is_empty(&scanner->windows)) ||
			 TimestampDifferenceExceeds(scanner->checkpoint_at, now, se_checkpoint_interval)))
			return true;
	}
	return false;
}

/* Highest number of the window up to which everything is finished. */
static int64
finished_position(SeWindow *window)
{
	int64 position = window->position;
	dlist_iter iter;

	dlist_foreach (iter, &window->deliveries)
	{
		SeDelivery *d = dlist_container(SeDelivery, window_node, iter.cur);

		position = Min(position, d->event.seq - 1);
	}
	return position;
}

static void
write_checkpoint(SeScanner *scanner)
{
	static SPIPlanPtr plan = NULL;
	Oid types[7] = {INT4ARRAYOID, INT4OID, TEXTOID, INT8OID, TEXTOID, INT8OID, INT8OID};
	Datum values[7];
	char nulls[8] = "       ";
	Datum *ids = palloc(sizeof(Datum) * list_length(scanner->routes));
	SeWindow *window = NULL;
	int n = 0;
	ListCell *cell;

	foreach (cell, scanner->routes)
		ids[n++] = Int32GetDatum(((SeRoute *) lfirst(cell))->id);
	if (!dlist_is_empty(&scanner->windows))
		window = dlist_head_element(SeWindow, node, &scanner->windows);
	values[0] = PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
	values[1] = Int32GetDatum(scanner->incarnation);
	values[2] = CStringGetTextDatum(scanner->finished);
	values[3] = Int64GetDatum(scanner->finished_seq);
	values[4] = CStringGetTextDatum(window && window->end ? window->end : scanner->finished);
	values[5] = Int64GetDatum(window ? window->end_after : scanner->finished_seq);
	values[6] = Int64GetDatum(window ? finished_position(window) : 0);
	/* The window of an incarnation that is over has no end of its own: it stands where it stood. */
	nulls[4] = window && window->end == NULL ? 'n' : ' ';
	se_spi_execute(
		&plan,
		"INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, "
		"window_end, window_end_seq, position) "
		"SELECT r, $2, $3::pg_snapshot, $4, coalesce($5::pg_snapshot, k.window_end), $6, "
		"CASE WHEN $5 IS NULL THEN greatest($7, k.position) ELSE $7 END "
		"FROM pg_catalog.unnest($1) r LEFT JOIN LATERAL (SELECT c.window_end, c.position "
		"FROM sync.checkpoint c WHERE c.route_id = r ORDER BY c.id DESC LIMIT 1) k ON true",
		7, types, values, nulls, false, 0);
}

void
se_cursor_write(TimestampTz now)
{
	ListCell *cell;

	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);

		if (!scanner->dirty || scanner->routes == NIL)
			continue;
		SE_CRASH_POINT("push-checkpoint");
		write_checkpoint(scanner);
		scanner->dirty = scanner->hurry = false;
		scanner->checkpoint_at = now;
	}
}
