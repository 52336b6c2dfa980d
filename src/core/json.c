/*
 * json.c: see json.h.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "core/json.h"
#include "core/jsonb_write.h"

#define FIRST_SIZE 12

void
se_obj_begin(SeObjBuilder *b)
{
	b->n = 0;
	b->size = FIRST_SIZE;
	b->pairs = palloc(sizeof(JsonbPair) * b->size);
}

/* Where the value of a new member goes. */
static JsonbValue *
add(SeObjBuilder *b, const char *key)
{
	JsonbPair *pair;

	if (b->n == b->size)
	{
		b->size *= 2;
		b->pairs = repalloc(b->pairs, sizeof(JsonbPair) * b->size);
	}
	pair = &b->pairs[b->n++];
	pair->key.type = jbvString;
	pair->key.val.string.val = unconstify(char *, key);
	pair->key.val.string.len = (int) strlen(key);
	return &pair->value;
}

void
se_obj_text(SeObjBuilder *b, const char *key, const char *text)
{
	JsonbValue *value;

	if (text == NULL)
		return;
	value = add(b, key);
	value->type = jbvString;
	value->val.string.val = unconstify(char *, text);
	value->val.string.len = (int) strlen(text);
}

void
se_obj_int(SeObjBuilder *b, const char *key, int64 number)
{
	JsonbValue *value = add(b, key);

	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

void
se_obj_bool(SeObjBuilder *b, const char *key, bool flag)
{
	JsonbValue *value = add(b, key);

	value->type = jbvBool;
	value->val.boolean = flag;
}

void
se_obj_value(SeObjBuilder *b, const char *key, Jsonb *member)
{
	JsonbValue *value;

	if (member == NULL)
		return;
	value = add(b, key);
	if (JB_ROOT_IS_SCALAR(member))
		(void) JsonbExtractScalar(&member->root, value);
	else
	{
		value->type = jbvBinary;
		value->val.binary.data = &member->root;
		value->val.binary.len = VARSIZE(member) - VARHDRSZ;
	}
}

Jsonb *
se_obj_end(SeObjBuilder *b)
{
	Jsonb *object = se_json_from_pairs(b->pairs, b->n, JENTRY_OFFLENMASK);

	if (object == NULL)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("a JSON object would be larger than %d bytes", JENTRY_OFFLENMASK)));
	pfree(b->pairs);
	return object;
}

Jsonb *
se_obj_empty(void)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	return se_obj_end(&b);
}

Jsonb *
se_obj_copy(const Jsonb *value)
{
	Jsonb *copy = palloc(VARSIZE(value));

	memcpy(copy, value, VARSIZE(value));
	return copy;
}

static bool
find_member(const Jsonb *object, const char *key, JsonbValue *value)
{
	if (object == NULL || !JB_ROOT_IS_OBJECT(object))
		return false;
	return getKeyJsonValueFromContainer(&unconstify(Jsonb *, object)->root, key, (int) strlen(key),
										value) != NULL;
}

Jsonb *
se_obj_get(const Jsonb *object, const char *key)
{
	JsonbValue value;

	if (!find_member(object, key, &value))
		return NULL;
	return JsonbValueToJsonb(&value);
}

char *
se_obj_get_text(const Jsonb *object, const char *key)
{
	JsonbValue value;
	Jsonb *member;

	if (!find_member(object, key, &value) || value.type == jbvNull)
		return NULL;
	if (value.type == jbvString)
		return pnstrdup(value.val.string.val, value.val.string.len);
	member = JsonbValueToJsonb(&value);
	return JsonbToCString(NULL, &member->root, VARSIZE(member));
}

int64
se_obj_get_int(const Jsonb *object, const char *key, int64 fallback)
{
	JsonbValue value;

	if (!find_member(object, key, &value) || value.type != jbvNumeric)
		return fallback;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value.val.numeric)));
}

Jsonb *
se_obj_keys(const Jsonb *object)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue value;

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	if (object != NULL && JB_ROOT_IS_OBJECT(object))
	{
		it = JsonbIteratorInit(&unconstify(Jsonb *, object)->root);
		while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		{
			if (token == WJB_KEY)
				(void) pushJsonbValue(&state, WJB_ELEM, &value);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

bool
se_json_equal(const JsonbValue *a, const JsonbValue *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				   memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		case jbvBinary:
			return compareJsonbContainers(a->val.binary.data, b->val.binary.data) == 0;
		default:
			return false;
	}
}
