/*
 * expr_compile_options.c
 *		Options of expression objects; durations.
 */
#include "postgres.h"

#include "connector/expr.h"

static void
compile_casts(SeOptions *opt, const char *at, JsonbValue *v)
{
	JvIter i;
	int n = JV_IS_ARRAY(v) ? jv_count(v) : 1;

	opt->casts = palloc(n * sizeof(int));
	if (v->type == jbvString)
	{
		opt->casts[opt->ncasts++] = se_cast_by_name(jv_text(v));
		if (opt->casts[0] < 0)
			se_bad_manifest(at, "unknown cast \"%s\"", jv_text(v));
		return;
	}
	if (!JV_IS_ARRAY(v))
		se_bad_manifest(at, "must be the name of a cast, or an array of them");
	jv_iter_init(&i, v);
	while (jv_iter_next(&i))
	{
		int cast = i.value.type == jbvString ? se_cast_by_name(jv_text(&i.value)) : -1;

		if (cast < 0)
			se_bad_manifest(se_pointer_index(at, i.index), "unknown cast \"%s\"",
							jv_text(&i.value));
		opt->casts[opt->ncasts++] = cast;
	}
}

static const SeEnum *
find_enum(SeCompiler *c, const char *at, const char *name)
{
	ListCell *lc;

	foreach (lc, c->enums)
	{
		SeEnum *e = lfirst(lc);

		if (strcmp(e->name, name) == 0)
			return e;
	}
	se_bad_manifest(at, "unknown enum \"%s\"", name);
}

static void
compile_state(SeCompiler *c, SeOptions *opt, const char *at, JsonbValue *v)
{
	StringInfoData text;
	JvIter i;

	opt->state_path = se_compile_path_of(c, at, v, "path");
	if (opt->state_path == NULL || !JV_IS_ARRAY(jv_get(v, "in")))
		se_bad_manifest(at, "needs \"path\" and \"in\"");
	initStringInfo(&text);
	jv_iter_init(&i, jv_get(v, "in"));
	while (jv_iter_next(&i))
	{
		opt->state_in = lappend(opt->state_in, jv_text(&i.value));
		appendStringInfo(&text, "%s%s", i.index ? " or " : "", jv_text(&i.value));
	}
	opt->state_text = text.data;
}

static void
compile_option(SeCompiler *c, SeExpr *x, const char *at, const char *key, JsonbValue *v)
{
	SeOptions *opt = x->opt;
	char *text = v->type == jbvString ? jv_text(v) : NULL;

	if (strcmp(key, "cast") == 0)
		compile_casts(opt, at, v);
	else if (strcmp(key, "currency") == 0)
		opt->currency = se_compile_expr(c, at, v);
	else if (strcmp(key, "zone") == 0)
		opt->zone = se_compile_expr(c, at, v);
	else if (strcmp(key, "default") == 0)
		opt->default_value = se_compile_expr(c, at, v);
	else if (strcmp(key, "format") == 0 && text)
		opt->format = text;
	else if (strcmp(key, "map") == 0 && text)
		opt->map = find_enum(c, at, text);
	else if (strcmp(key, "ref") == 0 && text)
		opt->ref = text;
	else if (strcmp(key, "by") == 0 && text)
		opt->by = text;
	else if (strcmp(key, "read") == 0 && text)
		opt->ref_read = se_compile_path(c, at, text);
	else if (strcmp(key, "state") == 0)
		compile_state(c, opt, at, v);
	else if (strcmp(key, "unbound") == 0 && text && strcmp(text, "null") == 0)
		opt->unbound_null = true;
	else if (strcmp(key, "fetch") == 0 && v->type == jbvBool)
		opt->ref_fetch = v->val.boolean;
	else if (strcmp(key, "required") == 0 && v->type == jbvBool)
		opt->required = v->val.boolean;
	else if (strcmp(key, "omit") == 0 && text && strcmp(text, "null") == 0)
		opt->omit = SE_OMIT_NULL;
	else if (strcmp(key, "omit") == 0 && text && strcmp(text, "empty") == 0)
		opt->omit = SE_OMIT_EMPTY;
	else if (strcmp(key, "omit") == 0 && text && strcmp(text, "create") == 0)
		opt->omit = SE_OMIT_CREATE;
	else if (strcmp(key, "omit") == 0 && text && strcmp(text, "never") == 0)
		opt->omit = SE_OMIT_NEVER;
	else
		se_bad_manifest(at, "unknown option, or a value that it does not take");
}

/* Everything in an expression object that is not its head. */
void
se_compile_options(SeCompiler *c, SeExpr *x, const char *at, JsonbValue *node, const char *head)
{
	JvIter i;

	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
	{
		JsonbValue *v = palloc(sizeof(JsonbValue));

		if (strcmp(i.key, head) == 0 ||
			(x->kind == SE_X_IF && (strcmp(i.key, "then") == 0 || strcmp(i.key, "else") == 0)) ||
			(x->kind == SE_X_EACH && strcmp(i.key, "as") == 0))
			continue;
		*v = i.value;
		if (x->opt == NULL)
			x->opt = palloc0(sizeof(SeOptions));
		compile_option(c, x, se_pointer(at, i.key), i.key, v);
	}
	if (x->opt && x->opt->ref == NULL &&
		(x->opt->by || x->opt->state_path || x->opt->ref_fetch || x->opt->ref_read ||
		 x->opt->unbound_null))
		se_bad_manifest(at,
						"\"by\", \"state\", \"read\", \"unbound\" and \"fetch\" go with \"ref\"");
}

/* Interval text or a number of milliseconds. */
int64
se_parse_duration(const char *at, JsonbValue *v)
{
	char *text = jv_text(v);
	char *unit;
	double amount;
	static const struct
	{
		const char *name;
		int64 ms;
	} units[] = {{"ms", 1},			{"s", 1000},		{"second", 1000},	{"seconds", 1000},
				 {"min", 60000},	{"minute", 60000},	{"minutes", 60000}, {"h", 3600000},
				 {"hour", 3600000}, {"hours", 3600000}, {"d", 86400000},	{"day", 86400000},
				 {"days", 86400000}};
	int i;

	if (text == NULL)
		se_bad_manifest(at, "must be a duration");
	amount = strtod(text, &unit);
	while (*unit == ' ')
		unit++;
	if (*unit == '\0' && v->type == jbvNumeric)
		return (int64) amount;
	for (i = 0; i < lengthof(units); i++)
		if (strcmp(units[i].name, unit) == 0 && amount >= 0 && amount < 100000)
			return (int64) (amount * units[i].ms);
	se_bad_manifest(at, "\"%s\" is no duration (for example \"500 ms\", \"30 s\", \"24 hours\")",
					text);
}
