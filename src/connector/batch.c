/*
 * batch.c
 *		Requests of single records → one request; its answer → their answers.
 *
 * A batch is a vehicle: what is said of a record, and how the answer to it is
 * judged and read, is what the operation alone would say.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "core/json.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

/* Where the items go, as long as the body around them is evaluated. */
#define MARK "@sync_ext.items@"

/* ---- requests ---- */

/* {"request": …, "key": …} */
static Jsonb *
item_variables(const SeRequestOut *alone, const char *key)
{
	JsonbParseState *state = NULL;
	JsonbValue *body = alone->json;
	char *error = NULL;

	if (body == NULL && alone->body)
		body = jv_from_jsonb(se_parse_json(alone->body, alone->body_len, &error));
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "key", key ? jv_string(key) : NULL);
	jv_push_key(&state, "request");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "method", jv_string(alone->method));
	jv_push_member(&state, "target", jv_string(alone->target));
	jv_push_member(&state, "body", body);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static bool
make_item(SeEval *ev, const SeBatchSpec *spec, const SeRequestOut *alone, const char *key,
		  SeBatchItem *out)
{
	JsonbValue *item;
	char *text;

	if (spec->item || spec->ours)
		ev->vars.own = item_variables(alone, key);
	if (spec->ours &&
		((out->match = se_eval_text(ev, spec->ours)) == NULL || out->match[0] == '\0'))
		return false;
	if (spec->item == NULL)
	{
		out->body = alone->body;
		out->body_len = alone->body_len;
		return out->body != NULL;
	}
	item = se_eval(ev, spec->item);
	if (item == NULL || ev->status != SE_RENDER_OK)
		return false;
	text = jv_json(item);
	out->body = pg_server_to_any(text, strlen(text), PG_UTF8);
	out->body_len = strlen(out->body);
	return true;
}

bool
se_batch_item(const SeManifest *m, const SeOperation *op, Jsonb *ctx, const SeRequestOut *alone,
			  const char *key, const SeRefs *refs, SeBatchItem *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	volatile bool ok = false;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	se_eval_init(&ev, m, ctx, se_make_vars(ctx, ctx, NULL, NULL));
	ev.refs = refs;
	ev.creating = op->kind == SE_OP_CREATE || (op->kind == SE_OP_UPSERT && se_is_unbound(ctx));
	PG_TRY();
	{
		ok = make_item(&ev, op->batch->spec, alone, key, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	return ok && ev.status == SE_RENDER_OK;
}

/* Puts the items where the mark stands; false: the mark is not there once. */
static bool
put_items(SeRequestOut *out, const SeBatchItem *items, int n)
{
	static const char quoted[] = "\"" MARK "\"";
	char *at = strstr(out->body, quoted);
	StringInfoData buf;

	if (at == NULL || strstr(at + 1, quoted) != NULL)
		return false;
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, out->body, at - out->body);
	for (int i = 0; i < n; i++)
	{
		appendStringInfoChar(&buf, i == 0 ? '[' : ',');
		appendBinaryStringInfo(&buf, items[i].body, items[i].body_len);
	}
	appendStringInfoChar(&buf, ']');
	appendStringInfoString(&buf, at + strlen(quoted));
	out->body = buf.data;
	out->body_len = buf.len;
	return true;
}

void
se_batch_render(const SeManifest *m, const SeBatch *batch, Jsonb *vars, const SeBatchItem *items,
				int n, SeRendered *out)
{
	SeObjBuilder own;
	SeEval ev;

	se_obj_begin(&own);
	se_obj_text(&own, "items", MARK);
	se_eval_init(&ev, m, vars, se_make_vars(vars, vars, NULL, NULL));
	ev.vars.own = se_obj_end(&own);
	/* One key cannot stand for several records. */
	se_render_request(&ev, batch->whole.request, false, out);
	if (out->status == SE_RENDER_OK && !put_items(&out->request, items, n))
	{
		out->status = SE_RENDER_INVALID;
		out->code = pstrdup("bad_value");
		out->message =
			psprintf("%s/body: has no single place for the items", batch->whole.request->at);
	}
}

/* ---- answers ---- */

typedef struct Match
{
	const char *text;
	int item;
} Match;

static int
compare_matches(const void *a, const void *b)
{
	return strcmp(((const Match *) a)->text, ((const Match *) b)->text);
}

/* The only item that is known by this text, or -1. */
static int
find_match(const Match *sorted, int n, const char *text)
{
	Match wanted = {text, 0};
	const Match *hit;

	if (text == NULL)
		return -1;
	hit = bsearch(&wanted, sorted, n, sizeof(Match), compare_matches);
	if (hit == NULL || (hit > sorted && compare_matches(hit - 1, hit) == 0) ||
		(hit + 1 < sorted + n && compare_matches(hit + 1, hit) == 0))
		return -1;
	return hit->item;
}

/* The item's answer as if it had been asked for alone. */
static void
make_part(SeEval *ev, const SeBatchSpec *spec, const SeAnswer *a, SeAnswer *part)
{
	char *status = se_eval_text(ev, spec->status);
	JsonbValue *answer;

	part->headers = a->headers;
	part->status = status ? strtol(status, NULL, 10) : a->status;
	part->body = "";
	part->json = ev->root;
	if (spec->answer)
	{
		answer = se_eval(ev, spec->answer);
		part->json = jv_is_null(answer) ? NULL : jv_to_jsonb(answer);
	}
	/* What is said of it cannot be understood: so nothing is. */
	if (ev->status != SE_RENDER_OK || part->status < 100 || part->status > 599)
	{
		memset(part, 0, sizeof(*part));
		ev->status = SE_RENDER_OK;
		return;
	}
	if (part->json == NULL)
		return;
	part->body = JsonbToCString(NULL, &part->json->root, VARSIZE(part->json));
	part->body_len = strlen(part->body);
}

static Match *
sort_matches(char *const *matches, int n)
{
	Match *sorted = palloc(sizeof(Match) * (n + 1));

	for (int i = 0; i < n; i++)
	{
		sorted[i].text = matches[i];
		sorted[i].item = i;
	}
	qsort(sorted, n, sizeof(Match), compare_matches);
	return sorted;
}

static void
split(SeEval *ev, const SeBatchSpec *spec, const SeAnswer *a, char *const *matches, int n,
	  SeAnswer *parts)
{
	JsonbValue *list = se_eval(ev, spec->items);
	bool *seen = palloc0(sizeof(bool) * (n + 1));
	Match *sorted = spec->theirs ? sort_matches(matches, n) : NULL;
	JvIter i;

	if (ev->status != SE_RENDER_OK)
		return;
	if (!JV_IS_ARRAY(list))
	{
		se_eval_fail(ev, "bad_answer", "the answer holds no list of items");
		return;
	}
	if (sorted == NULL && jv_count(list) != n)
	{
		/* One is missing or too many, and nobody knows where. */
		se_eval_fail(ev, "bad_answer", "the list of items in the answer has length %d, not %d",
					 jv_count(list), n);
		return;
	}
	jv_iter_init(&i, list);
	while (jv_iter_next(&i))
	{
		int item = i.index;

		ev->root = jv_to_jsonb(&i.value);
		if (sorted)
		{
			char *theirs = se_eval_text(ev, spec->theirs);

			item = ev->status == SE_RENDER_OK ? find_match(sorted, n, theirs) : -1;
			ev->status = SE_RENDER_OK;
		}
		if (item < 0)
			continue;
		/* Said twice, and who knows which is true. */
		if (seen[item])
			memset(&parts[item], 0, sizeof(SeAnswer));
		else
			make_part(ev, spec, a, &parts[item]);
		seen[item] = true;
	}
}

char *
se_batch_split(const SeManifest *m, const SeBatch *batch, const SeAnswer *a, char *const *matches,
			   int n, SeAnswer *parts)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(parts, 0, sizeof(SeAnswer) * n);
	if (batch->spec->items == NULL)
	{
		for (int i = 0; i < n; i++)
			parts[i] = *a;
		return NULL;
	}
	se_eval_init(&ev, m, a->json, se_make_vars(NULL, a->json, NULL, a));
	ev.inbound = true;
	ev.at = batch->whole.request->at;
	PG_TRY();
	{
		split(&ev, batch->spec, a, matches, n, parts);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	if (ev.status == SE_RENDER_OK)
		return NULL;
	memset(parts, 0, sizeof(SeAnswer) * n);
	return ev.message;
}

void
se_batch_classify(const SeManifest *m, const SeOperation *op, const SeAnswer *part, SeVerdict *out)
{
	if (part->status != 0)
	{
		se_classify_with(m, op->batch->spec->classify, part, out);
		/* A header speaks of the whole request. */
		out->replayed = false;
		return;
	}
	memset(out, 0, sizeof(*out));
	out->retry_after_ms = -1;
	out->outcome = SE_AMBIGUOUS;
	out->code = pstrdup("bad_answer");
	out->message = pstrdup("the answer to the batch says nothing of this record");
}
