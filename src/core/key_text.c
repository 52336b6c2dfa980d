/*
 * key_text.c: see key_text.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "core/key_text.h"

extern PGDLLEXPORT Datum se_key_text_sql(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_key_text_sql);

char *
se_key_text(Oid type, Datum value)
{
	Oid base = getBaseType(type);
	Oid output;
	bool is_varlena;
	int utc = 0;
	char *spelled;

	if (base == DATEOID || base == TIMESTAMPOID || base == TIMESTAMPTZOID)
		return JsonEncodeDateTime(palloc(MAXDATELEN + 1), value, base,
								  base == TIMESTAMPTZOID ? &utc : NULL);
	if (base == BYTEAOID)
	{
		Datum hex = DirectFunctionCall2(binary_encode, value, CStringGetTextDatum("hex"));

		return psprintf("\\x%s", TextDatumGetCString(hex));
	}
	getTypeOutputInfo(base, &output, &is_varlena);
	spelled = OidOutputFunctionCall(output, value);
	if (base == BPCHAROID)
	{
		for (size_t len = strlen(spelled); len > 0 && spelled[len - 1] == ' ';)
			spelled[--len] = '\0';
	}
	return spelled;
}

static void
append_key_text(StringInfo sql, const char *operand, Oid type)
{
	switch (getBaseType(type))
	{
		case DATEOID:
		case TIMESTAMPOID:
			appendStringInfo(sql, "(to_jsonb(%s) #>> '{}')", operand);
			break;
		case TIMESTAMPTZOID:
			/* Infinity has no offset. */
			appendStringInfo(
				sql,
				"(CASE WHEN isfinite(%s) THEN (to_jsonb(%s AT TIME ZONE 'UTC') #>> '{}') "
				"|| '+00:00' ELSE %s::text END)",
				operand, operand, operand);
			break;
		case BYTEAOID:
			appendStringInfo(sql, "(E'\\\\x' || encode(%s, 'hex'))", operand);
			break;
		default:
			appendStringInfo(sql, "%s::text", operand);
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
