/*
 * jobs.c: see jobs.h. What a step does is SQL (sync._jobs_step); here is when. What a step fails with
 * is the job's own business and kept there; an error that comes here is one of the bookkeeping.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/spi.h"
#include "reconcile/listing.h"
#include "worker/jobs.h"
#include "worker/notice.h"

#define IDLE_MS	 60000 /* for jobs of which nobody told us */
#define AGAIN_MS 10000 /* after an error */

static TimestampTz due = DT_NOBEGIN;

void
se_jobs_look(void)
{
	due = DT_NOBEGIN;
}

/* Milliseconds until the next step; -1 when there is none. */
static int64
step(void)
{
	static SPIPlanPtr plan = NULL;
	bool isnull;
	int64 wait;

	se_txn_begin("a step of a job");
	se_spi_execute(&plan, "SELECT sync._jobs_step()", 0, NULL, NULL, NULL, false, 1);
	wait = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	SE_CRASH_POINT("job-stepping");
	se_txn_commit();
	SE_CRASH_POINT("job-stepped");
	return isnull ? -1 : wait;
}

bool
se_jobs_step(TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool more = false;

	if (due > now)
		return false;
	PG_TRY();
	{
		int64 wait = step();

		due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										  wait < 0 ? IDLE_MS : Min(wait, IDLE_MS));
		more = wait == 0;
		se_listing_look();
		se_notice_clear("jobs");
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		se_txn_abort();
		due = TimestampTzPlusMilliseconds(now, AGAIN_MS);
		se_notice_put("jobs", "error", psprintf("jobs cannot be stepped: %s", error->message),
					  "It is tried again every ten seconds; deliveries and pulls go on.");
	}
	PG_END_TRY();
	return more;
}

TimestampTz
se_jobs_next_due(void)
{
	return due;
}
