/*
 * table.c: what the triggers must know of a table, cached per backend.
 *
 * An entry is built from the table's descriptor and its row in sync.object. Either may change at
 * any time, also while an entry is being built: the invalidation callback only sets flags and
 * counts, and an entry that was overtaken during its building serves the call at hand and is built
 * anew for the next one. A replaced entry's memory lives on to the end of the transaction, because
 * an outer trigger call may still use it.
 *
 * sync.object, sync.owner and sync.hub are read without SPI: the writer has no right on them, and must not
 * need one. They are read with the latest snapshot, because under REPEATABLE READ the transaction's
 * own may be older than the tracking, while the trigger is there at once. Statement triggers on
 * these tables turn a change of rows into a relcache invalidation.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "capture/capture.h"
#include "capture/guard.h"
#include "capture/table.h"
#include "core/errors.h"

static HTAB *tables = NULL;
static uint64 registry_epoch = 1;
static Oid object_relid = InvalidOid;
static Oid hub_relid = InvalidOid;
static Oid owner_relid = InvalidOid;
static bool incarnation_known = false;
static int incarnation = 0;

static void
invalidate(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	SeTable *entry;

	if (!OidIsValid(relid) || relid == hub_relid)
		incarnation_known = false;
	if (!OidIsValid(relid) || relid == object_relid || relid == owner_relid)
		registry_epoch++;

	hash_seq_init(&status, tables);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || entry->relid == relid || entry->header_relid == relid ||
			entry->line_relid == relid)
			entry->stale = true;
	}
}

static void
create_cache(void)
{
	HASHCTL ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(SeTable)};

	/* The callback can never be taken back, so it is registered last and once. */
	tables = hash_create("sync_ext tracked tables", 32, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

static Oid
registry_table(const char *name)
{
	Oid schema = get_namespace_oid("sync", true);
	Oid relid = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"sync.%s\" does not exist", name),
			 errhint("Extension sync_ext is damaged; drop the trigger or restore the extension.")));
	return relid;
}

void
se_registry_scan(const char *table, Oid *relid, SeRegistryMatch match, void *arg)
{
	Relation rel = table_open(registry_table(table), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

	if (relid != NULL)
		*relid = RelationGetRelid(rel);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		slot_getallattrs(slot);
		if (match(slot, arg))
			break;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

Datum
se_registry_value(TupleTableSlot *slot, const char *name, bool *isnull)
{
	int attnum = SPI_fnumber(slot->tts_tupleDescriptor, name);

	if (attnum <= 0)
		elog(ERROR, "column \"%s\" is missing in the registry", name);
	*isnull = slot->tts_isnull[attnum - 1];
	return slot->tts_values[attnum - 1];
}

static bool
match_hub(TupleTableSlot *slot, void *arg)
{
	bool isnull;
	int incarnation_there = DatumGetInt32(se_registry_value(slot, "incarnation", &isnull));
	int64 cluster = DatumGetInt64(se_registry_value(slot, "system_identifier", &isnull));
	Oid database = DatumGetObjectId(se_registry_value(slot, "database_oid", &isnull));

	/*
	 * In a copy that was not adopted yet, transaction ids are another cluster's than those that the
	 * cursors know: events of now belong to the incarnation that the adoption will begin.
	 */
	if (cluster != (int64) GetSystemIdentifier() || database != MyDatabaseId)
		incarnation_there++;
	*(int *) arg = incarnation_there;
	return true;
}

int
se_incarnation(void)
{
	int found = 0;

	if (incarnation_known)
		return incarnation;
	if (tables == NULL)
		create_cache();

	/* First the flag: an invalidation during the scan clears it again. */
	incarnation_known = true;
	PG_TRY();
	{
		se_registry_scan("hub", &hub_relid, match_hub, &found);
	}
	PG_CATCH();
	{
		incarnation_known = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	incarnation = found;
	return incarnation;
}

typedef struct ObjectRow
{
	const char *object; /* looked for */
	MemoryContext context;
	SeTable *table; /* filled */
	bool found;
	char *schema_name;
	char *table_name;
	char *line_schema;
	char *line_table;
} ObjectRow;

static List *
name_list(TupleTableSlot *slot, const char *column)
{
	List *result = NIL;
	bool isnull;
	Datum value = se_registry_value(slot, column, &isnull);
	Datum *names;
	int count;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names,
					  NULL, &count);
	for (int i = 0; i < count; i++)
		result = lappend(result, pstrdup(NameStr(*DatumGetName(names[i]))));
	return result;
}

static char *
name_value(TupleTableSlot *slot, const char *column)
{
	bool isnull;
	Datum value = se_registry_value(slot, column, &isnull);

	return isnull ? NULL : pstrdup(NameStr(*DatumGetName(value)));
}

static bool
match_object(TupleTableSlot *slot, void *arg)
{
	ObjectRow *row = arg;
	SeTable *table = row->table;
	MemoryContext old;
	bool isnull;

	if (strcmp(TextDatumGetCString(se_registry_value(slot, "name", &isnull)), row->object) != 0)
		return false;

	old = MemoryContextSwitchTo(row->context);
	row->found = true;
	table->object = pstrdup(row->object);
	table->object_id = DatumGetInt32(se_registry_value(slot, "id", &isnull));
	table->record_truncate =
		strcmp(TextDatumGetCString(se_registry_value(slot, "on_truncate", &isnull)), "record") == 0;
	table->volatile_columns = name_list(slot, "volatile_columns");
	table->header_key = name_list(slot, "key_columns");
	table->line_parent = name_list(slot, "line_parent_columns");
	table->line_key = name_list(slot, "line_key_columns");
	row->schema_name = name_value(slot, "schema_name");
	row->table_name = name_value(slot, "table_name");
	row->line_schema = name_value(slot, "line_schema");
	row->line_table = name_value(slot, "line_table");
	MemoryContextSwitchTo(old);
	return true;
}

static Oid
relid_by_name(const char *schema, const char *name)
{
	Oid nsp = schema ? get_namespace_oid(schema, true) : InvalidOid;

	return OidIsValid(nsp) ? get_relname_relid(name, nsp) : InvalidOid;
}

/* Is the relation this table, or a partition below it? */
static bool
is_part_of(Oid relid, Oid root)
{
	while (OidIsValid(relid) && relid != root)
		relid = get_rel_relispartition(relid) ? get_partition_parent(relid, true) : InvalidOid;
	return OidIsValid(relid);
}

/*
 * A trigger that somebody has put on a table of his own would let him speak for records that he may
 * not write.
 */
static void
refuse_stranger(Relation rel, const char *object)
{
	ereport(
		ERROR,
		(errcode(SE_ERRCODE_UNKNOWN_OBJECT),
		 errmsg("table \"%s\" does not hold records of object \"%s\"", RelationGetRelationName(rel),
				object),
		 errdetail(
			 "The table has a capture trigger, but the registry has another table for the object."),
		 errhint("Let sync.track() make the triggers; drop this one.")));
}

static void
resolve_role(SeTable *table, ObjectRow *row, Relation rel)
{
	table->header_relid = relid_by_name(row->schema_name, row->table_name);
	table->line_relid =
		row->line_table ? relid_by_name(row->line_schema, row->line_table) : InvalidOid;
	if (OidIsValid(table->line_relid) && is_part_of(table->relid, table->line_relid))
		table->role = SE_TABLE_LINES;
	else if (!is_part_of(table->relid, table->header_relid))
		refuse_stranger(rel, row->object);
	else if (row->line_table != NULL)
		table->role = SE_TABLE_HEADER;
	else
		table->role = SE_TABLE_PLAIN;
}

static void
resolve_columns(SeTable *table, Relation rel)
{
	List *names = table->role == SE_TABLE_LINES ? table->line_parent : table->header_key;
	ListCell *lc;

	table->shape = se_shape_build(RelationGetDescr(rel), 1, false);
	table->key = palloc0(sizeof(SeColumn *) * Max(list_length(names), 1));
	foreach (lc, names)
	{
		SeColumn *column = se_shape_column(table->shape, lfirst(lc));

		if (column == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" of object \"%s\" does not exist in table \"%s\"",
							(char *) lfirst(lc), table->object, RelationGetRelationName(rel)),
					 errhint("Call sync.track() again for the table.")));
		table->key[table->key_count++] = column;
	}
	/* A volatile column that is gone is no longer volatile, nothing more. */
	foreach (lc, table->volatile_columns)
	{
		SeColumn *column = se_shape_column(table->shape, lfirst(lc));

		if (column != NULL)
			column->is_volatile = true;
	}
}

static void
fill_entry(SeTable *table, Relation rel, const char *object, MemoryContext context)
{
	ObjectRow row = {.object = object, .context = context, .table = table};
	MemoryContext old;

	se_registry_scan("object", &object_relid, match_object, &row);
	if (!row.found)
		ereport(
			ERROR,
			(errcode(SE_ERRCODE_UNKNOWN_OBJECT),
			 errmsg("object \"%s\" of table \"%s\" is not registered", object,
					RelationGetRelationName(rel)),
			 errdetail(
				 "The table has a capture trigger, but the registry does not know the object."),
			 errhint(
				 "Call sync.track() for the table, or drop its triggers sync_capture and sync_capture_truncate.")));

	old = MemoryContextSwitchTo(context);
	resolve_role(table, &row, rel);
	resolve_columns(table, rel);
	table->guard = se_guard_build(table, rel, &owner_relid);
	MemoryContextSwitchTo(old);
}

static void
free_plan(SPIPlanPtr plan)
{
	if (plan != NULL)
		SPI_freeplan(plan);
}

/* Takes the old content away; an outer call may be using it until the transaction ends. */
static void
retire(SeTable *entry)
{
	if (entry->context == NULL)
		return;
	free_plan(entry->lock_plan);
	free_plan(entry->read_plan);
	free_plan(entry->lines_plan);
	MemoryContextSetParent(entry->context, TopTransactionContext);
	entry->context = NULL;
}

static SeTable *
build(Relation rel, const char *object)
{
	Oid relid = RelationGetRelid(rel);
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "sync_ext tracked table", ALLOCSET_SMALL_SIZES);
	SeTable filled = {.relid = relid, .epoch = registry_epoch};
	SeTable *entry;
	bool found;

	/*
	 * The entry exists before it is filled, so that the callback finds it and marks it when
	 * something changes meanwhile. Epoch 0 makes it unusable should an error end the filling.
	 */
	entry = hash_search(tables, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(entry, 0, sizeof(SeTable));
		entry->relid = relid;
	}
	entry->epoch = 0;
	entry->stale = false;
	fill_entry(&filled, rel, object, context);
	filled.stale = entry->stale;

	retire(entry);
	MemoryContextSetParent(context, TopMemoryContext);
	filled.context = context;
	*entry = filled;
	return entry;
}

SeTable *
se_table_lookup(Relation rel, const char *object)
{
	Oid relid = RelationGetRelid(rel);
	SeTable *entry;

	if (tables == NULL)
		create_cache();
	entry = hash_search(tables, &relid, HASH_FIND, NULL);
	if (likely(entry != NULL && !entry->stale && entry->epoch == registry_epoch &&
			   strcmp(entry->object, object) == 0))
		return entry;
	return build(rel, object);
}

bool
se_same_image(const SeColumn *column, Datum a, Datum b)
{
	if (column->typlen == -1)
	{
		struct varlena *x = (struct varlena *) DatumGetPointer(a);
		struct varlena *y = (struct varlena *) DatumGetPointer(b);

		if (VARATT_IS_EXTERNAL_ONDISK(x) && VARATT_IS_EXTERNAL_ONDISK(y) &&
			memcmp(x, y, VARSIZE_EXTERNAL(x)) == 0)
			return true;
	}
	return datum_image_eq(a, b, column->typbyval, column->typlen);
}

bool
se_table_key_texts(SeTable *table, const Datum *values, const bool *nulls, char **texts)
{
	for (int i = 0; i < table->key_count; i++)
	{
		int at = table->key[i]->attnum - 1;

		if (nulls[at])
			return false;
		texts[i] = se_render_text(table->key[i], values[at]);
	}
	return true;
}

char *
se_record_id_from_texts(int count, char **texts)
{
	StringInfoData buf;

	if (count == 1)
		return texts[0];
	initStringInfo(&buf);
	for (int i = 0; i < count; i++)
	{
		appendStringInfoString(&buf, i == 0 ? "[" : ", ");
		escape_json(&buf, texts[i]);
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

char *
se_table_record_id(SeTable *table, const Datum *values, const bool *nulls)
{
	char **texts = palloc(sizeof(char *) * Max(table->key_count, 1));

	if (!se_table_key_texts(table, values, nulls, texts))
		ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
						errmsg("null value in the key of object \"%s\"", table->object)));
	return se_record_id_from_texts(table->key_count, texts);
}

PG_FUNCTION_INFO_V1(se_registry_changed);

/* Statement trigger on sync.object, sync.owner and sync.hub: tells every backend at commit. */
PGDLLEXPORT Datum
se_registry_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" was not called by trigger manager",
							   "sync._registry_changed")));
	CacheInvalidateRelcache(trigdata->tg_relation);
	return PointerGetDatum(NULL);
}
