/*
 * deletes.c: what a delete at the other side means here, and when deletes are too many.
 *
 * The object's policy goes before the manifest's on_delete. Deletes out of a feed, a journal or a scan
 * all come through here: more of them within an hour than the policy's share wait for approval, because
 * a filter, a permission or a broken answer is likelier than so many deletes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/spi.h"
#include "pull/internal.h"

#define FEW		  10 /* are never too many, unless a policy says so */
#define WINDOW_US USECS_PER_HOUR

/* Deletes that passed without asking the tables: at most FEW within the window, of all objects. */
static int passed = 0;
static TimestampTz passed_since = 0;

void
se_deletes_policy(SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id)};
	SePull *pull;
	char *policy = NULL;
	Jsonb *fields = NULL;
	bool isnull;

	if (se_rows_none("record_policy"))
		return;
	if (se_spi_execute(&plan,
					   "SELECT p.on_delete, p.deactivate FROM sync.record_policy p"
					   " WHERE p.object_id = $2 AND (p.system_id = $1 OR p.system_id IS NULL)"
					   " AND p.on_delete IS NOT NULL ORDER BY p.system_id NULLS LAST LIMIT 1",
					   2, types, values, NULL, true, 1) > 0)
	{
		Datum value = se_spi_datum(0, 2, &isnull);

		policy = se_spi_text(0, 1);
		fields = isnull ? NULL : DatumGetJsonbPCopy(value);
	}
	SPI_freetuptable(SPI_tuptable);
	if (policy == NULL)
		return;
	pull = palloc(sizeof(SePull));
	*pull = *target->pull;
	pull->delete_fields = fields;
	pull->on_delete = strcmp(policy, "propagate") == 0	  ? SE_DELETE_ROW
					  : strcmp(policy, "deactivate") == 0 ? SE_DELETE_SET
														  : SE_DELETE_IGNORE;
	target->pull = pull;
}

static bool
takes_away(const SeTarget *target, const SeItem *item)
{
	return item->fate == SE_FATE_DELETE && item->bound != NULL &&
		   target->pull->on_delete != SE_DELETE_IGNORE;
}

static bool
are_few(int n)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now - passed_since > WINDOW_US)
	{
		passed = 0;
		passed_since = now;
	}
	if (passed + n > FEW || !se_rows_none("record_policy") || !se_rows_none("held_delete"))
		return false;
	passed += n;
	return true;
}

/* [{"remote_id", "record_id", "began_at", "read_first"}, …] as an array of jsonb */
static Datum
told_of(SeItem **items, int n, bool read_first)
{
	SeArg told = se_arg_make(n);

	for (int i = 0; i < n; i++)
	{
		SeObjBuilder b;

		se_obj_begin(&b);
		se_obj_text(&b, "remote_id", items[i]->remote_id);
		se_obj_text(&b, "record_id", items[i]->bound);
		se_obj_text(&b, "began_at", timestamptz_to_str(items[i]->began_at));
		if (read_first)
			se_obj_text(&b, "read_first", "true");
		se_arg_json(&told, se_obj_end(&b));
	}
	return se_arg_array(&told, JSONBOID);
}

static bool
is_named(const char *remote_id, uint64 rows)
{
	for (uint64 i = 0; i < rows; i++)
	{
		if (strcmp(remote_id, se_spi_text(i, 1)) == 0)
			return true;
	}
	return false;
}

void
se_deletes_guard(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, JSONBARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0};
	SeItem **deletes = palloc(sizeof(SeItem *) * Max(n, 1));
	int ndeletes = 0;
	uint64 held;

	for (int i = 0; i < n; i++)
	{
		if (takes_away(target, items[i]))
			deletes[ndeletes++] = items[i];
	}
	if (ndeletes == 0 || are_few(ndeletes))
		return;
	values[2] = told_of(deletes, ndeletes, false);
	held = se_spi_execute(&plan, "SELECT unnest(sync._guard_deletes($1, $2, to_jsonb($3)))", 3,
						  types, values, NULL, false, 0);
	for (int i = 0; held > 0 && i < ndeletes; i++)
	{
		if (is_named(deletes[i]->remote_id, held))
			deletes[i]->fate = SE_FATE_NOTHING;
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Records that the system shows alive: a delete of theirs that is held has no meaning any more. */
void
se_deletes_alive(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0};
	SeArg ids;

	if (n == 0 || se_rows_none("held_delete"))
		return;
	ids = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		if (!items[i]->deleted && items[i]->record != NULL)
			se_arg_text(&ids, items[i]->remote_id);
	}
	if (ids.n == 0)
		return;
	values[2] = se_arg_array(&ids, TEXTOID);
	se_spi_execute(&plan, "SELECT sync._held_alive($1, $2, $3)", 3, types, values, NULL, false, 0);
}

/* Records that a walk did not list: whether so many more would wait for approval; then they do. */
bool
se_deletes_hold(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr ask_plan = NULL;
	static SPIPlanPtr hold_plan = NULL;
	Oid ask_types[] = {INT4OID, INT4OID, INT8OID};
	Oid hold_types[] = {INT4OID, INT4OID, JSONBARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
					  Int64GetDatum(n)};
	bool too_many;
	bool isnull;
	bool held;

	if (n == 0)
		return false;
	se_spi_execute(&ask_plan, "SELECT sync._too_many_deletes($1, $2, $3)", 3, ask_types, values,
				   NULL, true, 0);
	too_many = DatumGetBool(se_spi_datum(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (!too_many)
		return false;
	values[2] = told_of(items, n, target->pull->fetch != NULL);
	se_spi_execute(&hold_plan, "SELECT cardinality(sync._hold_deletes($1, $2, to_jsonb($3))) > 0",
				   3, hold_types, values, NULL, false, 0);
	held = DatumGetBool(se_spi_datum(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return held;
}
