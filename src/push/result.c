/*
 * result.c: what an answer makes of its delivery. Decides only; outcome.c writes.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/json.h"
#include "govern/retry.h"
#include "push/internal.h"

#define SPENT_KEYS 3 /* of a delivery, that servers which are lost may have spent */

const SeManifestObject *
se_delivery_object(const SeDelivery *d)
{
	if (d->manifest != NULL)
		return se_manifest_object(d->manifest, d->route->object);
	if (!d->route->system->usable)
		return NULL;
	return se_manifest_object(d->route->system->manifest, d->route->object);
}

/* The plan that holds the operation: the delivery's own, else the first that does. */
static List *
plan_with(SeDelivery *d, const SeManifestObject *object, const SeOperation *op)
{
	static const SeChange order[] = {SE_CREATE, SE_UPDATE, SE_DELETE};

	if (list_member_ptr(object->plan[d->change], op))
		return object->plan[d->change];
	for (int i = 0; i < 3; i++)
	{
		if (list_member_ptr(object->plan[order[i]], op))
		{
			d->change = order[i];
			return object->plan[order[i]];
		}
	}
	return NIL;
}

void
se_delivery_find_plan(SeDelivery *d)
{
	const SeManifestObject *object = se_delivery_object(d);
	const SeOperation *op = object ? se_object_operation(object, d->step) : NULL;

	if (op != NULL)
		(void) plan_with(d, object, op);
}

const SeOperation *
se_plan_next(SeDelivery *d, const SeOperation *after)
{
	const SeManifestObject *object = se_delivery_object(d);
	List *plan = object == NULL ? NIL : plan_with(d, object, after);
	bool passed = false;
	ListCell *cell;

	foreach (cell, plan)
	{
		if (passed)
			return lfirst(cell);
		passed = lfirst(cell) == after;
	}
	return NULL;
}

static void
go_to(SeDelivery *d, const SeOperation *next)
{
	d->ending = next == NULL ? SE_END_DONE : SE_END_STEP;
	d->step = next == NULL ? NULL : MemoryContextStrdup(d->cxt, next->name);
	d->frozen = NULL;
}

/* The operation of the creating plan that makes the record. */
static const SeOperation *
creating_operation(const SeManifestObject *object)
{
	ListCell *cell;

	foreach (cell, object->plan[SE_CREATE])
	{
		const SeOperation *op = lfirst(cell);

		if (op->kind == SE_OP_CREATE || op->kind == SE_OP_UPSERT)
			return op;
	}
	return NULL;
}

char *
se_bounded_text(SeSystem *system, const char *text, size_t len)
{
	return text == NULL ? NULL
						: se_system_redact(system, text, len, (size_t) se_history_body_limit);
}

/* ---- ambiguity ---- */

static double
jitter(void)
{
	return pg_prng_double(&pg_global_prng_state);
}

/*
 * An attempt may have taken effect. Repeated under the same key while the vendor remembers it;
 * otherwise looked up, after the settle time; what only sets a state is sent again, after the
 * settle time too, so that a late effect cannot land on top of a newer one.
 */
SeRecovery
se_delivery_recovery(SeDelivery *d, const SeManifestObject *object, const SeOperation *op,
					 TimestampTz now)
{
	const SeManifest *manifest = d->manifest ? d->manifest : d->route->system->manifest;
	SeAmbiguity a = {0};

	/* Nobody can tell now; it is asked again before anything is sent. */
	if (object == NULL || op == NULL)
		return SE_RECOVER_RESEND;
	a.takes_key = op->takes_key && manifest->idempotency.header != NULL && !d->unkeyed;
	a.key_lifetime_ms = manifest->idempotency.lifetime_ms;
	a.since_first_claim_ms =
		d->first_claim_at == 0 ? 0 : TimestampDifferenceMilliseconds(d->first_claim_at, now);
	a.creates = op->kind == SE_OP_CREATE;
	a.has_lookup = object->lookup != NULL;
	return se_recovery(&a);
}

/* How long an effect may stay invisible to a look-up. A server's option is the last word. */
static int64
settle_ms(const SeSystem *system, const SeOperation *lookup)
{
	return system->settle_given ? system->settle_ms : Max(lookup->settle_ms, system->settle_ms);
}

void
se_delivery_ambiguous(SeDelivery *d, TimestampTz now)
{
	SeSystem *system = d->route->system;
	const SeManifestObject *object = se_delivery_object(d);
	const SeOperation *op = object && d->step ? se_object_operation(object, d->step) : d->op;
	int64 pause = 0;

	d->ending = SE_END_AMBIGUOUS;
	d->recover = false;
	d->lookups = 0; /* those of an earlier attempt say nothing of this one */
	switch (se_delivery_recovery(d, object, op, now))
	{
		case SE_RECOVER_REPEAT:
			pause = se_retry_backoff_ms(Max(d->attempts, 1), jitter());
			break;
		case SE_RECOVER_LOOKUP:
			d->recover = true;
			pause = settle_ms(system, object->lookup);
			break;
		case SE_RECOVER_RESEND:
			pause = Max(se_retry_backoff_ms(Max(d->attempts, 1), jitter()), system->settle_ms);
			break;
		case SE_RECOVER_PERSON:
			d->ending = SE_END_DEAD;
			d->code = "ambiguous";
			d->message = MemoryContextStrdup(d->cxt, SE_UNKNOWN_EFFECT);
			break;
	}
	if (d->attempts >= system->max_attempts)
		d->ending = SE_END_DEAD;
	d->due_at = TimestampTzPlusMilliseconds(now, pause);
	if (d->attempt_id != 0)
		return;
	if (d->unanswered)
		se_outcome_lost(d);
	se_pending_park(d, d->ending == SE_END_DEAD ? "dead" : "ambiguous", d->due_at);
}

/* ---- done answers ---- */

/* The record was found at the other side: it is bound, and its creation counts as done. */
static void
found(SeDelivery *d, const SeManifestObject *object)
{
	const SeOperation *create = creating_operation(object);

	d->has_pushed = d->extract.remote_id != NULL;
	if (!d->recover && d->op->found_updates && object->plan[SE_UPDATE] != NIL)
	{
		d->change = SE_UPDATE;
		go_to(d, linitial(object->plan[SE_UPDATE]));
	}
	else
		go_to(d, create == NULL ? NULL : se_plan_next(d, create));
	d->recover = false;
	d->lookups = 0;
}

static void
looked_up(SeDelivery *d, TimestampTz now)
{
	const SeManifestObject *object = se_delivery_object(d);

	if (d->extract.matches > 1)
	{
		d->ending = SE_END_CONFLICT;
		d->code = "several_match";
		d->message = MemoryContextStrdup(d->cxt, psprintf("%d records of the system match this one",
														  d->extract.matches));
	}
	else if (d->extract.matches == 1)
		found(d, object);
	else if (!d->recover)
		go_to(d, se_plan_next(d, d->op));
	else if (++d->lookups < SE_LOOKUPS)
	{
		/* Not there yet is not the same as never: asked once more before it is sent again. */
		d->ending = SE_END_AMBIGUOUS;
		d->due_at = TimestampTzPlusMilliseconds(now, settle_ms(d->route->system, object->lookup));
	}
	else
	{
		/*
		 * It never happened: the request is sent again as it was. Where nobody knows what it was,
		 * the plan begins again, because later steps need earlier answers.
		 */
		d->recover = false;
		d->ending = SE_END_STEP;
		d->step = d->frozen != NULL ? d->frozen_step : NULL;
	}
}

static void
differs(SeDelivery *d)
{
	StringInfoData text;
	ListCell *cell;

	initStringInfo(&text);
	appendStringInfoString(&text, "the document at the system differs from ours:");
	foreach (cell, d->extract.differences)
	{
		SeDifference *x = lfirst(cell);

		appendStringInfo(&text, " %s is %s there, %s here;", x->name,
						 x->remote ? x->remote : "missing", x->ours ? x->ours : "missing");
	}
	text.data[text.len - 1] = '\0';
	d->ending = SE_END_CONFLICT;
	d->code = "differs";
	d->message = text.data;
}

/* What the next step may refer to outlives the attempt. */
static void
keep_answer(SeDelivery *d, const Jsonb *answer)
{
	MemoryContext old = MemoryContextSwitchTo(d->cxt);

	d->answer = answer == NULL ? NULL : se_obj_copy(answer);
	if (d->extract.record != NULL)
		d->record_there = se_obj_copy(d->extract.record);
	MemoryContextSwitchTo(old);
}

static void
done(SeDelivery *d, SeReply *reply, TimestampTz now)
{
	se_extract(d->manifest, d->op, &reply->answer, d->ctx, &d->extract);
	keep_answer(d, reply->answer.json);
	if (d->extract.error != NULL)
	{
		/* A good status with an answer that cannot be read: something happened, we know not what. */
		d->outcome = SE_AMBIGUOUS;
		d->code = "bad_answer";
		d->message = d->extract.error;
		d->attempts++;
		d->frozen_step = MemoryContextStrdup(d->cxt, d->op->name);
		se_delivery_ambiguous(d, now);
		return;
	}
	if (d->op->kind == SE_OP_LOOKUP)
	{
		looked_up(d, now);
		return;
	}
	if (d->op->kind == SE_OP_VERIFY && d->extract.differences != NIL)
	{
		differs(d);
		return;
	}
	d->has_pushed =
		d->op->kind != SE_OP_READ && (d->extract.remote_id != NULL || d->remote_id != NULL);
	d->pushed_deleted = d->op->kind == SE_OP_DELETE;
	if (d->code == NULL && se_took_back(d, reply))
		d->code = SE_TOOK_BACK;
	go_to(d, se_plan_next(d, d->op));
}

/* ---- other answers ---- */

/* A rule of the operation may say what to do next instead: look up what already exists, for example. */
static bool
redirected(SeDelivery *d, const SeVerdict *verdict)
{
	const SeManifestObject *object = se_delivery_object(d);
	const SeOperation *next;

	if (verdict->then == NULL || object == NULL)
		return false;
	if (strcmp(verdict->then, "missing") == 0)
	{
		if (d->op->kind != SE_OP_DELETE)
			return false;
		/* Deleting what is gone: that is what was wanted. */
		d->pushed_deleted = d->has_pushed = true;
		go_to(d, se_plan_next(d, d->op));
		return true;
	}
	next = se_object_operation(object, verdict->then);
	if (next == NULL || d->attempts >= d->route->system->max_attempts)
		return false;
	d->attempts++;
	go_to(d, next);
	return true;
}

static void
ambiguous(SeDelivery *d, TimestampTz now)
{
	d->attempts++;
	if (d->recover || d->op->kind == SE_OP_LOOKUP || d->op->kind == SE_OP_VERIFY)
	{
		/* A question that was not answered is asked again. */
		d->ending = d->attempts >= d->route->system->max_attempts ? SE_END_DEAD : SE_END_AMBIGUOUS;
		d->due_at = TimestampTzPlusMilliseconds(now, se_retry_backoff_ms(d->attempts, jitter()));
		return;
	}
	d->step = MemoryContextStrdup(d->cxt, d->op->name);
	d->frozen_step = d->step;
	se_delivery_ambiguous(d, now);
}

/*
 * A server that is lost may have sent the event under the same key, made of what it alone had pulled
 * by then; the vendor refuses that key for anything else. What sets a state is sent under another, which
 * a second lost server may have spent, and so on. Attempts do not tell whether it was tried: the first
 * refusal may be the one that nobody heard.
 */
static bool
may_be_spent(const SeDelivery *d)
{
	return d->key != NULL && (d->attempts == 0 || d->issue <= SPENT_KEYS) &&
		   se_may_be_spent(d, d->op);
}

static void
judge(SeDelivery *d, SeReply *reply, TimestampTz now)
{
	const SeVerdict *verdict = &reply->verdict;

	switch (verdict->outcome)
	{
		case SE_DONE:
			done(d, reply, now);
			return;
		case SE_REJECTED:
			if (redirected(d, verdict))
				return;
			if (may_be_spent(d))
			{
				d->attempts++;
				d->issue++;
				go_to(d, d->op);
				return;
			}
			d->attempts++;
			if (verdict->replayed && d->pending_id != 0 && strcmp(d->pending_state, "retry") == 0 &&
				d->attempts < d->route->system->max_attempts)
			{
				/*
				 * A stored refusal, told again: nothing happened then or now, so a person's wish to
				 * try again needs a key of its own.
				 */
				d->issue++;
				go_to(d, d->op);
				return;
			}
			d->ending = SE_END_DEAD;
			d->gone = se_may_be_deleted(d);
			return;
		case SE_THROTTLED:
		case SE_AUTH:
			d->ending = SE_END_AGAIN;
			return;
		case SE_AMBIGUOUS:
			ambiguous(d, now);
			return;
	}
}

/* What a person reads when the vendor said nothing. */
static char *
plain_message(const SeReply *reply)
{
	int status = (int) reply->answer.status;

	if (reply->phase != SE_HTTP_ANSWERED || reply->verdict.outcome == SE_DONE)
		return NULL;
	return psprintf("the system answered with HTTP status %d%s", status,
					status / 100 == 3 ? ", a redirect, which is not followed" : "");
}

/* What is kept of the answer, whatever it makes of the delivery. */
static void
note_answer(SeDelivery *d, const SeReply *reply)
{
	SeSystem *system = d->route->system;

	d->outcome = reply->verdict.outcome;
	d->outcome_word = NULL;
	d->status = (int) reply->answer.status;
	d->latency_us = reply->latency_us;
	d->code = reply->verdict.code ? pstrdup(reply->verdict.code) : NULL;
	d->message = reply->verdict.message ? pstrdup(reply->verdict.message) : plain_message(reply);
	d->request_id = reply->verdict.request_id ? pstrdup(reply->verdict.request_id) : NULL;
	d->response = se_bounded_text(system, reply->answer.body, reply->answer.body_len);
	d->has_pushed = d->pushed_deleted = d->gone = false;
	memset(&d->extract, 0, sizeof(d->extract));
}

void
se_result_judge(SeDelivery *d, const SeManifest *manifest, SeReply *reply)
{
	MemoryContext old = MemoryContextSwitchTo(d->attempt_cxt);

	note_answer(d, reply);
	d->manifest = manifest;
	judge(d, reply, GetCurrentTimestamp());
	d->manifest = NULL;
	se_outcome_add(d);
	MemoryContextSwitchTo(old);
}

void
se_result_refused(SeDelivery *d, const SeReply *reply, const char *message)
{
	MemoryContext old = MemoryContextSwitchTo(d->attempt_cxt);

	note_answer(d, reply);
	d->message = pstrdup(message);
	d->ending = SE_END_AGAIN;
	se_outcome_add(d);
	MemoryContextSwitchTo(old);
}

/* Callback of the exchange: the answer lives in a context that is reset afterwards. */
void
se_result_done(SeExchange *exchange, SeReply *reply)
{
	se_result_judge(exchange->arg, exchange->manifest, reply);
}
