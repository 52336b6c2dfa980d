/*
 * expr_compile.c
 *		Manifest JSON → expressions.
 *
 * Everything that can be found wrong without data is found here, once, so that
 * a manifest that registers never fails for a reason of its own later.
 */
#include "postgres.h"

#include <ctype.h>

#include "connector/expr.h"
#include "core/errors.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define MAX_DEPTH 64

static const char *const known_variables[] = {"doc",	 "param",  "entity", "cursor",
											  "headers", "status", "text",	 NULL};

/* Keys of an expression object that say what it is; the others are options. */
static const struct
{
	const char *key;
	SeExprKind kind;
} heads[] = {{"$", SE_X_PATH},		 {"$value", SE_X_VALUE},   {"$each", SE_X_EACH},
			 {"$if", SE_X_IF},		 {"$concat", SE_X_CONCAT}, {"$first", SE_X_FIRST},
			 {"$merge", SE_X_MERGE}, {"$append", SE_X_APPEND}, {"$sum", SE_X_SUM},
			 {"$min", SE_X_MIN},	 {"$max", SE_X_MAX},	   {"$latest", SE_X_LATEST},
			 {"$const", SE_X_CONST}, {"$use", SE_X_OBJECT}};

void
se_bad_manifest(const char *at, const char *fmt, ...)
{
	va_list args;
	char message[1024];

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	ereport(ERROR, (errcode(SE_ERRCODE_BAD_MANIFEST), errmsg("%s: %s", at[0] ? at : "/", message)));
}

char *
se_pointer(const char *at, const char *key)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%s/", at);
	for (; *key; key++)
	{
		if (*key == '~')
			appendStringInfoString(&buf, "~0");
		else if (*key == '/')
			appendStringInfoString(&buf, "~1");
		else
			appendStringInfoChar(&buf, *key);
	}
	return buf.data;
}

char *
se_pointer_index(const char *at, int i)
{
	return psprintf("%s/%d", at, i);
}

static bool
is_variable(SeCompiler *c, const char *name, size_t n)
{
	const char *const *lists[] = {known_variables, c->own_variables};

	for (int i = 0; i < lengthof(lists); i++)
		for (const char *const *v = lists[i]; v && *v; v++)
			if (strlen(*v) == n && strncmp(*v, name, n) == 0)
				return true;
	return false;
}

/*
 * An unknown variable is an error at run time even in silent mode, so it must
 * not get that far. Strings inside the path may hold a dollar sign.
 */
static void
check_variables(SeCompiler *c, const char *at, const char *source)
{
	bool quoted = false;
	const char *p;

	for (p = source; *p; p++)
	{
		if (*p == '\\' && quoted && p[1])
			p++;
		else if (*p == '"')
			quoted = !quoted;
		else if (*p == '$' && !quoted &&
				 (isalpha((unsigned char) p[1]) || p[1] == '_' || p[1] == '"'))
		{
			size_t n = 0;

			while (isalnum((unsigned char) p[1 + n]) || p[1 + n] == '_')
				n++;
			if (!is_variable(c, p + 1, n))
				se_bad_manifest(at, "unknown variable $%.*s in path %s", (int) n, p + 1, source);
		}
	}
}

JsonPath *
se_compile_path(SeCompiler *c, const char *at, const char *source)
{
	MemoryContext cxt = CurrentMemoryContext;
	JsonPath *path = NULL;

	check_variables(c, at, source);
	if (!c->secrets_allowed && strncmp(source, "$.secret", 8) == 0)
		se_bad_manifest(at, "secrets can be used inside \"auth\" only");
	PG_TRY();
	{
		path = DatumGetJsonPathP(DirectFunctionCall1(jsonpath_in, CStringGetDatum(source)));
	}
	PG_CATCH();
	{
		ErrorData *e;

		MemoryContextSwitchTo(cxt);
		e = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(e->sqlerrcode) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
			ERRCODE_TO_CATEGORY(e->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		se_bad_manifest(at, "bad path %s: %s", source, e->message);
	}
	PG_END_TRY();
	return path;
}

JsonPath *
se_compile_path_of(SeCompiler *c, const char *at, JsonbValue *object, const char *key)
{
	JsonbValue *v = jv_get(object, key);

	if (v == NULL)
		return NULL;
	if (v->type != jbvString)
		se_bad_manifest(se_pointer(at, key), "must be a path");
	return se_compile_path(c, se_pointer(at, key), jv_text(v));
}

SeExpr *
se_compile_expr_of(SeCompiler *c, const char *at, JsonbValue *object, const char *key)
{
	JsonbValue *v = jv_get(object, key);

	return v ? se_compile_expr(c, se_pointer(at, key), v) : NULL;
}

static SeExpr *
new_expr(SeExprKind kind, const char *at, int nitems)
{
	SeExpr *x = palloc0(sizeof(SeExpr));

	x->kind = kind;
	x->at = at;
	x->nitems = nitems;
	if (nitems > 0)
	{
		x->items = palloc0(nitems * sizeof(SeExpr *));
		x->keys = palloc0(nitems * sizeof(char *));
	}
	return x;
}

static SeExpr *
compile_path_expr(SeCompiler *c, const char *at, const char *source)
{
	SeExpr *x;

	if (strcmp(source, "$index") == 0)
		return new_expr(SE_X_INDEX, at, 0);
	x = new_expr(SE_X_PATH, at, 0);
	x->path = se_compile_path(c, at, source);
	return x;
}

static SeExpr *
constant_text(const char *at, const char *start, size_t len)
{
	SeExpr *x = new_expr(SE_X_CONST, at, 0);

	x->constant = jv_string(pnstrdup(start, len));
	return x;
}

/* End of the ${…} that starts at p (behind the brace); strings inside may hold a brace. */
static const char *
placeholder_end(const char *p)
{
	bool quoted = false;

	for (; *p; p++)
	{
		if (*p == '\\' && quoted && p[1])
			p++;
		else if (*p == '"')
			quoted = !quoted;
		else if (*p == '}' && !quoted)
			return p;
	}
	return NULL;
}

/* Literal with ${path} parts; ${new.code} is short for ${$.new.code}, $${ is a plain ${. */
SeExpr *
se_compile_text(SeCompiler *c, const char *at, const char *source)
{
	List *parts = NIL;
	StringInfoData literal;
	const char *p;
	SeExpr *x;
	ListCell *lc;

	initStringInfo(&literal);
	for (p = source; *p; p++)
	{
		const char *end;
		char *path;

		if (strncmp(p, "$${", 3) == 0)
		{
			appendStringInfoString(&literal, "${");
			p += 2;
			continue;
		}
		if (strncmp(p, "${", 2) != 0)
		{
			appendStringInfoChar(&literal, *p);
			continue;
		}
		end = placeholder_end(p + 2);
		if (end == NULL)
			se_bad_manifest(at, "\"${\" without \"}\" in \"%s\"", source);
		if (literal.len > 0)
			parts = lappend(parts, constant_text(at, literal.data, literal.len));
		resetStringInfo(&literal);
		path = pnstrdup(p + 2, end - p - 2);
		if (path[0] != '$' && path[0] != '(' && strncmp(path, "lax ", 4) != 0 &&
			strncmp(path, "strict ", 7) != 0)
			path = psprintf("$.%s", path);
		parts = lappend(parts, compile_path_expr(c, at, path));
		p = end;
	}
	if (parts == NIL)
		return constant_text(at, literal.data, literal.len);
	if (literal.len > 0)
		parts = lappend(parts, constant_text(at, literal.data, literal.len));
	x = new_expr(SE_X_TEXT, at, list_length(parts));
	foreach (lc, parts)
		x->items[foreach_current_index(lc)] = lfirst(lc);
	return x;
}

static SeExpr *
compile_items(SeCompiler *c, SeExprKind kind, const char *at, JsonbValue *node)
{
	SeExpr *x = new_expr(kind, at, jv_count(node));
	JvIter i;

	if (kind != SE_X_OBJECT && !JV_IS_ARRAY(node))
		se_bad_manifest(at, "must be an array");
	x->literal_empty = x->nitems == 0;
	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
	{
		const char *key = i.key;
		JsonbValue *value = palloc(sizeof(JsonbValue));

		*value = i.value;
		if (i.object && key[0] == '$' && key[1] == '$')
			key++; /* $$filter is a member named $filter */
		else if (i.object && key[0] == '$')
			se_bad_manifest(at,
							"unknown expression \"%s\" (a member of that name is written \"$%s\")",
							key, key);
		x->keys[i.index] = i.object ? key : NULL;
		x->items[i.index] =
			se_compile_expr(c, i.object ? se_pointer(at, i.key) : se_pointer_index(at, i.index),
							value);
	}
	return x;
}

static SeExpr *
compile_use(SeCompiler *c, const char *at, JsonbValue *name)
{
	JsonbValue *body = name->type == jbvString ? jv_get(c->define, jv_text(name)) : NULL;
	SeExpr *x = new_expr(SE_X_VALUE, at, 1);

	if (body == NULL)
		se_bad_manifest(at, "\"$use\" names nothing in \"define\"");
	x->items[0] = se_compile_expr(c, se_pointer("/define", jv_text(name)), body);
	return x;
}

static SeExpr *
compile_if(SeCompiler *c, const char *at, JsonbValue *node)
{
	SeExpr *x = new_expr(SE_X_IF, at, 2);

	x->path = se_compile_path_of(c, at, node, "$if");
	x->items[0] = se_compile_expr_of(c, at, node, "then");
	x->items[1] = se_compile_expr_of(c, at, node, "else");
	if (x->items[0] == NULL)
		se_bad_manifest(at, "\"$if\" needs \"then\"");
	return x;
}

static SeExpr *
compile_each(SeCompiler *c, const char *at, JsonbValue *node)
{
	SeExpr *x = new_expr(SE_X_EACH, at, 1);

	x->path = se_compile_path_of(c, at, node, "$each");
	x->items[0] = se_compile_expr_of(c, at, node, "as");
	if (x->items[0] == NULL)
		se_bad_manifest(at, "\"$each\" needs \"as\"");
	return x;
}

/*
 * "-$.a": the path says that all it finds is taken off. The path's own minus would find nothing where a
 * number is a text, so it is left to the sum. In "-$.a + $.b" the minus is not the path's whole say.
 */
static bool
is_negative(SeCompiler *c, const char *at, const char *source)
{
	JsonPathItem item;

	if (source[0] != '-' || source[1] != '$')
		return false;
	jspInit(&item, se_compile_path(c, at, source));
	return item.type == jpiMinus;
}

/* One path or several, of which all results are taken together. */
static SeExpr *
compile_fold(SeCompiler *c, SeExprKind kind, const char *at, JsonbValue *v)
{
	bool several = JV_IS_ARRAY(v);
	int n = several ? jv_count(v) : 1;
	SeExpr *x = new_expr(kind, at, n);
	int i;

	for (i = 0; i < n; i++)
	{
		JsonbValue *one = several ? getIthJsonbValueFromContainer(v->val.binary.data, i) : v;
		const char *here = several ? se_pointer_index(at, i) : at;
		char *source;

		if (one->type != jbvString)
			se_bad_manifest(here, "must be a path");
		x->items[i] = new_expr(SE_X_PATH, here, 0);
		source = jv_text(one);
		x->items[i]->negated = is_negative(c, here, source);
		x->items[i]->path = se_compile_path(c, here, source + x->items[i]->negated);
	}
	return x;
}

static SeExpr *
compile_head(SeCompiler *c, const char *at, JsonbValue *node, const char *head, SeExprKind kind)
{
	JsonbValue *v = jv_get(node, head);
	const char *head_at = se_pointer(at, head);
	SeExpr *x;

	if (strcmp(head, "$use") == 0)
		return compile_use(c, head_at, v);
	switch (kind)
	{
		case SE_X_PATH:
			if (v->type != jbvString)
				se_bad_manifest(head_at, "must be a path");
			return compile_path_expr(c, head_at, jv_text(v));
		case SE_X_VALUE:
			x = new_expr(SE_X_VALUE, head_at, 1);
			x->items[0] = se_compile_expr(c, head_at, v);
			return x;
		case SE_X_EACH:
			return compile_each(c, at, node);
		case SE_X_IF:
			return compile_if(c, at, node);
		case SE_X_CONST:
			x = new_expr(SE_X_CONST, head_at, 0);
			x->constant = v;
			return x;
		case SE_X_SUM:
		case SE_X_MIN:
		case SE_X_MAX:
			return compile_fold(c, kind, head_at, v);
		default:
			return compile_items(c, kind, head_at, v);
	}
}

static SeExpr *
compile_object(SeCompiler *c, const char *at, JsonbValue *node)
{
	const char *head = NULL;
	SeExprKind kind = SE_X_OBJECT;
	SeExpr *x;
	int i;

	for (i = 0; i < lengthof(heads); i++)
	{
		if (jv_get(node, heads[i].key) == NULL)
			continue;
		if (head)
			se_bad_manifest(at, "\"%s\" and \"%s\" exclude each other", head, heads[i].key);
		head = heads[i].key;
		kind = heads[i].kind;
	}
	if (head == NULL)
		return compile_items(c, SE_X_OBJECT, at, node);
	x = compile_head(c, at, node, head, kind);
	se_compile_options(c, x, at, node, head);
	return x;
}

SeExpr *
se_compile_expr(SeCompiler *c, const char *at, JsonbValue *node)
{
	SeExpr *x;
	char *text;

	check_stack_depth();
	/* A definition that uses itself would go on for ever. */
	if (++c->depth > MAX_DEPTH)
		se_bad_manifest(at, "is nested too deeply, or a definition uses itself");
	if (node->type == jbvString)
	{
		text = jv_text(node);
		if (text[0] == '$' && text[1] != '{' && text[1] != '$')
			x = compile_path_expr(c, at, text);
		else
			x = se_compile_text(c, at, text);
	}
	else if (JV_IS_OBJECT(node))
		x = compile_object(c, at, node);
	else if (JV_IS_ARRAY(node))
		x = compile_items(c, SE_X_ARRAY, at, node);
	else
	{
		x = new_expr(SE_X_CONST, at, 0);
		x->constant = node;
	}
	c->depth--;
	return x;
}

/* Members of an object as a list of (name, expression). */
List *
se_compile_named(SeCompiler *c, const char *at, JsonbValue *object)
{
	List *list = NIL;
	JvIter i;

	jv_iter_init(&i, object);
	while (jv_iter_next(&i))
	{
		SeNamedExpr *n = palloc(sizeof(SeNamedExpr));
		JsonbValue *v = palloc(sizeof(JsonbValue));

		*v = i.value;
		n->name = i.key;
		n->expr = se_compile_expr(c, se_pointer(at, i.key), v);
		list = lappend(list, n);
	}
	return list;
}
