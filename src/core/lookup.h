/*
 * lookup.h: rows of the extension's own tables by the key of an index, without a plan.
 *
 * A saved plan is made when the table is small and kept while it grows; what it then does for a batch
 * of keys depends on statistics of an empty table. Here the index is named.
 */
#ifndef SE_LOOKUP_H
#define SE_LOOKUP_H

#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

#define SE_LOOKUP_KEYS 4

typedef struct SeLookup
{
	Relation table;
	Relation index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	int nkeys;
	ScanKeyData keys[SE_LOOKUP_KEYS];
} SeLookup;

/*
 * Opens a table of schema sync and one of its indexes, whose first nkeys columns are integer, bigint or text.
 * In a transaction with an active snapshot; ends with se_lookup_close() or the transaction.
 */
extern Oid se_lookup_relation(const char *name);
extern void se_lookup_open(SeLookup *lookup, const char *table, const char *index, int nkeys);

/* The first row with these keys; false: none. The row stays until the next call. */
extern bool se_lookup_find(SeLookup *lookup, const Datum *keys);

/* The one after it with these keys. */
extern bool se_lookup_next(SeLookup *lookup);

/* A column of that row; text and jsonb are copied. NULL: SQL NULL. */
extern char *se_lookup_text(SeLookup *lookup, int attnum);
extern struct varlena *se_lookup_copy(SeLookup *lookup, int attnum);
extern Datum se_lookup_datum(SeLookup *lookup, int attnum, bool *isnull);

extern void se_lookup_close(SeLookup *lookup);

#endif
