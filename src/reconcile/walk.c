/*
 * walk.c: asks how many records there are, and for one page after the other.
 *
 * One request of a listing is out at a time, and behind all other traffic of its system. The page is
 * kept in the hub's turn after its answer has come, as those of streams are.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/json.h"
#include "core/spi.h"
#include "push/push.h"
#include "reconcile/internal.h"

#define HELD_AGAIN_MS 10000

/* ---- counting ---- */

/* What is not told is not known: that stops nobody. */
static void
counted(SeListing *listing, const SeCount *told)
{
	MemoryContext cxt = CurrentMemoryContext;

	PG_TRY();
	{
		se_txn_begin("keeping how many records there are");
		if (se_stage_begin(listing))
		{
			se_stage_total(listing, told);
			listing->phase = SE_LISTING_LISTING;
			listing->failures = 0;
		}
		else
			listing->next_at = GetCurrentTimestamp() + USECS_PER_SEC;
		se_txn_commit();
	}
	PG_CATCH();
	{
		se_caught(cxt);
		listing->next_at = GetCurrentTimestamp() + USECS_PER_SEC;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
}

static void
count_failed(SeJob *job, const char *message, int64 retry_after_ms)
{
	SeListing *listing = se_listing_of(job);
	SeOutcome outcome = job->outcome;
	SeCount told = {0};

	if (!job->dropped)
	{
		listing->job = NULL;
		told.error = pstrdup(message);
		if (outcome == SE_REJECTED || outcome == SE_DONE)
			counted(listing, &told);
		else
			se_listing_failed(listing, outcome, message, retry_after_ms);
	}
	MemoryContextSwitchTo(se_pull_cxt);
	se_job_free(job);
}

static void
take_count(SeExchange *exchange, SeReply *reply)
{
	SeJob *job = exchange->arg;
	SeListing *listing = se_listing_of(job);
	SeTarget target;
	SeCount told;

	if (job->dropped)
	{
		se_job_free(job);
		return;
	}
	if (!se_job_answered(job, reply))
		return;
	if (!se_job_target(job, &target) || target.pull->count == NULL)
	{
		count_failed(job, "the connector has changed meanwhile", -1);
		return;
	}
	MemoryContextSwitchTo(job->cxt);
	se_count_read(target.manifest, target.pull, &reply->answer, target.vars, &told);
	listing->job = NULL;
	counted(listing, &told);
	MemoryContextSwitchTo(se_pull_cxt);
	se_job_free(job);
}

static void
ask_count(SeListing *listing, const SeTarget *target)
{
	SeJob *job = se_job_make(&listing->stream);
	MemoryContext old = MemoryContextSwitchTo(job->cxt);
	SeRendered rendered;

	listing->job = job;
	job->failed = count_failed;
	memset(&rendered, 0, sizeof(rendered));
	se_count_request(target->manifest, target->pull, target->vars, &rendered);
	if (rendered.status == SE_RENDER_OK)
		se_job_send(job, se_system_by_id(listing->stream.system_id), target->pull->count,
					&rendered.request, take_count);
	else
		count_failed(job, rendered.message != NULL ? rendered.message : "cannot ask for a count",
					 -1);
	MemoryContextSwitchTo(old);
}

/* ---- pages ---- */

static void
page_ready(SeJob *job)
{
	job->is_ready = true;
}

static void
page_failed(SeJob *job, const char *message, int64 retry_after_ms)
{
	SeListing *listing = se_listing_of(job);

	if (!job->dropped)
	{
		MemoryContextSwitchTo(job->cxt);
		listing->job = NULL;
		se_listing_failed(listing, job->outcome, pstrdup(message), retry_after_ms);
	}
	MemoryContextSwitchTo(se_pull_cxt);
	se_job_free(job);
}

/*
 * Where the walk begins: with everything, or at an instant. A journal does not reach back for ever, so
 * beside one the list is read whole, and what is older is left out here.
 */
static Jsonb *
first_cursor(const SeListing *listing, const SePull *pull)
{
	SeObjBuilder b;
	char buf[MAXDATELEN + 1];
	int utc = 0;

	se_obj_begin(&b);
	if (listing->since == 0 || (pull->events != NULL && pull->list != NULL))
		se_obj_bool(&b, "full", true);
	else
	{
		JsonEncodeDateTime(buf, TimestampTzGetDatum(listing->since), TIMESTAMPTZOID, &utc);
		se_obj_text(&b, "time", buf);
	}
	return se_obj_end(&b);
}

void
se_listing_ask(SeListing *listing, const SeTarget *target)
{
	SeJob *job;
	SeCount told = {0};

	if (listing->phase == SE_LISTING_COUNTING)
	{
		if (target->pull->count != NULL && listing->since == 0)
			ask_count(listing, target);
		else
		{
			told.count = -1;
			counted(listing, &told);
		}
		return;
	}
	job = se_job_make(&listing->stream);
	listing->job = job;
	job->ready = page_ready;
	job->failed = page_failed;
	MemoryContextSwitchTo(job->cxt);
	se_page_ask(job,
				listing->cursor != NULL ? listing->cursor : first_cursor(listing, target->pull),
				target);
	MemoryContextSwitchTo(se_pull_cxt);
}

/* Items of the window that is asked for; those without a time are in it. */
static int
within(const SeListing *listing, SeItem *items, int n)
{
	int kept = 0;

	for (int i = 0; i < n; i++)
	{
		if (items[i].has_at && ((listing->until != 0 && items[i].at > listing->until) ||
								(listing->since != 0 && items[i].at < listing->since)))
			continue;
		items[kept++] = items[i];
	}
	return kept;
}

static Jsonb *
counts_of(const SePageResult *result)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	se_obj_int(&b, "applied", result->applied);
	se_obj_int(&b, "unchanged", result->unchanged + result->mirrored);
	se_obj_int(&b, "to_inbox", result->to_inbox);
	se_obj_int(&b, "read_again", result->read_again);
	return se_obj_end(&b);
}

/* The page and the cursor behind it in one transaction. */
static void
keep_page(SeListing *listing, SeJob *job, SeTarget *target, SePageResult *result, bool *goes_on)
{
	int n = within(listing, job->items, job->nitems);
	Jsonb *counts = NULL;

	memset(result, 0, sizeof(*result));
	se_txn_begin("keeping a page of a listing");
	*goes_on = se_stage_begin(listing);
	if (!*goes_on)
	{
		se_txn_abort();
		return;
	}
	if (listing->applies)
	{
		/* Whatever it does not list may have changed before the window: nothing is taken for deleted. */
		se_page_apply(target, job->items, n, false, result);
		counts = counts_of(result);
	}
	else
		se_stage_records(listing, target, job->items, n);
	/* A page that may be stale is asked for again; what it did to other records stays. */
	se_stage_progress(listing, result->held ? listing->cursor : job->page.next,
					  result->held ? 0 : n, counts);
	if (job->page.last && !result->held)
		se_stage_phase(listing, "listed", false);
	SE_CRASH_POINT("listing_before_commit");
	se_txn_commit();
	SE_CRASH_POINT("listing_after_commit");
}

static void
page_kept(SeListing *listing, SeJob *job, const SePageResult *result)
{
	MemoryContext old = MemoryContextSwitchTo(se_pull_cxt);
	Jsonb *before = listing->cursor;
	TimestampTz now = GetCurrentTimestamp();

	listing->job = NULL;
	listing->failures = 0;
	listing->next_at = 0;
	if (result->held)
		listing->next_at = TimestampTzPlusMilliseconds(now, HELD_AGAIN_MS);
	else
	{
		listing->cursor = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(job->page.next));
		if (before != NULL)
			pfree(before);
		if (listing->rate > 0)
			listing->next_at = now + (int64) (job->nitems * (double) USECS_PER_SEC / listing->rate);
	}
	MemoryContextSwitchTo(old);
	if (listing->applies && (result->bound > 0 || result->applied > 0))
		se_push_notify_bound(listing->stream.system_id);
	if (job->page.last && !result->held)
		se_listing_drop(listing);
	se_job_free(job);
}

bool
se_listing_take(SeListing *listing)
{
	SeJob *job = listing->job;
	MemoryContext caller = CurrentMemoryContext;
	char *volatile problem = NULL;
	volatile bool goes_on = false;
	SePageResult result;
	SeTarget target;

	if (job == NULL || !job->is_ready)
		return false;
	if (!se_job_target(job, &target))
	{
		page_failed(job, "the connector has changed meanwhile", -1);
		return true;
	}
	MemoryContextSwitchTo(job->cxt);
	PG_TRY();
	{
		bool running;

		keep_page(listing, job, &target, &result, &running);
		goes_on = running;
	}
	PG_CATCH();
	{
		problem = se_caught(job->cxt);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	if (problem != NULL)
	{
		/* of the database: no reason to give up */
		job->outcome = SE_AMBIGUOUS;
		page_failed(job, problem, -1);
	}
	else if (goes_on)
		page_kept(listing, job, &result);
	else
		se_listing_drop(listing);
	MemoryContextSwitchTo(caller);
	return true;
}
