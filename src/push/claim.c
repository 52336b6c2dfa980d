/*
 * claim.c: takes ready deliveries, claims what they send, and hands it to their systems.
 *
 * claim → flush → HTTP: the claims are on disk before the first byte of any of their requests
 * leaves, whatever synchronous_commit says. No transaction is open while a request is in flight.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/json.h"
#include "core/rows.h"
#include "core/spi.h"
#include "push/internal.h"
#include "push/push.h"

#define BATCH		  500
#define ROUNDING	  1e-6 /* of a sum of fractions */
#define WORTH_A_FLUSH 64

static const char *const claim_names[] = {"attempt_id",	  "at",			 "route_id",
										  "seq",		  "incarnation", "event_at",
										  "object_id",	  "record_id",	 "issue",
										  "attempt",	  "step",		 "idempotency_key",
										  "connector_id", "method",		 "target",
										  "request_hash", "request",	 "batch_id",
										  "context"};

static void
put_claim(SeArg *c, SeDelivery *d, TimestampTz now)
{
	bytea *hash = palloc(VARHDRSZ + sizeof(d->hash));

	SET_VARSIZE(hash, VARHDRSZ + sizeof(d->hash));
	memcpy(VARDATA(hash), d->hash, sizeof(d->hash));
	se_arg_add(c++, Int64GetDatum(d->attempt_id), false);
	se_arg_add(c++, TimestampTzGetDatum(now), false);
	se_arg_add(c++, Int32GetDatum(d->route->id), false);
	se_arg_add(c++, Int64GetDatum(d->event.seq), false);
	se_arg_add(c++, Int32GetDatum(d->event.incarnation), false);
	se_arg_add(c++, TimestampTzGetDatum(d->event.at), false);
	se_arg_add(c++, Int32GetDatum(d->event.object_id), false);
	se_arg_text(c++, d->event.record_id);
	se_arg_add(c++, Int32GetDatum(d->issue), false);
	se_arg_add(c++, Int32GetDatum(d->attempts + 1), false);
	se_arg_text(c++, d->op->name);
	se_arg_text(c++, d->key);
	se_arg_add(c++, Int32GetDatum(d->connector_id), false);
	se_arg_text(c++, d->rendered.request.method);
	se_arg_text(c++, d->target);
	se_arg_add(c++, PointerGetDatum(hash), false);
	se_arg_text(c++, d->request_text);
	se_arg_add(c++, Int64GetDatum(se_batch_id(d)), d->batch == NULL);
	se_arg_json(c++, d->event.context);
}

static void
insert_claims(SeDelivery **deliveries, int n)
{
	SeArg columns[lengthof(claim_names)];
	TimestampTz now = GetCurrentTimestamp();

	for (size_t i = 0; i < lengthof(columns); i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
		put_claim(columns, deliveries[i], now);
	se_rows_insert("claim", now, claim_names, columns, lengthof(columns), n);
}

static int64
next_attempt_id(void)
{
	static Oid sequence = InvalidOid;

	if (!OidIsValid(sequence))
		sequence =
			DatumGetObjectId(DirectFunctionCall1(regclassin, CStringGetDatum("sync.attempt_seq")));
	return nextval_internal(sequence, false);
}

/* Takes a delivery out of memory that is not to be sent any more. */
static void
drop(SeDelivery *d)
{
	d->record->in_flight = false;
	se_cursor_finished(d);
	se_pending_forget(d);
	se_delivery_free(d);
}

/* How many requests would take all that is ready, or enough of it to be worth a flush. */
static int
wanted_requests(SeSystem *system, bool idle)
{
	int share = se_batch_hint(se_queue_peek(system));
	int ready = se_queue_ready(system);

	if (share > 1 || idle)
		ready = Min(ready, WORTH_A_FLUSH);
	return (ready + share - 1) / share;
}

/* Ready deliveries that their systems can take now. */
static int
collect(SeDelivery **batch, TimestampTz now, bool idle)
{
	int n = 0;
	ListCell *cell;

	foreach (cell, se_systems())
	{
		SeSystem *system = lfirst(cell);
		bool dry = system->usable && system->held && system->mode == SE_MODE_DRY_RUN;
		double room; /* in requests, each of which may hold several deliveries */

		if (se_queue_ready(system) == 0)
			continue;
		room = dry ? BATCH : se_system_capacity(system, wanted_requests(system, idle), now);
		while (room > ROUNDING && n < BATCH)
		{
			SeDelivery *d = se_queue_next(system);

			if (d == NULL)
				break;
			if (se_route_by_id(d->route->id) == NULL)
				drop(d); /* the route was dropped while it waited here */
			else
			{
				room -= 1.0 / se_batch_hint(d);
				batch[n++] = d;
			}
		}
	}
	return n;
}

/*
 * Deliveries that came from sync.pending, whose row a person may have discarded meanwhile. The lock
 * makes him and us take turns: whoever comes second sees what the first has done.
 */
static int
keep_existing(SeDelivery **batch, int n)
{
	int kept = 0;

	for (int i = 0; i < n; i++)
	{
		if (batch[i]->pending_id == 0 || se_pending_lock(batch[i]))
			batch[kept++] = batch[i];
		else
			drop(batch[i]);
	}
	return kept;
}

static void
submit(SeDelivery *d)
{
	SeExchange *x = &d->exchange;

	memset(x, 0, sizeof(*x));
	x->system = d->route->system;
	x->op = d->op;
	x->request = d->rendered.request;
	x->idempotency_key = d->key;
	x->done = se_result_done;
	x->arg = d;
	se_exchange_submit(x);
}

bool
se_claim(TimestampTz now, bool idle)
{
	SeDelivery *batch[BATCH];
	SeDelivery *gone[BATCH]; /* to sync.pending, held */
	SeDelivery **claimed;
	List *held = NIL;
	ListCell *cell;
	SePlace place = {0};
	int n = collect(batch, now, idle);
	int nclaimed = 0;

	if (n == 0)
		return false;
	se_txn_begin("claiming deliveries");
	claimed = palloc(sizeof(SeDelivery *) * n);
	n = keep_existing(batch, n);
	se_context_begin();
	se_context_preload(batch, n);
	se_mask_note(batch, n);
	for (int i = 0; i < n; i++)
	{
		SeDelivery *d = batch[i];

		d->claimed_at = now;
		se_delivery_begin_attempt(d);
		if (!se_prepare(d, &place))
		{
			if (d->ending == SE_END_HELD)
				held = lappend(held, d);
			continue;
		}
		d->attempt_id = next_attempt_id();
		claimed[nclaimed++] = d;
	}
	se_place_leave(&place);
	se_batch_form(claimed, nclaimed);
	if (nclaimed > 0)
		insert_claims(claimed, nclaimed);
	foreach (cell, held)
		se_gate_park(lfirst(cell));
	memcpy(batch, claimed, sizeof(SeDelivery *) * nclaimed);
	n = 0;
	foreach (cell, held)
		gone[n++] = lfirst(cell);
	SE_CRASH_POINT("push-claiming");
	se_txn_commit();
	while (n > 0)
		drop(gone[--n]);
	if (nclaimed == 0)
		return true;
	se_txn_flush();
	SE_CRASH_POINT("push-claimed");
	for (int i = 0; i < nclaimed; i++)
	{
		SeDelivery *d = batch[i];

		if (d->first_claim_at == 0)
			d->first_claim_at = now;
		se_remember_claim(d, d->op->name, NULL);
		if (d->route->system->mode == SE_MODE_DRY_RUN)
		{
			d->ending = SE_END_DRY_RUN;
			d->outcome_word = "rendered";
			if (d->batch != NULL)
				se_batch_dry_run(d);
			se_outcome_add(d);
		}
		else if (d->batch != NULL)
			se_batch_submit(d);
		else
			submit(d);
	}
	SE_CRASH_POINT("push-submitted");
	return true;
}
