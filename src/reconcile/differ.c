/*
 * differ.c: where records of ours and of a system differ, by the rules of a pull: 10.50 is 10.5, an
 * instant is the same in any zone, amounts count to their currency's minor units.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "core/json.h"
#include "pull/internal.h"

extern PGDLLEXPORT Datum se_differing(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_differing);

/* The side that tells the currency of the amounts of both. */
static Jsonb *
with_currency(Jsonb *ours, Jsonb *theirs)
{
	JsonbValue v;

	return getKeyJsonValueFromContainer(&theirs->root, "currency", 8, &v) != NULL ? theirs : ours;
}

static bool
same_member(const SeTarget *target, SeTable *table, Jsonb *fields, const char *name, int len,
			const JsonbValue *ours, const JsonbValue *theirs)
{
	SeColumn *column;

	if (table->lines != NULL && len == 5 && strncmp(name, "lines", 5) == 0)
		return ours->type == jbvBinary && theirs->type == jbvBinary &&
			   se_same_lines(target, table->lines, fields, theirs->val.binary.data,
							 ours->val.binary.data);
	column = se_table_column(table, name, len);
	return column != NULL ? se_same_value(target, column, fields, ours, theirs)
						  : se_json_same(ours, theirs);
}

/* Their fields that ours differ from; NULL: none. What ours does not have at all is different. */
static Jsonb *
differing(const SeTarget *target, SeTable *table, Jsonb *ours, Jsonb *theirs)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it = JsonbIteratorInit(&theirs->root);
	JsonbIteratorToken token;
	Jsonb *document = with_currency(ours, theirs);
	JsonbValue key;
	int n = 0;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		JsonbValue value;
		JsonbValue mine;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		if (getKeyJsonValueFromContainer(&ours->root, key.val.string.val, key.val.string.len,
										 &mine) != NULL &&
			same_member(target, table, document, key.val.string.val, key.val.string.len, &mine,
						&value))
			continue;
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
		n++;
	}
	return n == 0 ? NULL : JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * sync._fields_differing(object_id, resolution of their clock in ms, ours jsonb[], theirs jsonb[]): for each pair
 * their fields that differ from ours, NULL where none does or one of the two is missing.
 */
Datum
se_differing(PG_FUNCTION_ARGS)
{
	SePull pull = {.resolution_ms = Max(PG_GETARG_INT64(1), 1)};
	SeTarget target = {.object_id = PG_GETARG_INT32(0), .pull = &pull};
	MemoryContext caller = CurrentMemoryContext;
	SeTable *table;
	Datum *ours;
	Datum *theirs;
	bool *ours_null;
	bool *theirs_null;
	Datum *results;
	bool *nulls;
	int lower = 1;
	int n;
	int m;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), JSONBOID, -1, false, TYPALIGN_INT, &ours,
					  &ours_null, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), JSONBOID, -1, false, TYPALIGN_INT, &theirs,
					  &theirs_null, &m);
	if (n != m)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("there must be as many records of ours as of theirs")));
	results = palloc(sizeof(Datum) * Max(n, 1));
	nulls = palloc(sizeof(bool) * Max(n, 1));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	table = se_table_open(target.object_id);
	for (int i = 0; i < n; i++)
	{
		Jsonb *found = NULL;

		CHECK_FOR_INTERRUPTS();
		if (!ours_null[i] && !theirs_null[i])
			found = differing(&target, table, DatumGetJsonbP(ours[i]), DatumGetJsonbP(theirs[i]));
		nulls[i] = found == NULL;
		if (found != NULL)
		{
			MemoryContext inner = MemoryContextSwitchTo(caller);

			results[i] = JsonbPGetDatum(DatumGetJsonbPCopy(JsonbPGetDatum(found)));
			MemoryContextSwitchTo(inner);
		}
	}
	SPI_finish();
	PG_RETURN_ARRAYTYPE_P(
		construct_md_array(results, nulls, 1, &n, &lower, JSONBOID, -1, false, TYPALIGN_INT));
}
