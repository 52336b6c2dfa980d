/*
 * contract.c
 *		What a remote record must look like to be mapped at all.
 *
 * A manifest may declare, for an object that it pulls, the version of the vendor's contract and a
 * schema of its records: a small part of JSON Schema. A record that does not fit is not guessed at;
 * the first fault says where, what was expected and what came.
 *
 * Every changed record of every page is checked, so schemas are compiled and records are checked as
 * they are, without being parsed again: connector/schema.c, which checks manifests, would cost as much
 * as the rest of the mapping.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "core/json.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#define MAX_SHOWN 80

typedef enum SeJsonType
{
	SE_T_NULL = 1 << 0,
	SE_T_BOOLEAN = 1 << 1,
	SE_T_NUMBER = 1 << 2,
	SE_T_INTEGER = 1 << 3,
	SE_T_STRING = 1 << 4,
	SE_T_ARRAY = 1 << 5,
	SE_T_OBJECT = 1 << 6
} SeJsonType;

static const char *const type_names[] = {"null",   "boolean", "number", "integer",
										 "string", "array",	  "object"};

typedef struct SeMember
{
	const char *name;
	int len;
	bool required;
	SeContract *shape; /* NULL: anything */
} SeMember;

/* What one value must look like, and what is in it; the record's own is the contract. */
struct SeContract
{
	int types; /* 0: any */
	int nvalues;
	JsonbValue *values; /* enum; none: any */
	int nmembers;
	SeMember *members;
	SeContract *items; /* NULL: anything */
};

/* ---- compiling ---- */

static int
type_of_name(const char *at, const char *name)
{
	for (int i = 0; i < lengthof(type_names); i++)
	{
		if (strcmp(type_names[i], name) == 0)
			return 1 << i;
	}
	se_bad_manifest(at, "there is no type \"%s\"", name);
}

static int
compile_types(const char *at, JsonbValue *node)
{
	int types = 0;
	JvIter i;

	if (node == NULL)
		return 0;
	if (node->type == jbvString)
		return type_of_name(at, jv_text(node));
	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
		types |= type_of_name(at, jv_text(&i.value));
	return types;
}

static SeMember *
add_member(SeContract *shape, const char *name)
{
	SeMember *m;

	for (int i = 0; i < shape->nmembers; i++)
	{
		if (strcmp(shape->members[i].name, name) == 0)
			return &shape->members[i];
	}
	m = &shape->members[shape->nmembers++];
	memset(m, 0, sizeof(*m));
	m->name = pstrdup(name);
	m->len = strlen(name);
	return m;
}

/* The grammar of manifests has seen to it that nothing else is said than what is read here. */
SeContract *
se_compile_contract(const char *at, JsonbValue *node)
{
	SeContract *shape = palloc0(sizeof(SeContract));
	JsonbValue *values = jv_get(node, "enum");
	JsonbValue *members = jv_get(node, "properties");
	JsonbValue *required = jv_get(node, "required");
	JsonbValue *items = jv_get(node, "items");
	JvIter i;

	shape->types = compile_types(se_pointer(at, "type"), jv_get(node, "type"));
	shape->values = palloc(sizeof(JsonbValue) * (jv_count(values) + 1));
	jv_iter_init(&i, values);
	while (jv_iter_next(&i))
		shape->values[shape->nvalues++] = i.value;
	shape->members = palloc(sizeof(SeMember) * (jv_count(members) + jv_count(required) + 1));
	jv_iter_init(&i, members);
	while (jv_iter_next(&i))
	{
		JsonbValue member = i.value;

		add_member(shape, i.key)->shape =
			se_compile_contract(se_pointer(se_pointer(at, "properties"), i.key), &member);
	}
	jv_iter_init(&i, required);
	while (jv_iter_next(&i))
		add_member(shape, jv_text(&i.value))->required = true;
	if (items != NULL)
		shape->items = se_compile_contract(se_pointer(at, "items"), items);
	return shape;
}

/* ---- checking ---- */

typedef struct Check
{
	SeDrift *drift;
	const char *path[64]; /* member names from the root; NULL: an item of an array */
	int depth;
} Check;

static char *
path_text(const Check *c)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < c->depth; i++)
	{
		appendStringInfoChar(&buf, '/');
		/* All items of an array are one place: it is the kind that drifts, not the third of them. */
		for (const char *p = c->path[i] ? c->path[i] : "*"; *p; p++)
		{
			if (*p == '~' || *p == '/')
				appendStringInfo(&buf, "~%c", *p == '~' ? '0' : '1');
			else
				appendStringInfoChar(&buf, *p);
		}
	}
	return buf.data;
}

static char *
types_text(int types)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(type_names); i++)
	{
		if (types & (1 << i))
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? " or " : "", type_names[i]);
	}
	return buf.data;
}

static char *
clip(char *text)
{
	int len = strlen(text);

	if (len > MAX_SHOWN)
		text[pg_mbcliplen(text, len, MAX_SHOWN)] = '\0';
	return text;
}

static bool
fault(Check *c, const char *kind, char *expected, char *got)
{
	c->drift->path = path_text(c);
	c->drift->kind = kind;
	c->drift->expected = expected;
	c->drift->got = clip(got);
	return false;
}

static bool
fault_at(Check *c, const char *name, const char *kind, char *expected, char *got)
{
	bool ok;

	c->path[c->depth++] = name; /* there is room: see check_below() */
	ok = fault(c, kind, expected, got);
	c->depth--;
	return ok;
}

static int
types_of(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvNull:
			return SE_T_NULL;
		case jbvBool:
			return SE_T_BOOLEAN;
		case jbvString:
			return SE_T_STRING;
		case jbvNumeric:
		{
			Datum whole = DirectFunctionCall2(numeric_trunc, NumericGetDatum(v->val.numeric),
											  Int32GetDatum(0));

			return SE_T_NUMBER | (DatumGetBool(DirectFunctionCall2(numeric_eq, whole,
																   NumericGetDatum(v->val.numeric)))
									  ? SE_T_INTEGER
									  : 0);
		}
		case jbvBinary:
			return JsonContainerIsArray(v->val.binary.data) ? SE_T_ARRAY : SE_T_OBJECT;
		default:
			return 0;
	}
}

/* Whether a number is whole is asked only where it makes a difference. */
static bool
has_type(int types, const JsonbValue *v)
{
	if (types == 0 || (v->type == jbvNumeric && (types & SE_T_NUMBER)))
		return true;
	if (v->type == jbvNumeric && !(types & SE_T_INTEGER))
		return false;
	return (types_of(v) & types) != 0;
}

static bool
check_value(Check *c, const SeContract *shape, JsonbValue *v)
{
	StringInfoData list;

	if (shape->nvalues == 0)
		return true;
	initStringInfo(&list);
	for (int i = 0; i < shape->nvalues; i++)
	{
		if (se_json_equal(&shape->values[i], v))
			return true;
	}
	for (int i = 0; i < shape->nvalues; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", jv_json(&shape->values[i]));
	return fault(c, "value", list.data, jv_json(v));
}

static bool check_node(Check *c, const SeContract *shape, JsonbValue *v);

static bool
check_below(Check *c, const char *name, const SeContract *shape, JsonbValue *v)
{
	bool ok;

	if (shape == NULL || c->depth + 1 >= lengthof(c->path))
		return true;
	c->path[c->depth++] = name;
	ok = check_node(c, shape, v);
	c->depth--;
	return ok;
}

static bool
check_members(Check *c, const SeContract *shape, JsonbContainer *object)
{
	for (int i = 0; i < shape->nmembers; i++)
	{
		const SeMember *m = &shape->members[i];
		JsonbValue v;

		if (getKeyJsonValueFromContainer(object, m->name, m->len, &v) == NULL)
		{
			if (!m->required)
				continue;
			return fault_at(c, m->name, "missing",
							m->shape && m->shape->types ? types_text(m->shape->types)
														: pstrdup("a value"),
							pstrdup("nothing"));
		}
		if (!check_below(c, m->name, m->shape, &v))
			return false;
	}
	return true;
}

static bool
check_node(Check *c, const SeContract *shape, JsonbValue *v)
{
	JvIter i;

	if (!has_type(shape->types, v))
		return fault(c, "type", types_text(shape->types),
					 psprintf("%s: %s", types_text(types_of(v) & ~SE_T_INTEGER), jv_json(v)));
	if (!check_value(c, shape, v))
		return false;
	if (JV_IS_OBJECT(v))
		return check_members(c, shape, v->val.binary.data);
	if (!JV_IS_ARRAY(v) || shape->items == NULL)
		return true;
	jv_iter_init(&i, v);
	while (jv_iter_next(&i))
	{
		JsonbValue item = i.value;

		CHECK_FOR_INTERRUPTS();
		if (!check_below(c, NULL, shape->items, &item))
			return false;
	}
	return true;
}

bool
se_contract_check(const SeContract *contract, Jsonb *record, SeDrift *drift)
{
	Check c = {.drift = drift};

	return check_node(&c, contract, jv_from_jsonb(record));
}
