/*
 * single.c
 *		Reading one record by its remote id, and completing the lines of a record.
 */
#include "postgres.h"

#include "connector/expr.h"

static Jsonb *
with_id(Jsonb *vars, const char *id)
{
	JsonbParseState *state = NULL;
	JsonbValue *v = vars ? jv_from_jsonb(vars) : NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "id", jv_string(id));
	jv_push_member(&state, "param", jv_get(v, "param"));
	jv_push_member(&state, "entity", jv_get(v, "entity"));
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

void
se_fetch_request(const SeManifest *m, const SePull *pull, const char *remote_id, Jsonb *vars,
				 SeRendered *out)
{
	SeEval ev;

	se_eval_init(&ev, m, with_id(vars, remote_id), se_make_vars(vars, NULL, NULL, NULL));
	se_render_request(&ev, pull->fetch->request, false, out);
}

static void
read_fetched(SeEval *ev, const SePull *pull, SePageItem *out)
{
	const SeResponseSpec *spec = pull->fetch->response;
	JsonbValue *v;

	if (spec->items)
	{
		v = se_eval_list(ev, spec->items);
		out->deleted = v && jv_count(v) == 0;
		if (v == NULL || out->deleted)
			return;
		v = getIthJsonbValueFromContainer(v->val.binary.data, 0);
	}
	else
		v = spec->record ? se_eval(ev, spec->record) : jv_from_jsonb(ev->root);
	if (!JV_IS_OBJECT(v))
	{
		se_eval_fail(ev, "bad_answer", "the answer holds no record");
		return;
	}
	out->record = jv_to_jsonb(v);
	ev->root = out->record;
	out->remote_id = se_eval_text(ev, pull->record->id);
	out->deleted = pull->record->deleted && se_eval_predicate(ev, pull->record->deleted);
}

void
se_fetch_record(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *vars,
				SePageItem *out, char **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	*error = NULL;
	se_eval_init(&ev, m, a->json, se_make_vars(vars, NULL, NULL, a));
	ev.inbound = true;
	ev.at = pull->fetch->request->at;
	PG_TRY();
	{
		if (a->json == NULL)
			se_eval_fail(&ev, "bad_answer", "the answer is not JSON");
		else
			read_fetched(&ev, pull, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	*error = ev.status == SE_RENDER_OK ? NULL : ev.message;
}

/* ---- the rest of a record's lines ---- */

void
se_more_request(const SeManifest *m, const SePull *pull, Jsonb *record, Jsonb *vars,
				SeRendered *out)
{
	SeEval ev;

	if (pull->more == NULL)
	{
		memset(out, 0, sizeof(*out));
		out->status = SE_RENDER_SKIP;
		return;
	}
	se_eval_init(&ev, m, record, se_make_vars(vars, record, NULL, NULL));
	se_render_request(&ev, pull->more->request, false, out);
}

/*
 * The answer is a list of the record's own kind (items and a sign that more
 * follow): it takes the place of the record's list, with the items before it.
 */
Jsonb *
se_more_merge(const SeManifest *m, const SePull *pull, Jsonb *record, const SeAnswer *a,
			  char **error)
{
	const SeResponseSpec *spec = pull->more->response;
	JsonbValue *v = jv_from_jsonb(record);
	JsonbValue *page = a->json ? jv_from_jsonb(a->json) : NULL;
	JsonbValue *have = jv_get(jv_get(v, spec->list_key), spec->items_key);
	JsonbValue *rest = jv_get(page, spec->items_key);
	JsonbParseState *state = NULL;
	JsonbValue *parts[] = {have, rest};
	JvIter i;
	int k;

	*error = NULL;
	if (!JV_IS_ARRAY(rest) || jv_count(rest) == 0)
	{
		*error = "the answer holds no further lines";
		return NULL;
	}
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_iter_init(&i, v);
	while (jv_iter_next(&i))
	{
		JsonbValue *member = palloc(sizeof(JsonbValue));

		*member = i.value;
		if (strcmp(i.key, spec->list_key) != 0)
			jv_push_member(&state, i.key, member);
	}
	jv_push_key(&state, spec->list_key);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_iter_init(&i, page);
	while (jv_iter_next(&i))
	{
		JsonbValue *member = palloc(sizeof(JsonbValue));

		*member = i.value;
		if (strcmp(i.key, spec->items_key) != 0)
			jv_push_member(&state, i.key, member);
	}
	jv_push_key(&state, spec->items_key);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (k = 0; k < 2; k++)
	{
		jv_iter_init(&i, parts[k]);
		while (jv_iter_next(&i))
		{
			JsonbValue *item = palloc(sizeof(JsonbValue));

			*item = i.value;
			jv_push_value(&state, false, item);
		}
	}
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
