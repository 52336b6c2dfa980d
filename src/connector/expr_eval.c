/*
 * expr_eval.c
 *		Evaluating expressions.
 *
 * Order for one expression: value → default → reference or enum map → casts →
 * required. The first failure stops everything and stays in the SeEval.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "connector/money.h"
#include "core/jsonb_write.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#define MAX_MESSAGE 600

void
se_eval_init(SeEval *ev, const SeManifest *m, Jsonb *root, SeVars vars)
{
	memset(ev, 0, sizeof(*ev));
	ev->m = m;
	ev->root = root ? root : jv_to_jsonb(NULL);
	ev->vars = vars;
	ev->at = "";
	ev->status = SE_RENDER_OK;
}

void
se_eval_fail(SeEval *ev, const char *code, const char *fmt, ...)
{
	StringInfoData buf;
	int len;

	if (ev->status != SE_RENDER_OK)
		return;
	initStringInfo(&buf);
	for (;;)
	{
		va_list args;
		int needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&buf, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&buf, needed);
	}
	len = pg_mbcliplen(buf.data, buf.len, MAX_MESSAGE);
	buf.data[len] = '\0';
	ev->status = SE_RENDER_INVALID;
	ev->code = pstrdup(code);
	ev->message = psprintf("%s: %s", ev->at, buf.data);
}

void
se_eval_caught(SeEval *ev, MemoryContext cxt)
{
	ErrorData *e;
	int category;

	MemoryContextSwitchTo(cxt);
	e = CopyErrorData();
	category = ERRCODE_TO_CATEGORY(e->sqlerrcode);

	/*
	 * Only what data alone can cause is swallowed without a subtransaction.
	 * A callback may have locks and buffers open when it fails.
	 */
	if (ev->in_callback || (category != ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) &&
							category != ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED)))
		PG_RE_THROW();
	FlushErrorState();
	ev->status = SE_RENDER_OK;
	se_eval_fail(ev, "bad_value", "%s", e->message);
}

/* ---- one kind each ---- */

static bool
left_out(SeEval *ev, const SeExpr *x, JsonbValue *v)
{
	switch (x->opt ? x->opt->omit : SE_OMIT_DEFAULT)
	{
		case SE_OMIT_NEVER:
			return false;
		case SE_OMIT_CREATE:
			return ev->creating && jv_is_null(v);
		case SE_OMIT_EMPTY:
			return jv_is_empty(v);
		case SE_OMIT_NULL:
			return jv_is_null(v);
		default:
			/* {"$const": null} is meant; a null that was found is not worth sending. */
			return v == NULL || (v->type == jbvNull && x->kind != SE_X_CONST);
	}
}

static JsonbValue *
finish(JsonbParseState **state, JsonbIteratorToken end)
{
	return jv_from_jsonb(jv_to_jsonb(pushJsonbValue(state, end, NULL)));
}

static JsonbValue *
eval_object(SeEval *ev, const SeExpr *x)
{
	JsonbPair *pairs = palloc(sizeof(JsonbPair) * Max(x->nitems, 1));
	Jsonb *object;
	int members = 0;
	bool withheld = false;

	ev->object_depth++;
	for (int i = 0; i < x->nitems; i++)
	{
		bool outer = ev->touched;
		JsonbValue *v;
		JsonbPair *pair = &pairs[members];

		ev->touched = ev->emptied = false;
		v = se_eval(ev, x->items[i]);
		if (ev->status != SE_RENDER_OK)
			return NULL;
		if (ev->touched)
		{
			/* Arguments of a call that lost what they were to say are no arguments. */
			ev->says_nothing |=
				ev->object_depth == 1 && x->items[i]->kind == SE_X_ARRAY && ev->emptied;
			ev->touched = outer;
			withheld = true;
			continue;
		}
		ev->touched = outer;
		if (left_out(ev, x->items[i], v))
			continue;
		pair->key.type = jbvString;
		pair->key.val.string.val = unconstify(char *, x->keys[i]);
		pair->key.val.string.len = strlen(x->keys[i]);
		pair->value = v ? *v : *jv_null();
		members++;
	}
	/* An object that lost all its members says nothing; {} as written does. */
	ev->object_depth--;
	ev->emptied = members == 0 && withheld;
	ev->touched |= ev->emptied;
	if (members == 0 && !x->literal_empty)
		return NULL;
	object = se_json_from_pairs(pairs, members, JENTRY_OFFLENMASK);
	if (object == NULL)
		se_eval_fail(ev, "too_large", "the object is too large");
	return object ? jv_from_jsonb(object) : NULL;
}

/* Positions count (RPC arguments): what is missing is null, unless it asks to be left out. */
static JsonbValue *
eval_array(SeEval *ev, const SeExpr *x)
{
	JsonbParseState *state = NULL;
	int i;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < x->nitems; i++)
	{
		const SeExpr *item = x->items[i];
		JsonbValue *v = se_eval(ev, item);

		/* Without one of its items an array is another. */
		if (ev->status != SE_RENDER_OK || ev->touched)
			return NULL;
		if (v == NULL && item->kind == SE_X_IF && item->items[1] == NULL)
			continue;
		if (item->opt && item->opt->omit != SE_OMIT_DEFAULT && left_out(ev, item, v))
			continue;
		jv_push_value(&state, false, v);
	}
	return finish(&state, WJB_END_ARRAY);
}

static JsonbValue *
eval_each(SeEval *ev, const SeExpr *x)
{
	JsonbParseState *state = NULL;
	JsonbValue *list = se_eval_path_array(ev, x->path);
	Jsonb *root = ev->root;
	int index = ev->index;
	int n = 0;
	JvIter i;

	if (jv_count(list) == 0)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	jv_iter_init(&i, list);
	while (jv_iter_next(&i))
	{
		JsonbValue *v;

		ev->root = jv_to_jsonb(&i.value);
		ev->index = i.index + 1;
		v = se_eval(ev, x->items[0]);
		if (ev->status != SE_RENDER_OK)
			return NULL;
		if (jv_is_null(v))
			continue;
		jv_push_value(&state, false, v);
		n++;
	}
	ev->root = root;
	ev->index = index;
	return n > 0 ? finish(&state, WJB_END_ARRAY) : NULL;
}

static JsonbValue *
eval_text(SeEval *ev, const SeExpr *x, bool missing_is_empty)
{
	StringInfoData buf;
	int i;

	initStringInfo(&buf);
	for (i = 0; i < x->nitems; i++)
	{
		char *part = jv_text(se_eval(ev, x->items[i]));

		if (ev->status != SE_RENDER_OK || (part == NULL && !missing_is_empty))
			return NULL;
		appendStringInfoString(&buf, part ? part : "");
	}
	return jv_string(buf.data);
}

static JsonbValue *
eval_merge(SeEval *ev, const SeExpr *x)
{
	JsonbParseState *state = NULL;
	int i;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < x->nitems; i++)
	{
		JsonbValue *v = se_eval(ev, x->items[i]);
		JvIter it;

		if (ev->status != SE_RENDER_OK)
			return NULL;
		if (jv_is_null(v))
			continue;
		jv_iter_init(&it, v);
		/* The builder keeps the last of several equal keys. */
		while (JV_IS_OBJECT(v) && jv_iter_next(&it))
		{
			JsonbValue *member = palloc(sizeof(JsonbValue));

			*member = it.value;
			jv_push_member(&state, it.key, member);
		}
	}
	return finish(&state, WJB_END_OBJECT);
}

static JsonbValue *
eval_append(SeEval *ev, const SeExpr *x)
{
	JsonbParseState *state = NULL;
	int i, n = 0;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < x->nitems; i++)
	{
		JsonbValue *v = se_eval(ev, x->items[i]);
		JvIter it;

		if (ev->status != SE_RENDER_OK)
			return NULL;
		jv_iter_init(&it, JV_IS_ARRAY(v) ? v : NULL);
		for (; jv_iter_next(&it); n++)
		{
			JsonbValue *item = palloc(sizeof(JsonbValue));

			*item = it.value;
			jv_push_value(&state, false, item);
		}
	}
	return n > 0 ? finish(&state, WJB_END_ARRAY) : NULL;
}

static JsonbValue *
numeric_value(Numeric n)
{
	JsonbValue *v = palloc0(sizeof(JsonbValue));

	v->type = jbvNumeric;
	v->val.numeric = n;
	return v;
}

/* Sum, least or greatest of all numbers found; a text that holds a number is one. */
static JsonbValue *
eval_fold(SeEval *ev, const SeExpr *x)
{
	Numeric total = x->kind == SE_X_SUM ? int64_to_numeric(0) : NULL;
	int i;

	for (i = 0; i < x->nitems; i++)
	{
		JvIter it;

		jv_iter_init(&it, se_eval_path_array(ev, x->items[i]->path));
		while (jv_iter_next(&it))
		{
			char *text = jv_text(&it.value);
			char plain[400];
			Datum n;

			if (text == NULL)
				continue;
			if (se_decimal_shift(text, 0, false, plain, sizeof(plain)) != SE_SHIFT_OK)
			{
				ev->at = x->items[i]->at;
				se_eval_fail(ev, "not_a_number", "value \"%s\" is not a number", text);
				return NULL;
			}
			n = NumericGetDatum(jv_numeric(plain)->val.numeric);
			if (x->items[i]->negated)
				n = DirectFunctionCall1(numeric_uminus, n);
			if (total == NULL)
				total = DatumGetNumeric(n);
			else
				total = DatumGetNumeric(DirectFunctionCall2(x->kind == SE_X_SUM	  ? numeric_add
															: x->kind == SE_X_MIN ? numeric_smaller
																				  : numeric_larger,
															NumericGetDatum(total), n));
		}
	}
	return total ? numeric_value(total) : NULL;
}

static bool
later_of(SeEval *ev, JsonbValue *v, TimestampTz *latest, bool *any)
{
	char *text = jv_text(v);
	TimestampTz at;
	JvIter it;

	if (JV_IS_ARRAY(v))
	{
		jv_iter_init(&it, v);
		while (jv_iter_next(&it))
			if (!later_of(ev, &it.value, latest, any))
				return false;
		return true;
	}
	if (text == NULL)
		return true;
	if (!se_parse_time(text, &at))
	{
		se_eval_fail(ev, "not_a_time", "\"%s\" is no ISO 8601 time", text);
		return false;
	}
	if (!*any || at > *latest)
		*latest = at;
	*any = true;
	return true;
}

static JsonbValue *
eval_latest(SeEval *ev, const SeExpr *x)
{
	TimestampTz latest = 0;
	bool any = false;
	int i;

	for (i = 0; i < x->nitems; i++)
		if (!later_of(ev, se_eval(ev, x->items[i]), &latest, &any))
			return NULL;
	return any ? jv_string(se_format_time(latest)) : NULL;
}

static JsonbValue *
eval_kind(SeEval *ev, const SeExpr *x)
{
	JsonbValue *v;
	int i;

	switch (x->kind)
	{
		case SE_X_CONST:
			return x->constant;
		case SE_X_PATH:
			return se_eval_value(ev, x->path);
		case SE_X_INDEX:
			return jv_int(ev->index);
		case SE_X_TEXT:
			return eval_text(ev, x, false);
		case SE_X_CONCAT:
			return eval_text(ev, x, true);
		case SE_X_OBJECT:
			return eval_object(ev, x);
		case SE_X_ARRAY:
			return eval_array(ev, x);
		case SE_X_EACH:
			return eval_each(ev, x);
		case SE_X_IF:
			i = se_eval_predicate(ev, x->path) ? 0 : 1;
			return x->items[i] ? se_eval(ev, x->items[i]) : NULL;
		case SE_X_FIRST:
			for (i = 0; i < x->nitems; i++)
			{
				v = se_eval(ev, x->items[i]);
				if (!jv_is_null(v) || ev->status != SE_RENDER_OK)
					return v;
			}
			return NULL;
		case SE_X_MERGE:
			return eval_merge(ev, x);
		case SE_X_APPEND:
			return eval_append(ev, x);
		case SE_X_SUM:
		case SE_X_MIN:
		case SE_X_MAX:
			return eval_fold(ev, x);
		case SE_X_LATEST:
			return eval_latest(ev, x);
		case SE_X_VALUE:
			return se_eval(ev, x->items[0]);
	}
	return NULL;
}

JsonbValue *
se_eval(SeEval *ev, const SeExpr *x)
{
	JsonbValue *v;

	if (ev->status != SE_RENDER_OK)
		return NULL;
	check_stack_depth();
	ev->at = x->at;
	v = eval_kind(ev, x);
	if (ev->status == SE_RENDER_OK && x->opt)
		v = se_apply_options(ev, x, v);
	return ev->status == SE_RENDER_OK ? v : NULL;
}

char *
se_eval_text(SeEval *ev, const SeExpr *x)
{
	return x ? jv_text(se_eval(ev, x)) : NULL;
}

bool
se_eval_time(SeEval *ev, const SeExpr *x, TimestampTz *at)
{
	char *text = se_eval_text(ev, x);

	if (text == NULL)
		return false;
	if (se_parse_time(text, at))
		return true;
	ev->at = x->at;
	se_eval_fail(ev, "not_a_time", "\"%s\" is no ISO 8601 time", text);
	return false;
}
