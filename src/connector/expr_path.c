/*
 * expr_path.c
 *		Evaluating paths.
 *
 * Most paths of a mapping are plain: members of objects one below the other ($.address.city,
 * $doc.currency), and most conditions compare such a path with a literal. These are followed here
 * without the server's path interpreter, which copies its results and builds lists of them. Whatever
 * is not plain, or where an array in the way would have to be unwrapped, goes to the interpreter.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "core/json.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

typedef enum Plain
{
	PLAIN_NOT, /* ask the interpreter */
	PLAIN_MISSING,
	PLAIN_FOUND
} Plain;

/* ---- variables ---- */

SeVars
se_make_vars(Jsonb *base, Jsonb *doc, Jsonb *cursor, const SeAnswer *a)
{
	SeVars vars = {base && JB_ROOT_IS_OBJECT(base) ? base : NULL, doc, cursor, a, NULL, NULL};

	return vars;
}

static JsonbValue *
of_base(const SeVars *vars, const char *name)
{
	return vars->base ? jv_get(jv_from_jsonb(vars->base), name) : NULL;
}

/* A header is any bytes; one that is no text is none to us. */
static bool
is_text(const char *bytes)
{
	return pg_verify_mbstr(GetDatabaseEncoding(), bytes, strlen(bytes), true);
}

static void
push_headers(JsonbParseState **state, List *headers)
{
	ListCell *lc;

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, headers)
	{
		SeHeader *h = lfirst(lc);
		char *name = pstrdup(h->name);
		char *p;

		for (p = name; *p; p++)
			*p = pg_ascii_tolower((unsigned char) *p);
		if (is_text(name) && is_text(h->value))
			jv_push_member(state, name, jv_string(h->value));
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* The answer's beginning as text, where it is no JSON. */
static JsonbValue *
answer_text(const SeAnswer *a)
{
	int len;

	if (a == NULL || a->json != NULL || a->body_len == 0)
		return NULL;
	/* what is cut off in the middle of a character may seem to go on behind the end */
	len = Min(pg_mbcliplen(a->body, Min(a->body_len, 100000), 2000), (int) a->body_len);
	if (!pg_verify_mbstr(GetDatabaseEncoding(), a->body, len, true))
		return NULL;
	return jv_string(pnstrdup(a->body, len));
}

/* All variables as one object; every known one is there, at least as null: see check_variables(). */
static Jsonb *
all_vars(SeVars *vars)
{
	JsonbParseState *state = NULL;
	JvIter i;

	if (vars->whole != NULL)
		return vars->whole;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "doc", vars->doc ? jv_from_jsonb(vars->doc) : of_base(vars, "doc"));
	jv_push_member(&state, "param", of_base(vars, "param"));
	jv_push_member(&state, "entity", of_base(vars, "entity"));
	jv_push_member(&state, "cursor",
				   vars->cursor ? jv_from_jsonb(vars->cursor) : of_base(vars, "cursor"));
	jv_push_member(&state, "status", vars->answer ? jv_int(vars->answer->status) : NULL);
	jv_push_key(&state, "headers");
	push_headers(&state, vars->answer ? vars->answer->headers : NIL);
	jv_push_member(&state, "text", answer_text(vars->answer));
	jv_iter_init(&i, vars->own ? jv_from_jsonb(vars->own) : NULL);
	while (jv_iter_next(&i))
		jv_push_member(&state, i.key, &i.value);
	vars->whole = jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return vars->whole;
}

static bool
is_named(const char *name, int len, const char *wanted)
{
	return len == strlen(wanted) && memcmp(name, wanted, len) == 0;
}

JsonbValue *
se_var(SeVars *vars, const char *name, int len)
{
	if (is_named(name, len, "param"))
		return of_base(vars, "param");
	if (is_named(name, len, "entity"))
		return of_base(vars, "entity");
	if (vars->doc != NULL && is_named(name, len, "doc"))
		return jv_from_jsonb(vars->doc);
	if (vars->cursor != NULL && is_named(name, len, "cursor"))
		return jv_from_jsonb(vars->cursor);
	if (vars->own != NULL)
	{
		JsonbValue *own = getKeyJsonValueFromContainer(&vars->own->root, name, len, NULL);

		if (own != NULL)
			return own;
	}
	return getKeyJsonValueFromContainer(&all_vars(vars)->root, name, len, NULL);
}

/* ---- fields that are withheld: see SeEval ---- */

static bool
is_withheld(SeEval *ev, const char *name, int32 len)
{
	JsonbValue key = {.type = jbvString};

	key.val.string.val = (char *) name;
	key.val.string.len = len;
	return findJsonbValueFromContainer(ev->withheld->val.binary.data, JB_FARRAY, &key) != NULL;
}

/* Whether a path begins where the push's context does. */
static bool
begins_at_doc(SeEval *ev, JsonPathItem *item)
{
	int32 len;
	char *name;

	if (item->type == jpiRoot)
		return ev->root == ev->vars.doc;
	if (item->type != jpiVariable)
		return false;
	name = jspGetString(item, &len);
	return is_named(name, len, "doc");
}

/* Notes whether a plain path goes through $.new.<withheld>. */
static void
note_touched(SeEval *ev, JsonPathItem *item)
{
	JsonPathItem member;
	JsonPathItem field;
	char *name;
	int32 len;

	if (!begins_at_doc(ev, item) || !jspGetNext(item, &member) || member.type != jpiKey)
		return;
	name = jspGetString(&member, &len);
	if (!is_named(name, len, "new") || !jspGetNext(&member, &field) || field.type != jpiKey)
		return;
	name = jspGetString(&field, &len);
	if (is_withheld(ev, name, len))
		ev->touched = true;
}

/* The same of any path, by its text: the interpreter does not say where it has been. */
static void
note_touched_somewhere(SeEval *ev, JsonPath *path)
{
	char *text = DatumGetCString(DirectFunctionCall1(jsonpath_out, PointerGetDatum(path)));
	JvIter i;

	jv_iter_init(&i, ev->withheld);
	while (jv_iter_next(&i) && !ev->touched)
	{
		char *field = jv_json(&i.value); /* in quotes, as paths are written */

		ev->touched = strstr(text, psprintf("\"new\".%s", field)) != NULL;
	}
}

/* ---- the interpreter ---- */

/* The path functions of the server, silent, with the variables; NULL: no result. */
static Jsonb *
call_path(PGFunction fn, SeEval *ev, JsonPath *path)
{
	LOCAL_FCINFO(fcinfo, 4);
	Datum result;

	if (ev->withheld != NULL)
		note_touched_somewhere(ev, path);
	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(ev->root);
	fcinfo->args[1].value = PointerGetDatum(path);
	fcinfo->args[2].value = JsonbPGetDatum(all_vars(&ev->vars));
	fcinfo->args[3].value = BoolGetDatum(true);
	fcinfo->args[0].isnull = fcinfo->args[1].isnull = false;
	fcinfo->args[2].isnull = fcinfo->args[3].isnull = false;
	result = fn(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetJsonbP(result);
}

/* ---- plain paths ---- */

static bool
root_value(Jsonb *json, JsonbValue *v)
{
	if (json == NULL || JB_ROOT_IS_SCALAR(json))
		return false;
	v->type = jbvBinary;
	v->val.binary.data = &json->root;
	v->val.binary.len = VARSIZE(json) - VARHDRSZ;
	return true;
}

/* Where a path begins: $ or a variable. False: not to be had without the interpreter. */
static bool
first_value(SeEval *ev, JsonPathItem *item, JsonbValue *v)
{
	char *name;
	int32 len;
	JsonbValue *found;

	if (item->type == jpiRoot)
		return root_value(ev->root, v);
	if (item->type != jpiVariable)
		return false;
	name = jspGetString(item, &len);
	found = se_var(&ev->vars, name, len);
	if (found == NULL)
		v->type = jbvNull;
	else
		*v = *found;
	return true;
}

static bool
is_lower(const char *text, int len)
{
	for (int i = 0; i < len; i++)
		if (pg_ascii_tolower((unsigned char) text[i]) != (unsigned char) text[i])
			return false;
	return true;
}

/*
 * $headers.name without an object of all headers: '*item' moves on to the name. Names there are in
 * lower case; of several equal ones the last counts. False: something else.
 */
static bool
header_value(SeEval *ev, JsonPathItem *item, JsonbValue *v)
{
	JsonPathItem key;
	char *name;
	int32 len;
	ListCell *lc;

	if (item->type != jpiVariable || ev->vars.answer == NULL)
		return false;
	name = jspGetString(item, &len);
	if (!is_named(name, len, "headers") || !jspGetNext(item, &key) || key.type != jpiKey)
		return false;
	name = jspGetString(&key, &len);
	if (!is_lower(name, len))
		return false;
	v->type = jbvNull;
	foreach (lc, ev->vars.answer->headers)
	{
		SeHeader *h = lfirst(lc);

		if (strlen(h->name) != len || pg_strncasecmp(h->name, name, len) != 0 || !is_text(h->value))
			continue;
		v->type = jbvString;
		v->val.string.val = h->value;
		v->val.string.len = strlen(h->value);
	}
	*item = key;
	return true;
}

/* A member of the root: $.new of $.new.name, which is looked for among a dozen keys but once. */
static bool
root_member(SeEval *ev, const char *key, int32 len, JsonbValue *v)
{
	if (ev->member_root == ev->root && ev->member_key_len == len &&
		memcmp(ev->member_key, key, len) == 0)
	{
		*v = ev->member;
		return true;
	}
	if (getKeyJsonValueFromContainer(&ev->root->root, key, len, v) == NULL)
		return false;
	if (v->type == jbvBinary)
	{
		ev->member_root = ev->root;
		ev->member_key = key;
		ev->member_key_len = len;
		ev->member = *v;
	}
	return true;
}

/*
 * Follows a path as far as it names members. '*rest' is what comes behind them, of type jpiNull when
 * nothing does.
 */
static Plain
follow(SeEval *ev, JsonPathItem *item, JsonbValue *v, JsonPathItem *rest)
{
	JsonPathItem at = *item;
	JsonPathItem next;

	rest->type = jpiNull;
	if (ev->withheld != NULL)
		note_touched(ev, &at);
	if (header_value(ev, &at, v))
	{
		if (v->type == jbvNull)
			return PLAIN_MISSING;
	}
	else if (!first_value(ev, &at, v))
		return PLAIN_NOT;
	while (jspGetNext(&at, &next))
	{
		char *key;
		int32 len;
		bool from_root;

		if (next.type != jpiKey)
		{
			*rest = next;
			return PLAIN_FOUND;
		}
		if (v->type == jbvBinary && JsonContainerIsArray(v->val.binary.data))
			return PLAIN_NOT;
		if (v->type != jbvBinary)
			return PLAIN_MISSING;
		from_root = at.type == jpiRoot;
		at = next;
		key = jspGetString(&at, &len);
		if (from_root ? !root_member(ev, key, len, v)
					  : getKeyJsonValueFromContainer(v->val.binary.data, key, len, v) == NULL)
			return PLAIN_MISSING;
	}
	return PLAIN_FOUND;
}

static Plain
plain_value(SeEval *ev, JsonPath *path, JsonbValue *v)
{
	JsonPathItem item;
	JsonPathItem rest;
	Plain plain;

	if ((path->header & JSONPATH_LAX) == 0)
		return PLAIN_NOT;
	jspInit(&item, path);
	plain = follow(ev, &item, v, &rest);
	return plain == PLAIN_FOUND && rest.type != jpiNull ? PLAIN_NOT : plain;
}

static bool
literal(JsonPathItem *item, JsonbValue *v)
{
	if (jspHasNext(item))
		return false;
	switch (item->type)
	{
		case jpiNull:
			v->type = jbvNull;
			return true;
		case jpiBool:
			v->type = jbvBool;
			v->val.boolean = jspGetBool(item);
			return true;
		case jpiString:
			v->type = jbvString;
			v->val.string.val = jspGetString(item, &v->val.string.len);
			return true;
		case jpiNumeric:
			v->type = jbvNumeric;
			v->val.numeric = jspGetNumeric(item);
			return true;
		default:
			return false;
	}
}

/* path == literal, path != literal, also of path.type(); false: ask the interpreter. */
static bool
plain_predicate(SeEval *ev, JsonPath *path, bool *result)
{
	JsonPathItem item;
	JsonPathItem side;
	JsonPathItem rest;
	JsonbValue left;
	JsonbValue right;
	bool equal;

	if ((path->header & JSONPATH_LAX) == 0)
		return false;
	jspInit(&item, path);
	if ((item.type != jpiEqual && item.type != jpiNotEqual) || jspHasNext(&item))
		return false;
	equal = item.type == jpiEqual;
	jspGetRightArg(&item, &side);
	if (!literal(&side, &right))
		return false;
	jspGetLeftArg(&item, &side);
	switch (follow(ev, &side, &left, &rest))
	{
		case PLAIN_NOT:
			return false;
		case PLAIN_MISSING:
			*result = false;
			return true;
		case PLAIN_FOUND:
			break;
	}
	if (rest.type == jpiType && !jspHasNext(&rest))
	{
		left.val.string.val = pstrdup(JsonbTypeName(&left));
		left.val.string.len = strlen(left.val.string.val);
		left.type = jbvString;
	}
	else if (rest.type != jpiNull)
		return false;
	if (left.type == jbvBinary && JsonContainerIsArray(left.val.binary.data))
		return false;
	/* Values of two types are neither equal nor unequal, unless one of them is null. */
	if (left.type == right.type)
		*result = se_json_equal(&left, &right) == equal;
	else
		*result = !equal && (left.type == jbvNull || right.type == jbvNull);
	return true;
}

/* ---- what others call ---- */

JsonbValue *
se_eval_value(SeEval *ev, JsonPath *path)
{
	JsonbValue v;
	JsonbValue *found;

	switch (plain_value(ev, path, &v))
	{
		case PLAIN_MISSING:
			return NULL;
		case PLAIN_FOUND:
			found = palloc(sizeof(JsonbValue));
			*found = v;
			return found;
		default:
			return jv_from_jsonb(call_path(jsonb_path_query_first_tz, ev, path));
	}
}

Jsonb *
se_eval_path(SeEval *ev, JsonPath *path)
{
	JsonbValue *v = se_eval_value(ev, path);

	return v != NULL ? JsonbValueToJsonb(v) : NULL;
}

/* All results as an array; a single array as result is taken for the list itself. */
JsonbValue *
se_eval_path_array(SeEval *ev, JsonPath *path)
{
	JsonbValue *v = palloc(sizeof(JsonbValue));
	JsonbValue *only;

	if (plain_value(ev, path, v) == PLAIN_FOUND && JV_IS_ARRAY(v))
		return v;
	v = jv_from_jsonb(call_path(jsonb_path_query_array_tz, ev, path));
	if (jv_count(v) == 1)
	{
		only = getIthJsonbValueFromContainer(v->val.binary.data, 0);
		if (JV_IS_ARRAY(only))
			return only;
		if (only->type == jbvNull)
			return NULL;
	}
	return v;
}

/*
 * The list that a path names; NULL and a failure when there is none. No list is
 * no empty list: a mark must not move over it, nor a create follow from it.
 */
JsonbValue *
se_eval_list(SeEval *ev, JsonPath *path)
{
	JsonbValue *list = se_eval_path_array(ev, path);

	if (list && (jv_count(list) > 0 || se_eval_value(ev, path) != NULL))
		return list;
	se_eval_fail(ev, "bad_answer", "the answer holds no list of items");
	return NULL;
}

/* A boolean result is the answer; any other result means 'found'; null and none are false. */
bool
se_eval_predicate(SeEval *ev, JsonPath *path)
{
	JsonbValue *v;
	bool result;

	if (plain_predicate(ev, path, &result))
		return result;
	v = se_eval_value(ev, path);
	if (v == NULL || v->type == jbvNull)
		return false;
	return v->type == jbvBool ? v->val.boolean : true;
}
