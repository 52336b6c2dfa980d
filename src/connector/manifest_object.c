/*
 * manifest_object.c
 *		The objects of a manifest: operations, plans, pulls.
 */
#include "postgres.h"

#include "connector/expr.h"

static const struct
{
	const char *name;
	SeOperationKind kind;
} kinds[] = {{"create", SE_OP_CREATE}, {"upsert", SE_OP_UPSERT}, {"update", SE_OP_UPDATE},
			 {"delete", SE_OP_DELETE}, {"lookup", SE_OP_LOOKUP}, {"verify", SE_OP_VERIFY},
			 {"action", SE_OP_ACTION}, {"read", SE_OP_READ}};

static bool
get_bool(JsonbValue *object, const char *key, bool otherwise)
{
	JsonbValue *v = jv_get(object, key);

	return v && v->type == jbvBool ? v->val.boolean : otherwise;
}

static SeOperationKind
operation_kind(const char *name, JsonbValue *node)
{
	char *said = jv_get_text(node, "kind");
	int i;

	for (i = 0; i < lengthof(kinds); i++)
		if (strcmp(kinds[i].name, said ? said : name) == 0)
			return kinds[i].kind;
	return SE_OP_ACTION;
}

static List *
compile_compare(SeCompiler *c, const char *at, JsonbValue *node)
{
	List *list = NIL;
	JvIter i;

	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
	{
		SeCompare *cmp = palloc0(sizeof(SeCompare));
		const char *here = se_pointer_index(at, i.index);
		JsonbValue *v = palloc(sizeof(JsonbValue));
		char *as;

		*v = i.value;
		as = jv_get_text(v, "as");
		cmp->name = jv_get_text(v, "name");
		cmp->remote = se_compile_expr_of(c, here, v, "remote");
		cmp->ours = se_compile_expr_of(c, here, v, "ours");
		cmp->as = as == NULL ? 't' : strcmp(as, "currency") == 0 ? 'i' : as[0];
		list = lappend(list, cmp);
	}
	return list;
}

static SeResponseSpec *
compile_response(SeCompiler *c, const char *at, JsonbValue *node, JsonbValue *compare,
				 const char *compare_at, SeOperationKind kind)
{
	SeResponseSpec *r = palloc0(sizeof(SeResponseSpec));

	r->at = at;
	r->items = se_compile_path_of(c, at, node, "items");
	r->remote_id = se_compile_expr_of(c, at, node, "remote_id");
	r->number = se_compile_expr_of(c, at, node, "number");
	r->version = se_compile_expr_of(c, at, node, "version");
	r->version_at = se_compile_expr_of(c, at, node, "version_at");
	r->record = se_compile_expr_of(c, at, node, "record");
	if (r->record == NULL && r->items)
		r->record = se_compile_expr(c, at, jv_string("$")); /* the match itself */
	r->compare = compile_compare(c, compare_at, compare);
	if (kind == SE_OP_LOOKUP && r->items == NULL)
		se_bad_manifest(at, "a lookup needs \"items\"");
	if (kind == SE_OP_VERIFY && r->compare == NIL)
		se_bad_manifest(compare_at, "is needed to verify anything");
	return r;
}

/* A key is honoured where the manifest says so by method, or the operation by itself. */
static bool
honours_key(SeCompiler *c, JsonbValue *methods, JsonbValue *node, const char *method)
{
	JvIter i;
	bool listed = false;

	if (c->m->idempotency.header == NULL)
		return false;
	jv_iter_init(&i, methods);
	while (jv_iter_next(&i))
		listed |= strcmp(jv_text(&i.value), method) == 0;
	return get_bool(node, "idempotent", listed);
}

static SeOperation *
compile_operation(SeCompiler *c, const char *at, JsonbValue *node, const char *name,
				  SeOperationKind kind, SeEncoding encoding)
{
	SeOperation *op = palloc0(sizeof(SeOperation));
	char *on_found = jv_get_text(node, "on_found");

	op->name = name;
	op->kind = kind;
	op->request = se_compile_request(c, at, node, encoding);
	op->response = compile_response(c, se_pointer(at, "response"), jv_get(node, "response"),
									jv_get(node, "compare"), se_pointer(at, "compare"), kind);
	op->classify = se_compile_rules(c, se_pointer(at, "outcomes"), jv_get(node, "outcomes"));
	op->found_updates = on_found && strcmp(on_found, "update") == 0;
	op->partial = get_bool(node, "partial", false);
	op->settle_ms = jv_get(node, "settle_time") ? se_parse_duration(se_pointer(at, "settle_time"),
																	jv_get(node, "settle_time"))
												: c->m->settle_ms;
	return op;
}

SeOperation *
se_compile_read(SeCompiler *c, const char *at, JsonbValue *node, const char *name,
				SeEncoding encoding)
{
	return node ? compile_operation(c, at, node, name, SE_OP_READ, encoding) : NULL;
}

/* ---- push ---- */

static const char *const change_names[] = {"create", "update", "delete"};

static void
check_then(SeManifestObject *o, const char *at)
{
	ListCell *lc, *lr;

	foreach (lc, o->operations)
	{
		SeOperation *op = lfirst(lc);
		/* Those for an item of a batch hold the operation's own. */
		SeClassifySpec *rules = op->batch ? op->batch->spec->classify : op->classify;

		foreach (lr, rules->rules)
		{
			const char *then = ((SeRule *) lfirst(lr))->then;

			if (then && strcmp(then, "missing") != 0 && se_object_operation(o, then) == NULL)
				se_bad_manifest(se_pointer(at, op->name), "\"then\" names no operation: \"%s\"",
								then);
		}
	}
}

static void
compile_plan(SeManifestObject *o, const char *at, JsonbValue *plan)
{
	int change;

	for (change = SE_CREATE; change <= SE_DELETE; change++)
	{
		const char *here = se_pointer(at, change_names[change]);
		JsonbValue *steps = jv_get(plan, change_names[change]);
		const SeOperation *op;
		JvIter i;

		/* Without a plan, an operation of the change's own name is the plan, or an upsert. */
		if (steps == NULL && ((op = se_object_operation(o, change_names[change])) != NULL ||
							  (change != SE_DELETE && (op = se_object_operation(o, "upsert")))))
			o->plan[change] = list_make1((void *) op);
		o->plan_empty[change] = JV_IS_ARRAY(steps) && jv_count(steps) == 0;
		jv_iter_init(&i, steps);
		while (jv_iter_next(&i))
		{
			op = se_object_operation(o, jv_text(&i.value));
			if (op == NULL)
				se_bad_manifest(se_pointer_index(here, i.index),
								"names no operation of the object");
			o->plan[change] = lappend(o->plan[change], (void *) op);
		}
	}
}

/* A money document may be posted only after it was read back and compared. */
static void
check_financial(SeManifestObject *o, const char *at)
{
	ListCell *lc;
	bool verified = false;

	foreach (lc, o->plan[SE_CREATE])
	{
		SeOperation *op = lfirst(lc);

		if (op->kind == SE_OP_VERIFY)
			verified = true;
		else if (op->kind == SE_OP_ACTION && !verified)
			se_bad_manifest(at, "a financial object needs a \"verify\" step before \"%s\"",
							op->name);
	}
}

static void
compile_push(SeCompiler *c, SeManifestObject *o, const char *at, JsonbValue *node,
			 JsonbValue *methods, SeEncoding encoding)
{
	const char *ops_at = se_pointer(at, "operations");
	char *lookup = jv_get_text(node, "lookup");
	JvIter i;

	jv_iter_init(&i, jv_get(node, "operations"));
	while (jv_iter_next(&i))
	{
		JsonbValue *v = palloc(sizeof(JsonbValue));
		SeOperation *op;

		*v = i.value;
		op = compile_operation(c, se_pointer(ops_at, i.key), v, i.key, operation_kind(i.key, v),
							   encoding);
		op->takes_key = honours_key(c, methods, v, op->request->method);
		/* Found by value it may differ; a money document of ours is as we made it. */
		if (jv_get(v, "on_found") == NULL)
			op->found_updates = !o->financial;
		op->response->mapping = o->pull ? o->pull->record : NULL;
		if (jv_get(v, "batch"))
			op->batch = se_compile_batch(c, se_pointer(se_pointer(ops_at, i.key), "batch"),
										 jv_get(v, "batch"), op);
		o->operations = lappend(o->operations, op);
	}
	o->can_push = o->operations != NIL;
	compile_plan(o, se_pointer(at, "plan"), jv_get(node, "plan"));
	check_then(o, ops_at);
	if (o->financial)
		check_financial(o, se_pointer(at, "plan"));
	o->lookup = (SeOperation *) se_object_operation(o, lookup ? lookup : "lookup");
	if (lookup && (o->lookup == NULL || o->lookup->kind != SE_OP_LOOKUP))
		se_bad_manifest(se_pointer(at, "lookup"), "names no lookup");
}

void
se_compile_objects(SeCompiler *c, JsonbValue *objects, SeEncoding encoding)
{
	JvIter i;

	jv_iter_init(&i, objects);
	while (jv_iter_next(&i))
	{
		SeManifestObject *o = palloc0(sizeof(SeManifestObject));
		JsonbValue *v = palloc(sizeof(JsonbValue));
		const char *at = se_pointer("/objects", i.key);

		*v = i.value;
		o->name = i.key;
		o->financial = get_bool(v, "financial", false);
		if (jv_get(v, "pull"))
			o->pull =
				se_compile_pull(c, se_pointer(at, "pull"), jv_get(v, "pull"), o->name, encoding);
		if (jv_get(v, "push"))
			compile_push(c, o, se_pointer(at, "push"), jv_get(v, "push"), c->methods, encoding);
		c->m->objects = lappend(c->m->objects, o);
	}
}
