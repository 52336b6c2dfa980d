/*
 * value.c
 *		JsonbValue helpers: walking, building, texts, instants.
 *
 * A value is a JsonbValue whose containers are jbvBinary, so that parts of a
 * document are passed around without being copied. It points into the document
 * it came from and lives no longer than that.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

void
jv_iter_init(JvIter *i, JsonbValue *container)
{
	JsonbValue ignored;

	memset(i, 0, sizeof(*i));
	i->index = -1;
	if (!JV_IS_OBJECT(container) && !JV_IS_ARRAY(container))
		return;
	i->object = JV_IS_OBJECT(container);
	i->it = JsonbIteratorInit(container->val.binary.data);
	JsonbIteratorNext(&i->it, &ignored, true);
}

bool
jv_iter_next(JvIter *i)
{
	JsonbIteratorToken token;

	if (i->it == NULL)
		return false;
	token = JsonbIteratorNext(&i->it, &i->value, true);
	if (token == WJB_KEY)
	{
		i->key = pnstrdup(i->value.val.string.val, i->value.val.string.len);
		token = JsonbIteratorNext(&i->it, &i->value, true);
	}
	if (token != WJB_VALUE && token != WJB_ELEM)
	{
		i->it = NULL;
		return false;
	}
	i->index++;
	return true;
}

int
jv_count(JsonbValue *container)
{
	if (!JV_IS_OBJECT(container) && !JV_IS_ARRAY(container))
		return 0;
	return JsonContainerSize(container->val.binary.data);
}

JsonbValue *
jv_from_jsonb(Jsonb *jb)
{
	JsonbValue *v;

	if (jb == NULL)
		return NULL;
	v = palloc0(sizeof(JsonbValue));
	if (JB_ROOT_IS_SCALAR(jb))
		JsonbExtractScalar(&jb->root, v);
	else
		JsonbToJsonbValue(jb, v);
	return v;
}

Jsonb *
jv_to_jsonb(JsonbValue *v)
{
	return JsonbValueToJsonb(v ? v : jv_null());
}

JsonbValue *
jv_get(JsonbValue *object, const char *key)
{
	if (!JV_IS_OBJECT(object))
		return NULL;
	return getKeyJsonValueFromContainer(object->val.binary.data, key, strlen(key), NULL);
}

JsonbValue *
jv_string(const char *s)
{
	JsonbValue *v = palloc0(sizeof(JsonbValue));

	v->type = jbvString;
	v->val.string.val = pstrdup(s);
	v->val.string.len = strlen(s);
	return v;
}

JsonbValue *
jv_bool(bool b)
{
	JsonbValue *v = palloc0(sizeof(JsonbValue));

	v->type = jbvBool;
	v->val.boolean = b;
	return v;
}

JsonbValue *
jv_int(int64 i)
{
	JsonbValue *v = palloc0(sizeof(JsonbValue));

	v->type = jbvNumeric;
	v->val.numeric = int64_to_numeric(i);
	return v;
}

JsonbValue *
jv_null(void)
{
	JsonbValue *v = palloc0(sizeof(JsonbValue));

	v->type = jbvNull;
	return v;
}

/* Text that the caller has checked to be a decimal. */
JsonbValue *
jv_numeric(const char *text)
{
	JsonbValue *v = palloc0(sizeof(JsonbValue));

	v->type = jbvNumeric;
	v->val.numeric =
		DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
											ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return v;
}

char *
jv_text(JsonbValue *v)
{
	if (v == NULL)
		return NULL;
	switch (v->type)
	{
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		case jbvBinary:
			return jv_json(v);
		default:
			return NULL;
	}
}

char *
jv_json(JsonbValue *v)
{
	Jsonb *jb = jv_to_jsonb(v);

	return JsonbToCString(NULL, &jb->root, VARSIZE(jb));
}

char *
jv_get_text(JsonbValue *object, const char *key)
{
	return jv_text(jv_get(object, key));
}

void
jv_push_key(JsonbParseState **state, const char *key)
{
	JsonbValue v = {.type = jbvString};

	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
}

void
jv_push_value(JsonbParseState **state, bool member, JsonbValue *v)
{
	JsonbValue null = {.type = jbvNull};

	pushJsonbValue(state, member ? WJB_VALUE : WJB_ELEM, v ? v : &null);
}

void
jv_push_member(JsonbParseState **state, const char *key, JsonbValue *v)
{
	jv_push_key(state, key);
	jv_push_value(state, true, v);
}

bool
jv_is_null(JsonbValue *v)
{
	return v == NULL || v->type == jbvNull;
}

bool
jv_is_empty(JsonbValue *v)
{
	return jv_is_null(v) || (v->type == jbvString && v->val.string.len == 0) ||
		   (v->type == jbvBinary && jv_count(v) == 0);
}

/* Whether ISO text says its offset; without one it is taken as UTC, never as the session's zone. */
static bool
has_offset(const char *text)
{
	const char *time = strpbrk(text, "T ");

	return time && strpbrk(time, "Zz+-") != NULL;
}

/* ISO 8601 date or instant only, so that no session setting decides what it means. */
bool
se_parse_time(const char *text, TimestampTz *at)
{
	char *field[MAXDATEFIELDS];
	int ftype[MAXDATEFIELDS];
	char work[128];
	char copy[80];
	int nf, dtype, tz = 0;
	struct pg_tm tm;
	fsec_t fsec;

	if (strlen(text) > 60 || strspn(text, "0123456789") < 4 ||
		text[strspn(text, "0123456789")] != '-')
		return false;
	snprintf(copy, sizeof(copy), "%s%s", text,
			 strpbrk(text, "T ") == NULL ? " 00:00:00Z"
			 : has_offset(text)			 ? ""
										 : "Z");
	if (ParseDateTime(copy, work, sizeof(work), field, ftype, MAXDATEFIELDS, &nf) != 0)
		return false;
	if (DecodeDateTime(field, ftype, nf, &dtype, &tm, &fsec, &tz) != 0 || dtype != DTK_DATE)
		return false;
	return tm2timestamp(&tm, fsec, &tz, at) == 0;
}

/* UTC with Z; a fraction only when there is one. */
char *
se_format_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t fsec;
	char *text;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		return NULL;
	text = psprintf("%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour,
					tm.tm_min, tm.tm_sec);
	if (fsec != 0)
	{
		char *end;

		text = psprintf("%s.%06d", text, (int) fsec);
		for (end = text + strlen(text) - 1; *end == '0'; end--)
			*end = '\0';
	}
	return psprintf("%sZ", text);
}
