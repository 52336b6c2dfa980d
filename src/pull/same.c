/*
 * same.c: whether two values are the same to the other side.
 *
 * It may tell them less precisely than we hold them: a vendor of seconds gives back 12:00:00 for our
 * 12:00:00.4, one that counts in binary floats 10.4999999 for our 10.50. Neither is a change.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "connector/expr.h"
#include "connector/money.h"
#include "core/json.h"
#include "pull/internal.h"
#include "pull/same.h"

/*
 * Columns that hold money by their name: amount, total_amount, amount_due; total_value, by which a contract goes.
 * Prices are free in scale.
 */
static bool
is_amount(const SeColumn *column)
{
	size_t len = strlen(column->name);

	return column->typid == NUMERICOID &&
		   (strcmp(column->name, "amount") == 0 || strcmp(column->name, "total_value") == 0 ||
			strncmp(column->name, "amount_", 7) == 0 ||
			(len > 7 && strcmp(column->name + len - 7, "_amount") == 0));
}

/* Digits behind the point of amounts of the record; -1: unknown. */
static int
currency_digits(Jsonb *fields)
{
	JsonbValue v;
	char *currency;

	if (fields == NULL || getKeyJsonValueFromContainer(&fields->root, "currency", 8, &v) == NULL ||
		v.type != jbvString || v.val.string.len != 3)
		return -1;
	currency = pnstrdup(v.val.string.val, 3);
	return se_iso_minor_units(currency);
}

static Datum
rounded(char *number, int digits)
{
	return DirectFunctionCall2(numeric_round,
							   DirectFunctionCall3(numeric_in, CStringGetDatum(number),
												   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)),
							   Int32GetDatum(digits));
}

static bool
same_amount(const SeColumn *column, int digits, const JsonbValue *a, const JsonbValue *b)
{
	char *left = se_column_text(column, a);
	char *right = se_column_text(column, b);

	return left != NULL && right != NULL &&
		   DatumGetBool(
			   DirectFunctionCall2(numeric_eq, rounded(left, digits), rounded(right, digits)));
}

/* Which tick of the vendor's clock; downwards before 2000, too, where instants are negative. */
static int64
tick_of(TimestampTz at, int64 resolution)
{
	int64 tick = at / resolution;

	return at % resolution < 0 ? tick - 1 : tick;
}

/* Cut off or rounded to the vendor's resolution, the two are one instant. */
static bool
same_instant(const SeColumn *column, int64 resolution, const JsonbValue *a, const JsonbValue *b)
{
	char *left = se_column_text(column, a);
	char *right = se_column_text(column, b);
	TimestampTz at;
	TimestampTz bt;

	if (left == NULL || right == NULL || !se_parse_time(left, &at) || !se_parse_time(right, &bt))
		return false;
	return tick_of(at, resolution) == tick_of(bt, resolution) ||
		   tick_of(at + resolution / 2, resolution) == tick_of(bt + resolution / 2, resolution);
}

bool
se_same_value(const SeTarget *target, const SeColumn *column, Jsonb *fields, const JsonbValue *a,
			  const JsonbValue *b)
{
	if (se_json_equal(a, b) || se_column_same(column, a, b))
		return true;
	if (a->type == jbvNull || b->type == jbvNull)
		return false;
	if (column->typid == TIMESTAMPTZOID)
		return same_instant(column, target->pull->resolution_ms * 1000, a, b);
	if (is_amount(column) && currency_digits(fields) >= 0)
		return same_amount(column, currency_digits(fields), a, b);
	return false;
}

/* Whether each member of `line` is the same in `other`, which may have more. */
static bool
same_line(const SeTarget *target, const SeTable *lines, Jsonb *fields, JsonbContainer *line,
		  JsonbContainer *other)
{
	JsonbIterator *it = JsonbIteratorInit(line);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue a;
	JsonbValue b;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		SeColumn *column;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &a, true);
		column = se_table_column(lines, key.val.string.val, key.val.string.len);
		if (getKeyJsonValueFromContainer(other, key.val.string.val, key.val.string.len, &b) == NULL)
			return false;
		if (!(column != NULL ? se_same_value(target, column, fields, &a, &b)
							 : se_json_equal(&a, &b)))
			return false;
	}
	return true;
}

static JsonbContainer *
line_at(JsonbContainer *lines, int i)
{
	JsonbValue *line = getIthJsonbValueFromContainer(lines, i);

	return line != NULL && line->type == jbvBinary && JsonContainerIsObject(line->val.binary.data)
			   ? line->val.binary.data
			   : NULL;
}

/*
 * Lines of a document: as many, and each of a the same as the one at its place in b, or, where the
 * system lists them in another order, as one at another place.
 */
bool
se_same_lines(const SeTarget *target, const SeTable *lines, Jsonb *fields, JsonbContainer *a,
			  JsonbContainer *b)
{
	int n = JsonContainerSize(a);
	bool *taken = palloc0(sizeof(bool) * Max(n, 1));
	bool same = true;
	MemoryContext scratch;

	if (!JsonContainerIsArray(a) || !JsonContainerIsArray(b) || JsonContainerSize(b) != n)
		return false;
	/* Lines in another order are compared with half of all others each. */
	scratch = AllocSetContextCreate(CurrentMemoryContext, "sync_ext lines", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n && same; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);
		JsonbContainer *line = line_at(a, i);
		int place = i;
		int tried = 0;

		while (line != NULL && tried < n &&
			   (taken[place] || line_at(b, place) == NULL ||
				!same_line(target, lines, fields, line, line_at(b, place))))
		{
			place = (place + 1) % n;
			tried++;
		}
		same = line != NULL && tried < n;
		if (same)
			taken[place] = true;
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	return same;
}

static void
value_of(Jsonb *json, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, value))
		return;
	value->type = jbvBinary;
	value->val.binary.data = &json->root;
	value->val.binary.len = VARSIZE(json) - VARHDRSZ;
}

bool
se_jsonb_same(Jsonb *a, Jsonb *b)
{
	JsonbValue left;
	JsonbValue right;

	value_of(a, &left);
	value_of(b, &right);
	return se_json_same(&left, &right);
}
