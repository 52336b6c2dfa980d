/*
 * identity.c: which canonical record is a remote record that is not bound yet?
 *
 * First what a person decided, then the id of ours that it carries, then the declared rules or, where
 * there are none, each alternative of the manifest's `match`, then the manifest's `on_missing`. A
 * record is only taken when exactly one unbound one fits.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "capture/key_text.h"
#include "core/spi.h"
#include "pull/identity.h"
#include "pull/internal.h"

/* Could the text be a key of this table? Asking the table with one that cannot would raise. */
static bool
fits_key(const SeTable *table, const char *id)
{
	char *end;

	if (id == NULL || id[0] == '\0' || table->nkeys != 1)
		return false;
	switch (table->keys[0]->typid)
	{
		case UUIDOID:
			for (int i = 0; i < 36; i++)
			{
				bool dash = i == 8 || i == 13 || i == 18 || i == 23;

				if (dash ? id[i] != '-' : !isxdigit((unsigned char) id[i]))
					return false;
			}
			return id[36] == '\0';
		case INT2OID:
		case INT4OID:
		case INT8OID:
			if (!isdigit((unsigned char) id[0]) || strlen(id) > 18)
				return false;
			return strtoll(id, &end, 10) <= (table->keys[0]->typid == INT8OID	? PG_INT64_MAX
											 : table->keys[0]->typid == INT4OID ? PG_INT32_MAX
																				: PG_INT16_MAX) &&
				   *end == '\0';
		default:
			return table->keys[0]->typid == TEXTOID || table->keys[0]->typid == VARCHAROID;
	}
}

/*
 * An id as the table's type writes it, which is how events name the record: a uuid in capitals, a
 * number with zeros before it, or a padded one, is another text for the same key.
 */
static char *
as_key(const SeTable *table, char *id)
{
	Oid type = table->keys[0]->typid;
	Oid input;
	Oid param;

	if (type != UUIDOID && type != INT2OID && type != INT4OID && type != INT8OID &&
		type != BPCHAROID)
		return id;
	getTypeInputInfo(type, &input, &param);
	return se_key_text(type, OidInputFunctionCall(input, id, param, -1));
}

#define UUIDS_AT_ONCE 64

/*
 * Ids that begin with the time (version 7): those of one page, and of the pages of a walk, stand
 * side by side in every index that holds them.
 */
static char *
new_uuid(void)
{
	static pg_uuid_t
		drawn[UUIDS_AT_ONCE]; /* a system call for each would cost more than the rest */
	static int left = 0;
	const int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	int64 us = GetCurrentTimestamp() + epoch;
	uint64 head = (uint64) (us / 1000) << 16 | 0x7000 | (us % 1000) * 4096 / 1000;
	pg_uuid_t *uuid;

	if (left == 0 && !pg_strong_random(drawn, sizeof(drawn)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random values")));
	if (left == 0)
		left = UUIDS_AT_ONCE;
	uuid = &drawn[--left];
	for (int i = 0; i < 8; i++)
		uuid->data[i] = head >> (56 - 8 * i);
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80; /* variant */
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

/* The value a mapped record has for a column; false when missing or null. */
static bool
field_value(const SeItem *item, const char *column, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(&item->map.fields->root, column, strlen(column), value) !=
			   NULL &&
		   value->type != jbvNull;
}

static bool
has_all(const SeItem *item, List *columns)
{
	ListCell *lc;
	JsonbValue value;

	foreach (lc, columns)
	{
		if (!field_value(item, lfirst(lc), &value))
			return false;
	}
	return true;
}

List *
se_take_candidates(List *items, uint64 rows)
{
	List *candidates = NIL;
	ListCell *lc;

	foreach (lc, items)
		((SeItem *) lfirst(lc))->candidates = NIL;
	for (uint64 i = 0; i < rows; i++)
	{
		bool isnull;
		SeCandidate *candidate;

		if (SPI_tuptable->tupdesc->natts > 2 && !DatumGetBool(se_spi_datum(i, 3, &isnull)))
			continue;
		candidate = palloc0(sizeof(SeCandidate));
		candidate->item = list_nth(items, DatumGetInt32(se_spi_datum(i, 1, &isnull)) - 1);
		candidate->record_id = se_spi_text(i, 2);
		candidate->item->candidates = lappend(candidate->item->candidates, candidate);
		candidates = lappend(candidates, candidate);
	}
	SPI_freetuptable(SPI_tuptable);
	return candidates;
}

/* Marks the candidates that are bound in this system. */
static void
mark_bound(const SeTarget *target, List *candidates)
{
	SeLookup bindings;
	ListCell *lc;

	if (candidates == NIL || se_rows_none("external_id"))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	se_lookup_open(&bindings, "external_id", "external_id_pkey", 3);
	foreach (lc, candidates)
	{
		SeCandidate *candidate = lfirst(lc);
		const Datum keys[] = {Int32GetDatum(target->object_id),
							  CStringGetTextDatum(candidate->record_id),
							  Int32GetDatum(target->system_id)};

		candidate->taken = se_lookup_find(&bindings, keys);
	}
	se_lookup_close(&bindings);
	PopActiveSnapshot();
}

void
se_refuse(SeItem *item, const char *sqlstate, char *reason)
{
	item->fate = SE_FATE_INBOX;
	item->sqlstate = sqlstate != NULL ? pstrdup(sqlstate) : NULL;
	item->reason = reason;
}

void
se_bind_to(SeItem *item, char *record_id)
{
	item->record_id = record_id;
	item->binds = true;
	item->is_new = false;
}

/* Record ids that items of this page have been given, by hash. */
typedef struct SeClaims
{
	uint64 hash;
	List *record_ids;
} SeClaims;

static SeClaims *
claims_of(HTAB *claimed, const char *record_id)
{
	uint64 hash =
		DatumGetUInt64(hash_any_extended((unsigned char *) record_id, strlen(record_id), 0));
	bool found;
	SeClaims *claims = hash_search(claimed, &hash, HASH_ENTER, &found);

	if (!found)
		claims->record_ids = NIL;
	return claims;
}

static void
claim(HTAB *claimed, char *record_id)
{
	SeClaims *claims = claims_of(claimed, record_id);

	claims->record_ids = lappend(claims->record_ids, record_id);
}

static bool
is_claimed(HTAB *claimed, const char *record_id)
{
	ListCell *lc;

	foreach (lc, claims_of(claimed, record_id)->record_ids)
	{
		if (strcmp(lfirst(lc), record_id) == 0)
			return true;
	}
	return false;
}

static HTAB *
claimed_so_far(SeItem **items, int n)
{
	HASHCTL ctl = {.keysize = sizeof(uint64), .entrysize = sizeof(SeClaims)};
	HTAB *claimed;

	ctl.hcxt = CurrentMemoryContext;
	claimed =
		hash_create("sync_ext claimed records", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < n; i++)
	{
		if (items[i]->binds && items[i]->record_id != NULL)
			claim(claimed, items[i]->record_id);
	}
	return claimed;
}

void
se_settle(const SeTarget *target, List *open, List *candidates, SeItem **items, int n, bool by_id)
{
	HTAB *claimed = claimed_so_far(items, n);
	ListCell *lc;

	mark_bound(target, candidates);
	foreach (lc, open)
	{
		SeItem *item = lfirst(lc);
		SeCandidate *only = NULL;
		int unbound = 0;
		bool taken = false;
		ListCell *c;

		foreach (c, item->candidates)
		{
			SeCandidate *candidate = lfirst(c);

			if (candidate->taken || is_claimed(claimed, candidate->record_id))
			{
				taken = true;
				continue;
			}
			unbound++;
			only = candidate;
		}
		if (unbound == 1)
		{
			se_bind_to(item, only->record_id);
			claim(claimed, only->record_id);
		}
		else if (unbound > 1)
		{
			item->several = true;
			se_refuse(item, SE_MATCH_SEVERAL,
					  psprintf("several match: %d records could be this one", unbound));
		}
		else if (taken && by_id)
			se_refuse(item, "23505",
					  psprintf("carries our id %s, which is bound to another remote record",
							   item->map.our_id));
	}
}

List *
se_open_items(SeItem **items, int n)
{
	List *open = NIL;

	for (int i = 0; i < n; i++)
	{
		if (items[i]->fate == SE_FATE_APPLY && items[i]->bound == NULL && !items[i]->binds)
			open = lappend(open, items[i]);
	}
	return open;
}

static void
identify_by_our_id(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	List *open = NIL;
	JsonbParseState *state = NULL;
	Jsonb *arg;
	StringInfoData sql;
	ListCell *lc;
	uint64 rows;

	foreach (lc, se_open_items(items, n))
	{
		if (fits_key(table, ((SeItem *) lfirst(lc))->map.our_id))
			open = lappend(open, lfirst(lc));
	}
	if (open == NIL)
		return;
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, open)
	{
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		se_push_item_key(&state, table, foreach_current_index(lc) + 1,
						 ((SeItem *) lfirst(lc))->map.our_id);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	arg = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT item.__n, ");
	se_append_record_id(&sql, table, "t");
	appendStringInfoString(&sql, " FROM jsonb_to_recordset($1) item (__n int");
	se_append_key_defs(&sql, table);
	appendStringInfo(&sql, ") JOIN %s t ON t.%s = item.__k1", table->quoted,
					 table->keys[0]->quoted);
	rows = se_execute_as_owner(table, sql.data, 1, &arg, true);
	se_settle(target, open, se_take_candidates(open, rows), items, n, true);
}

static void
push_columns(JsonbParseState **state, const SeItem *item, List *columns)
{
	ListCell *lc;

	foreach (lc, columns)
	{
		JsonbValue key = {.type = jbvString};
		JsonbValue value;

		key.val.string.val = lfirst(lc);
		key.val.string.len = strlen(lfirst(lc));
		(void) field_value(item, lfirst(lc), &value);
		pushJsonbValue(state, WJB_KEY, &key);
		pushJsonbValue(state, WJB_VALUE, &value);
	}
}

static void
identify_by_columns(const SeTarget *target, SeTable *table, SeItem **items, int n, List *columns)
{
	List *open = NIL;
	JsonbParseState *state = NULL;
	Jsonb *arg;
	StringInfoData sql;
	StringInfoData on;
	bool indexed = false;
	ListCell *lc;
	uint64 rows;

	foreach (lc, se_open_items(items, n))
	{
		if (has_all(lfirst(lc), columns))
			open = lappend(open, lfirst(lc));
	}
	if (open == NIL)
		return;
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, open)
	{
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		se_push_item_key(&state, table, foreach_current_index(lc) + 1, NULL);
		push_columns(&state, lfirst(lc), columns);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	arg = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	initStringInfo(&sql);
	initStringInfo(&on);
	appendStringInfoString(&sql, "SELECT item.__n, ");
	se_append_record_id(&sql, table, "t");
	/*
	 * A row that was merged into another is told, and left out by us: as a condition it changes the
	 * plan, which is made while the table is empty and kept.
	 */
	if (se_table_column(table, SE_MERGED_INTO, strlen(SE_MERGED_INTO)) != NULL)
		appendStringInfoString(&sql, ", t." SE_MERGED_INTO " IS NULL");
	appendStringInfoString(&sql, " FROM jsonb_to_recordset($1) item (__n int");
	foreach (lc, columns)
	{
		SeColumn *column = se_table_column(table, lfirst(lc), strlen(lfirst(lc)));

		if (column == NULL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("table %s has no column \"%s\", which the manifest matches by",
								   table->quoted, (char *) lfirst(lc))));
		indexed |= column->indexed;
		appendStringInfo(&sql, ", %s %s", column->quoted, column->type);
		appendStringInfo(&on, "%st.%s = item.%s", on.len > 0 ? " AND " : "", column->quoted,
						 column->quoted);
	}
	appendStringInfo(&sql, ") JOIN %s t ON %s", table->quoted, on.data);
	rows = se_execute_as_owner(table, sql.data, 1, &arg, indexed);
	se_settle(target, open, se_take_candidates(open, rows), items, n, false);
}

/* Several columns: the record id is their texts as an array, if the record says all of them. */
static char *
composite_key(const SeTable *table, const SeItem *item)
{
	StringInfoData id;

	initStringInfo(&id);
	for (int i = 0; i < table->nkeys; i++)
	{
		JsonbValue value;
		char *text;

		if (!field_value(item, table->keys[i]->name, &value) || value.type == jbvBinary)
			return NULL;
		text = se_column_text(table->keys[i], &value);
		if (text == NULL)
			return NULL;
		appendStringInfoString(&id, i == 0 ? "[" : ", ");
		escape_json(&id, text);
	}
	appendStringInfoChar(&id, ']');
	return id.data;
}

/* A key for a row that is going to be inserted; NULL: the table's default draws it. */
static char *
key_for_new(const SeTable *table, const SeItem *item)
{
	JsonbValue value;

	if (table->nkeys != 1)
		return composite_key(table, item);
	if (field_value(item, table->keys[0]->name, &value) && value.type == jbvString)
	{
		char *key = pnstrdup(value.val.string.val, value.val.string.len);
		char *text;

		if (fits_key(table, key) || table->keys[0]->typid == BPCHAROID)
			return as_key(table, key);
		text = se_column_text(table->keys[0], &value);
		return text != NULL ? text : key; /* which the insert refuses */
	}
	/* Of a record that is none of ours, so a person said, the id that it carries is another's. */
	if (!item->decided_new && fits_key(table, item->map.our_id))
		return as_key(table, item->map.our_id);
	return table->keys[0]->typid == UUIDOID && !field_value(item, table->keys[0]->name, &value)
			   ? new_uuid()
			   : NULL;
}

static void
create_new(const SeTable *table, SeItem *item)
{
	se_bind_to(item, key_for_new(table, item));
	item->is_new = true;
}

static void
handle_missing(const SeTarget *target, SeTable *table, SeItem *item)
{
	switch (target->pull->on_missing)
	{
		case SE_MISSING_INSERT:
			create_new(table, item);
			break;
		case SE_MISSING_IGNORE:
			item->fate = SE_FATE_NOTHING;
			break;
		case SE_MISSING_INBOX:
			se_refuse(item, NULL, pstrdup("no record of ours matches"));
			break;
	}
}

void
se_identify(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	ListCell *lc;

	if (se_open_items(items, n) == NIL)
		return;
	se_identify_decided(target, items, n);
	foreach (lc, se_open_items(items, n))
	{
		if (((SeItem *) lfirst(lc))->decided_new)
			create_new(table, lfirst(lc));
	}
	if (se_refuse_undecided(target, items, n))
		return;
	identify_by_our_id(target, table, items, n);
	if (!se_identify_by_rules(target, items, n))
	{
		foreach (lc, target->pull->match)
			identify_by_columns(target, table, items, n, lfirst(lc));
	}
	foreach (lc, se_open_items(items, n))
		handle_missing(target, table, lfirst(lc));
}
