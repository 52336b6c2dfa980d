/*
 * json.c: see json.h.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "core/json.h"

static void
push_key(SeObjBuilder *b, const char *key)
{
	JsonbValue value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = (int) strlen(key);
	(void) pushJsonbValue(&b->state, WJB_KEY, &value);
}

void
se_obj_begin(SeObjBuilder *b)
{
	b->state = NULL;
	(void) pushJsonbValue(&b->state, WJB_BEGIN_OBJECT, NULL);
}

void
se_obj_text(SeObjBuilder *b, const char *key, const char *text)
{
	JsonbValue value;

	if (text == NULL)
		return;
	push_key(b, key);
	value.type = jbvString;
	value.val.string.val = unconstify(char *, text);
	value.val.string.len = (int) strlen(text);
	(void) pushJsonbValue(&b->state, WJB_VALUE, &value);
}

void
se_obj_int(SeObjBuilder *b, const char *key, int64 number)
{
	JsonbValue value;

	push_key(b, key);
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	(void) pushJsonbValue(&b->state, WJB_VALUE, &value);
}

void
se_obj_bool(SeObjBuilder *b, const char *key, bool flag)
{
	JsonbValue value;

	push_key(b, key);
	value.type = jbvBool;
	value.val.boolean = flag;
	(void) pushJsonbValue(&b->state, WJB_VALUE, &value);
}

void
se_obj_value(SeObjBuilder *b, const char *key, Jsonb *member)
{
	JsonbValue value;

	if (member == NULL)
		return;
	push_key(b, key);
	if (JB_ROOT_IS_SCALAR(member))
		(void) JsonbExtractScalar(&member->root, &value);
	else
	{
		value.type = jbvBinary;
		value.val.binary.data = &member->root;
		value.val.binary.len = VARSIZE(member) - VARHDRSZ;
	}
	(void) pushJsonbValue(&b->state, WJB_VALUE, &value);
}

Jsonb *
se_obj_end(SeObjBuilder *b)
{
	return JsonbValueToJsonb(pushJsonbValue(&b->state, WJB_END_OBJECT, NULL));
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
