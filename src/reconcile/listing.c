/*
 * listing.c: the listings of this database and their turns.
 *
 *	 counting ──▶ listing: request ─▶ page kept with its cursor ─▶ request … ─▶ last page ──▶ SQL
 *							└─ refused, throttled, no answer ──▶ backing off ──▶ the same page again
 *	 SQL ──suspects──▶ reading: each is read by id ──▶ SQL
 *
 * What a job is about, and what follows from what was listed, is SQL (74_listing*.sql, 74_backfill*.sql);
 * here are the requests. Each page is committed with the cursor behind it, so after a crash the walk goes
 * on with the first page that was not kept.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/spi.h"
#include "govern/retry.h"
#include "reconcile/internal.h"
#include "worker/jobs.h"

#define GIVE_UP_PAGE_AFTER 3  /* failures in a row, then page tokens may be stale */
#define FAILS_AFTER		   10 /* refusals in a row */

static List *listings = NIL; /* SeListing *, in se_pull_cxt */
static bool look = true;
static TimestampTz looked_at = 0;

void
se_listing_look(void)
{
	look = true;
}

void
se_listing_reset(void)
{
	listings = NIL;
	look = true;
}

SeListing *
se_listing_of(const SeJob *job)
{
	return (SeListing *) job->stream;
}

static void
forget_job(SeJob *job)
{
	if (job == NULL)
		return;
	job->dropped = true;
	if (job->is_ready)
		se_job_free(job);
}

/* What is out is forgotten when its answer comes. */
void
se_listing_drop(SeListing *listing)
{
	ListCell *lc;

	forget_job(listing->job);
	foreach (lc, listing->reading)
		((SeJob *) lfirst(lc))->dropped = true;
	listings = list_delete_ptr(listings, listing);
	/* Its jobs point at it until they are gone, and then it is only some bytes. */
	listing->job = NULL;
	listing->reading = NIL;
}

static SeListing *
listing_by_id(int64 id)
{
	ListCell *lc;

	foreach (lc, listings)
	{
		if (((SeListing *) lfirst(lc))->id == id)
			return lfirst(lc);
	}
	return NULL;
}

static SeListingPhase
phase_of(const char *word)
{
	return strcmp(word, "counting") == 0  ? SE_LISTING_COUNTING
		   : strcmp(word, "listing") == 0 ? SE_LISTING_LISTING
										  : SE_LISTING_READING;
}

static void
take_listing(uint64 row)
{
	bool isnull;
	int64 id = DatumGetInt64(se_spi_datum(row, 1, &isnull));
	SeListingPhase phase = phase_of(se_spi_text(row, 6));
	SeListing *listing = listing_by_id(id);
	MemoryContext old;
	Datum cursor;

	/* SQL was at it meanwhile: whatever is out belongs to another phase. */
	if (listing != NULL && listing->phase != phase)
	{
		se_listing_drop(listing);
		listing = NULL;
	}
	if (listing != NULL)
	{
		listing->seen = true;
		return;
	}
	old = MemoryContextSwitchTo(se_pull_cxt);
	listing = palloc0(sizeof(SeListing));
	listing->id = id;
	listing->stream.guest = true;
	listing->stream.system_id = DatumGetInt32(se_spi_datum(row, 2, &isnull));
	listing->stream.object_id = DatumGetInt32(se_spi_datum(row, 3, &isnull));
	listing->stream.object = MemoryContextStrdup(se_pull_cxt, se_spi_text(row, 4));
	listing->applies = DatumGetBool(se_spi_datum(row, 5, &isnull));
	listing->phase = phase;
	cursor = se_spi_datum(row, 7, &isnull);
	listing->cursor = isnull ? NULL : DatumGetJsonbPCopy(cursor);
	listing->since = se_spi_time_or_0(row, 8);
	listing->until = se_spi_time_or_0(row, 9);
	listing->rate = DatumGetInt32(se_spi_datum(row, 10, &isnull));
	listing->seen = true;
	listings = lappend(listings, listing);
	MemoryContextSwitchTo(old);
}

static void
look_for_jobs(TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext cxt = CurrentMemoryContext;
	List *gone = NIL;
	ListCell *lc;
	uint64 n;

	foreach (lc, listings)
		((SeListing *) lfirst(lc))->seen = false;
	se_txn_begin("looking for listings");
	n = se_spi_execute(
		&plan,
		"SELECT j.id, j.system_id, j.object_id, o.name, j.kind = 'backfill_pull', j.phase,"
		" j.cursor -> 'walk', (j.params ->> 'since')::timestamptz,"
		" (j.params ->> 'until')::timestamptz, coalesce((j.params ->> 'rate')::integer, 0)"
		" FROM sync.job j JOIN sync.object o ON o.id = j.object_id"
		" WHERE j.state = 'running' AND j.kind IN ('full_listing', 'backfill_pull')"
		" AND j.phase IN ('counting', 'listing', 'reading') ORDER BY j.id",
		0, NULL, NULL, NULL, true, 0);
	for (uint64 i = 0; i < n; i++)
		take_listing(i);
	se_txn_commit();
	MemoryContextSwitchTo(cxt);
	foreach (lc, listings)
	{
		if (!((SeListing *) lfirst(lc))->seen)
			gone = lappend(gone, lfirst(lc));
	}
	foreach (lc, gone)
		se_listing_drop(lfirst(lc));
	look = false;
	looked_at = now;
}

/*
 * An outage is waited for, however long it is. What the system refuses, or says in a way that cannot be
 * read, fails the job after some tries; before that the walk begins anew, in case its pages went stale.
 */
void
se_listing_failed(SeListing *listing, SeOutcome outcome, const char *message, int64 retry_after_ms)
{
	MemoryContext cxt = CurrentMemoryContext;
	bool refused = outcome == SE_REJECTED || outcome == SE_DONE;
	int failures = ++listing->failures;
	bool final = refused && failures >= FAILS_AFTER;
	bool again =
		refused && listing->phase == SE_LISTING_LISTING && failures % GIVE_UP_PAGE_AFTER == 0;

	listing->next_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   Max(se_retry_backoff_ms(failures, se_jitter()),
													   retry_after_ms));
	if (again)
		listing->cursor = NULL;
	PG_TRY();
	{
		se_txn_begin("recording a failed listing");
		if (se_stage_begin(listing))
			se_stage_failure(listing, message, again, final);
		se_txn_commit();
	}
	PG_CATCH();
	{
		se_caught(cxt);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	look |= final;
}

static bool
is_busy(const SeListing *listing)
{
	return listing->job != NULL;
}

static bool
step_one(SeListing *listing, TimestampTz now)
{
	SeSystem *system;
	SeTarget target;

	if (se_listing_take(listing))
		return true;
	if (is_busy(listing) || listing->next_at > now)
		return false;
	system = se_system_by_id(listing->stream.system_id);
	if (system == NULL || !se_system_speaks(system, now))
		return false;
	if (!se_stream_target(&listing->stream, &target))
	{
		se_listing_failed(listing, SE_REJECTED, "the system's connector does not pull this object",
						  -1);
		return false;
	}
	if (listing->phase == SE_LISTING_READING)
		return se_suspects_ask(listing, &target, now);
	se_listing_ask(listing, &target);
	return true;
}

bool
se_listing_step(TimestampTz now)
{
	bool busy = false;
	List *turns;
	ListCell *lc;

	if (look || (listings != NIL &&
				 (now < looked_at || TimestampDifferenceExceeds(looked_at, now, se_poll_interval))))
		look_for_jobs(now);
	if (listings == NIL)
		return false;
	turns = list_copy(listings);
	foreach (lc, turns)
	{
		/* one may have ended at its turn */
		if (list_member_ptr(listings, lfirst(lc)))
			busy |= step_one(lfirst(lc), now);
	}
	list_free(turns);
	return busy;
}

TimestampTz
se_listing_next_due(TimestampTz now)
{
	TimestampTz next = DT_NOEND;
	ListCell *lc;

	if (look)
		return now;
	foreach (lc, listings)
	{
		SeListing *listing = lfirst(lc);
		SeSystem *system = se_system_by_id(listing->stream.system_id);

		next = Min(next, TimestampTzPlusMilliseconds(looked_at, se_poll_interval));
		if (listing->job != NULL && listing->job->is_ready)
			return now;
		if (!is_busy(listing) && system != NULL && se_system_speaks(system, now))
			next = Min(next, Max(listing->next_at, now));
	}
	return next;
}
