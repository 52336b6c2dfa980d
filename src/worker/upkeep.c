/*
 * upkeep.c: see upkeep.h. The work itself is SQL (sync._upkeep and sync._upkeep_history); what matters
 * here is that a failure of upkeep never stops deliveries.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "worker/notice.h"
#include "worker/upkeep.h"

#define EVERY_MS (10 * 60 * 1000)
#define AGAIN_MS (60 * 1000)

static TimestampTz due = DT_NOBEGIN;

static void
run(const char *activity, const char *sql)
{
	se_txn_begin(activity);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	se_txn_commit();
}

void
se_upkeep_step(TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;

	if (due > now)
		return;
	due = TimestampTzPlusMilliseconds(now, EVERY_MS);
	PG_TRY();
	{
		run("upkeep of partitions", "SELECT sync._upkeep()");
		run("upkeep of history", "SELECT sync._upkeep_history()");
		run("upkeep of personal data", "SELECT sync._upkeep_personal()");
		run("upkeep of merges", "SELECT sync._sweep_merges()");
		run("upkeep of approvals", "SELECT sync._expire_approvals()");
		run("upkeep of the audit trail", "SELECT sync._upkeep_audit()");
		se_notice_clear("upkeep");
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		se_txn_abort();
		due = TimestampTzPlusMilliseconds(now, AGAIN_MS);
		se_notice_put("upkeep", "warning", psprintf("upkeep failed: %s", error->message),
					  "It is tried again in a minute; events are captured all the same.");
	}
	PG_END_TRY();
}

TimestampTz
se_upkeep_next_due(void)
{
	return due;
}
