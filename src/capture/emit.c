/*
 * emit.c: one value as jsonb, by an emitter for each family of types.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "capture/render.h"

static uint32
emit_bool(SeJsonWriter *w, SeColumn *column, Datum value)
{
	return DatumGetBool(value) ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
}

static uint32
emit_integer(SeJsonWriter *w, SeColumn *column, Datum value)
{
	int64 number;
	Numeric numeric;

	if (column->type == INT2OID)
		number = DatumGetInt16(value);
	else if (column->type == INT4OID)
		number = DatumGetInt32(value);
	else
		number = DatumGetInt64(value);
	numeric = int64_to_numeric(number);
	se_json_numeric(w, numeric);
	pfree(numeric);
	return JENTRY_ISNUMERIC;
}

/* JSON numbers know neither NaN nor infinity: those become strings. */
static uint32
put_numeric(SeJsonWriter *w, Numeric numeric)
{
	if (numeric_is_nan(numeric) || numeric_is_inf(numeric))
	{
		char *text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(numeric)));

		return se_json_string(w, text, strlen(text));
	}
	return se_json_numeric(w, numeric);
}

static uint32
emit_numeric(SeJsonWriter *w, SeColumn *column, Datum value)
{
	return put_numeric(w, DatumGetNumeric(value));
}

static uint32
emit_float(SeJsonWriter *w, SeColumn *column, Datum value)
{
	char text[DOUBLE_SHORTEST_DECIMAL_LEN];
	double number;
	Datum numeric;

	if (column->type == FLOAT4OID)
	{
		number = DatumGetFloat4(value);
		float_to_shortest_decimal_buf(DatumGetFloat4(value), text);
	}
	else
	{
		number = DatumGetFloat8(value);
		double_to_shortest_decimal_buf(number, text);
	}
	if (isnan(number) || isinf(number))
		return se_json_string(w, text, strlen(text));
	numeric = DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
								  Int32GetDatum(-1));
	return se_json_numeric(w, DatumGetNumeric(numeric));
}

static uint32
emit_text(SeJsonWriter *w, SeColumn *column, Datum value)
{
	text *t = DatumGetTextPP(value);

	return se_json_string(w, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
}

static uint32
emit_name(SeJsonWriter *w, SeColumn *column, Datum value)
{
	const char *name = NameStr(*DatumGetName(value));

	return se_json_string(w, name, strlen(name));
}

static uint32
emit_uuid(SeJsonWriter *w, SeColumn *column, Datum value)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *bytes = DatumGetUUIDP(value)->data;
	char text[36];
	char *p = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[bytes[i] >> 4];
		*p++ = digits[bytes[i] & 0xF];
	}
	return se_json_string(w, text, sizeof(text));
}

/* Dates and times in ISO 8601. */
static uint32
emit_datetime(SeJsonWriter *w, SeColumn *column, Datum value)
{
	char text[MAXDATELEN + 1];

	JsonEncodeDateTime(text, value, column->type, NULL);
	return se_json_string(w, text, strlen(text));
}

/*
 * Instants in UTC, written with their offset. The last one is remembered: it is often the same again,
 * now() in two columns and in all rows of a transaction.
 */
static uint32
emit_instant(SeJsonWriter *w, SeColumn *column, Datum value)
{
	static char text[MAXDATELEN + 1];
	static Size len = 0;
	static TimestampTz last;
	TimestampTz instant = DatumGetTimestampTz(value);
	int utc = 0;

	if (len == 0 || instant != last)
	{
		len = 0;
		JsonEncodeDateTime(text, value, TIMESTAMPTZOID, &utc);
		last = instant;
		len = strlen(text);
	}
	return se_json_string(w, text, len);
}

/* Always in style postgres, the only one whose text every version reads back as it was. */
static uint32
emit_interval(SeJsonWriter *w, SeColumn *column, Datum value)
{
	struct pg_itm tm;
	char text[MAXDATELEN + 1];

	interval2itm(*DatumGetIntervalP(value), &tm);
	EncodeInterval(&tm, INTSTYLE_POSTGRES, text);
	return se_json_string(w, text, strlen(text));
}

static uint32
emit_bytea(SeJsonWriter *w, SeColumn *column, Datum value)
{
	bytea *b = DatumGetByteaPP(value);
	Size len = VARSIZE_ANY_EXHDR(b);

	if (se_json_fits(w, 2 * len + 2))
	{
		appendBinaryStringInfo(&w->buf, "\\x", 2);
		enlargeStringInfo(&w->buf, 2 * len + 1);
		w->buf.len += hex_encode(VARDATA_ANY(b), len, w->buf.data + w->buf.len);
	}
	return JENTRY_ISSTRING;
}

static uint32
emit_jsonb(SeJsonWriter *w, SeColumn *column, Datum value)
{
	return se_json_jsonb(w, DatumGetJsonbP(value));
}

/*
 * Type json accepts what jsonb cannot hold: \u0000, lone surrogates, numbers out of range. Such a
 * value goes as its text. Parsing takes neither locks nor other resources, so that catching its
 * errors needs no subtransaction.
 */
static uint32
emit_json(SeJsonWriter *w, SeColumn *column, Datum value)
{
	char *source = TextDatumGetCString(value);
	MemoryContext context = CurrentMemoryContext;
	Jsonb *volatile json = NULL;

	PG_TRY();
	{
		json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(source)));
	}
	PG_CATCH();
	{
		int category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();

	if (json == NULL)
		return se_json_string(w, source, strlen(source));
	return se_json_jsonb(w, json);
}

/* Writes one dimension of an array, and those below it. Elements are in row-major order. */
static uint32
put_dimension(SeJsonWriter *w, SeColumn *element, int ndim, const int *dims, const Datum *values,
			  const bool *nulls, int *next)
{
	SeJsonContainer c;

	se_json_open(w, &c, JB_FARRAY, dims[0]);
	for (int i = 0; i < dims[0] && !w->overflow; i++)
	{
		uint32 type = JENTRY_ISNULL;

		if (ndim > 1)
			type = put_dimension(w, element, ndim - 1, dims + 1, values, nulls, next);
		else
		{
			if (!nulls[*next])
				type = element->emit(w, element, values[*next]);
			(*next)++;
		}
		se_json_entry(w, &c, type);
	}
	return JENTRY_ISCONTAINER;
}

static uint32
emit_array(SeJsonWriter *w, SeColumn *column, Datum value)
{
	ArrayType *array = DatumGetArrayTypeP(value);
	SeColumn *element = column->element;
	int none = 0;
	int next = 0;
	int count;
	Datum *values;
	bool *nulls;

	/* An element takes at least its entry, so this many can never fit. */
	if (!se_json_fits(w, (Size) ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) * sizeof(JEntry)))
		return JENTRY_ISCONTAINER;
	deconstruct_array(array, element->type, element->typlen, element->typbyval, element->typalign,
					  &values, &nulls, &count);
	if (count == 0)
		return put_dimension(w, element, 1, &none, NULL, NULL, &next);
	return put_dimension(w, element, ARR_NDIM(array), ARR_DIMS(array), values, nulls, &next);
}

static uint32
emit_output(SeJsonWriter *w, SeColumn *column, Datum value)
{
	char *text = OutputFunctionCall(&column->output, value);

	return se_json_string(w, text, strlen(text));
}

/* Types whose output depends on no setting, beside those with an emitter of their own. */
static bool
output_is_constant(Oid type)
{
	switch (type)
	{
		case BITOID:
		case CHAROID:
		case CIDROID:
		case INETOID:
		case MACADDR8OID:
		case MACADDROID:
		case OIDOID:
		case PG_LSNOID:
		case TSQUERYOID:
		case TSVECTOROID:
		case VARBITOID:
		case XID8OID:
			return true;
		default:
			return get_typtype(type) == TYPTYPE_ENUM;
	}
}

static SeEmit
emitter_of(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return emit_bool;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return emit_integer;
		case NUMERICOID:
			return emit_numeric;
		case FLOAT4OID:
		case FLOAT8OID:
			return emit_float;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return emit_text;
		case NAMEOID:
			return emit_name;
		case UUIDOID:
			return emit_uuid;
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
			return emit_datetime;
		case TIMESTAMPTZOID:
			return emit_instant;
		case INTERVALOID:
			return emit_interval;
		case BYTEAOID:
			return emit_bytea;
		case JSONBOID:
			return emit_jsonb;
		case JSONOID:
			return emit_json;
		default:
			return NULL;
	}
}

void
se_column_type(SeShape *shape, SeColumn *column, Oid type)
{
	Oid element;

	column->type = getBaseType(type);
	get_typlenbyvalalign(column->type, &column->typlen, &column->typbyval, &column->typalign);
	column->emit = emitter_of(column->type);
	if (column->emit != NULL)
		return;

	element = get_base_element_type(column->type);
	if (OidIsValid(element))
	{
		column->emit = emit_array;
		column->element = palloc0(sizeof(SeColumn));
		se_column_type(shape, column->element, element);
	}
	else
	{
		Oid output;
		bool is_varlena;

		getTypeOutputInfo(column->type, &output, &is_varlena);
		fmgr_info(output, &column->output);
		column->emit = emit_output;
		if (!output_is_constant(column->type))
			shape->pinned = true;
	}
}
