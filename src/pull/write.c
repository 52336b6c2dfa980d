/*
 * write.c: statements on canonical tables.
 *
 * They run as the table's owner, security-restricted, with search_path pinned and the origin set:
 * what a trigger of that table does, its owner could do anyway. Constraints are IMMEDIATE, so that
 * nothing deferred is left for the commit, which runs with the worker's rights. A document and its
 * lines are one statement for the same reason: its checks see them together.
 *
 * Items that set the same columns share a statement: jsonb_to_recordset() turns them into typed
 * rows. The statement's text depends on the columns only, so its plan is kept.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "capture/origin.h"
#include "core/role.h"
#include "core/spi.h"
#include "pull/internal.h"

#define MAX_PLANS 512

typedef struct SePlan
{
	uint64 hash;
	char *sql;
	SPIPlanPtr plan;
} SePlan;

static HTAB *plans = NULL;

static void
forget_plans(void)
{
	HASH_SEQ_STATUS scan;
	SePlan *entry;

	hash_seq_init(&scan, plans);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		SPI_freeplan(entry->plan);
		pfree(entry->sql);
		hash_search(plans, &entry->hash, HASH_REMOVE, NULL);
	}
}

/* The kept plan of a statement; a new one is kept, within bounds. */
static SPIPlanPtr
plan_of(const char *sql, int nargs, Oid *types)
{
	uint64 hash = DatumGetUInt64(hash_any_extended((const unsigned char *) sql, strlen(sql), 0));
	SePlan *entry;
	SPIPlanPtr plan;
	char *copy;
	bool found;

	if (plans == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(uint64), .entrysize = sizeof(SePlan)};

		plans = hash_create("sync_ext apply plans", 128, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(plans, &hash, HASH_FIND, NULL);
	if (entry != NULL && strcmp(entry->sql, sql) == 0)
		return entry->plan;

	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (entry != NULL)
		return plan; /* two texts of one hash: the second lives as long as this call */
	if (hash_get_num_entries(plans) >= MAX_PLANS)
		forget_plans();
	copy = MemoryContextStrdup(TopMemoryContext, sql);
	SPI_keepplan(plan);
	entry = hash_search(plans, &hash, HASH_ENTER, &found);
	entry->sql = copy;
	entry->plan = plan;
	return plan;
}

static int lock_wait_ms = 0;

void
se_write_lock_wait(int ms)
{
	lock_wait_ms = ms;
}

/* The next three functions act for the rest of the role's GUC level. */
static void
set_option(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
}

static void
limit_lock_wait(void)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", lock_wait_ms);
	set_option("lock_timeout", text);
}

static void
probe_indexes(void)
{
	set_option("enable_hashjoin", "off");
	set_option("enable_mergejoin", "off");
}

uint64
se_execute_as_owner(SeTable *table, const char *sql, int nargs, Jsonb **args, bool by_index)
{
	Oid types[] = {JSONBOID, JSONBOID};
	Datum values[2];
	SeRole saved;
	int rc;

	Assert(nargs <= lengthof(types));
	for (int i = 0; i < nargs; i++)
		values[i] = JsonbPGetDatum(args[i]);
	se_role_become(table->owner, &saved);
	limit_lock_wait();
	if (by_index)
		probe_indexes();
	rc = SPI_execute_plan(plan_of(sql, nargs, types), values, NULL, false, 0);
	se_role_restore(&saved);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/* ---- groups: items that write the same columns ---- */

void
se_push_members(JsonbParseState **state, Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue v;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY || token == WJB_VALUE)
			pushJsonbValue(state, token, &v);
	}
}

static void
push_name(JsonbParseState **state, const char *name)
{
	JsonbValue v = {.type = jbvString};

	v.val.string.val = (char *) name;
	v.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &v);
}

static void
push_text(JsonbParseState **state, const char *name, char *value)
{
	JsonbValue v = {.type = jbvString};

	push_name(state, name);
	v.val.string.val = value;
	v.val.string.len = strlen(value);
	pushJsonbValue(state, WJB_VALUE, &v);
}

void
se_push_item_key(JsonbParseState **state, const SeTable *table, int n, const char *record_id)
{
	JsonbValue v = {.type = jbvNumeric};
	Jsonb *keys;

	push_name(state, "__n");
	v.val.numeric = int64_to_numeric(n);
	pushJsonbValue(state, WJB_VALUE, &v);
	if (record_id == NULL)
		return;
	if (table->nkeys == 1)
	{
		push_text(state, "__k1", pstrdup(record_id));
		return;
	}
	keys = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(record_id)));
	for (int i = 0; i < table->nkeys; i++)
	{
		JsonbValue *key = getIthJsonbValueFromContainer(&keys->root, i);

		if (key == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" is no record id of table %s", record_id, table->quoted)));
		push_name(state, psprintf("__k%d", i + 1));
		pushJsonbValue(state, WJB_VALUE, key);
	}
}

static Jsonb *
records_json(const SeTable *table, const SeGroup *group)
{
	JsonbParseState *state = NULL;
	ListCell *lc;
	int n = 0;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, group->items)
	{
		SeItem *item = lfirst(lc);

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		se_push_item_key(&state, table, ++n, item->record_id);
		if (group->columns != NIL)
			se_push_members(&state, item->set);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

static Jsonb *
lines_json(const SeTable *table, const SeGroup *group)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, group->items)
	{
		SeItem *item = lfirst(lc);
		JsonbIterator *it = JsonbIteratorInit(&item->map.lines->root);
		JsonbIteratorToken token;
		JsonbValue v;
		bool in_line = false;
		int n = 0;

		while ((token = JsonbIteratorNext(&it, &v, in_line)) != WJB_DONE)
		{
			if (token == WJB_BEGIN_OBJECT)
			{
				in_line = true;
				pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
				se_push_item_key(&state, table, ++n, item->record_id);
			}
			else if (token == WJB_END_OBJECT)
			{
				in_line = false;
				pushJsonbValue(&state, WJB_END_OBJECT, NULL);
			}
			else if (token == WJB_KEY || token == WJB_VALUE)
				pushJsonbValue(&state, token, &v);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

static void
run_group(SeTable *table, SeGroup *group)
{
	Jsonb *args[2];
	uint64 rows;
	bool returns_ids = group->kind == SE_WRITE_INSERT && !group->lines;
	ListCell *lc;
	uint64 i = 0;

	if (group->lines && group->kind == SE_WRITE_INSERT && !group->keyed)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("the key of table %s is drawn by the server", table->quoted),
						errdetail("A pulled document needs a uuid key, so that its lines can be "
								  "written in the same statement.")));
	args[0] = records_json(table, group);
	if (group->lines)
		args[1] = lines_json(table, group);
	rows = se_execute_as_owner(table, se_group_sql(table, group), group->lines ? 2 : 1, args, true);
	if (returns_ids && rows != list_length(group->items))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a trigger of table %s kept a row from being inserted", table->quoted)));
	foreach (lc, group->items)
	{
		SeItem *item = lfirst(lc);

		if (returns_ids && item->record_id == NULL)
			item->record_id = se_spi_text(i, 1);
		item->applied = true;
		i++;
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
}

static bool
equal_pointers(const List *a, const List *b)
{
	if (list_length(a) != list_length(b))
		return false;
	for (int i = 0; i < list_length(a); i++)
	{
		if (list_nth(a, i) != list_nth(b, i))
			return false;
	}
	return true;
}

static SeGroup *
group_of(List **groups, const SeGroup *like)
{
	ListCell *lc;
	SeGroup *group;

	foreach (lc, *groups)
	{
		group = lfirst(lc);
		if (group->kind == like->kind && group->keyed == like->keyed &&
			group->lines == like->lines && equal_pointers(group->columns, like->columns) &&
			equal_pointers(group->line_columns, like->line_columns))
			return group;
	}
	group = palloc(sizeof(SeGroup));
	*group = *like;
	*groups = lappend(*groups, group);
	return group;
}

static bool
describe(const SeTarget *target, const SeItem *item, SeGroup *group)
{
	memset(group, 0, sizeof(*group));
	if (item->fate == SE_FATE_DELETE && target->pull->on_delete == SE_DELETE_ROW)
	{
		group->kind = SE_WRITE_DELETE;
		return item->record_id != NULL && !item->stays;
	}
	if (item->fate == SE_FATE_DELETE &&
		(target->pull->on_delete == SE_DELETE_IGNORE || item->stays))
		return false;
	group->columns = item->set_columns;
	group->lines = item->set_lines;
	group->line_columns = item->set_lines ? item->line_columns : NIL;
	if (item->is_new)
	{
		group->kind = SE_WRITE_INSERT;
		group->keyed = item->record_id != NULL;
	}
	else if (item->set_columns != NIL)
		group->kind = SE_WRITE_UPDATE;
	else
		group->kind = SE_WRITE_LINES;
	return item->is_new || item->set_columns != NIL || item->set_lines;
}

/*
 * Writes what items set. Raises the first error; callers hold a subtransaction and bisect.
 */
void
se_write(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);
	List *groups = NIL;
	ListCell *lc;

	for (int i = 0; i < n; i++)
	{
		SeGroup like;
		SeGroup *group;

		if (items[i]->fate != SE_FATE_APPLY && items[i]->fate != SE_FATE_DELETE)
			continue;
		if (!describe(target, items[i], &like))
		{
			items[i]->applied = true;
			continue;
		}
		group = group_of(&groups, &like);
		group->items = lappend(group->items, items[i]);
	}
	if (groups == NIL)
		return;
	AfterTriggerSetState(immediate); /* SET CONSTRAINTS ALL IMMEDIATE */
	se_origin_system = target->system_id;
	PG_TRY();
	{
		foreach (lc, groups)
			run_group(table, lfirst(lc));
	}
	PG_FINALLY();
	{
		se_origin_system = 0;
	}
	PG_END_TRY();
}
