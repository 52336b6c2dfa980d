/*
 * key_text.c: see key_text.h.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "capture/key_text.h"
#include "capture/render.h"

extern PGDLLEXPORT Datum se_key_text_sql(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_key_text_sql);

/* Types whose output is what events have: neither settings nor our ways of writing JSON make a difference. */
static bool
is_plain(Oid base)
{
	return base == UUIDOID || base == INT2OID || base == INT4OID || base == INT8OID ||
		   base == NUMERICOID || base == TEXTOID || base == VARCHAROID;
}

/* By the emitter that events are written by. */
static char *
rendered(Oid type, Datum value)
{
	SeShape shape = {0};
	SeColumn column = {.name = format_type_be(type)};
	char *text;
	int pin;

	se_column_type(&shape, &column, type);
	pin = se_pin_settings(&shape);
	text = se_render_text(&column, value);
	se_unpin_settings(pin);
	return text;
}

char *
se_key_text(Oid type, Datum value)
{
	Oid base = getBaseType(type);
	Oid output;
	bool is_varlena;
	int utc = 0;

	/* What is compared by the thousand takes no more memory than its text. */
	if (base == DATEOID || base == TIMESTAMPOID || base == TIMESTAMPTZOID)
		return JsonEncodeDateTime(palloc(MAXDATELEN + 1), value, base,
								  base == TIMESTAMPTZOID ? &utc : NULL);
	if (!is_plain(base))
		return rendered(type, value);
	getTypeOutputInfo(base, &output, &is_varlena);
	return OidOutputFunctionCall(output, value);
}

/*
 * What the emitters of emit.c write, by expressions that whoever owns a table may evaluate: he has no rights in our
 * schema. Of what is left to a cast, events pin the settings that some types look at; so does who compares (see
 * _as_owner()), and the hub.
 */
static void
append_key_text(StringInfo sql, const char *operand, Oid type)
{
	switch (getBaseType(type))
	{
		case DATEOID:
		case TIMESTAMPOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INETOID: /* its cast adds /32 */
			appendStringInfo(sql, "(to_jsonb(%s) #>> '{}')", operand);
			break;
		case JSONBOID:
			appendStringInfo(sql, "(%s #>> '{}')", operand);
			break;
		case TIMESTAMPTZOID:
			/* Infinity has no offset; an era stands behind it. */
			appendStringInfo(
				sql,
				"(CASE WHEN NOT isfinite(%s) THEN %s::text WHEN %s < '0001-01-01 00:00+00' "
				"THEN replace(to_jsonb(%s AT TIME ZONE 'UTC') #>> '{}', ' BC', '+00:00 BC') "
				"ELSE (to_jsonb(%s AT TIME ZONE 'UTC') #>> '{}') || '+00:00' END)",
				operand, operand, operand, operand, operand);
			break;
		case TIMETZOID:
			/* Of a zone of whole hours its text has no minutes. */
			appendStringInfo(sql, "regexp_replace(%s::text, '([+-][0-9]{2})$', E'\\\\1:00')",
							 operand);
			break;
		case BYTEAOID:
			appendStringInfo(sql, "(E'\\\\x' || encode(%s, 'hex'))", operand);
			break;
		default:
			/* Of a type that somebody made, a cast might be his own code, and is not what events have. */
			appendStringInfo(sql,
							 getBaseType(type) < FirstNormalObjectId ? "%s::text" : "concat(%s)",
							 operand);
			break;
	}
}

void
se_append_key_texts(StringInfo sql, const char *const *operands, const Oid *types, int n)
{
	if (n == 1)
	{
		append_key_text(sql, operands[0], types[0]);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		appendStringInfoString(sql, i == 0 ? "jsonb_build_array(" : ", ");
		append_key_text(sql, operands[i], types[i]);
	}
	appendStringInfoString(sql, ")::text");
}

/* sync._key_text_sql(operands, types): the expression of se_append_key_texts(). */
Datum
se_key_text_sql(PG_FUNCTION_ARGS)
{
	Datum *operands;
	Datum *types;
	int n;
	int ntypes;
	char **texts;
	Oid *oids;
	StringInfoData sql;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &operands, NULL,
					  &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &types,
					  NULL, &ntypes);
	if (n == 0 || n != ntypes)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a record id takes as many types as columns, and at least one")));
	texts = palloc(sizeof(char *) * n);
	oids = palloc(sizeof(Oid) * n);
	for (int i = 0; i < n; i++)
	{
		texts[i] = TextDatumGetCString(operands[i]);
		oids[i] = DatumGetObjectId(types[i]);
	}
	initStringInfo(&sql);
	se_append_key_texts(&sql, (const char *const *) texts, oids, n);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(sql.data, sql.len));
}
