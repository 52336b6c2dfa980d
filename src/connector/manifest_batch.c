/*
 * manifest_batch.c
 *		The "batch" of an operation: the endpoint that takes several records.
 */
#include "postgres.h"

#include "connector/expr.h"

#define DEFAULT_MAX_BYTES (1024 * 1024)

static const char *const item_variables[] = {"request", "key", NULL};
static const char *const body_variables[] = {"items", NULL};

/* "$items" must stand in the body once, as a value of its own: the items are put there as text. */
static void
check_body(const char *at, JsonbValue *body)
{
	static const char word[] = "\"$items\"";
	char *text = jv_json(body);
	char *first = strstr(text, word);

	if (first == NULL || strstr(first + 1, word) != NULL)
		se_bad_manifest(se_pointer(at, "body"), "must hold \"$items\" once");
}

static SeExpr *
compile_with(SeCompiler *c, const char *const *variables, const char *at, JsonbValue *node,
			 const char *key)
{
	SeExpr *x;

	c->own_variables = variables;
	x = se_compile_expr_of(c, at, node, key);
	c->own_variables = NULL;
	return x;
}

static void
compile_answers(SeCompiler *c, SeBatchSpec *spec, const char *at, JsonbValue *node,
				const SeOperation *op)
{
	SeClassifySpec *own = se_compile_rules(c, se_pointer(at, "outcomes"), jv_get(node, "outcomes"));

	spec->ours = compile_with(c, item_variables, at, node, "ours");
	spec->items = se_compile_expr_of(c, at, node, "items");
	spec->theirs = se_compile_expr_of(c, at, node, "theirs");
	spec->status = se_compile_expr_of(c, at, node, "status");
	spec->answer = se_compile_expr_of(c, at, node, "answer");
	if ((spec->ours == NULL) != (spec->theirs == NULL))
		se_bad_manifest(at, "\"ours\" and \"theirs\" go together");
	/* An item's answer is one of the operation, so the operation's rules hold for it, too. */
	own->rules = list_concat(own->rules, op->classify->rules);
	spec->classify = own;
}

/*
 * What comes next is each record's own matter. And the manifest's rules do not see a good status: one
 * that looks for an error anywhere would call a batch refused of which half took effect.
 */
static SeClassifySpec *
compile_whole_rules(SeCompiler *c, const char *at, JsonbValue *node)
{
	SeClassifySpec *spec = se_compile_rules(c, at, node);
	SeRule *good = palloc0(sizeof(SeRule));
	ListCell *lc;

	foreach (lc, spec->rules)
		if (((SeRule *) lfirst(lc))->then)
			se_bad_manifest(se_pointer(se_pointer_index(at, foreach_current_index(lc)), "then"),
							"belongs to the outcomes of \"answers\"");
	good->status_from = 200;
	good->status_to = 299;
	good->outcome = SE_DONE;
	spec->rules = lappend(spec->rules, good);
	return spec;
}

SeBatch *
se_compile_batch(SeCompiler *c, const char *at, JsonbValue *node, const SeOperation *op)
{
	SeBatch *b = palloc0(sizeof(SeBatch));
	SeBatchSpec *spec = palloc0(sizeof(SeBatchSpec));
	bool makes = op->kind == SE_OP_CREATE || op->kind == SE_OP_UPSERT;
	char *max_bytes = jv_get_text(node, "max_bytes");
	JsonbValue *keys = jv_get(node, "idempotent");

	if (!makes && op->kind != SE_OP_UPDATE && op->kind != SE_OP_DELETE)
		se_bad_manifest(at, "is for operations that create, upsert, update or delete");
	if (op->request->encoding != SE_ENC_JSON)
		se_bad_manifest(at, "is for JSON");
	check_body(at, jv_get(node, "body"));
	b->spec = spec;
	b->max_items = atoi(jv_get_text(node, "max_items"));
	b->max_bytes = max_bytes ? strtoll(max_bytes, NULL, 10) : DEFAULT_MAX_BYTES;
	b->takes_keys = keys && keys->type == jbvBool && keys->val.boolean;
	spec->item = compile_with(c, item_variables, at, node, "item");
	if (spec->item == NULL && op->request->body == NULL)
		se_bad_manifest(at, "needs \"item\", because the operation has no body");
	if (b->takes_keys && (spec->item == NULL || !op->takes_key))
		se_bad_manifest(se_pointer(at, "idempotent"),
						"needs an operation that takes keys, and \"$key\" in the item");
	if (jv_get(node, "answers"))
		compile_answers(c, spec, se_pointer(at, "answers"), jv_get(node, "answers"), op);
	else if (makes)
		se_bad_manifest(at, "needs \"answers\": where else would the remote ids come from?");
	else
		spec->classify = op->classify;
	c->own_variables = body_variables;
	b->whole.request = se_compile_request(c, at, node, SE_ENC_JSON);
	c->own_variables = NULL;
	b->whole.name = op->name;
	b->whole.kind = op->kind;
	b->whole.classify =
		compile_whole_rules(c, se_pointer(at, "outcomes"), jv_get(node, "outcomes"));
	return b;
}
