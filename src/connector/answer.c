/*
 * answer.c
 *		Answers: parsing, outcome, what a done answer says.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "connector/money.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define MAX_JSON_DEPTH 200
#define MAX_CODE	   100
#define MAX_TEXT	   1000

/* ---- parsing ---- */

/* Depth is bounded before the recursive parser sees the text. */
static bool
depth_ok(const char *text, size_t len)
{
	bool quoted = false;
	int depth = 0;
	size_t i;

	for (i = 0; i < len; i++)
	{
		if (quoted && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			quoted = !quoted;
		else if (!quoted && (text[i] == '[' || text[i] == '{') && ++depth > MAX_JSON_DEPTH)
			return false;
		else if (!quoted && (text[i] == ']' || text[i] == '}'))
			depth--;
	}
	return true;
}

static Jsonb *
parse_text(const char *text, char **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	volatile Datum result = 0;
	SeEval ev;

	memset(&ev, 0, sizeof(ev));
	ev.at = "";
	PG_TRY();
	{
		result = DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
		*error = ev.message + strlen(": ");
	}
	PG_END_TRY();
	return result ? DatumGetJsonbP(result) : NULL;
}

static char *
to_server(const char *utf8, size_t len, char **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	char *volatile text = NULL;
	SeEval ev;

	memset(&ev, 0, sizeof(ev));
	ev.at = "";
	PG_TRY();
	{
		text = pg_any_to_server(utf8, len, PG_UTF8);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
		*error = ev.message + strlen(": ");
	}
	PG_END_TRY();
	return text;
}

Jsonb *
se_parse_json(const char *body, size_t len, char **error)
{
	char *copy;
	char *text;

	*error = NULL;
	if (len >= 3 && memcmp(body, "\xEF\xBB\xBF", 3) == 0)
		body += 3, len -= 3;
	while (len > 0 && strchr(" \t\r\n", body[0]) && body[0] != '\0')
		body++, len--;
	if (len == 0)
		return NULL;
	if (memchr(body, '\0', len) || len > MaxAllocSize / 4)
		*error = "holds a zero byte or is too large";
	else if (pg_encoding_verifymbstr(PG_UTF8, body, len) != (int) len)
		*error = "is not UTF-8";
	else if (!depth_ok(body, len))
		*error = "is nested too deeply";
	if (*error)
		return NULL;
	copy = pnstrdup(body, len);
	text = to_server(copy, len, error);
	return text ? parse_text(text, error) : NULL;
}

/* ---- outcome ---- */

const char *
se_outcome_name(SeOutcome outcome)
{
	static const char *const names[] = {"done", "rejected", "throttled", "ambiguous", "auth"};

	return names[outcome];
}

const char *
se_find_header(List *headers, const char *name)
{
	ListCell *lc;

	foreach (lc, headers)
	{
		SeHeader *h = lfirst(lc);

		if (pg_strcasecmp(h->name, name) == 0)
			return h->value;
	}
	return NULL;
}

static char *
bounded(char *text, int limit)
{
	if (text && strlen(text) > limit)
		text[pg_mbcliplen(text, strlen(text), limit)] = '\0';
	return text;
}

static bool
rule_matches(SeEval *ev, const SeRule *rule, const SeAnswer *a)
{
	ListCell *lc;

	if (rule->status_to && (a->status < rule->status_from || a->status > rule->status_to))
		return false;
	foreach (lc, rule->headers)
	{
		SeHeader *h = lfirst(lc);
		const char *value = se_find_header(a->headers, h->name);

		if (value == NULL || pg_strcasecmp(value, h->value) != 0)
			return false;
	}
	return rule->when == NULL || se_eval_predicate(ev, rule->when);
}

static const SeRule *
find_rule(SeEval *ev, const SeClassifySpec *spec, const SeAnswer *a)
{
	ListCell *lc;

	foreach (lc, spec ? spec->rules : NIL)
		if (rule_matches(ev, lfirst(lc), a))
			return lfirst(lc);
	return NULL;
}

/*
 * What no rule says. A 5xx may have taken effect before it failed, a 408 too;
 * a redirect is never followed.
 */
static SeOutcome
builtin_outcome(long status)
{
	if (status >= 200 && status < 300)
		return SE_DONE;
	if (status == 401)
		return SE_AUTH;
	if (status == 429)
		return SE_THROTTLED;
	if (status < 200 || status == 408 || status >= 500)
		return SE_AMBIGUOUS;
	return SE_REJECTED;
}

/* Seconds (also with decimals) or an HTTP date, in milliseconds from now; -1: not understood. */
static int64
parse_retry_after(const char *text)
{
	int64 at;
	char ms[400];

	if (text == NULL)
		return -1;
	if (se_decimal_shift(text, 3, false, ms, sizeof(ms)) == SE_SHIFT_OK)
		return ms[0] == '-' || strlen(ms) > 15 ? -1 : strtoll(ms, NULL, 10);
	if (se_parse_http_date(text, &at))
	{
		int64 now = GetCurrentTimestamp() / USECS_PER_SEC +
					(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;

		return at > now ? (at - now) * 1000 : 0;
	}
	return -1;
}

/* Text of an expression that must not spoil the classification when it fails. */
static char *
soft_text(SeEval *ev, const SeExpr *x)
{
	char *text = se_eval_text(ev, x);

	ev->status = SE_RENDER_OK;
	return text;
}

static void
classify(SeEval *ev, const SeManifest *m, const SeClassifySpec *own, const SeAnswer *a,
		 SeVerdict *out)
{
	const SeClassifySpec *base = m->classify;
	const SeRule *rule = find_rule(ev, own, a);
	const char *retry_after = se_find_header(a->headers, "retry-after");

	if (rule == NULL)
		rule = find_rule(ev, base, a);
	out->outcome = rule ? rule->outcome : builtin_outcome(a->status);
	out->then = rule && rule->then ? pstrdup(rule->then) : NULL;
	if (rule && rule->retry_after)
		retry_after = soft_text(ev, rule->retry_after);
	out->retry_after_ms = parse_retry_after(retry_after);
	out->request_id = bounded(soft_text(ev, base->request_id), MAX_CODE);
	if (base->replayed_header)
	{
		const char *value = se_find_header(a->headers, base->replayed_header);

		out->replayed = value && (base->replayed_value == NULL ||
								  pg_strcasecmp(value, base->replayed_value) == 0);
	}
	if (out->outcome == SE_DONE)
		return;
	out->code = soft_text(ev, rule && rule->code ? rule->code : base->code);
	out->message = soft_text(ev, rule && rule->message ? rule->message : base->message);
	if (out->code == NULL && a->status > 0)
		out->code = psprintf("http_%ld", a->status);
	bounded(out->code, MAX_CODE);
	bounded(out->message, MAX_TEXT);
}

void
se_classify_with(const SeManifest *m, const SeClassifySpec *own, const SeAnswer *a, SeVerdict *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	out->retry_after_ms = -1;
	se_eval_init(&ev, m, a->json, se_make_vars(NULL, NULL, NULL, a));
	PG_TRY();
	{
		classify(&ev, m, own, a, out);
	}
	PG_CATCH();
	{
		/* An answer that breaks its own classification proves nothing. */
		se_eval_caught(&ev, cxt);
		out->outcome = SE_AMBIGUOUS;
		out->code = pstrdup("bad_answer");
		out->message = ev.message;
	}
	PG_END_TRY();
}

void
se_classify(const SeManifest *m, const SeOperation *op, const SeAnswer *a, SeVerdict *out)
{
	const SeResponseSpec *r = op ? op->response : NULL;

	se_classify_with(m, op ? op->classify : NULL, a, out);

	/* Success that cannot be read is not known to be one: a proxy's page, a cut-off body. */
	if (out->outcome == SE_DONE && a->json == NULL && a->body_len > 0 && r &&
		(r->items || r->remote_id || r->record || r->compare))
	{
		out->outcome = SE_AMBIGUOUS;
		out->code = pstrdup("bad_answer");
		out->message = pstrdup("the answer is not JSON");
	}
}

/* ---- what a done answer says ---- */

static bool
equal_values(char as, const char *a, const char *b)
{
	TimestampTz ta, tb;
	char da[400], db[400];

	if (a == NULL || b == NULL)
		return a == b;
	if (as == 'd')
		return se_parse_time(a, &ta) && se_parse_time(b, &tb) && strncmp(a, b, 10) == 0;
	if (as == 'n')
		return se_decimal_shift(a, 0, false, da, sizeof(da)) == SE_SHIFT_OK &&
			   se_decimal_shift(b, 0, false, db, sizeof(db)) == SE_SHIFT_OK &&
			   DatumGetBool(DirectFunctionCall2(numeric_eq,
												NumericGetDatum(jv_numeric(da)->val.numeric),
												NumericGetDatum(jv_numeric(db)->val.numeric)));
	if (as == 'i')
		return pg_strcasecmp(a, b) == 0;
	return strcmp(a, b) == 0;
}

static void
compare(SeEval *ev, const SeResponseSpec *r, Jsonb *ctx, SeExtract *out)
{
	Jsonb *answer = ev->root;
	ListCell *lc;

	foreach (lc, r->compare)
	{
		SeCompare *cmp = lfirst(lc);
		char *remote;
		char *ours;
		SeDifference *d;

		ev->root = answer;
		remote = se_eval_text(ev, cmp->remote);
		ev->root = ctx ? ctx : jv_to_jsonb(NULL);
		ev->inbound = false;
		ours = se_eval_text(ev, cmp->ours);
		ev->inbound = true;
		ev->root = answer;
		if (ev->status != SE_RENDER_OK)
			return;
		if (equal_values(cmp->as, remote, ours))
			continue;
		d = palloc(sizeof(SeDifference));
		d->name = pstrdup(cmp->name);
		d->remote = remote;
		d->ours = ours;
		out->differences = lappend(out->differences, d);
	}
}

static void
read_identity(SeEval *ev, const SeResponseSpec *r, SeExtract *out)
{
	out->remote_id = se_eval_text(ev, r->remote_id);
	out->remote_number = se_eval_text(ev, r->number);
	out->version = se_eval_text(ev, r->version);
	if (r->version_at)
		out->has_version_at = se_eval_time(ev, r->version_at, &out->version_at);
	if (r->record)
		out->record = jv_to_jsonb(se_eval(ev, r->record));
	if (out->record == NULL || JB_ROOT_IS_SCALAR(out->record))
		out->record = NULL;
	if (r->mapping == NULL || out->record == NULL || ev->status != SE_RENDER_OK)
		return;

	/* The object's pull knows where these stand in a whole record. */
	ev->root = out->record;
	if (r->remote_id == NULL)
		out->remote_id = se_eval_text(ev, r->mapping->id);
	if (r->number == NULL)
		out->remote_number = se_eval_text(ev, r->mapping->number);
	if (r->version == NULL)
		out->version = se_eval_text(ev, r->mapping->version);
	if (r->version_at == NULL && r->mapping->version_at)
		out->has_version_at = se_eval_time(ev, r->mapping->version_at, &out->version_at);
}

static void
extract(SeEval *ev, const SeOperation *op, const SeResponseSpec *r, Jsonb *ctx, SeExtract *out)
{
	if (r == NULL)
		return;
	if (r->items)
	{
		JsonbValue *items;

		ev->at = r->at;
		items = se_eval_list(ev, r->items);
		out->matches = items ? jv_count(items) : -1;
		if (out->matches != 1)
			return;
		ev->root = jv_to_jsonb(getIthJsonbValueFromContainer(items->val.binary.data, 0));
	}
	else if (r->compare && JB_ROOT_IS_SCALAR(ev->root))
	{
		ev->at = r->at;
		se_eval_fail(ev, "bad_answer", "the answer holds nothing to compare");
		return;
	}
	compare(ev, r, ctx, out);
	read_identity(ev, r, out);
	if (out->remote_id == NULL && ev->status == SE_RENDER_OK &&
		(op->kind == SE_OP_CREATE || op->kind == SE_OP_LOOKUP ||
		 (op->kind == SE_OP_UPSERT && se_is_unbound(ctx))))
		se_eval_fail(ev, "bad_answer", "the answer has no remote id");
}

void
se_extract(const SeManifest *m, const SeOperation *op, const SeAnswer *a, Jsonb *ctx,
		   SeExtract *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	out->matches = -1;
	se_eval_init(&ev, m, a->json, se_make_vars(ctx, ctx, NULL, a));
	ev.inbound = true;
	PG_TRY();
	{
		extract(&ev, op, op->response, ctx, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	if (ev.status != SE_RENDER_OK)
		out->error = ev.message;
}
