/*
 * gate.c: what policies, guards and closed periods hold before the first request of a delivery.
 *
 * The decision is SQL (sync._gate). It is asked for deliveries of gated routes only, each time a request
 * is about to be made that nothing has come of yet; what may have had an effect is past it. Who is held goes to
 * sync.pending in the transaction that asked: the approval request and the row that waits for it are
 * there together, and an approver, who changes the row, takes turns with us by its lock.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"

void
se_gate_load(void)
{
	ListCell *cell;

	foreach (cell, se_routes)
		((SeRoute *) lfirst(cell))->gated = false;
	if (SPI_execute("SELECT sync._gated_routes()", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read which routes are gated");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		SeRoute *route = se_route_by_id(DatumGetInt32(se_spi_datum(i, 1, &isnull)));

		if (route != NULL)
			route->gated = true;
	}
}

/* A request that was refused is asked about again: it may come out otherwise than was approved. */
static bool
begins_anew(const SeDelivery *d)
{
	return d->step == NULL || (d->claimed_step != NULL && strcmp(d->step, d->claimed_step) == 0);
}

/* A dry run sends nothing, so nobody needs to approve it. */
static bool
is_asked(const SeDelivery *d)
{
	return d->route->gated && d->route->system->mode != SE_MODE_DRY_RUN && begins_anew(d) &&
		   !d->recover && d->frozen == NULL && d->unbound_id == NULL;
}

static const char *
op_word(const SeDelivery *d)
{
	return d->event.op == 'I' ? "insert" : d->event.op == 'D' ? "delete" : "update";
}

static void
ask(SeDelivery *d)
{
	static SPIPlanPtr plan = NULL;
	Oid types[10] = {INT4OID,  INT8OID,	 TIMESTAMPTZOID, TEXTOID, TEXTOID,
					 JSONBOID, JSONBOID, JSONBOID,		 INT4OID, TEXTOID};
	Datum values[10];
	char nulls[11] = "          ";
	Jsonb *body = se_obj_get(d->ctx, "new"); /* with what pulls have changed since, as it is sent */

	if (body == NULL)
		body = d->event.body;
	values[0] = Int32GetDatum(d->route->id);
	values[1] = Int64GetDatum(d->event.seq);
	values[2] = TimestampTzGetDatum(d->event.at);
	values[3] = CStringGetTextDatum(d->event.record_id);
	values[4] = CStringGetTextDatum(op_word(d));
	values[5] = PointerGetDatum(body);
	nulls[5] = body == NULL ? 'n' : ' ';
	values[6] = PointerGetDatum(d->event.old);
	nulls[6] = d->event.old == NULL ? 'n' : ' ';
	values[7] = PointerGetDatum(d->event.context);
	nulls[7] = d->event.context == NULL ? 'n' : ' ';
	values[8] = Int32GetDatum(d->route->system->connector_id);
	nulls[9] = d->pending_state == NULL ? 'n' : ' ';
	values[9] = d->pending_state == NULL ? (Datum) 0 : CStringGetTextDatum(d->pending_state);
	if (se_spi_execute(&plan,
					   "SELECT verdict, code, message, due, patch "
					   "FROM sync._gate($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
					   10, types, values, nulls, false, 1) != 1)
		elog(ERROR, "the gate did not answer");
}

bool
se_gate_passes(SeDelivery *d)
{
	MemoryContext old;
	char *verdict;
	Datum due;
	Datum patch;
	bool no_due;
	bool no_patch;

	if (!is_asked(d))
		return true;
	ask(d);
	verdict = se_spi_text(0, 1);
	if (strcmp(verdict, "pass") == 0)
		return true;
	due = se_spi_datum(0, 4, &no_due);
	patch = se_spi_datum(0, 5, &no_patch);
	old = MemoryContextSwitchTo(d->cxt);
	d->attempt_id = 0;
	d->code = se_spi_text(0, 2);
	d->message = se_spi_text(0, 3);
	d->due_at = no_due ? 0 : DatumGetTimestampTz(due);
	d->gate_patch = no_patch ? NULL : se_obj_copy(DatumGetJsonbP(patch));
	MemoryContextSwitchTo(old);
	d->ending = SE_END_HELD;
	if (strcmp(verdict, "dead") == 0)
	{
		d->ending = SE_END_DEAD;
		d->outcome_word = "rejected";
		se_outcome_add(d);
	}
	return false;
}

/*
 * An approved move into another period changes what is sent. It is put over the body in the row, from
 * where the delivery comes back and is sent, so that it is the same after a crash.
 */
static void
patch_row(SeDelivery *d)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT4OID, INT8OID, JSONBOID};
	Datum values[3];

	values[0] = Int32GetDatum(d->route->id);
	values[1] = Int64GetDatum(d->event.seq);
	values[2] = PointerGetDatum(d->gate_patch);
	se_spi_execute(&plan,
				   "UPDATE sync.pending SET body = body || $3 WHERE route_id = $1 AND seq = $2", 3,
				   types, values, NULL, false, 0);
}

void
se_gate_park(SeDelivery *d)
{
	se_pending_park(d, d->gate_patch != NULL ? "retry" : "held",
					d->gate_patch != NULL ? GetCurrentTimestamp() : d->due_at);
	if (d->gate_patch != NULL)
		patch_row(d);
}
