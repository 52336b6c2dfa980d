/*
 * attempts.c: attempts and outcomes that are on record, past the planner.
 *
 * History stands in a partition for each day. A query that looks a record up in all of them has a plan of
 * hundreds of scans, and starting such a plan takes longer than what it does. Here each index is asked
 * by its name, and outcomes only in the partitions that can hold them.
 *
 * Callers see what sync._visible_object lets them: an object that is not in it has no attempts. Bodies are
 * not told; messages and queries of requests only where no personal field is hidden.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/lookup.h"
#include "core/spi.h"

PG_FUNCTION_INFO_V1(se_attempts);
PG_FUNCTION_INFO_V1(se_outcomes);

/* Partitions with rows of this instant or later, the earliest first and the default one last. */
static List *
partitions_since(const char *parent, TimestampTz since)
{
	Relation root = table_open(se_lookup_relation(parent), AccessShareLock);
	PartitionDesc desc = RelationGetPartitionDesc(root, true);
	PartitionKey key = RelationGetPartitionKey(root);
	PartitionBoundInfo bounds = desc->boundinfo;
	List *found = NIL;
	Datum value = TimestampTzGetDatum(since);
	bool equal;

	if (desc->nparts > 0)
	{
		int offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, bounds, 1,
												   &value, &equal);

		for (int i = offset + 1; i <= bounds->ndatums; i++)
		{
			int index = bounds->indexes[i];

			if (index >= 0 && index != bounds->default_index)
				found = lappend_oid(found, desc->oids[index]);
		}
		if (bounds->default_index >= 0)
			found = lappend_oid(found, desc->oids[bounds->default_index]);
	}
	table_close(root, NoLock);
	return found;
}

static void
open_partition(SeLookup *lookup, Oid partition, const char *index, int nkeys)
{
	char *name = get_rel_name(partition);

	if (name == NULL) /* dropped this moment: its rows are past retention */
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("a partition of the history has just been dropped"),
						errhint("Ask again.")));
	se_lookup_open(lookup, name, psprintf("%s_%s_idx", name, index), nkeys);
}

static Datum
column(SeLookup *row, const char *name, bool *isnull)
{
	return se_lookup_datum(row, get_attnum(RelationGetRelid(row->table), name), isnull);
}

static int64
column_int8(SeLookup *row, const char *name)
{
	bool isnull;

	return DatumGetInt64(column(row, name, &isnull));
}

/* ---- who may see what ---- */

typedef enum Sight
{
	HIDDEN,
	WITHOUT_PERSONAL,
	WHOLE
} Sight;

typedef struct Known
{
	int object_id; /* 0: none */
	Sight sight;
} Known;

static Sight
sight_of(int object_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID};
	Datum values[] = {Int32GetDatum(object_id)};
	Sight sight = HIDDEN;
	bool isnull;

	if (se_spi_execute(&plan, "SELECT o.hides FROM sync._visible_object o WHERE o.id = $1", 1,
					   types, values, NULL, true, 1) == 1)
		sight = DatumGetBool(se_spi_datum(0, 1, &isnull)) ? WITHOUT_PERSONAL : WHOLE;
	SPI_freetuptable(SPI_tuptable);
	return sight;
}

static int
object_of_route(int route_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID};
	Datum values[] = {Int32GetDatum(route_id)};
	int object_id = 0;
	bool isnull;

	if (se_spi_execute(&plan, "SELECT r.object_id FROM sync.route r WHERE r.id = $1", 1, types,
					   values, NULL, true, 1) == 1)
		object_id = DatumGetInt32(se_spi_datum(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return object_id;
}

/* What of a text may be shown: all, or the part before a character, or a word in its place. */
static Datum
shown(Datum value, Sight sight, char until)
{
	char *said;
	char *end;

	if (sight == WHOLE)
		return value;
	if (until == '\0')
		return CStringGetTextDatum("(personal)");
	said = TextDatumGetCString(value);
	end = strchr(said, until);
	if (end != NULL)
		*end = '\0';
	return CStringGetTextDatum(said);
}

/* ---- attempts ---- */

/* Columns of sync._attempts(): those of a claim, then those of its outcome. */
static const char *const claim_columns[] = {"at",		 "route_id",  "seq",	  "incarnation",
											"object_id", "record_id", "event_at", "step",
											"method",	 "target",	  "context"};
static const char *const outcome_columns[] = {"outcome", "state",	"status",	 "latency_us",
											  "code",	 "message", "request_id"};

#define CLAIM_COLUMNS	lengthof(claim_columns)
#define ATTEMPT_COLUMNS (CLAIM_COLUMNS + lengthof(outcome_columns))
#define TARGET			9
#define MESSAGE			(CLAIM_COLUMNS + 5)

static bool
find_outcome(SeLookup *claim, Datum *values, bool *nulls)
{
	bool isnull;
	TimestampTz at = DatumGetTimestampTz(column(claim, "at", &isnull));
	int64 attempt_id = column_int8(claim, "attempt_id");
	const Datum keys[] = {column(claim, "route_id", &isnull), column(claim, "seq", &isnull)};
	bool found = false;
	ListCell *lc;

	foreach (lc, partitions_since("outcome", at))
	{
		SeLookup outcome;

		open_partition(&outcome, lfirst_oid(lc), "delivery", 2);
		for (found = se_lookup_find(&outcome, keys);
			 found && column_int8(&outcome, "attempt_id") != attempt_id;
			 found = se_lookup_next(&outcome))
			;
		for (int i = 0; found && i < lengthof(outcome_columns); i++)
		{
			Form_pg_attribute att;
			int attnum = get_attnum(RelationGetRelid(outcome.table), outcome_columns[i]);

			att = TupleDescAttr(RelationGetDescr(outcome.table), attnum - 1);
			values[i] = se_lookup_datum(&outcome, attnum, &nulls[i]);
			if (!nulls[i])
				values[i] = datumCopy(values[i], att->attbyval, att->attlen);
		}
		se_lookup_close(&outcome);
		if (found)
			break;
	}
	return found;
}

/* `known` is what the caller may see of the object of the attempt before. */
static void
put_attempt(ReturnSetInfo *rsinfo, SeLookup *claim, bool with_outcome, Known *known)
{
	Datum values[ATTEMPT_COLUMNS];
	bool nulls[ATTEMPT_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	for (int i = 0; i < CLAIM_COLUMNS; i++)
		values[i] = column(claim, claim_columns[i], &nulls[i]);
	if (DatumGetInt32(values[4]) != known->object_id)
	{
		known->object_id = DatumGetInt32(values[4]);
		known->sight = sight_of(known->object_id);
	}
	if (known->sight == HIDDEN)
		return;
	if (with_outcome)
		(void) find_outcome(claim, values + CLAIM_COLUMNS, nulls + CLAIM_COLUMNS);
	if (!nulls[TARGET])
		values[TARGET] = shown(values[TARGET], known->sight, '?');
	if (!nulls[MESSAGE])
		values[MESSAGE] = shown(values[MESSAGE], known->sight, '\0');
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* What to look for in each partition: some values of the index's first column, one of its second. */
typedef struct Wanted
{
	const char *index;
	int nkeys;
	Datum *first;
	int nfirst;
	Datum second;
} Wanted;

/* False when the arguments say nothing. */
static bool
read_wanted(FunctionCallInfo fcinfo, Wanted *wanted)
{
	wanted->nkeys = 2;
	wanted->nfirst = 1;
	wanted->first = palloc(sizeof(Datum));
	if (!PG_ARGISNULL(0) && !PG_ARGISNULL(1))
	{
		wanted->index = "record";
		wanted->first[0] = PG_GETARG_DATUM(1);
		wanted->second = PG_GETARG_DATUM(0);
	}
	else if (!PG_ARGISNULL(2))
	{
		bool *nulls;

		wanted->index = "correlation";
		wanted->nkeys = 1;
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT,
						  &wanted->first, &nulls, &wanted->nfirst);
		for (int i = wanted->nfirst - 1; i >= 0; i--)
		{
			if (nulls[i])
				wanted->first[i] = wanted->first[--wanted->nfirst];
		}
	}
	else if (!PG_ARGISNULL(3) && !PG_ARGISNULL(4))
	{
		wanted->index = "delivery";
		wanted->first[0] = PG_GETARG_DATUM(3);
		wanted->second = PG_GETARG_DATUM(4);
	}
	else
		return false;
	return true;
}

/*
 * sync._attempts(object_id, record_id, correlation_ids, route_id, seq): attempts of a record with their
 * outcomes, or without them all that carry one of some correlation ids, or those of a delivery.
 */
PGDLLEXPORT Datum
se_attempts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Known known = {0};
	Wanted wanted;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (!read_wanted(fcinfo, &wanted))
		return (Datum) 0;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	foreach (lc, partitions_since("claim", DT_NOBEGIN))
	{
		SeLookup claim;

		open_partition(&claim, lfirst_oid(lc), wanted.index, wanted.nkeys);
		for (int i = 0; i < wanted.nfirst; i++)
		{
			const Datum keys[] = {wanted.first[i], wanted.second};

			for (bool found = se_lookup_find(&claim, keys); found; found = se_lookup_next(&claim))
				put_attempt(rsinfo, &claim, wanted.index[0] == 'r', &known);
		}
		se_lookup_close(&claim);
	}
	SPI_finish();
	return (Datum) 0;
}

/* ---- outcomes without an attempt ---- */

/* sync._outcomes(route_id, seq, since): how a delivery ended for which nothing was sent. */
PGDLLEXPORT Datum
se_outcomes(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"at", "outcome", "state", "code", "message"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const Datum keys[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	Sight sight;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	sight = sight_of(object_of_route(PG_GETARG_INT32(0)));
	foreach (lc, sight != HIDDEN ? partitions_since("outcome", PG_GETARG_TIMESTAMPTZ(2)) : NIL)
	{
		SeLookup row;

		open_partition(&row, lfirst_oid(lc), "delivery", 2);
		for (bool found = se_lookup_find(&row, keys); found; found = se_lookup_next(&row))
		{
			Datum values[lengthof(names)];
			bool nulls[lengthof(names)];

			if (column_int8(&row, "attempt_id") != 0)
				continue;
			for (int i = 0; i < lengthof(names); i++)
				values[i] = column(&row, names[i], &nulls[i]);
			if (!nulls[4])
				values[4] = shown(values[4], sight, '\0');
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
		se_lookup_close(&row);
	}
	SPI_finish();
	return (Datum) 0;
}
