/*
 * batch.c: deliveries that travel in one request, where the connector has an endpoint for that.
 *
 * A batch is a vehicle. Each delivery in it has its own claim, which holds the request as it would
 * be alone, and its own outcome, judged by the rules of its operation. Only what was ready at the
 * same moment travels together: nothing waits to fill a batch up.
 *
 * the answer to the whole      each of its deliveries
 * ---------------------------  --------------------------------------------------------------
 * done                         as its part of the answer says; ambiguous when it has none
 * throttled, auth, not sent    queued again, the attempt not counted
 * ambiguous                    ambiguous, and settled alone
 * rejected                     nothing happened: sent again in a quarter of the size, in the
 *                              end alone, so that one bad record does not fail its neighbours
 *
 * What has failed once in a way that counts, or may have taken effect, travels alone from then on:
 * the request that is repeated is its own, never a batch with other members.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "push/internal.h"
#include "worker/notice.h"

struct SePushBatch
{
	dlist_node node; /* while it is being filled */
	MemoryContext cxt;
	SeExchange exchange;
	SeSystem *system;
	const SeOperation *op; /* of its deliveries */
	int limit;			   /* how many they may be at most */
	int64 bytes;
	int n;
	SeDelivery **members;
	SeBatchItem *items;
	uint32 *hashes; /* of the items' matches */
};

/* ---- which ones ---- */

static bool
may_share(const SeDelivery *d, const SeOperation *op)
{
	return op->batch != NULL && d->batch_limit != 1 && d->attempts == 0 && d->lookups == 0 &&
		   d->frozen == NULL && !d->recover;
}

static const SeOperation *
first_step(const SeManifestObject *object, SeChange change)
{
	return object->plan[change] == NIL ? NULL : linitial(object->plan[change]);
}

/* How many deliveries like this one a request can probably hold; known before it is rendered. */
int
se_batch_hint(SeDelivery *d)
{
	const SeManifestObject *object = se_delivery_object(d);
	const SeOperation *op;

	if (object == NULL)
		return 1;
	if (d->step != NULL)
		op = se_object_operation(object, d->step);
	else if (d->event.op == 'D')
		op = first_step(object, SE_DELETE);
	else
		op = first_step(object, d->event.op == 'I' ? SE_CREATE : SE_UPDATE);
	if (op == NULL || !may_share(d, op))
		return 1;
	return d->batch_limit > 0 ? Min(d->batch_limit, op->batch->max_items) : op->batch->max_items;
}

/* Renders the delivery's part of a batch, when it may travel in one. In its attempt's context. */
void
se_batch_prepare(SeDelivery *d, const SeOperation *op)
{
	SeSystem *system = d->route->system;

	memset(&d->item, 0, sizeof(d->item));
	if (may_share(d, op) &&
		!se_batch_item(system->manifest, op, d->ctx, &d->rendered.request,
					   op->batch->takes_keys ? d->key : NULL, se_context_refs(system), &d->item))
		d->item.body = NULL;
}

/* ---- forming ---- */

/* The request around the items that the batch holds so far. In its context. */
static bool
render(SePushBatch *b)
{
	MemoryContext old = MemoryContextSwitchTo(b->cxt);
	SeRendered r;

	se_batch_render(b->system->manifest, b->op->batch, b->system->vars, b->items, b->n, &r);
	b->exchange.request = r.request;
	MemoryContextSwitchTo(old);
	if (r.status == SE_RENDER_OK)
		return true;
	se_notice_put(psprintf("batch:%s", b->system->name), "warning",
				  psprintf("system \"%s\" gets single requests: %s", b->system->name,
						   r.message ? r.message : "the batch cannot be rendered"),
				  "Correct the connector's manifest.");
	return false;
}

/* NULL: there can be none. */
static SePushBatch *
open_batch(SeDelivery *d, int limit)
{
	MemoryContext cxt =
		AllocSetContextCreate(se_queue_context(), "sync_ext batch", ALLOCSET_SMALL_SIZES);
	SePushBatch *b = MemoryContextAllocZero(cxt, sizeof(SePushBatch));

	b->cxt = cxt;
	b->system = d->route->system;
	b->op = d->op;
	b->limit = limit;
	b->members = MemoryContextAlloc(cxt, sizeof(SeDelivery *) * limit);
	b->items = MemoryContextAlloc(cxt, sizeof(SeBatchItem) * limit);
	b->hashes = MemoryContextAlloc(cxt, sizeof(uint32) * limit);
	if (!render(b))
	{
		MemoryContextDelete(cxt);
		return NULL;
	}
	b->bytes = (int64) b->exchange.request.body_len;
	return b;
}

/* Two that could not be told apart in the answer do not travel together. */
static bool
has_match(const SePushBatch *b, const char *match, uint32 hash)
{
	for (int i = 0; match != NULL && i < b->n; i++)
	{
		if (b->hashes[i] == hash && strcmp(b->items[i].match, match) == 0)
			return true;
	}
	return false;
}

static void
add(dlist_head *open, SeDelivery *d)
{
	const SeBatch *spec = d->op->batch;
	int limit = d->batch_limit > 0 ? Min(d->batch_limit, spec->max_items) : spec->max_items;
	const char *match = d->item.match;
	uint32 hash = match ? hash_bytes((const unsigned char *) match, (int) strlen(match)) : 0;
	int64 bytes = (int64) d->item.body_len + 1;
	SePushBatch *batch = NULL;
	dlist_iter iter;

	dlist_foreach (iter, open)
	{
		SePushBatch *b = dlist_container(SePushBatch, node, iter.cur);

		if (b->op == d->op && b->system == d->route->system && b->limit == limit &&
			b->n < b->limit && b->bytes + bytes <= spec->max_bytes && !has_match(b, match, hash))
		{
			batch = b;
			break;
		}
	}
	if (batch == NULL)
	{
		batch = open_batch(d, limit);
		if (batch == NULL)
			return;
		dlist_push_tail(open, &batch->node);
	}
	batch->items[batch->n] = d->item;
	batch->hashes[batch->n] = hash;
	batch->members[batch->n++] = d;
	batch->bytes += bytes;
}

static void
board(SePushBatch *b)
{
	se_notice_clear_of("batch", b->system->name);
	for (int i = 0; i < b->n; i++)
	{
		SeDelivery *d = b->members[i];
		char *match = b->items[i].match;

		/* Its texts go with the attempt that they were rendered for. */
		b->items[i].body = NULL;
		b->items[i].match = match ? MemoryContextStrdup(b->cxt, match) : NULL;
		d->batch = b;
		if (!b->op->batch->takes_keys)
		{
			/* The system never sees its key, so nothing can be repeated under it. */
			d->unkeyed = d->key != NULL;
			d->key = NULL;
		}
	}
}

/* Puts rendered deliveries that go to the same place together. In the claim's transaction. */
void
se_batch_form(SeDelivery **deliveries, int n)
{
	dlist_head open = DLIST_STATIC_INIT(open);
	dlist_mutable_iter iter;

	for (int i = 0; i < n; i++)
	{
		if (deliveries[i]->item.body != NULL)
			add(&open, deliveries[i]);
	}
	dlist_foreach_modify (iter, &open)
	{
		SePushBatch *b = dlist_container(SePushBatch, node, iter.cur);

		if (b->n > 1 && render(b))
			board(b);
		else
			MemoryContextDelete(b->cxt);
	}
}

/* What its claim says of the batch: the attempt that it began with. 0: alone. */
int64
se_batch_id(const SeDelivery *d)
{
	return d->batch == NULL ? 0 : d->batch->members[0]->attempt_id;
}

/* ---- sending ---- */

static void batch_done(SeExchange *exchange, SeReply *reply);

/* Once for each of its deliveries; it goes with the first. */
void
se_batch_submit(SeDelivery *d)
{
	SePushBatch *b = d->batch;

	if (d != b->members[0])
		return;
	b->exchange.system = b->system;
	b->exchange.op = &b->op->batch->whole;
	b->exchange.done = batch_done;
	b->exchange.arg = b;
	se_exchange_submit(&b->exchange);
}

/* In mode dry_run: says what it would have travelled in. */
void
se_batch_dry_run(SeDelivery *d)
{
	SePushBatch *b = d->batch;

	d->batch = NULL;
	d->message = MemoryContextStrdup(d->cxt, psprintf("in a batch of %d: %s %s", b->n,
													  b->exchange.request.method,
													  b->exchange.request.target));
	if (d == b->members[b->n - 1])
		MemoryContextDelete(b->cxt);
}

/* ---- answers ---- */

/* Nothing that a vendor says is free of our secrets for certain. */
static char *
clean(SeSystem *system, char *text)
{
	return text == NULL ? NULL
						: se_system_redact(system, text, strlen(text),
										   (size_t) Max(se_history_body_limit, 256));
}

static void
judge_part(SeDelivery *d, const SeManifest *manifest, const SeReply *whole, const SeAnswer *part,
		   const char *error)
{
	SeReply reply = *whole;

	if (part->status != 0)
		reply.answer = *part;
	se_batch_classify(manifest, d->op, part, &reply.verdict);
	if (error != NULL)
		reply.verdict.message = pstrdup(error);
	reply.verdict.code = clean(d->route->system, reply.verdict.code);
	reply.verdict.message = clean(d->route->system, reply.verdict.message);
	reply.verdict.request_id = whole->verdict.request_id;
	if (reply.verdict.outcome == SE_THROTTLED)
		se_system_throttle(d->route->system, reply.verdict.retry_after_ms, GetCurrentTimestamp());
	/* Credentials are a matter of the whole: alone, it meets what logs in again. */
	if (reply.verdict.outcome == SE_AUTH)
		d->batch_limit = 1;
	se_result_judge(d, manifest, &reply);
}

static void
judge_parts(SePushBatch *b, SeReply *reply)
{
	const SeManifest *manifest = b->exchange.manifest;
	char **matches = palloc(sizeof(char *) * b->n);
	SeAnswer *parts = palloc(sizeof(SeAnswer) * b->n);
	char *error;

	for (int i = 0; i < b->n; i++)
		matches[i] = b->items[i].match;
	error = se_batch_split(manifest, b->op->batch, &reply->answer, matches, b->n, parts);
	for (int i = 0; i < b->n; i++)
	{
		judge_part(b->members[i], manifest, reply, &parts[i], error);
		/* The whole is kept once, with the first that has no part in it. */
		if (parts[i].status == 0)
			reply->answer.body_len = 0;
	}
}

static void
refused(SePushBatch *b, SeReply *reply)
{
	for (int i = 0; i < b->n; i++)
	{
		SeDelivery *d = b->members[i];

		d->batch_limit = Max(b->n / 4, 1);
		se_result_refused(d, reply,
						  psprintf("a batch of %d was refused, nothing of it took effect%s%s", b->n,
								   reply->verdict.message ? ": " : "",
								   reply->verdict.message ? reply->verdict.message : ""));
		reply->answer.body_len = 0; /* kept once */
	}
}

/* Callback of the exchange: the answer lives in a context that is reset afterwards. */
static void
batch_done(SeExchange *exchange, SeReply *reply)
{
	SePushBatch *b = exchange->arg;

	for (int i = 0; i < b->n; i++)
		b->members[i]->batch = NULL;
	if (reply->verdict.outcome == SE_DONE)
		judge_parts(b, reply);
	else if (reply->verdict.outcome == SE_REJECTED)
		refused(b, reply);
	else
	{
		for (int i = 0; i < b->n; i++)
		{
			se_result_judge(b->members[i], exchange->manifest, reply);
			reply->answer.body_len = 0; /* kept once */
		}
	}
	MemoryContextDelete(b->cxt);
}
