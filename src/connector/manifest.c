/*
 * manifest.c
 *		Manifest → compiled manifest: the parts that belong to no object.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "connector/expr.h"
#include "connector/manifest_schema.h"
#include "connector/schema.h"
#include "core/errors.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* ---- validation against the schema ---- */

static void
check_schema(Jsonb *doc)
{
	char *text = JsonbToCString(NULL, &doc->root, VARSIZE(doc));
	SeSchemaError fault;

	if (!se_schema_check(se_manifest_schema, pg_server_to_any(text, strlen(text), PG_UTF8), &fault))
		se_bad_manifest(fault.pointer, "%s", fault.message);
}

/* ---- enums ---- */

/* ours → theirs (text, or array of which the first is written) becomes both directions. */
static void
compile_pairs(SeEnum *e, const char *at, JsonbValue *pairs)
{
	JsonbParseState *push = NULL;
	JsonbParseState *pull = NULL;
	List *seen = NIL;
	JvIter i;

	pushJsonbValue(&push, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&pull, WJB_BEGIN_OBJECT, NULL);
	jv_iter_init(&i, pairs);
	while (jv_iter_next(&i))
	{
		JsonbValue *all = palloc(sizeof(JsonbValue));
		int n, k;

		*all = i.value;
		n = JV_IS_ARRAY(all) ? jv_count(all) : 1;
		for (k = 0; k < n; k++)
		{
			JsonbValue *theirs =
				JV_IS_ARRAY(all) ? getIthJsonbValueFromContainer(all->val.binary.data, k) : all;
			char *text = jv_text(theirs);
			ListCell *lc;

			foreach (lc, seen)
				if (strcmp(lfirst(lc), text) == 0)
					se_bad_manifest(
						at, "\"%s\" stands for several values of ours: use \"push\" and \"pull\"",
						text);
			seen = lappend(seen, text);
			if (k == 0)
				jv_push_member(&push, i.key, theirs);
			jv_push_member(&pull, text, jv_string(i.key));
		}
	}
	e->push = jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&push, WJB_END_OBJECT, NULL)));
	e->pull = jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&pull, WJB_END_OBJECT, NULL)));
}

static void
compile_enums(SeCompiler *c, JsonbValue *enums)
{
	JvIter i;

	jv_iter_init(&i, enums);
	while (jv_iter_next(&i))
	{
		SeEnum *e = palloc0(sizeof(SeEnum));
		JsonbValue *v = palloc(sizeof(JsonbValue));

		*v = i.value;
		e->name = i.key;
		if (JV_IS_OBJECT(jv_get(v, "push")) || JV_IS_OBJECT(jv_get(v, "pull")))
		{
			e->push = jv_get(v, "push");
			e->pull = jv_get(v, "pull");
		}
		else
			compile_pairs(e, se_pointer("/enums", i.key), v);
		c->enums = lappend(c->enums, e);
	}
}

/* ---- requests and rules ---- */

/*
 * {"$if": …, "then": "/a/${id}", "else": "/b/${id}"}: a vendor may keep what is one object here under
 * several paths. Returns the path of the last "else".
 */
static SeExpr *
compile_target(SeCompiler *c, const char *at, JsonbValue *node, List **ways)
{
	while (JV_IS_OBJECT(node))
	{
		SeWay *way = palloc(sizeof(SeWay));

		way->when = se_compile_path_of(c, at, node, "$if");
		way->path = se_compile_text(c, se_pointer(at, "then"), jv_text(jv_get(node, "then")));
		*ways = lappend(*ways, way);
		at = se_pointer(at, "else");
		node = jv_get(node, "else");
	}
	return se_compile_text(c, at, node ? jv_text(node) : "/");
}

SeRequestSpec *
se_compile_request(SeCompiler *c, const char *at, JsonbValue *node, SeEncoding encoding)
{
	SeRequestSpec *r = palloc0(sizeof(SeRequestSpec));
	char *method = jv_get_text(node, "method");
	char *own = jv_get_text(node, "encoding");

	r->at = at;
	r->method = method ? method : "GET";
	r->path = compile_target(c, se_pointer(at, "path"), jv_get(node, "path"), &r->ways);
	r->query = se_compile_expr_of(c, at, node, "query");
	r->headers = se_compile_named(c, se_pointer(at, "headers"), jv_get(node, "headers"));
	r->body = se_compile_expr_of(c, at, node, "body");
	r->encoding = own == NULL ? encoding : strcmp(own, "form") == 0 ? SE_ENC_FORM : SE_ENC_JSON;
	r->when = se_compile_path_of(c, at, node, "when");
	r->unless = se_compile_path_of(c, at, node, "unless");
	return r;
}

/* "429", "4xx" or "200-299" */
static void
compile_status(SeRule *rule, const char *at, const char *text)
{
	if (text == NULL)
		return;
	if (strlen(text) == 3 && strcmp(text + 1, "xx") == 0)
	{
		rule->status_from = (text[0] - '0') * 100;
		rule->status_to = rule->status_from + 99;
	}
	else if (sscanf(text, "%d-%d", &rule->status_from, &rule->status_to) < 2)
		rule->status_to = rule->status_from = atoi(text);
	if (rule->status_from < 100 || rule->status_to > 599 || rule->status_from > rule->status_to)
		se_bad_manifest(at, "\"%s\" is no status, as in \"429\", \"4xx\" or \"200-299\"", text);
}

static SeRule *
compile_rule(SeCompiler *c, const char *at, JsonbValue *node)
{
	SeRule *rule = palloc0(sizeof(SeRule));
	char *outcome = jv_get_text(node, "outcome");
	JvIter i;
	int o;

	compile_status(rule, se_pointer(at, "status"), jv_get_text(node, "status"));
	jv_iter_init(&i, jv_get(node, "header"));
	while (jv_iter_next(&i))
	{
		SeHeader *h = palloc(sizeof(SeHeader));

		h->name = i.key;
		h->value = jv_text(&i.value);
		rule->headers = lappend(rule->headers, h);
	}
	rule->when = se_compile_path_of(c, at, node, "when");
	rule->retry_after = se_compile_expr_of(c, at, node, "retry_after");
	rule->code = se_compile_expr_of(c, at, node, "code");
	rule->message = se_compile_expr_of(c, at, node, "message");
	rule->then = jv_get_text(node, "then");
	for (o = SE_DONE; o <= SE_AUTH; o++)
		if (outcome && strcmp(outcome, se_outcome_name(o)) == 0)
			rule->outcome = o;
	return rule;
}

SeClassifySpec *
se_compile_rules(SeCompiler *c, const char *at, JsonbValue *rules)
{
	SeClassifySpec *spec = palloc0(sizeof(SeClassifySpec));
	JvIter i;

	jv_iter_init(&i, rules);
	while (jv_iter_next(&i))
	{
		JsonbValue *v = palloc(sizeof(JsonbValue));

		*v = i.value;
		spec->rules = lappend(spec->rules, compile_rule(c, se_pointer_index(at, i.index), v));
	}
	return spec;
}

static void
compile_classify(SeCompiler *c, JsonbValue *doc)
{
	SeClassifySpec *spec = se_compile_rules(c, "/outcomes", jv_get(doc, "outcomes"));
	JsonbValue *error = jv_get(doc, "error");
	JsonbValue *replayed = jv_get(jv_get(doc, "idempotency"), "replayed");

	spec->code = se_compile_expr_of(c, "/error", error, "code");
	spec->message = se_compile_expr_of(c, "/error", error, "message");
	spec->request_id = se_compile_expr_of(c, "/error", error, "request_id");
	spec->replayed_header = jv_get_text(replayed, "header");
	spec->replayed_value = jv_get_text(replayed, "value");
	c->m->classify = spec;
}

/* ---- auth ---- */

static void
add_auth_header(SeCompiler *c, SeAuthSpec *auth, const char *name, const char *template)
{
	SeNamedExpr *n = palloc(sizeof(SeNamedExpr));

	n->name = name;
	n->expr = se_compile_text(c, "/auth", template);
	auth->headers = lappend(auth->headers, n);
}

/* Authorization: Basic base64(user:password) */
static void
add_basic_header(SeCompiler *c, SeAuthSpec *auth, JsonbValue *node)
{
	SeNamedExpr *n = palloc(sizeof(SeNamedExpr));
	JsonbParseState *state = NULL;
	JsonbValue *inner;

	/* Written as the manifest would have to: one way to make a header is enough. */
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "cast", jv_string("base64"));
	jv_push_key(&state, "$concat");
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	jv_push_value(&state, false, jv_get(node, "user"));
	jv_push_value(&state, false, jv_string(":"));
	jv_push_value(&state, false,
				  jv_get(node, "password") ? jv_get(node, "password") : jv_string(""));
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	inner = jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));

	state = NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_key(&state, "$concat");
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	jv_push_value(&state, false, jv_string("Basic "));
	jv_push_value(&state, false, inner);
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	n->name = "Authorization";
	n->expr =
		se_compile_expr(c, "/auth",
						jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL))));
	auth->headers = lappend(auth->headers, n);
}

static void
compile_auth(SeCompiler *c, JsonbValue *node)
{
	SeAuthSpec *auth = palloc0(sizeof(SeAuthSpec));
	char *type = node ? jv_get_text(node, "type") : "none";

	c->m->auth = auth;
	c->secrets_allowed = true;
	if (strcmp(type, "bearer") == 0)
	{
		char *secret = jv_get_text(node, "secret");

		if (secret == NULL || se_manifest_secret(c->m, secret) == NULL)
			se_bad_manifest("/auth/secret", "must name a declared secret");
		add_auth_header(c, auth, "Authorization", psprintf("Bearer ${secret.\"%s\"}", secret));
	}
	else if (strcmp(type, "basic") == 0)
	{
		if (jv_get(node, "user") == NULL)
			se_bad_manifest("/auth", "needs \"user\"");
		add_basic_header(c, auth, node);
	}
	else
		auth->headers = se_compile_named(c, "/auth/headers", jv_get(node, "headers"));
	if (strcmp(type, "session") == 0)
	{
		JsonbValue *login = jv_get(node, "login");

		if (login == NULL || auth->headers == NIL)
			se_bad_manifest("/auth", "needs \"login\" and \"headers\"");
		auth->login = se_compile_request(c, "/auth/login", login, SE_ENC_JSON);
		auth->login_rules = se_compile_rules(c, "/auth/login/outcomes", jv_get(login, "outcomes"));
		auth->save = se_compile_named(c, "/auth/save", jv_get(node, "save"));
		auth->expires_in = se_compile_expr_of(c, "/auth", node, "expires_in");
	}
	c->secrets_allowed = false;
}

/* ---- declarations ---- */

static List *
compile_declared(JsonbValue *object)
{
	List *list = NIL;
	JvIter i;

	jv_iter_init(&i, object);
	while (jv_iter_next(&i))
	{
		SeDeclared *d = palloc0(sizeof(SeDeclared));
		JsonbValue *required = jv_get(&i.value, "required");

		d->name = i.key;
		d->default_value = jv_get_text(&i.value, "default");
		d->required = required && required->type == jbvBool && required->val.boolean;
		d->description = jv_get_text(&i.value, "description");
		list = lappend(list, d);
	}
	return list;
}

static void
compile_limits(SeManifest *m, JsonbValue *node)
{
	char *rate = jv_get_text(node, "rate");
	char *text;

	if (rate)
	{
		char *slash = strchr(rate, '/');

		m->limits.rate = atoi(rate);
		m->limits.rate_per_ms =
			slash ? se_parse_duration("/limits/rate", jv_string(psprintf("1 %s", slash + 1))) : 0;
		if (m->limits.rate <= 0 || m->limits.rate_per_ms <= 0)
			se_bad_manifest("/limits/rate", "\"%s\" is no rate, as in \"25/s\" or \"500/min\"",
							rate);
	}
	text = jv_get_text(node, "in_flight");
	m->limits.in_flight = text ? atoi(text) : 0;
	if (jv_get(node, "timeout"))
		m->limits.timeout_ms = se_parse_duration("/limits/timeout", jv_get(node, "timeout"));
	text = jv_get_text(node, "max_response");
	m->limits.max_response = text ? strtoll(text, NULL, 10) : 0;
}

static void
compile_idempotency(SeManifest *m, JsonbValue *node)
{
	char *length = jv_get_text(node, "max_length");

	m->idempotency.header = jv_get_text(node, "header");
	m->idempotency.tells = jv_get(jv_get(node, "replayed"), "header") != NULL;
	m->idempotency.max_length = length ? atoi(length) : 255;
	if (jv_get(node, "lifetime"))
		m->idempotency.lifetime_ms =
			se_parse_duration("/idempotency/lifetime", jv_get(node, "lifetime"));
}

static void
compile_top(SeCompiler *c, JsonbValue *doc)
{
	SeManifest *m = c->m;
	JvIter i;

	m->name = jv_get_text(doc, "name");
	m->version = jv_get_text(doc, "version");
	m->title = jv_get_text(doc, "title");
	m->base_url = jv_get_text(doc, "base_url");
	jv_iter_init(&i, jv_get(doc, "hosts"));
	while (jv_iter_next(&i))
		m->hosts = lappend(m->hosts, jv_text(&i.value));
	m->parameters = compile_declared(jv_get(doc, "parameters"));
	m->secrets = compile_declared(jv_get(doc, "secrets"));
	compile_idempotency(m, jv_get(doc, "idempotency"));
	compile_limits(m, jv_get(doc, "limits"));
	if (jv_get(doc, "settle_time"))
		m->settle_ms = se_parse_duration("/settle_time", jv_get(doc, "settle_time"));
	if (jv_get(doc, "minor_units"))
		m->minor_units = jv_to_jsonb(jv_get(doc, "minor_units"));
}

SeManifest *
se_manifest_compile(Jsonb *doc, MemoryContext cxt)
{
	MemoryContext old;
	SeManifest *m;
	SeCompiler c = {0};
	JsonbValue *v;
	char *encoding;

	check_schema(doc);
	old = MemoryContextSwitchTo(cxt);
	/* Compiled parts point into the document, so it must live as long as they. */
	doc = (Jsonb *) memcpy(palloc(VARSIZE(doc)), doc, VARSIZE(doc));
	v = jv_from_jsonb(doc);
	m = palloc0(sizeof(SeManifest));
	m->cxt = cxt;
	m->hash = DatumGetUInt64(
		hash_any_extended((unsigned char *) VARDATA(doc), VARSIZE(doc) - VARHDRSZ, 0));
	c.m = m;
	c.define = jv_get(v, "define");
	c.methods = jv_get(jv_get(v, "idempotency"), "methods");
	compile_top(&c, v);
	compile_enums(&c, jv_get(v, "enums"));
	compile_auth(&c, jv_get(v, "auth"));
	compile_classify(&c, v);
	m->common = palloc0(sizeof(SeRequestSpec));
	m->common->headers = se_compile_named(&c, "/headers", jv_get(v, "headers"));
	encoding = jv_get_text(v, "encoding");
	se_compile_objects(&c, jv_get(v, "objects"),
					   encoding && strcmp(encoding, "form") == 0 ? SE_ENC_FORM : SE_ENC_JSON);
	MemoryContextSwitchTo(old);
	return m;
}

/* ---- look-ups ---- */

static const SeDeclared *
find_declared(List *list, const char *name)
{
	ListCell *lc;

	foreach (lc, list)
	{
		SeDeclared *d = lfirst(lc);

		if (strcmp(d->name, name) == 0)
			return d;
	}
	return NULL;
}

const SeDeclared *
se_manifest_parameter(const SeManifest *m, const char *name)
{
	return find_declared(m->parameters, name);
}

const SeDeclared *
se_manifest_secret(const SeManifest *m, const char *name)
{
	return find_declared(m->secrets, name);
}

const SeManifestObject *
se_manifest_object(const SeManifest *m, const char *object)
{
	ListCell *lc;

	foreach (lc, m->objects)
	{
		SeManifestObject *o = lfirst(lc);

		if (strcmp(o->name, object) == 0)
			return o;
	}
	return NULL;
}

const SeOperation *
se_object_operation(const SeManifestObject *o, const char *operation)
{
	ListCell *lc;

	foreach (lc, o->operations)
	{
		SeOperation *op = lfirst(lc);

		if (strcmp(op->name, operation) == 0)
			return op;
	}
	return NULL;
}
