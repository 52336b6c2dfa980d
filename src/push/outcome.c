/*
 * outcome.c: records what became of deliveries, a batch in one transaction: outcomes, external ids,
 * mirror, pending rows and checkpoints together.
 *
 * These commits may be asynchronous: the WAL is one sequence, so the flush of any later claim
 * carries them with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/guc.h"
#include "core/json.h"
#include "core/rows.h"
#include "core/spi.h"
#include "pull/pull.h"
#include "push/internal.h"
#include "push/record_body.h"
#include "push/push.h"
#include "worker/seal.h"

#define BATCH		500
#define PUT_OFF_MS	1000
#define MAX_PAYLOAD (BLCKSZ - NAMEDATALEN - 129) /* of NOTIFY */

static dlist_head ended = DLIST_STATIC_INIT(ended);

void
se_outcome_add(SeDelivery *d)
{
	dlist_push_tail(&ended, &d->result_node);
}

void
se_outcome_reset(void)
{
	dlist_init(&ended);
}

bool
se_outcome_is_final(const SeDelivery *d)
{
	return !d->discarded &&
		   (d->ending == SE_END_DONE || d->ending == SE_END_IGNORED || d->ending == SE_END_DRY_RUN);
}

const char *
se_outcome_state(const SeDelivery *d)
{
	if (d->discarded)
		return "discarded";
	switch (d->ending)
	{
		case SE_END_STEP:
		case SE_END_AGAIN:
			return "queued";
		case SE_END_DONE:
			return "done";
		case SE_END_IGNORED:
			return "ignored";
		case SE_END_DRY_RUN:
			return "dry_run";
		case SE_END_AMBIGUOUS:
			return "ambiguous";
		case SE_END_WAITING:
			return "waiting";
		case SE_END_DEAD:
			return "dead";
		case SE_END_CONFLICT:
			return "conflict";
		case SE_END_HELD:
			return "held";
	}
	return "queued";
}

/* ---- mirror and external ids ---- */

static void
fill_pushed(SePushed *p, SeDelivery *d)
{
	memset(p, 0, sizeof(*p));
	p->system = d->route->system;
	p->object_id = d->event.object_id;
	p->object = d->route->object;
	p->record_id = d->event.record_id;
	p->remote_id = d->extract.remote_id ? d->extract.remote_id : d->remote_id;
	p->remote_number = d->extract.remote_number;
	p->version = d->extract.version;
	p->has_version_at = d->extract.has_version_at;
	p->version_at = d->extract.version_at;
	p->record = d->extract.record;
	p->ours = d->event.op == 'D' ? NULL : se_obj_get(d->ctx, "new");
	p->corrects = d->event.origin < 0 && d->event.op == 'U' ? d->event.old : NULL;
	p->sent =
		d->op->kind == SE_OP_CREATE || d->op->kind == SE_OP_UPSERT || d->op->kind == SE_OP_UPDATE;
	p->fresh = d->op->kind == SE_OP_CREATE && d->remote_id == NULL;
	p->deleted = d->pushed_deleted;
	/* A server that is lost had deleted it already, and this repetition has made it once more. */
	p->rebinds = d->op->kind == SE_OP_UPSERT && se_event_since(&d->event) < se_hub_suspect_before;
	p->financial = d->route->financial;
	p->cause = se_event_id(&d->event);
	p->correlation_id =
		d->event.context != NULL ? se_obj_get_text(d->event.context, "correlation_id") : NULL;
}

/* True when the batch could be bound; otherwise nothing of it was, and *message says why. */
static bool
try_pushed(SePushed *items, int n, TimestampTz now, char **message)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		se_mirror_pushed(items, n, now);
		ReleaseCurrentSubTransaction();
		ok = true;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		*message = error->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return ok;
}

/* Binds what was pushed; where that fails (one remote id for two records), a person must look. */
static void
bind_pushed(SeDelivery **deliveries, int n, TimestampTz now)
{
	SePushed *items = palloc(sizeof(SePushed) * (n + 1));
	SeDelivery **owners = palloc(sizeof(SeDelivery *) * (n + 1));
	char *message = NULL;
	int size = 0;

	for (int i = 0; i < n; i++)
	{
		if (!deliveries[i]->has_pushed)
			continue;
		owners[size] = deliveries[i];
		fill_pushed(&items[size++], deliveries[i]);
	}
	if (size == 0 || try_pushed(items, size, now, &message))
		goto notify;
	for (int i = 0; i < size; i++)
	{
		SeDelivery *d = owners[i];

		if (try_pushed(&items[i], 1, now, &message))
			continue;
		d->ending = SE_END_CONFLICT;
		d->code = "not_bound";
		if (d->op->kind == SE_OP_CREATE)
		{
			/* It is there: a person who retries wants it bound, not made again. */
			d->unbound_id = MemoryContextStrdup(d->cxt, items[i].remote_id);
			d->step = MemoryContextStrdup(d->cxt, d->op->name);
		}
		d->message = MemoryContextStrdup(d->cxt, message);
	}
notify:
	for (int i = 0; i < size; i++)
		se_push_notify_record(owners[i]->route->system->id, owners[i]->event.object_id,
							  owners[i]->event.record_id);
}

/*
 * What a system refuses after a takeover, of a record that is deleted here, is passed over: the delete
 * follows, and comes to the same.
 */
static void
pass_over_gone(SeDelivery **deliveries, int n)
{
	for (int i = 0; i < n; i++)
	{
		SeDelivery *d = deliveries[i];
		const char *said = d->message;

		if (!d->gone || se_record_body(d->event.object_id, d->event.record_id) != NULL)
			continue;
		d->ending = SE_END_IGNORED;
		d->code = "gone";
		d->message = MemoryContextStrdup(
			d->cxt, psprintf("the record is deleted here, and there, too, if a server that is lost "
							 "has told of it; the system answered: %s",
							 said ? said : "nothing"));
	}
}

/* ---- outcome rows ---- */

static const char *const outcome_names[] = {"attempt_id", "at",		 "route_id", "seq",
											"final",	  "outcome", "state",	 "status",
											"latency_us", "code",	 "message",	 "request_id",
											"response"};

static void
put_row(SeArg *c, SeDelivery *d, TimestampTz now)
{
	bool has_response = d->response != NULL && d->response[0] != '\0';

	se_arg_add(c++, Int64GetDatum(d->attempt_id), false);
	se_arg_add(c++, TimestampTzGetDatum(now), false);
	se_arg_add(c++, Int32GetDatum(d->route->id), false);
	se_arg_add(c++, Int64GetDatum(d->event.seq), false);
	se_arg_add(c++, BoolGetDatum(se_outcome_is_final(d)), false);
	se_arg_text(c++, d->outcome_word ? d->outcome_word : se_outcome_name(d->outcome));
	se_arg_text(c++, se_outcome_state(d));
	se_arg_add(c++, Int32GetDatum(d->status), d->status == 0);
	se_arg_add(c++, Int64GetDatum(d->latency_us), d->attempt_id == 0);
	se_arg_text(c++, d->code);
	se_arg_text(c++, d->message);
	se_arg_text(c++, d->request_id);
	se_arg_text(c++, has_response ? d->response : NULL);
}

static void
insert_outcomes(SeDelivery **deliveries, int n)
{
	SeArg columns[lengthof(outcome_names)];
	TimestampTz now = GetCurrentTimestamp();
	int rows = 0;

	for (size_t i = 0; i < lengthof(columns); i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		/* A delivery that merely goes on waiting says nothing new. */
		if (deliveries[i]->attempt_id == 0 && !se_outcome_is_final(deliveries[i]) &&
			deliveries[i]->pending_id != 0)
			continue;
		put_row(columns, deliveries[i], now);
		rows++;
	}
	se_rows_insert("outcome", now, outcome_names, columns, lengthof(columns), rows);
}

/* The attempt of a process that died before its answer was on record; in a transaction. */
void
se_outcome_lost(SeDelivery *d)
{
	static SPIPlanPtr plan = NULL;
	Oid types[4] = {INT8OID, INT4OID, INT8OID, TEXTOID};
	Datum values[4];

	values[0] = Int64GetDatum(d->last_attempt_id);
	values[1] = Int32GetDatum(d->route->id);
	values[2] = Int64GetDatum(d->event.seq);
	values[3] = CStringGetTextDatum(se_outcome_state(d));
	se_spi_execute(
		&plan,
		"INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, "
		"code, message) VALUES ($1, pg_catalog.clock_timestamp(), $2, $3, false, "
		"'ambiguous', $4, 'no_answer', 'the server stopped before the answer came')",
		4, types, values, NULL, false, 0);
}

static void
notify(SeDelivery *d)
{
	char *payload;

	if (!se_notify_outcomes || d->discarded ||
		(!se_outcome_is_final(d) && d->ending != SE_END_DEAD && d->ending != SE_END_CONFLICT))
		return;
	payload = psprintf("%d/" INT64_FORMAT " %s %s %s", d->route->id, d->event.seq,
					   se_outcome_state(d), d->route->object, d->event.record_id);
	/* A longer one would be an error. The delivery stands first, so it tells which record is meant. */
	if (strlen(payload) > MAX_PAYLOAD)
		payload[pg_mbcliplen(payload, (int) strlen(payload), MAX_PAYLOAD)] = '\0';
	Async_Notify("sync_outcome", payload);
}

/* ---- what stays, what goes ---- */

/* Rows of sync.pending that change with this ending. */
static void
write_pending(SeDelivery *d)
{
	if (d->discarded)
		return;
	switch (d->ending)
	{
		case SE_END_AMBIGUOUS:
			se_pending_park(d, "ambiguous", d->due_at);
			break;
		case SE_END_WAITING:
			se_pending_park(d, "waiting", d->due_at);
			break;
		case SE_END_DEAD:
			se_pending_park(d, "dead", 0);
			break;
		case SE_END_CONFLICT:
			se_pending_park(d, "conflict", 0);
			break;
		default:
			break;
	}
}

/* After the commit: memory follows what is on record. */
static void
move_on(SeDelivery *d)
{
	SeRecord *record = d->record;
	SeSystem *system = d->route->system;

	record->in_flight = false;
	record->midway = !d->discarded &&
					 (d->ending == SE_END_STEP || (d->ending == SE_END_AGAIN && record->midway));
	d->route->ended_at = GetCurrentTimestamp();
	if (!d->discarded && (d->ending == SE_END_STEP || d->ending == SE_END_AGAIN))
	{
		d->op = NULL; /* its manifest may go */
		d->has_pushed = false;
		se_record_ready(record, system);
		return;
	}
	se_cursor_finished(d);
	se_delivery_free(d);
}

/* The next of those that ended, but for those whose row a person is at. */
static int
take_ended(SeDelivery **batch, TimestampTz now)
{
	int n = 0;
	dlist_mutable_iter iter;

	dlist_foreach_modify (iter, &ended)
	{
		SeDelivery *d = dlist_container(SeDelivery, result_node, iter.cur);

		if (n == BATCH)
			break;
		if (d->put_off_until > now)
			continue;
		dlist_delete(iter.cur);
		batch[n++] = d;
	}
	return n;
}

/*
 * Those of the batch whose rows in sync.pending are ours to change. A row that a person has locked
 * is his for a moment: its outcome is recorded later, since waiting would make everybody wait. One
 * that is gone was discarded (with its route, or by a snapshot that was older than the claim): it
 * has ended already, and what became of its request is recorded as news of a discarded delivery.
 */
static int
keep_free(SeDelivery **batch, int n, TimestampTz now)
{
	int kept = 0;

	se_held_lock(batch, n);
	for (int i = 0; i < n; i++)
	{
		SeDelivery *d = batch[i];

		if (d->pending_id == 0 || d->lock == SE_ROW_OURS || d->lock == SE_ROW_GONE)
		{
			d->discarded = d->pending_id != 0 && d->lock == SE_ROW_GONE;
			if (d->put_off_until != 0)
				d->route->system->pins--;
			d->put_off_until = 0;
			batch[kept++] = d;
			continue;
		}
		/* Its operation belongs to a manifest that may be replaced meanwhile. */
		if (d->put_off_until == 0)
			d->route->system->pins++;
		d->put_off_until = TimestampTzPlusMilliseconds(now, PUT_OFF_MS);
		dlist_push_tail(&ended, &d->result_node);
	}
	return kept;
}

TimestampTz
se_outcome_next_due(void)
{
	TimestampTz due = DT_NOEND;
	dlist_iter iter;

	dlist_foreach (iter, &ended)
		due = Min(due, dlist_container(SeDelivery, result_node, iter.cur)->put_off_until);
	return due;
}

bool
se_outcome_flush(TimestampTz now)
{
	SeDelivery *batch[BATCH];
	SeDelivery *gone[BATCH];
	int ngone = 0;
	bool audited;
	int n;

	n = take_ended(batch, now);
	if (n == 0)
		return false;

	SE_CRASH_POINT("push-answered");
	se_txn_begin("recording outcomes");
	n = keep_free(batch, n, now);
	bind_pushed(batch, n, now);
	pass_over_gone(batch, n);
	insert_outcomes(batch, n);
	audited = se_audit_deliveries(batch, n);
	for (int i = 0; i < n; i++)
	{
		write_pending(batch[i]);
		if ((se_outcome_is_final(batch[i]) || batch[i]->discarded) && batch[i]->pending_id != 0)
			gone[ngone++] = batch[i];
		notify(batch[i]);
	}
	se_pending_finish(gone, ngone);
	if (se_cursor_checkpoint_due(now, false))
		se_cursor_write(now);
	SE_CRASH_POINT("push-recording");
	se_txn_commit();
	SE_CRASH_POINT("push-recorded");
	if (audited)
		se_seal_look(now);
	for (int i = 0; i < n; i++)
		move_on(batch[i]);
	return true;
}
