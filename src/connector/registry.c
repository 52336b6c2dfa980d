/*
 * registry.c
 *		SQL access to manifests: checking them, trying them out.
 *
 * The test functions are pure: they compile the manifest they are given, touch
 * no table and send nothing, so that a manifest can be written and tested in
 * psql.
 */
#include "postgres.h"

#include "connector/show.h"
#include "core/errors.h"
#include "fmgr.h"
#include "utils/builtins.h"

extern PGDLLEXPORT Datum se_check_manifest(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_test_render(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_test_map(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_test_answer(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_test_page(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_test_auth(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_test_count(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_check_manifest);
PG_FUNCTION_INFO_V1(se_test_render);
PG_FUNCTION_INFO_V1(se_test_map);
PG_FUNCTION_INFO_V1(se_test_answer);
PG_FUNCTION_INFO_V1(se_test_page);
PG_FUNCTION_INFO_V1(se_test_auth);
PG_FUNCTION_INFO_V1(se_test_count);

/* ---- references out of a jsonb: {"customer": {"<key>": "<other id>" | {"id": …, "raw": {…}}}} ---- */

static JsonbValue *
find_ref(Jsonb *refs, const char *object, const char *by, const char *key)
{
	JsonbValue *pairs =
		refs ? jv_get(jv_from_jsonb(refs), by ? psprintf("%s.%s", object, by) : object) : NULL;

	return jv_get(pairs, key);
}

static bool
test_to_remote(void *arg, const char *object, const char *by, const char *key, bool want_raw,
			   char **remote_id, Jsonb **raw)
{
	JsonbValue *hit = find_ref(arg, object, by, key);

	if (hit == NULL)
		return false;
	*remote_id = JV_IS_OBJECT(hit) ? jv_get_text(hit, "id") : jv_text(hit);
	if (want_raw && jv_get(hit, "raw"))
		*raw = jv_to_jsonb(jv_get(hit, "raw"));
	return true;
}

static bool
test_to_ours(void *arg, const char *object, const char *by, const char *remote_id, char **record_id)
{
	JsonbValue *hit = find_ref(arg, object, by, remote_id);

	if (hit == NULL)
		return false;
	*record_id = jv_text(hit);
	return true;
}

/* ---- finding things ---- */

static Jsonb *
arg_jsonb(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_JSONB_P(n);
}

static SeManifest *
arg_manifest(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("manifest is null"),
						errhint("Give a manifest as jsonb; table sync.connector holds those that "
								"are registered.")));
	return se_manifest_compile(PG_GETARG_JSONB_P(0), CurrentMemoryContext);
}

static const SeManifestObject *
arg_object(FunctionCallInfo fcinfo, const SeManifest *m)
{
	char *name = PG_ARGISNULL(1) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	const SeManifestObject *o = se_manifest_object(m, name);

	if (o == NULL)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_OBJECT),
						errmsg("connector \"%s\" has no object \"%s\"", m->name, name)));
	return o;
}

static const SePull *
arg_pull(FunctionCallInfo fcinfo, const SeManifest *m)
{
	const SeManifestObject *o = arg_object(fcinfo, m);

	if (o->pull == NULL)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_OBJECT),
						errmsg("connector \"%s\" cannot pull \"%s\"", m->name, o->name)));
	return o->pull;
}

static const SeOperation *
find_operation(const SeManifest *m, const SeManifestObject *o, const char *name)
{
	const SeOperation *op = se_object_operation(o, name);

	if (op == NULL && o->pull)
	{
		SeOperation *const reads[] = {o->pull->list, o->pull->events, o->pull->fetch, o->pull->more,
									  o->pull->count};
		int i;

		for (i = 0; i < lengthof(reads); i++)
			if (reads[i] && strcmp(reads[i]->name, name) == 0)
				op = reads[i];
	}
	if (op == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("object \"%s\" of connector \"%s\" has no operation \"%s\"", o->name,
							   m->name, name)));
	return op;
}

static SeAnswer *
make_answer(int status, Jsonb *headers, char *body)
{
	SeAnswer *a = palloc0(sizeof(SeAnswer));
	char *error;
	JvIter i;

	a->status = status;
	jv_iter_init(&i, headers ? jv_from_jsonb(headers) : NULL);
	while (jv_iter_next(&i))
	{
		SeHeader *h = palloc(sizeof(SeHeader));

		h->name = i.key;
		h->value = jv_text(&i.value);
		a->headers = lappend(a->headers, h);
	}
	a->body = body ? body : "";
	a->body_len = strlen(a->body);
	a->json = se_parse_json(a->body, a->body_len, &error);
	return a;
}

/* ---- functions ---- */

/* sync._check_manifest(jsonb) → {"name", "version", "hosts", "objects", …} or an error */
Datum
se_check_manifest(PG_FUNCTION_ARGS)
{
	SeManifest *m = arg_manifest(fcinfo);
	JsonbParseState *state = se_show_begin();
	ListCell *lc;

	se_show_text(&state, "name", m->name);
	se_show_text(&state, "version", m->version);
	se_show_text(&state, "title", m->title);
	jv_push_key(&state, "objects");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, m->objects)
	{
		SeManifestObject *o = lfirst(lc);
		JsonbParseState *one = se_show_begin();

		jv_push_member(&one, "financial", jv_bool(o->financial));
		jv_push_member(&one, "push", jv_bool(o->can_push));
		jv_push_member(&one, "pull", jv_bool(o->pull != NULL));
		se_show_jsonb(&state, o->name, se_show_end(&one));
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	PG_RETURN_JSONB_P(se_show_end(&state));
}

/* ---- batches: an array of contexts in place of one ---- */

static const SeBatch *
arg_batch(const SeManifestObject *o, const SeOperation *op)
{
	if (op->batch == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("operation \"%s\" of object \"%s\" has no batch", op->name, o->name)));
	return op->batch;
}

/* The items of the contexts that can travel together; each context must render. */
static SeBatchItem *
make_items(const SeManifest *m, const SeOperation *op, JsonbValue *contexts, const SeRefs *refs)
{
	SeBatchItem *items = palloc(sizeof(SeBatchItem) * (jv_count(contexts) + 1));
	JvIter i;

	jv_iter_init(&i, contexts);
	while (jv_iter_next(&i))
	{
		Jsonb *ctx = jv_to_jsonb(&i.value);
		SeRendered r;

		se_render(m, op, ctx, refs, &r);
		if (r.status != SE_RENDER_OK ||
			!se_batch_item(m, op, ctx, &r.request, psprintf("key-%d", i.index + 1), refs,
						   &items[i.index]))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("context %d makes no item of a batch", i.index + 1),
							r.message ? errdetail("%s", r.message) : 0));
	}
	return items;
}

static Jsonb *
test_batch(const SeManifest *m, const SeManifestObject *o, const SeOperation *op, Jsonb *contexts,
		   const SeRefs *refs)
{
	JsonbValue *c = jv_from_jsonb(contexts);
	const SeBatch *batch = arg_batch(o, op);
	SeBatchItem *items = make_items(m, op, c, refs);
	Jsonb *vars =
		jv_count(c) > 0 ? jv_to_jsonb(getIthJsonbValueFromContainer(c->val.binary.data, 0)) : NULL;
	SeRendered r;

	se_batch_render(m, batch, vars, items, jv_count(c), &r);
	return se_rendered_json(&r);
}

/*
 * sync.test_render(manifest, object, operation, context, refs). Operations of
 * the pull are list (context: {"cursor": …, "param": …}), fetch ({"id": …})
 * and more ({"record": …}). An array of contexts makes a batch.
 */
Datum
se_test_render(PG_FUNCTION_ARGS)
{
	SeManifest *m = arg_manifest(fcinfo);
	const SeManifestObject *o = arg_object(fcinfo, m);
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	Jsonb *ctx = arg_jsonb(fcinfo, 3);
	JsonbValue *c = ctx ? jv_from_jsonb(ctx) : NULL;
	SeRefs refs = {test_to_remote, test_to_ours, arg_jsonb(fcinfo, 4)};
	SeRendered r;

	if (se_object_operation(o, name) == NULL && o->pull && strcmp(name, "list") == 0)
		se_list_request(m, o->pull, jv_get(c, "cursor") ? jv_to_jsonb(jv_get(c, "cursor")) : NULL,
						ctx, &r, NULL);
	else if (se_object_operation(o, name) == NULL && o->pull && o->pull->fetch &&
			 strcmp(name, "fetch") == 0)
		se_fetch_request(m, o->pull, jv_get_text(c, "id") ? jv_get_text(c, "id") : "", ctx, &r);
	else if (se_object_operation(o, name) == NULL && o->pull && o->pull->more &&
			 strcmp(name, "more") == 0)
		se_more_request(m, o->pull, jv_to_jsonb(jv_get(c, "record")), ctx, &r);
	else if (JV_IS_ARRAY(c))
		PG_RETURN_JSONB_P(test_batch(m, o, find_operation(m, o, name), ctx, &refs));
	else
		se_render(m, find_operation(m, o, name), ctx ? ctx : jv_to_jsonb(NULL), &refs, &r);
	PG_RETURN_JSONB_P(se_rendered_json(&r));
}

/* sync.test_map(manifest, object, record, vars, refs) */
Datum
se_test_map(PG_FUNCTION_ARGS)
{
	SeManifest *m = arg_manifest(fcinfo);
	const SePull *pull = arg_pull(fcinfo, m);
	SeRefs refs = {test_to_remote, test_to_ours, arg_jsonb(fcinfo, 4)};
	SeMapped r;

	se_map_record(m, pull, arg_jsonb(fcinfo, 2), arg_jsonb(fcinfo, 3), &refs, &r);
	PG_RETURN_JSONB_P(se_mapped_json(&r));
}

/* The verdict on each item, and what is read from its part of the answer. */
static void
add_parts(JsonbParseState **state, const SeManifest *m, const SeOperation *op, const SeAnswer *a,
		  JsonbValue *contexts)
{
	int n = jv_count(contexts);
	SeRefs refs = {test_to_remote, test_to_ours, NULL};
	SeBatchItem *items = make_items(m, op, contexts, &refs);
	char **matches = palloc(sizeof(char *) * (n + 1));
	SeAnswer *parts = palloc(sizeof(SeAnswer) * (n + 1));

	for (int i = 0; i < n; i++)
		matches[i] = items[i].match;
	se_show_text(state, "error", se_batch_split(m, op->batch, a, matches, n, parts));
	jv_push_key(state, "items");
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		JsonbParseState *one = se_show_begin();
		Jsonb *ctx = jv_to_jsonb(getIthJsonbValueFromContainer(contexts->val.binary.data, i));
		SeVerdict v;
		SeExtract x;

		se_batch_classify(m, op, &parts[i], &v);
		se_show_verdict(&one, &v);
		if (v.outcome == SE_DONE)
		{
			se_extract(m, op, &parts[i], ctx, &x);
			se_show_extract(&one, &x);
		}
		jv_push_value(state, false, jv_from_jsonb(se_show_end(&one)));
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/*
 * sync.test_answer(manifest, object, operation, status, headers, body, context). An array of contexts
 * stands for the batch that was answered.
 */
Datum
se_test_answer(PG_FUNCTION_ARGS)
{
	SeManifest *m = arg_manifest(fcinfo);
	const SeOperation *op = NULL;
	JsonbParseState *state = se_show_begin();
	SeVerdict v;
	SeExtract x;
	SeAnswer *a;
	JsonbValue *contexts;

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2))
		op = find_operation(m, arg_object(fcinfo, m), text_to_cstring(PG_GETARG_TEXT_PP(2)));
	a = make_answer(PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3), arg_jsonb(fcinfo, 4),
					PG_ARGISNULL(5) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(5)));
	contexts = PG_ARGISNULL(6) ? NULL : jv_from_jsonb(PG_GETARG_JSONB_P(6));
	if (op && JV_IS_ARRAY(contexts))
	{
		se_classify(m, &arg_batch(arg_object(fcinfo, m), op)->whole, a, &v);
		se_show_verdict(&state, &v);
		if (v.outcome == SE_DONE)
			add_parts(&state, m, op, a, contexts);
		PG_RETURN_JSONB_P(se_show_end(&state));
	}
	se_classify(m, op, a, &v);
	se_show_verdict(&state, &v);
	if (op && v.outcome == SE_DONE)
	{
		se_extract(m, op, a, arg_jsonb(fcinfo, 6), &x);
		se_show_extract(&state, &x);
	}
	PG_RETURN_JSONB_P(se_show_end(&state));
}

/* sync.test_page(manifest, object, cursor, status, headers, body, vars) */
Datum
se_test_page(PG_FUNCTION_ARGS)
{
	SeManifest *m = arg_manifest(fcinfo);
	const SePull *pull = arg_pull(fcinfo, m);
	SeAnswer *a = make_answer(PG_ARGISNULL(3) ? 200 : PG_GETARG_INT32(3), arg_jsonb(fcinfo, 4),
							  PG_ARGISNULL(5) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(5)));
	JsonbParseState *state = se_show_begin();
	ListCell *lc;
	SePage page;

	se_list_page(m, pull, a, arg_jsonb(fcinfo, 2), arg_jsonb(fcinfo, 6), &page);
	se_show_text(&state, "error", page.error);
	jv_push_key(&state, "items");
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, page.items)
		jv_push_value(&state, false, jv_from_jsonb(se_page_item_json(lfirst(lc))));
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	se_show_jsonb(&state, "next", page.next);
	jv_push_member(&state, "last", jv_bool(page.last));
	jv_push_member(&state, "full", jv_bool(page.full));
	PG_RETURN_JSONB_P(se_show_end(&state));
}

/* sync.test_count(manifest, object, status, headers, body, vars) */
Datum
se_test_count(PG_FUNCTION_ARGS)
{
	SeManifest *m = arg_manifest(fcinfo);
	const SePull *pull = arg_pull(fcinfo, m);
	Jsonb *vars = arg_jsonb(fcinfo, 5);
	SeAnswer *a = make_answer(PG_ARGISNULL(2) ? 200 : PG_GETARG_INT32(2), arg_jsonb(fcinfo, 3),
							  PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4)));
	JsonbParseState *state = se_show_begin();
	SeRendered request = {0};
	SeCount told;

	if (pull->count == NULL)
		ereport(ERROR, (errcode(SE_ERRCODE_BAD_MANIFEST),
						errmsg("the manifest says nothing of how many records there are"),
						errhint("Member \"count\" of the object's \"pull\" does.")));
	se_count_request(m, pull, vars, &request);
	se_show_jsonb(&state, "request", se_rendered_json(&request));
	se_count_read(m, pull, a, vars, &told);
	se_show_text(&state, "error", told.error);
	if (told.error == NULL)
		jv_push_member(&state, "count", jv_int(told.count));
	se_show_jsonb(&state, "amounts", told.amounts);
	PG_RETURN_JSONB_P(se_show_end(&state));
}

static const char *
test_secret(void *arg, const char *name, char **error)
{
	char *value = jv_get_text(jv_from_jsonb(arg), name);

	if (value == NULL)
		*error = psprintf("secret \"%s\" is not set", name);
	return value;
}

/* sync.test_auth(manifest, secrets, param, login_answer): with made-up secrets only */
Datum
se_test_auth(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"ok", "need_login", "failed"};
	SeManifest *m = arg_manifest(fcinfo);
	SeSecrets secrets = {test_secret, PG_ARGISNULL(1) ? jv_to_jsonb(NULL) : PG_GETARG_JSONB_P(1)};
	Jsonb *param = arg_jsonb(fcinfo, 2);
	JsonbParseState *state = se_show_begin();
	SeSession session = {0};
	SeRendered login = {0};
	SeVerdict v;
	List *headers;
	char *error;
	char *body = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));

	if (se_login_request(m, &secrets, param, &login.request, &error))
		se_show_jsonb(&state, "login", se_rendered_json(&login));
	if (body && !se_login_answer(m, make_answer(200, NULL, body), &session, &v, &error))
		se_show_text(&state, "login_error", error);
	se_show_text(&state, "status",
				 names[se_auth_headers(m, &session, &secrets, param, &headers, &error)]);
	se_show_text(&state, "error", error);
	se_show_jsonb(&state, "headers", se_headers_json(headers));
	se_session_expire(&session);
	PG_RETURN_JSONB_P(se_show_end(&state));
}
