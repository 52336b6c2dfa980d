/*
 * buckets.c: what folds of both sides (fold.c) say: which buckets are not the same, and the groups of ours.
 *
 * Buckets as a bytea: key, number, then a bit for each that is to be looked into.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"

#include "reconcile/fold.h"
#include "reconcile/letters.h"

PG_FUNCTION_INFO_V1(se_unlike_buckets);
PG_FUNCTION_INFO_V1(se_in_buckets);
PG_FUNCTION_INFO_V1(se_fold_groups);

extern PGDLLEXPORT Datum se_unlike_buckets(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_in_buckets(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fold_groups(PG_FUNCTION_ARGS);

typedef struct Buckets
{
	uint8 key[SE_SIP_KEY_LEN];
	int32 n;
	int32 unlike; /* how many of them */
	uint8 bits[FLEXIBLE_ARRAY_MEMBER];
} Buckets;

static uint64
sum_at(const char *sums, int i)
{
	uint64 sum = 0;

	if (sums != NULL)
		memcpy(&sum, sums + sizeof(uint64) * i, sizeof(sum));
	return sum;
}

static const char *
sums_of(bytea *fold, bool bindings)
{
	SeFoldHead head;

	if (fold == NULL)
		return NULL;
	memcpy(&head, VARDATA_ANY(fold), sizeof(head));
	return VARDATA_ANY(fold) + sizeof(head) + (bindings ? sizeof(uint64) * head.nbuckets : 0);
}

/*
 * sync._unlike_buckets(rows, mirrors, bindings): the buckets that are not the same, NULL when all are; which share
 * of all they are; whether mirrors and bindings differ. A fold of nothing is NULL.
 */
Datum
se_unlike_buckets(PG_FUNCTION_ARGS)
{
	bytea *folds[3];
	const char *sums[4];
	SeFoldHead head = {.nbuckets = 0};
	bytea *result;
	Buckets *buckets;
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {false};
	bool unbound = false;

	for (int i = 0; i < 3; i++)
	{
		folds[i] = PG_ARGISNULL(i) ? NULL : PG_GETARG_BYTEA_PP(i);
		if (folds[i] != NULL)
			memcpy(&head, VARDATA_ANY(folds[i]), sizeof(head));
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	result = palloc0(VARHDRSZ + offsetof(Buckets, bits) + head.nbuckets / BITS_PER_BYTE + 1);
	SET_VARSIZE(result, VARHDRSZ + offsetof(Buckets, bits) + head.nbuckets / BITS_PER_BYTE + 1);
	buckets = (Buckets *) VARDATA(result);
	memcpy(buckets->key, head.key, SE_SIP_KEY_LEN);
	buckets->n = head.nbuckets;
	sums[0] = sums_of(folds[0], false);
	sums[1] = sums_of(folds[1], false);
	sums[2] = sums_of(folds[1], true);
	sums[3] = sums_of(folds[2], true);
	for (int i = 0; i < head.nbuckets; i++)
	{
		bool bound = sum_at(sums[2], i) == sum_at(sums[3], i);

		unbound |= !bound;
		if (bound && sum_at(sums[0], i) == sum_at(sums[1], i))
			continue;
		buckets->bits[i / BITS_PER_BYTE] |= 1 << i % BITS_PER_BYTE;
		buckets->unlike++;
	}
	values[2] = BoolGetDatum(unbound);
	values[0] = PointerGetDatum(result);
	nulls[0] = buckets->unlike == 0;
	values[1] = Float8GetDatum(head.nbuckets == 0 ? 0 : (double) buckets->unlike / head.nbuckets);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* Of a call site; lives as long as its function information. */
typedef struct Lookup
{
	Oid type; /* of the id */
	StringInfoData letters;
} Lookup;

static Lookup *
lookup_of(FunctionCallInfo fcinfo)
{
	Lookup *lookup = fcinfo->flinfo->fn_extra;

	if (lookup == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		lookup = palloc(sizeof(Lookup));
		lookup->type = getBaseType(get_fn_expr_argtype(fcinfo->flinfo, 1));
		initStringInfo(&lookup->letters);
		MemoryContextSwitchTo(old);
		fcinfo->flinfo->fn_extra = lookup;
	}
	resetStringInfo(&lookup->letters);
	return lookup;
}

/* sync._in_buckets(buckets, id): whether a record's bucket is one of them. */
Datum
se_in_buckets(PG_FUNCTION_ARGS)
{
	const Buckets *buckets = (const Buckets *) VARDATA(PG_GETARG_BYTEA_P(0));
	Lookup *lookup = lookup_of(fcinfo);
	uint32 bucket;

	if (!se_letters_key(&lookup->letters, lookup->type, PG_GETARG_DATUM(1)))
		elog(ERROR, "a record cannot be told by an id of type %u", lookup->type);
	bucket = se_bucket(buckets->key, buckets->n, lookup->letters.data, lookup->letters.len);
	PG_RETURN_BOOL((buckets->bits[bucket / BITS_PER_BYTE] >> bucket % BITS_PER_BYTE) & 1);
}

static Datum
text_datum(const char *text, int len)
{
	return PointerGetDatum(cstring_to_text_with_len(text, len));
}

static void
put_group(ReturnSetInfo *result, const char **data)
{
	Datum values[8];
	bool nulls[8] = {false};
	const char *key;
	SeGroup group;
	DateADT day;
	int32 entity_len;
	int32 len;

	memcpy(&len, *data, sizeof(len));
	key = *data + sizeof(len);
	*data = key + len;
	se_group_read(&group, data);
	memcpy(&day, key, sizeof(day));
	memcpy(&entity_len, key + sizeof(day), sizeof(entity_len));
	key += sizeof(day) + sizeof(entity_len);
	len -= sizeof(day) + sizeof(entity_len);
	nulls[0] = day == SE_NO_DAY;
	values[0] = DateADTGetDatum(day);
	nulls[1] = entity_len == SE_NO_ENTITY;
	if (!nulls[1])
	{
		values[1] = text_datum(key, entity_len);
		key += entity_len;
		len -= entity_len;
	}
	nulls[2] = len == 0;
	if (!nulls[2])
		values[2] = text_datum(key + 1, len - 1);
	values[3] = Int64GetDatum(group.n);
	values[4] = Int64GetDatum(group.amount.n);
	values[5] = NumericGetDatum(se_sum_result(&group.amount));
	values[6] = Int64GetDatum(group.told.n);
	values[7] = NumericGetDatum(se_sum_result(&group.told));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* sync._fold_groups(fold of rows): counts and amounts by day, entity and currency. */
Datum
se_fold_groups(PG_FUNCTION_ARGS)
{
	bytea *fold = PG_GETARG_BYTEA_PP(0);
	const char *data = VARDATA_ANY(fold);
	SeFoldHead head;

	InitMaterializedSRF(fcinfo, 0);
	memcpy(&head, data, sizeof(head));
	data += sizeof(head) + sizeof(uint64) * head.nbuckets * (head.binds ? 2 : 1);
	for (int64 i = 0; i < head.ngroups; i++)
		put_group((ReturnSetInfo *) fcinfo->resultinfo, &data);
	PG_RETURN_NULL();
}
