/*
 * check.c: whether a sum over the lines of a document has to be checked again.
 *
 * The canonical model checks such sums by constraint triggers, which the server fires for each line.
 * One check tells about all changes that were made before it; so a line need not be asked about when
 * its document was checked after the last change of the table. That makes a document of n lines cost n
 * questions and one sum, not n sums of n lines.
 *
 * "After the last change" is told by the statistics that the server keeps of the running transaction:
 * they count each row that is written, by whatever means. What was checked in a subtransaction that is
 * undone counts for nothing, because the rows are others then.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "core/check.h"
#include "core/compat.h"

typedef struct Checked
{
	struct
	{
		Oid relid;
		pg_uuid_t document;
	} key;
	int64 changes; /* of the table, when the document was checked */
} Checked;

static HTAB *checked = NULL; /* memory of the transaction */

static int64
changes_of(Oid relid)
{
	Datum arg = ObjectIdGetDatum(relid);

	return DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_inserted, arg)) +
		   DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_updated, arg)) +
		   DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_deleted, arg));
}

static Checked *
entry_of(Oid relid, const pg_uuid_t *document, bool *found)
{
	Checked key;

	if (checked == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(key.key),
					   .entrysize = sizeof(Checked),
					   .hcxt = TopTransactionContext};

		checked = hash_create("sync_ext checked documents", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	memset(&key, 0, sizeof(key));
	key.key.relid = relid;
	key.key.document = *document;
	return hash_search(checked, &key.key, HASH_ENTER, found);
}

PG_FUNCTION_INFO_V1(se_check_due);

/*
 * sync._canonical_check_due(relation, document): true: check it; asked again before the table has
 * changed, false. Whoever does not own the table is told to check, and is not remembered: he could
 * only want to keep somebody else's check from being made.
 */
PGDLLEXPORT Datum
se_check_due(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	Checked *entry;
	int64 changes;
	bool found;

	if (!pgstat_track_counts || !SE_OWNS_RELATION(relid, GetUserId()))
		PG_RETURN_BOOL(true);
	changes = changes_of(relid);
	entry = entry_of(relid, PG_GETARG_UUID_P(1), &found);
	if (found && entry->changes == changes)
		PG_RETURN_BOOL(false);
	entry->changes = changes;
	PG_RETURN_BOOL(true);
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		checked = NULL;
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && checked != NULL)
	{
		hash_destroy(checked);
		checked = NULL;
	}
}

void
se_check_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact_end, NULL);
}
