/*
 * push.c: the push engine as the hub's loop sees it. See push.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/crash.h"
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
	busy |= se_held_step(now);
	busy |= se_pending_release(now);
	busy |= se_pending_load_due(now);
	SE_CRASH_POINT("push-looking");
	(void) se_cursor_open_windows(now);
	busy |= se_scan(now);
	if (se_hub_is_current())
		busy |= se_claim(now, false);
	else
		busy = true;
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
se_push_step_idle(TimestampTz now)
{
	return se_hub_is_current() && se_claim(now, true);
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
	due = Min(due, se_outcome_next_due());
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

/* The window that begins where an earlier process left off, while it is not read through; or NULL. */
static SeWindow *
unread_window(SeScanner *scanner)
{
	dlist_iter iter;

	dlist_foreach (iter, &scanner->windows)
	{
		SeWindow *window = dlist_container(SeWindow, node, iter.cur);

		if (window->recovering && !window->scanned)
			return window;
	}
	return NULL;
}

/* Whether a server that was lost may have sent something of the record that is unfinished here. */
static bool
is_suspect(const SeRoute *route, SeRecord *record)
{
	SeWindow *unread = unread_window(route->scanner);

	if (se_hub_suspect_before == 0)
		return false;
	if (route->scanner->recovering || (unread != NULL && !unread->suspects_read))
		return true;
	return record != NULL &&
		   (record->suspect ||
			(!dlist_is_empty(&record->queue) &&
			 se_event_since(&dlist_head_element(SeDelivery, queue_node, &record->queue)->event) <
				 se_hub_suspect_before));
}

/* Whether an earlier process claimed something of the record and heard no answer. In a transaction. */
static bool
is_unanswered(const SeRoute *route, const char *record_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT4OID, INT4OID, TEXTOID};
	Datum values[3];

	values[0] = Int32GetDatum(route->id);
	values[1] = Int32GetDatum(route->object_id);
	values[2] = CStringGetTextDatum(record_id);
	return se_spi_execute(&plan,
						  "SELECT FROM sync.claim c WHERE c.record_id = $3 AND c.object_id = $2 "
						  "AND c.route_id = $1 AND NOT EXISTS (SELECT FROM sync.outcome o WHERE "
						  "o.route_id = c.route_id AND o.seq = c.seq "
						  "AND o.attempt_id = c.attempt_id AND o.at >= c.at)",
						  3, types, values, NULL, true, 1) > 0;
}

/*
 * What an earlier process has sent is known here when the first window has been read; until then
 * history is asked (when the caller has a transaction; who only sends a request is asked again when
 * the answer is there).
 */
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
		/* Between two steps of a plan, too: a document that is read while it is a draft is none yet. */
		if (record != NULL && (record->in_flight || record->midway || record->ambiguous))
			return true;
		if (is_suspect(route, record))
			return true;
		if ((route->scanner->recovering || unread_window(route->scanner) != NULL) &&
			IsTransactionState() && is_unanswered(route, record_id))
			return true;
	}
	return false;
}
