/*
 * frozen.c: what a parked delivery keeps of its last request, and how it is taken up again.
 *
 * A request is frozen at its first claim: whatever changes afterwards (the row, the manifest, what
 * is bound), it is repeated as it was, because its key stands for it and it may have taken effect.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"

/* Whether a delivery that dies leaves something that may have taken effect. */
static bool
dies_unsure(const SeDelivery *d)
{
	return d->recover || d->unanswered || (d->attempt_id == 0 && d->frozen != NULL) ||
		   (d->attempt_id != 0 && d->outcome == SE_AMBIGUOUS);
}

static void
freeze_attempt(SeObjBuilder *b, SeDelivery *d)
{
	char hash[2 + 2 * sizeof(d->hash) + 1] = "\\x";

	hex_encode((const char *) d->hash, sizeof(d->hash), hash + 2);
	se_obj_text(b, "step", d->op->name);
	se_obj_text(b, "method", d->rendered.request.method);
	se_obj_text(b, "target", d->target);
	se_obj_text(b, "content_type", d->rendered.request.content_type);
	se_obj_text(b, "request", d->request_text);
	se_obj_text(b, "request_hash", hash);
	se_obj_int(b, "connector_id", d->connector_id);
}

/*
 * The request as claimed, kept through the look-ups that come between, and where those stand. A
 * record that was made and could not be bound keeps the id that it has there.
 */
Jsonb *
se_freeze(SeDelivery *d, const char *state)
{
	static const char *const kept[] = {"step",	  "method",		  "target",		 "content_type",
									   "request", "request_hash", "connector_id"};
	SeObjBuilder b;

	if (strcmp(state, "conflict") == 0 && d->unbound_id != NULL)
	{
		se_obj_begin(&b);
		se_obj_text(&b, "unbound_id", d->unbound_id);
		return se_obj_end(&b);
	}
	if ((strcmp(state, "dead") == 0 || strcmp(state, "held") == 0) && !dies_unsure(d) &&
		d->claimed_step != NULL)
	{
		char hash[2 + 2 * sizeof(d->claimed_hash) + 1] = "\\x";

		/* Refused: a person may have it made anew, but not under the same key. */
		hex_encode((const char *) d->claimed_hash, sizeof(d->claimed_hash), hash + 2);
		se_obj_begin(&b);
		se_obj_text(&b, "step", d->claimed_step);
		se_obj_text(&b, "request_hash", hash);
		if (d->repeats)
			se_obj_bool(&b, "repeats", true);
		return se_obj_end(&b);
	}
	if (strcmp(state, "ambiguous") != 0 && !(strcmp(state, "dead") == 0 && dies_unsure(d)))
	{
		if (!d->repeats)
			return NULL;
		se_obj_begin(&b);
		se_obj_bool(&b, "repeats", true);
		return se_obj_end(&b);
	}
	se_obj_begin(&b);
	if (d->attempt_id != 0 && d->op != NULL && se_has_effect(d->op))
		freeze_attempt(&b, d);
	else if (d->frozen != NULL)
	{
		for (size_t i = 0; i < lengthof(kept); i++)
			se_obj_text(&b, kept[i], se_obj_get_text(d->frozen, kept[i]));
	}
	se_obj_bool(&b, "recover", d->recover);
	if (d->unkeyed)
		se_obj_bool(&b, "unkeyed", true);
	if (d->repeats)
		se_obj_bool(&b, "repeats", true);
	se_obj_int(&b, "lookups", d->lookups);
	return se_obj_end(&b);
}

bool
se_is_frozen(const SeDelivery *d, const SeOperation *op)
{
	return d->frozen != NULL && !d->recover && strcmp(d->frozen_step, op->name) == 0;
}

/* Puts the request as it was in the place of its new rendering, which gives the headers only. */
void
se_thaw(SeDelivery *d, const SeOperation *op)
{
	SeRequestOut *out = &d->rendered.request;
	SeRequestOut fresh = *out;
	char *text = se_obj_get_text(d->frozen, "request");

	memset(out, 0, sizeof(*out));
	out->headers = fresh.headers;
	out->method = se_obj_get_text(d->frozen, "method");
	out->target = se_obj_get_text(d->frozen, "target");
	out->content_type = se_obj_get_text(d->frozen, "content_type");
	if (out->content_type == NULL)
		out->content_type = fresh.content_type;
	if (text != NULL)
	{
		out->body = pg_server_to_any(text, (int) strlen(text), PG_UTF8);
		out->body_len = strlen(out->body);
	}
	else if (fresh.body != NULL)
	{
		/* It was too long to be kept; se_is_thawed_whole() tells whether it is still the same. */
		out->body = fresh.body;
		out->body_len = fresh.body_len;
	}
	out->takes_key = op->takes_key;
}

bool
se_is_thawed_whole(const SeDelivery *d)
{
	char *hash = se_obj_get_text(d->frozen, "request_hash");
	char now[2 * sizeof(d->hash) + 1] = "";

	if (hash == NULL)
		return true;
	hex_encode((const char *) d->hash, sizeof(d->hash), now);
	return strcmp(hash + strlen("\\x"), now) == 0;
}

/* The request as it was claimed just now; hash: … by an earlier process, as a bytea prints. */
void
se_remember_claim(SeDelivery *d, const char *step, const char *hash)
{
	if (hash == NULL)
		memcpy(d->claimed_hash, d->hash, sizeof(d->hash));
	else if (strlen(hash) != strlen("\\x") + 2 * sizeof(d->claimed_hash))
		return;
	else
		hex_decode(hash + strlen("\\x"), 2 * sizeof(d->claimed_hash), (char *) d->claimed_hash);
	if (d->claimed_step == NULL || strcmp(d->claimed_step, step) != 0)
		d->claimed_step = MemoryContextStrdup(d->cxt, step);
}

/*
 * Whether a step of a replay comes out otherwise than it was sent under the key that it would have. One
 * key is one request, so it needs another. Of other deliveries the last request alone is known, and
 * that is enough, because their steps have not run before.
 */
bool
se_repeats_otherwise(SeDelivery *d, const SeOperation *op)
{
	static SPIPlanPtr plan = NULL;
	Oid types[5] = {INT4OID, INT8OID, INT4OID, TEXTOID, BYTEAOID};
	Datum values[5];
	bytea *hash = palloc(VARHDRSZ + sizeof(d->hash));

	if (!d->repeats || se_is_frozen(d, op))
		return false;
	SET_VARSIZE(hash, VARHDRSZ + sizeof(d->hash));
	memcpy(VARDATA(hash), d->hash, sizeof(d->hash));
	values[0] = Int32GetDatum(d->route->id);
	values[1] = Int64GetDatum(d->event.seq);
	values[2] = Int32GetDatum(d->issue);
	values[3] = CStringGetTextDatum(op->name);
	values[4] = PointerGetDatum(hash);
	return se_spi_execute(&plan,
						  "SELECT FROM sync.claim c WHERE c.route_id = $1 AND c.seq = $2 "
						  "AND c.issue = $3 AND c.step = $4 AND c.request_hash <> $5 LIMIT 1",
						  5, types, values, NULL, true, 1) > 0;
}

/*
 * A request that was too long to be kept and comes out otherwise now cannot be repeated. The
 * operation to run instead; NULL: a person must decide.
 */
const SeOperation *
se_not_repeatable(SeDelivery *d, const SeManifestObject *object, const SeOperation *op)
{
	if (op->kind == SE_OP_CREATE && d->lookups < SE_LOOKUPS)
	{
		d->recover = object->lookup != NULL;
		return object->lookup;
	}
	/* It never happened, or it sets a state that a newer one may replace: under a key of its own. */
	d->issue++;
	d->frozen = NULL;
	d->first_claim_at = 0;
	return op;
}

/*
 * A record that was made there, and whose binding failed: only the binding is tried again, because
 * making it again would make two. Through to the outcome, without a request.
 */
void
se_bind_again(SeDelivery *d, const SeOperation *op)
{
	const SeOperation *next = se_plan_next(d, op);

	memset(&d->extract, 0, sizeof(d->extract));
	d->extract.remote_id = d->unbound_id;
	d->unbound_id = NULL;
	d->attempt_id = 0;
	d->op = op;
	d->has_pushed = true;
	d->pushed_deleted = false;
	d->code = d->message = NULL;
	d->outcome_word = "done";
	d->ending = next == NULL ? SE_END_DONE : SE_END_STEP;
	d->step = next == NULL ? NULL : MemoryContextStrdup(d->cxt, next->name);
	se_outcome_add(d);
}
