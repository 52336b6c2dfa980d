/*
 * prepare.c: what a delivery sends next: its step, rendered, with hash and key; or why it sends nothing.
 *
 * Runs in the transaction of the claim.
 */
#include "postgres.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/guc.h"
#include "core/json.h"
#include "push/internal.h"
#include "worker/notice.h"

#define KEY_PREFIX	   "sync-"
#define KEY_PREFIX_LEN 5
#define KEY_BYTES	   20 /* of the digest */

/* One context and one fetched digest for the life of the process: both cost more than a short hash. */
static void
sha256(const char *const *parts, int n, uint8 *digest)
{
	static EVP_MD *md = NULL;
	static EVP_MD_CTX *ctx = NULL;
	bool ok;

	if (md == NULL)
		md = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (ctx == NULL)
		ctx = EVP_MD_CTX_new();
	ok = md != NULL && ctx != NULL && EVP_DigestInit_ex(ctx, md, NULL) == 1;
	for (int i = 0; ok && i < n; i++)
	{
		/* The terminating zero is hashed too, so that parts cannot run into each other. */
		if (parts[i] != NULL)
			ok = EVP_DigestUpdate(ctx, parts[i], strlen(parts[i]) + 1) == 1;
	}
	if (!ok || EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
		elog(ERROR, "could not compute SHA-256");
}

/*
 * The key follows from the event, the route, the step and the issue alone. The event's time is part
 * of it because a promoted standby may draw a number again that the lost primary had used.
 */
void
se_delivery_key(SeDelivery *d, const char *step, char *key, int size)
{
	uint8 digest[SHA256_DIGEST_LENGTH];
	char identity[128];
	const int64 numbers[] = {d->event.incarnation, d->event.seq, d->event.at, d->route->id,
							 d->issue};
	const char *parts[3] = {se_hub_id, identity, step};
	int len = 0;

	for (size_t i = 0; i < lengthof(numbers); i++)
	{
		if (i > 0)
			identity[len++] = '/';
		len += pg_lltoa(numbers[i], identity + len);
	}

	sha256(parts, 3, digest);
	Assert(size > KEY_PREFIX_LEN + 2 * KEY_BYTES);
	memcpy(key, KEY_PREFIX, KEY_PREFIX_LEN);
	hex_encode((const char *) digest, KEY_BYTES, key + KEY_PREFIX_LEN);
	key[KEY_PREFIX_LEN + 2 * KEY_BYTES] = '\0';
}

/* ---- choosing the step ---- */

/*
 * What a frozen request needs now: its key may have died while it waited, or the rules were not at
 * hand when it was parked.
 */
static SeRecovery
recovery_now(SeDelivery *d, const SeManifestObject *object)
{
	if (d->frozen == NULL || d->recover || d->lookups >= SE_LOOKUPS)
		return SE_RECOVER_REPEAT;
	return se_delivery_recovery(d, object, se_object_operation(object, d->frozen_step),
								d->claimed_at);
}

/* The operation to run now; NULL: nothing in this plan (any more). */
static const SeOperation *
current_operation(SeDelivery *d, const SeManifestObject *object)
{
	List *plan;

	if (d->recover)
		return object->lookup;
	if (d->step != NULL)
		return se_object_operation(object, d->step);
	/* Made before a promotion, it may have been sent by the server that is gone. */
	if (d->change == SE_CREATE && d->attempts == 0 && d->lookups == 0 && object->lookup != NULL &&
		se_event_since(&d->event) < se_hub_suspect_before)
	{
		/* Looked up twice, a settle time apart, as after any other ambiguity. */
		d->recover = true;
		return object->lookup;
	}
	plan = object->plan[d->change];
	return plan == NIL ? NULL : linitial(plan);
}

/* Nothing to send for this event: a delete of what was never there, or no such operation. */
void
se_end_unsent(SeDelivery *d, SeEnding ending, const char *word, const char *code,
			  const char *message)
{
	d->attempt_id = 0;
	d->ending = ending;
	d->outcome_word = word;
	d->code = unconstify(char *, code);
	d->message = message ? MemoryContextStrdup(d->cxt, message) : NULL;
	se_outcome_add(d);
}

static void
wait_for(SeDelivery *d, const SeRendered *r)
{
	MemoryContext old;

	/* No record of that id is ever bound, so waiting would not end. */
	if (strlen(r->wait_key) + (r->wait_by ? strlen(r->wait_by) : 0) >= SE_MAX_RECORD_ID)
	{
		se_end_unsent(d, SE_END_DEAD, "rejected", "reference_too_long",
					  psprintf("refers to a record of object \"%s\" by a text that is too long",
							   r->wait_object));
		return;
	}
	old = MemoryContextSwitchTo(d->cxt);

	d->wait_object_id = se_object_id(r->wait_object);
	d->wait_key = r->wait_by ? psprintf("%s=%s", r->wait_by, r->wait_key) : pstrdup(r->wait_key);
	d->wait_state = r->wait_state ? pstrdup(r->wait_state) : NULL;
	d->message = psprintf("waits for %s %s%s%s", r->wait_object, r->wait_key,
						  r->wait_state ? " to be " : " to be known in the system",
						  r->wait_state ? r->wait_state : "");
	MemoryContextSwitchTo(old);
	se_end_unsent(d, SE_END_WAITING, "waiting", "waiting", d->message);
}

/* Nobody can tell whether the last request took effect. */
static void
end_unknown(SeDelivery *d)
{
	se_end_unsent(d, SE_END_DEAD, "rejected", "ambiguous", SE_UNKNOWN_EFFECT);
}

/* ---- rendering ---- */

static char *
body_text(const SeRequestOut *request)
{
	if (request->body == NULL || request->body_len == 0 ||
		request->body_len > (size_t) Max(se_history_body_limit, 65536))
		return NULL;
	return pg_any_to_server(pnstrdup(request->body, request->body_len), (int) request->body_len,
							PG_UTF8);
}

/*
 * Renders into the delivery. A frozen request keeps what it said, so it may even be sent where a
 * new one could not be made.
 */
static bool
render(SeDelivery *d, const SeOperation *op)
{
	SeSystem *system = d->route->system;
	MemoryContext old = MemoryContextSwitchTo(d->attempt_cxt);
	SeRendered *r = &d->rendered;
	bool frozen = se_is_frozen(d, op);
	const char *parts[3];

	se_render(system->manifest, op, d->ctx, se_context_refs(system), r);
	if (r->status != SE_RENDER_OK && frozen && se_obj_get(d->frozen, "request") != NULL)
	{
		memset(r, 0, sizeof(*r));
		r->status = SE_RENDER_OK;
	}
	if (r->status == SE_RENDER_OK)
	{
		if (frozen)
			se_thaw(d, op);
		parts[0] = r->request.method;
		parts[1] = r->request.target;
		parts[2] = r->request.body;
		sha256(parts, 3, d->hash);
		d->request_text = body_text(&r->request);
		d->target = pstrdup(r->request.target);
		d->op = op;
		if (r->request.takes_key && system->manifest->idempotency.header != NULL)
		{
			/* What was refused or never left may come out otherwise now: one key is one request. */
			if (d->claimed_step != NULL && strcmp(d->claimed_step, op->name) == 0 &&
				memcmp(d->claimed_hash, d->hash, sizeof(d->hash)) != 0)
				d->issue++;
			else if (se_repeats_otherwise(d, op) || se_was_taken_back(d, op))
				d->issue++;
			d->key = palloc(64);
			se_delivery_key(d, op->name, d->key, 64);
		}
		else
			d->key = NULL;
		d->connector_id = system->connector_id;
		if (!d->recover)
			d->unkeyed = false;
		se_batch_prepare(d, op);
	}
	MemoryContextSwitchTo(old);
	return r->status == SE_RENDER_OK;
}

/* Of the steps from the current one on, the first that has something to send. */
static bool
prepare_step(SeDelivery *d, const SeManifestObject *object)
{
	SeRecovery recovery = recovery_now(d, object);
	const SeOperation *op;

	/* Zero attempts: a person has looked and wants it sent. */
	if (recovery == SE_RECOVER_PERSON && d->attempts > 0)
	{
		end_unknown(d);
		return false;
	}
	d->recover |= recovery == SE_RECOVER_LOOKUP;
	op = current_operation(d, object);
	while (op != NULL)
	{
		if (render(d, op))
		{
			if (!se_is_frozen(d, op) || se_is_thawed_whole(d))
				return true;
			op = se_not_repeatable(d, object, op);
			if (op == NULL)
			{
				end_unknown(d);
				return false;
			}
			continue;
		}
		switch (d->rendered.status)
		{
			case SE_RENDER_SKIP:
				op = se_plan_next(d, op);
				break;
			case SE_RENDER_WAIT:
				wait_for(d, &d->rendered);
				return false;
			default:
				se_end_unsent(d, SE_END_DEAD, "rejected", d->rendered.code, d->rendered.message);
				return false;
		}
	}
	if (d->step == NULL && object->plan_empty[d->change])
		se_end_unsent(d, SE_END_DONE, "done", NULL, NULL);
	else if (d->step == NULL && object->plan[d->change] == NIL)
		se_end_unsent(d, SE_END_IGNORED, "ignored", "not_supported",
					  "the connector has no operation for this change");
	else
		se_end_unsent(d, d->step == NULL ? SE_END_IGNORED : SE_END_DONE,
					  d->step == NULL ? "ignored" : "done", NULL, NULL);
	return false;
}

/*
 * Finds the step that has something to send and renders it; false when the delivery ended, waits or
 * failed without one.
 */
static bool
prepare(SeDelivery *d)
{
	const SeManifestObject *object = se_delivery_object(d);

	if (strlen(d->event.record_id) > SE_MAX_RECORD_ID)
	{
		se_notice_put(
			psprintf("key:%s", d->route->object), "error",
			psprintf(
				"a record of object \"%s\" has a key of more than %d bytes: such records are not sent",
				d->route->object, SE_MAX_RECORD_ID),
			"View sync.delivery shows them with code key_too_long.");
		se_end_unsent(d, SE_END_IGNORED, "ignored", "key_too_long", "the record's key is too long");
		return false;
	}
	se_context_build(d);
	if (object == NULL || !object->can_push)
	{
		se_end_unsent(d, SE_END_DEAD, "rejected", "not_supported",
					  "the connector cannot push this object");
		return false;
	}
	if (d->change == SE_DELETE && se_mask_hides_delete(d))
	{
		se_end_unsent(d, SE_END_IGNORED, "ignored", "not_owner",
					  "the record is put back by the system that owns it");
		return false;
	}
	if (d->change == SE_DELETE && !d->route->wants[SE_DELETE])
	{
		se_end_unsent(d, SE_END_IGNORED, "ignored", "not_wanted", "the route takes no deletes");
		return false;
	}
	if (d->change == SE_DELETE && d->remote_id == NULL && d->step == NULL)
	{
		se_end_unsent(d, SE_END_IGNORED, "ignored", "unknown_there",
					  "the system never had this record");
		return false;
	}
	if (!se_identity_allows(d))
		return false;
	if (d->unbound_id != NULL && d->step != NULL && se_object_operation(object, d->step) != NULL)
	{
		se_bind_again(d, se_object_operation(object, d->step));
		return false;
	}
	return se_gate_passes(d) && prepare_step(d, object);
}

/* ---- in safety ---- */

static void
enter(SePlace *place)
{
	if (place->open)
		return;
	place->cxt = CurrentMemoryContext;
	place->owner = CurrentResourceOwner;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(place->cxt);
	place->open = true;
}

void
se_place_leave(SePlace *place)
{
	if (!place->open)
		return;
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(place->cxt);
	CurrentResourceOwner = place->owner;
	place->open = false;
}

static ErrorData *
leave_by_error(SePlace *place)
{
	ErrorData *error;

	MemoryContextSwitchTo(place->cxt);
	error = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(place->cxt);
	CurrentResourceOwner = place->owner;
	place->open = false;
	return error;
}

/*
 * As prepare(), but an error is the delivery's own: one record that cannot be read or rendered (its
 * table was dropped, say) must not stop the others.
 */
bool
se_prepare(SeDelivery *d, SePlace *place)
{
	volatile bool ready = false;
	ErrorData *volatile error = NULL;

	enter(place);
	PG_TRY();
	{
		ready = prepare(d);
	}
	PG_CATCH();
	{
		error = leave_by_error(place);
	}
	PG_END_TRY();
	if (error == NULL)
	{
		MemoryContextSwitchTo(place->cxt);
		if (TransactionIdIsValid(GetCurrentTransactionIdIfAny()))
			se_place_leave(place);
	}
	else if (se_error_is_transient(error->sqlerrcode))
	{
		/* It keeps its place; its system rests for a moment, because the next may meet the same. */
		d->record->in_flight = false;
		se_record_ready(d->record, d->route->system);
		d->route->system->blocked_until =
			Max(d->route->system->blocked_until, TimestampTzPlusMilliseconds(d->claimed_at, 2000));
	}
	else
		se_end_unsent(d, SE_END_DEAD, "rejected", "not_rendered", error->message);
	return ready;
}
