/*
 * letters.c: values in letters that can be hashed.
 *
 * What se_row_agrees() (agree.c) says of a column and a member is said here of each of the two by itself: their
 * letters are the same only where they agree. So 10.5 and 10.50 have the same letters, an instant has those
 * of its microseconds. Each value is preceded by its kind and length, so that no two lists of values run into
 * the same letters.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "connector/expr.h"
#include "reconcile/letters.h"
#include "reconcile/sums.h"

#define UUID_TEXT_LEN 36

#define NBASE 10000

static inline void
put(StringInfo out, char kind, const void *data, int32 len)
{
	char *to;

	enlargeStringInfo(out, len + 5);
	to = out->data + out->len;
	to[0] = kind;
	memcpy(to + 1, &len, sizeof(int32));
	memcpy(to + 5, data, len);
	out->len += len + 5;
}

void
se_letters_text(StringInfo out, const char *text, int len)
{
	put(out, 's', text, len);
}

static void
put_uuid(StringInfo out, const pg_uuid_t *uuid)
{
	static const char digits[] = "0123456789abcdef";
	char text[UUID_TEXT_LEN];
	char *to = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		*to++ = digits[uuid->data[i] >> 4];
		*to++ = digits[uuid->data[i] & 15];
	}
	put(out, 's', text, UUID_TEXT_LEN);
}

static bool
put_date(StringInfo out, DateADT date)
{
	char text[MAXDATELEN + 1];
	struct pg_tm tm;

	if (DATE_NOT_FINITE(date))
		return false;
	j2date(date + POSTGRES_EPOCH_JDATE, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	EncodeDateOnly(&tm, USE_ISO_DATES, text);
	put(out, 's', text, strlen(text));
	return true;
}

/* Sign, weight and digits; the scale that it is shown with is left out. */
static void
put_digits(StringInfo out, bool negative, int weight, const int16 *digits, int n)
{
	int16 number[2 + SE_MOST_DIGITS];

	while (n > 0 && digits[n - 1] == 0)
		n--;
	number[0] = n > 0 && negative;
	number[1] = n > 0 ? weight : 0;
	memcpy(number + 2, digits, n * sizeof(int16));
	put(out, 'n', number, (2 + n) * sizeof(int16));
}

static bool
put_numeric(StringInfo out, const char *data, int len)
{
	SeNumber number;

	/* The server stores no leading zeros, but nothing forbids them. */
	if (!se_number_read(&number, data, len) || (number.n > 0 && number.digits[0] == 0))
		return false;
	put_digits(out, number.negative, number.weight, number.digits, number.n);
	return true;
}

static void
put_integer(StringInfo out, int64 value)
{
	uint64 left = value < 0 ? -(uint64) value : (uint64) value;
	int16 digits[5];
	int first = lengthof(digits);

	for (; left > 0; left /= NBASE)
		digits[--first] = left % NBASE;
	put_digits(out, value < 0, (int) lengthof(digits) - 1 - first, digits + first,
			   lengthof(digits) - first);
}

static void
put_bool(StringInfo out, bool value)
{
	put(out, value ? 't' : 'f', "", 0);
}

/* Documents: their parts in the order that a jsonb keeps them in. */
static bool
put_document(StringInfo out, JsonbContainer *container)
{
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue v;

	if (JsonContainerIsScalar(container))
		return false;
	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
			case WJB_BEGIN_OBJECT:
				put(out, token == WJB_BEGIN_ARRAY ? '[' : '{', "", 0);
				break;
			case WJB_END_ARRAY:
			case WJB_END_OBJECT:
				put(out, token == WJB_END_ARRAY ? ']' : '}', "", 0);
				break;
			case WJB_KEY:
				put(out, 'k', v.val.string.val, v.val.string.len);
				break;
			default:
				if (v.type == jbvNull)
					put(out, '0', "", 0);
				else if (v.type == jbvBool)
					put_bool(out, v.val.boolean);
				else if (v.type == jbvString)
					put(out, 's', v.val.string.val, v.val.string.len);
				else if (v.type != jbvNumeric || !put_numeric(out, VARDATA_ANY(v.val.numeric),
															  VARSIZE_ANY_EXHDR(v.val.numeric)))
					return false;
		}
	}
	return true;
}

static bool
put_varlena(StringInfo out, Oid type, Datum value)
{
	struct varlena *data = PG_DETOAST_DATUM_PACKED(value);
	const char *text = VARDATA_ANY(data);
	int len = VARSIZE_ANY_EXHDR(data);
	bool done = true;

	if (type == NUMERICOID)
		done = put_numeric(out, text, len);
	else
	{
		while (type == BPCHAROID && len > 0 && text[len - 1] == ' ')
			len--;
		put(out, 's', text, len);
	}
	if ((Pointer) data != DatumGetPointer(value))
		pfree(data);
	return done;
}

bool
se_letters_column(StringInfo out, Oid type, Datum value, bool isnull)
{
	TimestampTz at;

	if (isnull)
	{
		put(out, '0', "", 0);
		return true;
	}
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NUMERICOID:
			return put_varlena(out, type, value);
		case UUIDOID:
			put_uuid(out, DatumGetUUIDP(value));
			return true;
		case DATEOID:
			return put_date(out, DatumGetDateADT(value));
		case TIMESTAMPTZOID:
			at = DatumGetTimestampTz(value);
			put(out, 'i', &at, sizeof(at));
			return !TIMESTAMP_NOT_FINITE(at);
		case INT8OID:
			put_integer(out, DatumGetInt64(value));
			return true;
		case INT4OID:
			put_integer(out, DatumGetInt32(value));
			return true;
		case INT2OID:
			put_integer(out, DatumGetInt16(value));
			return true;
		case BOOLOID:
			put_bool(out, DatumGetBool(value));
			return true;
		case JSONBOID:
			return put_document(out, &DatumGetJsonbP(value)->root);
		default:
			return false;
	}
}

static inline int
two_digits(const char *s)
{
	unsigned high = s[0] - '0';
	unsigned low = s[1] - '0';

	return high > 9 || low > 9 ? -1 : (int) (high * 10 + low);
}

/*
 * An instant as the server writes it into JSON in UTC, 2026-01-31T08:00:00[.5][Z|+00:00], in a tenth of the time
 * of the server's parser, which takes all other forms.
 */
static bool
plain_instant(const char *s, int len, TimestampTz *at)
{
	int century, year, month, day, hour, minute, second;
	int fraction = 0;
	int i = 19;

	if (len < 20 || s[4] != '-' || s[7] != '-' || (s[10] != 'T' && s[10] != ' ') || s[13] != ':' ||
		s[16] != ':')
		return false;
	century = two_digits(s);
	year = two_digits(s + 2);
	month = two_digits(s + 5);
	day = two_digits(s + 8);
	hour = two_digits(s + 11);
	minute = two_digits(s + 14);
	second = two_digits(s + 17);
	if (century < 1 || year < 0 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 ||
		minute < 0 || minute > 59 || second < 0 || second > 59 ||
		day > day_tab[isleap(century * 100 + year)][month - 1])
		return false;
	if (s[i] == '.')
	{
		int unit = 100000;

		for (i++; i < len && s[i] >= '0' && s[i] <= '9'; i++, unit /= 10)
			fraction += (s[i] - '0') * unit;
		if (i > 26)
			return false;
	}
	if (!(len - i == 1 && s[i] == 'Z') && !(len - i == 6 && memcmp(s + i, "+00:00", 6) == 0))
		return false;
	*at = (date2j(century * 100 + year, month, day) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY +
		  ((hour * 60 + minute) * INT64CONST(60) + second) * USECS_PER_SEC + fraction;
	return true;
}

bool
se_read_instant(const char *s, int len, TimestampTz *at)
{
	char text[64];

	if (plain_instant(s, len, at))
		return true;
	if (len >= (int) sizeof(text))
		return false;
	memcpy(text, s, len);
	text[len] = '\0';
	return se_parse_time(text, at);
}

static bool
put_instant(StringInfo out, const char *s, int len)
{
	TimestampTz at;

	if (!se_read_instant(s, len, &at))
		return false;
	put(out, 'i', &at, sizeof(at));
	return true;
}

static bool
put_string(StringInfo out, Oid type, const char *s, int len)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case UUIDOID:
		case DATEOID:
			put(out, 's', s, len);
			return true;
		case BPCHAROID:
			put(out, 's', s, len);
			return len == 0 || s[len - 1] != ' ';
		case TIMESTAMPTZOID:
			return put_instant(out, s, len);
		default:
			return false;
	}
}

bool
se_letters_member(StringInfo out, Oid type, const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvNull:
			put(out, '0', "", 0);
			return true;
		case jbvString:
			return put_string(out, type, v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return (type == NUMERICOID || type == INT8OID || type == INT4OID || type == INT2OID) &&
				   put_numeric(out, VARDATA_ANY(v->val.numeric), VARSIZE_ANY_EXHDR(v->val.numeric));
		case jbvBool:
			put_bool(out, v->val.boolean);
			return type == BOOLOID;
		case jbvBinary:
			return type == JSONBOID && put_document(out, v->val.binary.data);
		default:
			return false;
	}
}

bool
se_letters_key(StringInfo out, Oid type, Datum value)
{
	char digits[24];

	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			return put_varlena(out, type, value);
		case UUIDOID:
			put_uuid(out, DatumGetUUIDP(value));
			return true;
		case INT8OID:
		case INT4OID:
		case INT2OID:
			put(out, 's', digits,
				pg_lltoa(type == INT8OID   ? DatumGetInt64(value)
						 : type == INT4OID ? DatumGetInt32(value)
										   : DatumGetInt16(value),
						 digits));
			return true;
		default:
			return false;
	}
}
