/*
 * lost.c: what a server that is lost may have sent, after a promotion.
 *
 * A standby that lagged does not know which of its unfinished changes the lost server has sent. All
 * are sent again, in order, under the keys that they had there, so that those which took effect have
 * no second one. A key whose life was over is the exception: then an older change is executed again
 * and takes back newer ones, whose keys would get the answers of before, and the record would stay
 * with the old state. So from such a change on, those of its record have keys of their own.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "push/internal.h"

static bool
is_of_before(const SeDelivery *d)
{
	return se_event_since(&d->event) < se_hub_suspect_before;
}

bool
se_may_be_spent(const SeDelivery *d, const SeOperation *op)
{
	return (op->kind == SE_OP_UPDATE || op->kind == SE_OP_UPSERT) && is_of_before(d);
}

/* Systems have many words for what is no more, so any refusal may be that one. */
bool
se_may_be_deleted(const SeDelivery *d)
{
	return d->op->kind != SE_OP_DELETE && is_of_before(d);
}

/*
 * A system that does not tell stored answers from others executes nothing while the key lives that
 * the lost server may have used; a key that the lost server had no reason to make is new to it.
 *
 * The lost server used the key after the event, so until a lifetime after the event it lives. It is the
 * answer's time that counts: a request that was claimed before may have been executed after. As in
 * govern/retry.c a tenth is kept as a margin, for the clock that the event was read from is gone.
 */
bool
se_took_back(const SeDelivery *d, const SeReply *reply)
{
	const SeIdempotency *rules = &d->manifest->idempotency;

	if (d->key == NULL || !se_may_be_spent(d, d->op))
		return false;
	if (rules->tells)
		return !reply->verdict.replayed;
	if (d->issue > 1)
		return true;
	return GetCurrentTimestamp() >=
		   TimestampTzPlusMilliseconds(se_event_since(&d->event),
									   rules->lifetime_ms - rules->lifetime_ms / 10);
}

bool
se_was_taken_back(const SeDelivery *d, const SeOperation *op)
{
	static SPIPlanPtr plan = NULL;
	Oid types[4] = {INT4OID, INT4OID, TEXTOID, INT8OID};
	Datum values[4];

	if (!se_may_be_spent(d, op))
		return false;
	/* What was claimed here has its key. */
	if (d->issue > 1 || se_is_frozen(d, op) ||
		(d->claimed_step != NULL && strcmp(d->claimed_step, op->name) == 0))
		return false;
	values[0] = Int32GetDatum(d->route->id);
	values[1] = Int32GetDatum(d->event.object_id);
	values[2] = CStringGetTextDatum(d->event.record_id);
	values[3] = Int64GetDatum(d->event.seq);
	return se_spi_execute(&plan,
						  "SELECT FROM sync.claim c JOIN sync.outcome o ON o.route_id = c.route_id "
						  "AND o.seq = c.seq AND o.attempt_id = c.attempt_id AND o.at >= c.at "
						  "WHERE c.record_id = $3 AND c.object_id = $2 AND c.route_id = $1 "
						  "AND c.seq < $4 AND o.code = '" SE_TOOK_BACK "' LIMIT 1",
						  4, types, values, NULL, true, 1) > 0;
}
