/*
 * push.c: the push engine as the hub's loop sees it. See push.h.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/spi.h"
#include "push/internal.h"
#include "push/push.h"

static TimestampTz looked_at = 0;

void
se_push_load(void)
{
	bool starting = se_queue_init();

	se_txn_begin("loading routes");
	se_routes_load();
	se_txn_commit();
	se_pending_load(GetCurrentTimestamp(), starting);
	se_call_look();
}

void
se_push_reset(void)
{
	se_outcome_reset();
	se_pending_reset();
	se_queue_reset();
	se_routes_reset();
	se_call_reset();
	looked_at = 0;
}

void
se_push_look(void)
{
	se_cursor_look();
}

bool
se_push_listens(TimestampTz now)
{
	return se_cursor_quiet_until() <= now && se_scan_listens(now);
}

bool
se_push_step(TimestampTz now)
{
	bool busy = false;

	if (TimestampDifferenceExceeds(looked_at, now, se_poll_interval))
	{
		looked_at = now;
		se_push_look();
		se_call_look();
	}
	while (se_outcome_flush(now))
		busy = true;
	busy |= se_pending_release(now);
	busy |= se_pending_load_due(now);
	(void) se_cursor_open_windows(now);
	busy |= se_scan(now);
	busy |= se_claim(now);
	busy |= se_call_step(now);
	if (!busy && se_cursor_checkpoint_due(now, se_exchange_in_flight() == 0))
	{
		se_txn_begin("writing checkpoints");
		se_cursor_write(now);
		se_txn_commit();
	}
	return busy;
}

bool
se_push_record(TimestampTz now)
{
	return se_outcome_flush(now);
}

TimestampTz
se_push_next_due(TimestampTz now)
{
	TimestampTz due = TimestampTzPlusMilliseconds(looked_at, se_poll_interval);
	ListCell *cell;

	if (se_cursor_quiet_until() > now)
		due = Min(due, se_cursor_quiet_until());
	due = Min(due, se_pending_next_due());
	due = Min(due, se_call_next_due());
	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);

		if (scanner->retry_at > now)
			due = Min(due, scanner->retry_at);
		if (scanner->dirty && scanner->routes != NIL)
			due = Min(due,
					  TimestampTzPlusMilliseconds(scanner->checkpoint_at, se_checkpoint_interval));
	}
	return due;
}

bool
se_push_in_flight(int system_id, int object_id, const char *record_id)
{
	ListCell *cell;

	foreach (cell, se_routes)
	{
		SeRoute *route = lfirst(cell);
		SeRecord *record;

		if (route->system->id != system_id || route->object_id != object_id)
			continue;
		record = se_record_get(route->id, record_id, false);
		if (record != NULL && (record->in_flight || record->ambiguous))
			return true;
	}
	return false;
}
