/*
 * lookup.c: see lookup.h.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "core/lookup.h"

static Oid
find(Oid schema, const char *name)
{
	Oid relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation \"sync.%s\" does not exist", name)));
	return relid;
}

Oid
se_lookup_relation(const char *name)
{
	return find(get_namespace_oid("sync", false), name);
}

void
se_lookup_open(SeLookup *lookup, const char *table, const char *index, int nkeys)
{
	Oid schema = get_namespace_oid("sync", false);

	lookup->table = table_open(find(schema, table), AccessShareLock);
	lookup->index = index_open(find(schema, index), AccessShareLock);
	lookup->nkeys = nkeys;
	for (int i = 0; i < nkeys; i++)
	{
		Oid type = TupleDescAttr(RelationGetDescr(lookup->index), i)->atttypid;

		ScanKeyEntryInitialize(&lookup->keys[i], 0, (AttrNumber) (i + 1), BTEqualStrategyNumber,
							   InvalidOid, lookup->index->rd_indcollation[i],
							   type == TEXTOID	 ? F_TEXTEQ
							   : type == INT8OID ? F_INT8EQ
												 : F_INT4EQ,
							   (Datum) 0);
	}
	lookup->slot = table_slot_create(lookup->table, NULL);
	lookup->scan = index_beginscan(lookup->table, lookup->index, GetActiveSnapshot(), nkeys, 0);
}

bool
se_lookup_find(SeLookup *lookup, const Datum *keys)
{
	for (int i = 0; i < lookup->nkeys; i++)
		lookup->keys[i].sk_argument = keys[i];
	index_rescan(lookup->scan, lookup->keys, lookup->nkeys, NULL, 0);
	return index_getnext_slot(lookup->scan, ForwardScanDirection, lookup->slot);
}

bool
se_lookup_next(SeLookup *lookup)
{
	return index_getnext_slot(lookup->scan, ForwardScanDirection, lookup->slot);
}

Datum
se_lookup_datum(SeLookup *lookup, int attnum, bool *isnull)
{
	return slot_getattr(lookup->slot, attnum, isnull);
}

char *
se_lookup_text(SeLookup *lookup, int attnum)
{
	bool isnull;
	Datum value = slot_getattr(lookup->slot, attnum, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

struct varlena *
se_lookup_copy(SeLookup *lookup, int attnum)
{
	bool isnull;
	Datum value = slot_getattr(lookup->slot, attnum, &isnull);

	return isnull ? NULL : PG_DETOAST_DATUM_COPY(value);
}

void
se_lookup_close(SeLookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
	index_close(lookup->index, NoLock);
	table_close(lookup->table, NoLock);
}
