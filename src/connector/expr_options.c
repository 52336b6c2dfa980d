/*
 * expr_options.c
 *		Options of an expression: default, enum map, reference, casts, required.
 */
#include "postgres.h"

#include <ctype.h>

#include "connector/expr.h"

/* The list is the enum's; "*" stands for everything not named. */
static JsonbValue *
apply_map(SeEval *ev, const SeExpr *x, JsonbValue *v)
{
	const SeEnum *e = x->opt->map;
	char *text = jv_text(v);
	JsonbValue *pairs = ev->inbound ? e->pull : e->push;
	JsonbValue *hit = jv_get(pairs, text);

	if (hit == NULL)
		hit = jv_get(pairs, "*");
	if (hit == NULL)
		se_eval_fail(ev, "unknown_value", "value \"%s\" is not in enum \"%s\"", text, e->name);
	return hit;
}

static void
wait_for(SeEval *ev, const SeExpr *x, const char *key, bool bound)
{
	const SeOptions *opt = x->opt;

	ev->status = SE_RENDER_WAIT;
	ev->code = pstrdup("waiting");
	ev->wait_object = pstrdup(opt->ref);
	ev->wait_key = pstrdup(key);
	ev->wait_by = opt->by ? pstrdup(opt->by) : NULL;
	ev->wait_state = opt->state_text ? pstrdup(opt->state_text) : NULL;
	ev->wait_fetch = opt->ref_fetch;
	ev->message = psprintf("%s: waits for %s %s to be %s", x->at, opt->ref, key,
						   bound ? opt->state_text : "bound");
}

static bool
in_state(SeEval *ev, const SeOptions *opt, Jsonb *raw)
{
	SeEval inner;
	char *state;
	ListCell *lc;

	if (raw == NULL)
		return false;
	se_eval_init(&inner, ev->m, raw, ev->vars);
	state = jv_text(se_eval_value(&inner, opt->state_path));
	foreach (lc, opt->state_in)
		if (state && strcmp(state, lfirst(lc)) == 0)
			return true;
	return false;
}

/* A part of the referenced remote record; until we have seen that record, wait. */
static JsonbValue *
read_raw(SeEval *ev, const SeExpr *x, const char *key, Jsonb *raw)
{
	SeEval inner;
	Jsonb *found = NULL;

	if (raw)
	{
		se_eval_init(&inner, ev->m, raw, ev->vars);
		found = se_eval_path(&inner, x->opt->ref_read);
	}
	else
	{
		wait_for(ev, x, key, true);
		ev->wait_state = pstrdup("read back");
		ev->message = psprintf("%s: waits for %s %s to be read back", x->at, x->opt->ref, key);
	}
	return jv_from_jsonb(found);
}

static JsonbValue *
apply_ref(SeEval *ev, const SeExpr *x, JsonbValue *v)
{
	const SeOptions *opt = x->opt;
	char *key = jv_text(v);
	char *found = NULL;
	Jsonb *raw = NULL;
	bool bound;

	if (ev->refs == NULL)
	{
		se_eval_fail(ev, "no_references", "references cannot be resolved here");
		return NULL;
	}
	ev->in_callback = true;
	if (ev->inbound)
		bound = ev->refs->to_ours(ev->refs->arg, opt->ref, opt->by, key, &found);
	else
		bound = ev->refs->to_remote(ev->refs->arg, opt->ref, opt->by, key,
									opt->state_path || opt->ref_read, &found, &raw);
	ev->in_callback = false;
	ev->unsettled |= !bound || opt->by != NULL;
	if (!bound && opt->unbound_null)
		return NULL;
	if (!bound || (opt->state_path && !ev->inbound && !in_state(ev, opt, raw)))
	{
		wait_for(ev, x, key, bound);
		return NULL;
	}
	if (opt->ref_read && !ev->inbound)
		return read_raw(ev, x, key, raw);
	return jv_string(found);
}

/* ---- answers that are still to come ---- */

/* Does an expression read this member of the context, as $.response.id reads response? */
static bool
reads_member(const SeExpr *x, const char *member)
{
	JsonPathItem item;
	JsonPathItem key;
	char *name;
	int32 len;

	if (x->kind != SE_X_PATH)
		return false;
	jspInit(&item, x->path);
	if ((item.type != jpiRoot && item.type != jpiVariable) || !jspGetNext(&item, &key) ||
		key.type != jpiKey)
		return false;
	name = jspGetString(&key, &len);
	return (size_t) len == strlen(member) && memcmp(name, member, len) == 0;
}

bool
se_is_to_come(const SeEval *ev, const SeExpr *x)
{
	return ev->ahead && (reads_member(x, "response") || reads_member(x, "remote"));
}

/* <currency_id> of /define/currency_id/$: the last word of where it stands in the manifest. */
JsonbValue *
se_name_to_come(SeEval *ev, const SeExpr *x)
{
	const char *end = x->at + strlen(x->at);
	const char *name;

	ev->named = true;
	if (reads_member(x, "remote"))
		return jv_string(pstrdup("<remote id>"));
	do
	{
		for (name = end; name > x->at && name[-1] != '/'; name--)
			;
		if (isalpha((unsigned char) *name))
			return jv_string(psprintf("<%.*s>", (int) (end - name), name));
		end = name - 1;
	} while (end > x->at);
	return jv_string(pstrdup("<answer>"));
}

JsonbValue *
se_apply_options(SeEval *ev, const SeExpr *x, JsonbValue *v)
{
	const SeOptions *opt = x->opt;

	if (jv_is_null(v) && opt->default_value)
		v = se_eval(ev, opt->default_value);
	ev->at = x->at;
	if (ev->status == SE_RENDER_OK && !jv_is_null(v) && opt->map)
		v = apply_map(ev, x, v);
	if (ev->status == SE_RENDER_OK && !jv_is_null(v) && opt->ref)
		v = apply_ref(ev, x, v);
	if (ev->status == SE_RENDER_OK && opt->ncasts > 0)
		v = se_apply_casts(ev, x, v);
	if (ev->status == SE_RENDER_OK && opt->required && jv_is_empty(v) && se_is_to_come(ev, x))
		v = se_name_to_come(ev, x);
	else if (ev->status == SE_RENDER_OK && opt->required && jv_is_empty(v))
		se_eval_fail(ev, "required", "a value is required");
	return ev->status == SE_RENDER_OK ? v : NULL;
}
