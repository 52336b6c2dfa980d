/*
 * map.c
 *		Remote record → canonical fields and lines.
 */
#include "postgres.h"

#include "connector/expr.h"

/* Fields in canonical terms; what the record does not hold is null, unless told to be left out. */
static JsonbValue *
map_fields(SeEval *ev, List *fields)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, fields)
	{
		SeNamedExpr *n = lfirst(lc);
		JsonbValue *v = se_eval(ev, n->expr);
		SeOmit omit = n->expr->opt ? n->expr->opt->omit : SE_OMIT_DEFAULT;

		if (ev->status != SE_RENDER_OK)
			return NULL;
		if ((v == NULL || v->type == jbvNull) && (omit == SE_OMIT_NULL || omit == SE_OMIT_EMPTY))
			continue;
		if (omit == SE_OMIT_EMPTY && v->type == jbvString && v->val.string.len == 0)
			continue;
		jv_push_member(&state, n->name, v);
	}
	return jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

static Jsonb *
map_lines(SeEval *ev, const SeRecordSpec *spec)
{
	JsonbParseState *state = NULL;
	Jsonb *record = ev->root;
	JvIter i;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	jv_iter_init(&i, se_eval_path_array(ev, spec->lines));
	while (jv_iter_next(&i))
	{
		JsonbValue *line;

		ev->root = jv_to_jsonb(&i.value);
		ev->index = i.index + 1;
		if (spec->line_skip && se_eval_predicate(ev, spec->line_skip))
			continue;
		line = map_fields(ev, spec->line_fields);
		if (ev->status != SE_RENDER_OK)
			return NULL;
		jv_push_value(&state, false, line);
	}
	ev->root = record;
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

/* A record that breaks the contract is not mapped at all: what fits of it may mean something else by now. */
static bool
keeps_contract(SeEval *ev, const SePull *pull, SeMapped *out)
{
	if (pull->contract == NULL || se_contract_check(pull->contract, ev->root, &out->drift))
		return true;
	ev->at = psprintf("contract %s", pull->contract_version);
	se_eval_fail(ev, "contract", "%s: expected %s, got %s",
				 out->drift.path[0] ? out->drift.path : "the record", out->drift.expected,
				 out->drift.got);
	return false;
}

static void
map_record(SeEval *ev, const SePull *pull, SeMapped *out)
{
	const SeRecordSpec *spec = pull->record;

	out->remote_id = se_eval_text(ev, spec->id);
	if (ev->status == SE_RENDER_OK && (out->remote_id == NULL || out->remote_id[0] == '\0'))
	{
		ev->at = spec->id->at;
		se_eval_fail(ev, "no_id", "the record has no id");
	}
	if (ev->status != SE_RENDER_OK)
		return;
	out->remote_number = se_eval_text(ev, spec->number);
	out->version = se_eval_text(ev, spec->version);
	if (spec->version_at)
		out->has_version_at = se_eval_time(ev, spec->version_at, &out->version_at);
	out->our_id = se_eval_text(ev, spec->our_id);
	out->merged_into = se_eval_text(ev, spec->merged_into);
	out->deleted = spec->deleted && se_eval_predicate(ev, spec->deleted);
	if (out->deleted || ev->status != SE_RENDER_OK)
		return;
	if (spec->skip && se_eval_predicate(ev, spec->skip))
	{
		out->status = SE_MAP_SKIP;
		return;
	}
	if (!keeps_contract(ev, pull, out))
		return;
	out->fields = jv_to_jsonb(map_fields(ev, spec->fields));
	if (spec->lines && ev->status == SE_RENDER_OK)
		out->lines = map_lines(ev, spec);
}

void
se_map_record(const SeManifest *m, const SePull *pull, Jsonb *record, Jsonb *vars,
			  const SeRefs *refs, SeMapped *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	se_eval_init(&ev, m, record, se_make_vars(vars, record, NULL, NULL));
	ev.inbound = true;
	ev.refs = refs;
	PG_TRY();
	{
		map_record(&ev, pull, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();

	out->settled = ev.status == SE_RENDER_OK && !ev.unsettled;
	if (ev.status == SE_RENDER_OK)
		return;
	out->status = ev.status == SE_RENDER_WAIT ? SE_MAP_WAIT : SE_MAP_INVALID;
	out->fields = out->lines = NULL;
	out->wait_object = ev.wait_object;
	out->wait_remote_id = ev.wait_key;
	out->wait_by = ev.wait_by;
	out->wait_fetch = ev.wait_fetch;
	out->code = ev.code;
	out->reason = ev.message;
	if (out->status == SE_MAP_INVALID && out->drift.path == NULL)
	{
		size_t len = strlen(ev.at);

		out->drift.path = pstrdup(ev.at);
		out->drift.kind = "mapping";
		out->drift.got = ev.message;
		/* The message begins with the place. */
		if (strncmp(ev.message, ev.at, len) == 0 && strncmp(ev.message + len, ": ", 2) == 0)
			out->drift.got += len + 2;
	}
}
