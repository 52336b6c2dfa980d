/*
 * agree.c: whether a row agrees with the fields that a system shows of it, told fast.
 *
 * A comparison of a million records cannot make a million JSON documents of rows. Here the values of a
 * row are held against the members of `fields` as they are, without text between them. true is
 * sure; false means only that it takes a closer look (differ.c): a type that is not known here,
 * an instant that a system tells to the second, the lines of a document. No function of a user's own
 * type is ever called: this runs with the rights of the extension's owner.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "reconcile/letters.h"
#include "reconcile/members.h"

extern PGDLLEXPORT Datum se_row_agrees(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_uuid(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_row_agrees);
PG_FUNCTION_INFO_V1(se_uuid);

#define UUID_TEXT_LEN 36

/* A member of fields: where it stands in the row. */
typedef struct Member
{
	int attno; /* from 0 */
	Oid type;  /* domains are looked through */
} Member;

/* Lives as long as the call site's function information. */
typedef struct Agreement
{
	Oid type;
	int32 typmod;
	TupleDesc desc;
	MemoryContext cxt; /* of what follows */
	SeMembers learnt;
	bool usable; /* whether some are learnt, and each is a column */
	Member *members;
	Datum *values;
	bool *nulls;
} Agreement;

static Agreement *
agreement_of(FunctionCallInfo fcinfo, HeapTupleHeader row)
{
	Agreement *a = fcinfo->flinfo->fn_extra;
	Oid type = HeapTupleHeaderGetTypeId(row);
	int32 typmod = HeapTupleHeaderGetTypMod(row);
	MemoryContext old;

	if (a != NULL && a->type == type && a->typmod == typmod)
		return a;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	a = palloc0(sizeof(Agreement));
	a->type = type;
	a->typmod = typmod;
	a->desc = lookup_rowtype_tupdesc_copy(type, typmod);
	a->values = palloc(sizeof(Datum) * a->desc->natts);
	a->nulls = palloc(sizeof(bool) * a->desc->natts);
	a->cxt = AllocSetContextCreate(CurrentMemoryContext, "sync_ext members", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(old);
	fcinfo->flinfo->fn_extra = a;
	return a;
}

static int
attribute_of(TupleDesc desc, const char *key, int len)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strlen(NameStr(att->attname)) == len &&
			memcmp(NameStr(att->attname), key, len) == 0)
			return i;
	}
	return -1;
}

/* False when some member is no column. */
static bool
learn(Agreement *a, Jsonb *fields)
{
	MemoryContext old;

	a->usable = false;
	MemoryContextReset(a->cxt);
	old = MemoryContextSwitchTo(a->cxt);
	se_members_learn(&a->learnt, &fields->root);
	a->members = palloc(sizeof(Member) * Max(a->learnt.n, 1));
	MemoryContextSwitchTo(old);
	for (int i = 0; i < a->learnt.n; i++)
	{
		Member *m = &a->members[i];
		int len;
		const char *key = se_member_key(&a->learnt, i, &len);

		m->attno = attribute_of(a->desc, key, len);
		if (m->attno < 0)
			return false;
		m->type = getBaseType(TupleDescAttr(a->desc, m->attno)->atttypid);
	}
	a->usable = true;
	return true;
}

/* ---- values ---- */

static bool
text_agrees(Datum value, const JsonbValue *v, bool padded)
{
	struct varlena *text = PG_DETOAST_DATUM_PACKED(value);
	const char *s = VARDATA_ANY(text);
	int len = VARSIZE_ANY_EXHDR(text);

	while (padded && len > v->val.string.len && s[len - 1] == ' ')
		len--;
	return len == v->val.string.len && memcmp(s, v->val.string.val, len) == 0;
}

static bool
uuid_agrees(Datum value, const JsonbValue *v)
{
	static const char digits[] = "0123456789abcdef";
	const pg_uuid_t *uuid = DatumGetUUIDP(value);
	const char *s = v->val.string.val;

	if (v->val.string.len != UUID_TEXT_LEN)
		return false;
	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
		{
			if (*s++ != '-')
				return false;
		}
		if (*s++ != digits[uuid->data[i] >> 4] || *s++ != digits[uuid->data[i] & 15])
			return false;
	}
	return true;
}

static bool
date_agrees(Datum value, const JsonbValue *v)
{
	DateADT date = DatumGetDateADT(value);
	char text[MAXDATELEN + 1];
	struct pg_tm tm;

	if (DATE_NOT_FINITE(date))
		return false;
	j2date(date + POSTGRES_EPOCH_JDATE, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	EncodeDateOnly(&tm, USE_ISO_DATES, text);
	return strlen(text) == v->val.string.len &&
		   memcmp(text, v->val.string.val, v->val.string.len) == 0;
}

static bool
instant_agrees(Datum value, const JsonbValue *v)
{
	TimestampTz at;

	return se_read_instant(v->val.string.val, v->val.string.len, &at) &&
		   at == DatumGetTimestampTz(value);
}

static bool
number_agrees(Oid type, Datum value, const JsonbValue *v)
{
	Numeric ours;

	switch (type)
	{
		case NUMERICOID:
			ours = DatumGetNumeric(value);
			break;
		case INT8OID:
			ours = int64_to_numeric(DatumGetInt64(value));
			break;
		case INT4OID:
			ours = int64_to_numeric(DatumGetInt32(value));
			break;
		case INT2OID:
			ours = int64_to_numeric(DatumGetInt16(value));
			break;
		default:
			return false;
	}
	return (VARSIZE_ANY(ours) == VARSIZE_ANY(v->val.numeric) &&
			memcmp(ours, v->val.numeric, VARSIZE_ANY(ours)) == 0) ||
		   DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(ours),
											NumericGetDatum(v->val.numeric)));
}

static bool
string_agrees(Oid type, Datum value, const JsonbValue *v)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			return text_agrees(value, v, false);
		case BPCHAROID:
			return text_agrees(value, v, true);
		case UUIDOID:
			return uuid_agrees(value, v);
		case DATEOID:
			return date_agrees(value, v);
		case TIMESTAMPTZOID:
			return instant_agrees(value, v);
		default:
			return false;
	}
}

static bool
container_agrees(Oid type, Datum value, const JsonbValue *v)
{
	return type == JSONBOID &&
		   compareJsonbContainers(&DatumGetJsonbP(value)->root, v->val.binary.data) == 0;
}

static bool
value_agrees(Oid type, Datum value, bool isnull, const JsonbValue *v)
{
	if (isnull || v->type == jbvNull)
		return isnull && v->type == jbvNull;
	switch (v->type)
	{
		case jbvString:
			return string_agrees(type, value, v);
		case jbvNumeric:
			return number_agrees(type, value, v);
		case jbvBool:
			return type == BOOLOID && DatumGetBool(value) == v->val.boolean;
		case jbvBinary:
			return container_agrees(type, value, v);
		default:
			return false;
	}
}

static bool
agrees(Agreement *a, JsonbContainer *container)
{
	uint32 offset = a->learnt.text_len;

	for (int i = 0; i < a->learnt.n; i++)
	{
		const Member *m = &a->members[i];
		JsonbValue v;

		se_member_next(&a->learnt, container, i, &offset, &v);
		if (!value_agrees(m->type, a->values[m->attno], a->nulls[m->attno], &v))
			return false;
	}
	return true;
}

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/*
 * sync._row_agrees(row, fields): true when every member of fields is the column of that name, to the
 * letter; false when that is not so or cannot be told here.
 */
Datum
se_row_agrees(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	Jsonb *fields = PG_GETARG_JSONB_P(1);
	Agreement *a = agreement_of(fcinfo, row);
	HeapTupleData tuple;

	if (!JB_ROOT_IS_OBJECT(fields))
		PG_RETURN_BOOL(false);
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	/* Records of an object mostly have the same members, yet one that was sent may have fewer. */
	if (!(a->usable && se_members_are(&a->learnt, &fields->root)) && !learn(a, fields))
		PG_RETURN_BOOL(false);
	heap_deform_tuple(&tuple, a->desc, a->values, a->nulls);
	PG_RETURN_BOOL(agrees(a, &fields->root));
}

/*
 * sync._uuid(text): the uuid that is written so by the server, else NULL. A comparison reads one for each
 * mirror; the server's own function takes twice as long, and fails on what is none.
 */
Datum
se_uuid(PG_FUNCTION_ARGS)
{
	text *in = PG_GETARG_TEXT_PP(0);
	const char *s = VARDATA_ANY(in);
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));

	if (VARSIZE_ANY_EXHDR(in) != UUID_TEXT_LEN)
		PG_RETURN_NULL();
	for (int i = 0; i < UUID_LEN; i++)
	{
		int high;
		int low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *s++ != '-')
			PG_RETURN_NULL();
		high = hex_digit(*s++);
		low = hex_digit(*s++);
		if (high < 0 || low < 0)
			PG_RETURN_NULL();
		uuid->data[i] = high << 4 | low;
	}
	PG_RETURN_UUID_P(uuid);
}
