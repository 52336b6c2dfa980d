/*
 * sums.c: exact sums of numerics.
 *
 * The server's own addition allocates for each; a sum of ordinary amounts fits into 128 bits. What
 * does not (more than 16 digits on a side of the point, or infinite) is added by the server.
 * Memory is the current context's, which has to live as long as the sum.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"

#include "reconcile/sums.h"

/* Bits of a numeric as it is stored (numeric.c of the server). Tables on disk hold them, so they stay. */
#define KIND			  0xC000
#define NEGATIVE		  0x4000
#define SHORT			  0x8000
#define SPECIAL			  0xC000
#define SCALE_MASK		  0x3FFF
#define SHORT_NEGATIVE	  0x2000
#define SHORT_SCALE_MASK  0x1F80
#define SHORT_SCALE_SHIFT 7
#define SHORT_WEIGHT_SIGN 0x0040
#define SHORT_WEIGHT_MASK 0x003F

#define NBASE			10000
#define UNIT_GROUPS		4 /* groups of digits behind the point: a unit is 10000 ^ -4 */
#define UNITS			INT64CONST(10000000000000000)
#define UNIT_DIGITS		16
#define GREATEST_WEIGHT 3

bool
se_number_read(SeNumber *number, const char *data, int len)
{
	uint16 header;
	int16 weight;

	memcpy(&header, data, sizeof(header));
	data += sizeof(header);
	len -= sizeof(header);
	if ((header & KIND) == SPECIAL)
		return false;
	if (header & SHORT)
	{
		number->negative = (header & SHORT_NEGATIVE) != 0;
		number->scale = (header & SHORT_SCALE_MASK) >> SHORT_SCALE_SHIFT;
		number->weight =
			(header & SHORT_WEIGHT_SIGN ? ~SHORT_WEIGHT_MASK : 0) | (header & SHORT_WEIGHT_MASK);
	}
	else
	{
		number->negative = (header & KIND) == NEGATIVE;
		number->scale = header & SCALE_MASK;
		memcpy(&weight, data, sizeof(weight));
		number->weight = weight;
		data += sizeof(weight);
		len -= sizeof(weight);
	}
	number->n = len / sizeof(int16);
	if (number->n > SE_MOST_DIGITS)
		return false;
	memcpy(number->digits, data, number->n * sizeof(int16));
	return true;
}

static Numeric
added(Numeric a, Numeric b)
{
	return a == NULL ? b
					 : DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(a),
														   NumericGetDatum(b)));
}

static Numeric
as_numeric(int128 units, int scale)
{
	char text[64 + 0x4000];
	bool negative = units < 0;
	uint128 left = negative ? -(uint128) units : (uint128) units;
	uint64 fraction = left % UNITS;
	char whole[40];
	int n = 0;
	int len;

	left /= UNITS;
	do
	{
		whole[n++] = '0' + left % 10;
		left /= 10;
	} while (left > 0);
	len = 0;
	if (negative)
		text[len++] = '-';
	while (n > 0)
		text[len++] = whole[--n];
	if (scale > 0)
	{
		len += sprintf(text + len, "." UINT64_FORMAT, fraction + UNITS) - 0;
		/* A one before the sixteen digits keeps their leading zeros. */
		memmove(text + len - UNIT_DIGITS - 1, text + len - UNIT_DIGITS, UNIT_DIGITS);
		len--;
		for (; scale > UNIT_DIGITS; scale--)
			text[len++] = '0';
		len -= UNIT_DIGITS - Min(scale, UNIT_DIGITS);
	}
	text[len] = '\0';
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* The server takes over what does not fit. */
static void
spill(SeSum *sum, int128 units)
{
	sum->rest = added(sum->rest, as_numeric(units, sum->scale));
}

static void
add_units(SeSum *sum, int128 units)
{
	int128 total;

	if (__builtin_add_overflow(sum->sum, units, &total))
	{
		spill(sum, sum->sum);
		total = units;
	}
	sum->sum = total;
}

void
se_sum_add(SeSum *sum, Datum value)
{
	struct varlena *data = PG_DETOAST_DATUM_PACKED(value);
	SeNumber number;

	sum->n++;
	if (se_number_read(&number, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)) &&
		number.weight <= GREATEST_WEIGHT && number.n - 1 - number.weight <= UNIT_GROUPS)
	{
		int128 units = 0;

		for (int i = 0; i < number.n; i++)
			units = units * NBASE + number.digits[i];
		for (int i = number.n - 1 - number.weight; number.n > 0 && i < UNIT_GROUPS; i++)
			units *= NBASE;
		sum->scale = Max(sum->scale, number.scale);
		add_units(sum, number.negative ? -units : units);
	}
	else
		sum->rest = added(sum->rest, DatumGetNumericCopy(value));
	if ((Pointer) data != DatumGetPointer(value))
		pfree(data);
}

void
se_sum_merge(SeSum *sum, const SeSum *other)
{
	sum->n += other->n;
	sum->scale = Max(sum->scale, other->scale);
	add_units(sum, other->sum);
	if (other->rest != NULL)
		sum->rest = added(sum->rest, DatumGetNumericCopy(NumericGetDatum(other->rest)));
}

Numeric
se_sum_result(const SeSum *sum)
{
	Numeric result = as_numeric(sum->sum, sum->scale);

	return sum->rest == NULL ? result : added(sum->rest, result);
}

void
se_sum_write(const SeSum *sum, StringInfo out)
{
	int32 len = sum->rest == NULL ? 0 : VARSIZE_ANY(sum->rest);

	appendBinaryStringInfo(out, (const char *) sum, sizeof(SeSum));
	appendBinaryStringInfo(out, (const char *) &len, sizeof(len));
	if (len > 0)
		appendBinaryStringInfo(out, (const char *) sum->rest, len);
}

void
se_sum_read(SeSum *sum, const char **data)
{
	int32 len;

	memcpy(sum, *data, sizeof(SeSum));
	*data += sizeof(SeSum);
	memcpy(&len, *data, sizeof(len));
	*data += sizeof(len);
	sum->rest = NULL;
	if (len > 0)
	{
		sum->rest = palloc(len);
		memcpy(sum->rest, *data, len);
		*data += len;
	}
}
