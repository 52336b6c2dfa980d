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
#define PIECE_MS 1000 /* between pieces of history that go */

static TimestampTz due = DT_NOBEGIN;
static TimestampTz prune_due = DT_NOBEGIN;

static void
run(const char *activity, const char *sql)
{
	se_txn_begin(activity);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	se_txn_commit();
}

/* A piece of what is past its time: a day may have had millions. */
static void
prune(TimestampTz now)
{
	bool isnull;
	bool more;

	se_txn_begin("upkeep of changes of mirrors");
	if (SPI_execute("SELECT sync._prune_mirror_history()", false, 1) < 0)
		elog(ERROR, "could not prune the changes of mirrors");
	more = DatumGetBool(se_spi_datum(0, 1, &isnull));
	se_txn_commit();
	prune_due = more ? TimestampTzPlusMilliseconds(now, PIECE_MS) : DT_NOEND;
}

static void
run_all(void)
{
	run("upkeep of partitions", "SELECT sync._upkeep()");
	run("upkeep of history", "SELECT sync._upkeep_history()");
	run("upkeep of personal data", "SELECT sync._upkeep_personal()");
	run("upkeep of merges", "SELECT sync._sweep_merges()");
	run("upkeep of approvals", "SELECT sync._expire_approvals()");
	run("upkeep of the audit trail", "SELECT sync._upkeep_audit()");
}

void
se_upkeep_step(TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	const bool all = due <= now;

	if (se_upkeep_next_due() > now)
		return;
	prune_due = DT_NOEND;
	if (all)
		due = TimestampTzPlusMilliseconds(now, EVERY_MS);
	PG_TRY();
	{
		if (all)
			run_all();
		prune(now);
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
	return Min(due, prune_due);
}
