/*
 * refs.c: maps the records of a page, with the references among them resolved set-wise.
 *
 * Which references a record holds, only the mapping knows. So every record is mapped with a cache
 * that answers what it knows and notes what it does not; then one query per kind of reference
 * fetches all that was noted, and the records that asked are mapped again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/role.h"
#include "core/spi.h"
#include "pull/internal.h"

typedef struct SeRefSlot
{
	uint64 hash;
	SeRef *refs;
} SeRefSlot;

struct SeRefCache
{
	int system_id;
	HTAB *slots;
	MemoryContext cxt;
	List *unknown;		/* SeRef * */
	List *used;			/* SeRef *, by the record that is being mapped */
	bool asked_unknown; /* by the record that is being mapped */
	bool final;			/* second round: look up what is still unknown one by one */
};

SeRefCache *
se_ref_cache(int system_id)
{
	SeRefCache *cache = palloc0(sizeof(SeRefCache));
	HASHCTL ctl = {.keysize = sizeof(uint64), .entrysize = sizeof(SeRefSlot)};

	cache->system_id = system_id;
	cache->cxt = CurrentMemoryContext;
	ctl.hcxt = CurrentMemoryContext;
	cache->slots = hash_create("sync_ext references of a page", 256, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return cache;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static SeRef *
find_ref(SeRefCache *cache, const char *object, const char *by, const char *key)
{
	uint64 hash = DatumGetUInt64(hash_any_extended((const unsigned char *) key, strlen(key), 0));
	bool found;
	SeRefSlot *slot = hash_search(cache->slots, &hash, HASH_ENTER, &found);
	MemoryContext old;
	SeRef *ref;

	if (!found)
		slot->refs = NULL;
	for (ref = slot->refs; ref != NULL; ref = ref->next)
	{
		if (strcmp(ref->key, key) == 0 && strcmp(ref->object, object) == 0 &&
			same_text(ref->by, by))
			return ref;
	}
	old = MemoryContextSwitchTo(cache->cxt);
	ref = palloc0(sizeof(SeRef));
	ref->object = pstrdup(object);
	ref->by = by != NULL ? pstrdup(by) : NULL;
	ref->key = pstrdup(key);
	ref->next = slot->refs;
	slot->refs = ref;
	cache->unknown = lappend(cache->unknown, ref);
	MemoryContextSwitchTo(old);
	return ref;
}

static Datum
keys_array(List *refs)
{
	Datum *values = palloc(sizeof(Datum) * Max(list_length(refs), 1));
	int n = 0;
	ListCell *lc;

	foreach (lc, refs)
	{
		SeRef *ref = lfirst(lc);

		values[n++] = CStringGetTextDatum(ref->key);
	}
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* `column` is the place of the record id in the table. */
static void
look_up_in(SeRefCache *cache, List *refs, const char *table, const char *index, int column)
{
	MemoryContext old = MemoryContextSwitchTo(cache->cxt);
	const char *object = NULL;
	int object_id = 0;
	SeLookup bindings;
	ListCell *lc;

	PushActiveSnapshot(GetTransactionSnapshot());
	se_lookup_open(&bindings, table, index, 3);
	foreach (lc, refs)
	{
		SeRef *ref = lfirst(lc);
		Datum keys[] = {Int32GetDatum(cache->system_id), 0, CStringGetTextDatum(ref->key)};

		if (ref->record_id != NULL)
			continue;
		if (object == NULL || strcmp(object, ref->object) != 0)
			object_id = se_pull_object_id(ref->object);
		object = ref->object;
		ref->object_id = object_id;
		keys[1] = Int32GetDatum(object_id);
		if (se_lookup_find(&bindings, keys))
			ref->record_id = se_lookup_text(&bindings, column);
	}
	se_lookup_close(&bindings);
	PopActiveSnapshot();
	MemoryContextSwitchTo(old);
}

static void
look_up_remote_ids(SeRefCache *cache, List *refs)
{
	look_up_in(cache, refs, "external_id", "external_id_system_id_object_id_remote_id_key", 3);
	/* What refers to the remote record of one that was merged away means the survivor. */
	if (!se_rows_none("external_alias"))
		look_up_in(cache, refs, "external_alias", "external_alias_pkey", 4);
}

/* By value of a canonical column: asked of the object's table, with its owner's rights. */
static void
look_up_column(SeRefCache *cache, List *refs)
{
	SeRef *first = linitial(refs);
	int object_id = se_pull_object_id(first->object);
	SeTable *table;
	SeColumn *column;
	bool textual;
	StringInfoData id;
	char *sql;
	Datum keys = keys_array(refs);
	Oid types[] = {TEXTARRAYOID};
	SeRole saved;
	int rc;

	if (object_id == 0)
		return;
	table = se_table_open(object_id);
	column = se_table_column(table, first->by, strlen(first->by));
	if (column == NULL || table->nkeys != 1)
		return;
	textual = column->typid == TEXTOID || column->typid == VARCHAROID || column->typid == BPCHAROID;
	/* Two rows of one value: nobody knows which is meant, so none is. */
	initStringInfo(&id);
	se_append_record_id(&id, table, "t");
	sql = psprintf("SELECT t.%1$s::text, min(%2$s) FROM %3$s t"
				   " WHERE %4$s = ANY ($1%5$s) GROUP BY 1 HAVING count(*) = 1",
				   column->quoted, id.data, table->quoted,
				   textual ? psprintf("t.%s", column->quoted)
						   : psprintf("t.%s::text", column->quoted),
				   column->typid == BPCHAROID ? "::bpchar[]" : "");
	se_role_become(table->owner, &saved);
	rc = SPI_execute_with_args(sql, 1, types, &keys, NULL, false, 0);
	se_role_restore(&saved);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not look up references: %s", SPI_result_code_string(rc));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SeRef *ref = find_ref(cache, first->object, first->by, se_spi_text(i, 1));

		ref->record_id = MemoryContextStrdup(cache->cxt, se_spi_text(i, 2));
		ref->looked_up = true;
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
look_up_unknown(SeRefCache *cache)
{
	List *rest = cache->unknown;

	cache->unknown = NIL;
	while (rest != NIL)
	{
		SeRef *first = linitial(rest);
		List *same = NIL;
		List *others = NIL;
		ListCell *lc;

		foreach (lc, rest)
		{
			SeRef *ref = lfirst(lc);

			ref->looked_up = true;
			if (same_text(first->by, ref->by) &&
				(first->by == NULL || strcmp(first->object, ref->object) == 0))
				same = lappend(same, ref);
			else
				others = lappend(others, ref);
		}
		if (first->by == NULL)
			look_up_remote_ids(cache, same);
		else
			look_up_column(cache, same);
		rest = others;
	}
}

static bool
to_ours(void *arg, const char *object, const char *by, const char *remote_id, char **record_id)
{
	SeRefCache *cache = arg;
	SeRef *ref = find_ref(cache, object, by, remote_id);

	if (by == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(cache->cxt);

		cache->used = list_append_unique_ptr(cache->used, ref);
		MemoryContextSwitchTo(old);
	}
	if (!ref->looked_up && cache->final)
		look_up_unknown(cache);
	if (!ref->looked_up)
	{
		/* Any id will do: the record is mapped again once the true one is known. */
		cache->asked_unknown = true;
		*record_id = pstrdup("00000000-0000-0000-0000-000000000000");
		return true;
	}
	if (ref->record_id == NULL)
		return false;
	*record_id = pstrdup(ref->record_id);
	return true;
}

static char *
text_copy(const char *text)
{
	return text != NULL ? pstrdup(text) : NULL;
}

static Jsonb *
json_copy(Jsonb *json)
{
	return json != NULL ? (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(json)) : NULL;
}

/* Mapping a record takes many times its size; only the result is worth keeping. */
static void
map_one(const SeTarget *target, const SeRefs *refs, MemoryContext scratch, SeItem *item)
{
	SeRefCache *cache = refs->arg;
	MemoryContext old = MemoryContextSwitchTo(scratch);
	SeMapped *map = &item->map;

	memset(map, 0, sizeof(SeMapped));
	cache->used = NIL;
	se_map_record(target->manifest, target->pull, item->record, target->vars, refs, map);
	MemoryContextSwitchTo(old);
	map->remote_id = text_copy(map->remote_id);
	map->remote_number = text_copy(map->remote_number);
	map->version = text_copy(map->version);
	map->our_id = text_copy(map->our_id);
	map->merged_into = text_copy(map->merged_into);
	map->fields = json_copy(map->fields);
	map->lines = json_copy(map->lines);
	map->wait_object = text_copy(map->wait_object);
	map->wait_remote_id = text_copy(map->wait_remote_id);
	map->wait_by = text_copy(map->wait_by);
	map->code = text_copy(map->code);
	map->reason = text_copy(map->reason);
	map->drift.path = text_copy(map->drift.path);
	map->drift.expected = text_copy(map->drift.expected);
	map->drift.got = text_copy(map->drift.got);
	item->refs = cache->used;
	MemoryContextReset(scratch);
}

/* Maps items that have a record; then their map is filled. */
void
se_map_all(const SeTarget *target, SeRefCache *cache, SeItem **items, int n)
{
	SeRefs refs = {.to_ours = to_ours, .arg = cache};
	MemoryContext scratch =
		AllocSetContextCreate(CurrentMemoryContext, "sync_ext mapping", ALLOCSET_DEFAULT_SIZES);
	List *again = NIL;
	ListCell *lc;

	cache->final = false;
	for (int i = 0; i < n; i++)
	{
		if (items[i]->record == NULL)
			continue;
		CHECK_FOR_INTERRUPTS();
		cache->asked_unknown = false;
		map_one(target, &refs, scratch, items[i]);
		if (cache->asked_unknown)
			again = lappend(again, items[i]);
	}
	look_up_unknown(cache);
	cache->final = true;
	foreach (lc, again)
		map_one(target, &refs, scratch, lfirst(lc));
	MemoryContextDelete(scratch);
}

int
se_pull_object_id(const char *object)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {TEXTOID};
	Datum values[] = {CStringGetTextDatum(object)};
	int id = 0;
	bool isnull;

	if (se_spi_execute(&plan, "SELECT o.id FROM sync.object o WHERE o.name = $1", 1, types, values,
					   NULL, true, 0) == 1)
		id = DatumGetInt32(se_spi_datum(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return id;
}
