/*
 * ours.c: canonical rows as they are now, and when they last changed.
 *
 * A row that is going to be written is read and locked first: what an app has committed by then is
 * seen, and what it writes afterwards waits and comes later. The lock is the one that the write takes
 * anyway. Lines are read once the header is locked, by a statement of their own: its snapshot shows
 * what the last holder of the lock did to them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "pull/internal.h"

#define PAIRS_AT_ONCE 50 /* a function takes a hundred arguments */

/* jsonb_build_object('a', t.a, …), in as many parts as it takes. */
static void
append_object(StringInfo sql, const char *alias, List *columns)
{
	ListCell *lc;

	appendStringInfoString(sql, "jsonb_build_object(");
	foreach (lc, columns)
	{
		SeColumn *column = lfirst(lc);
		int i = foreach_current_index(lc);

		if (i > 0)
			appendStringInfoString(sql, i % PAIRS_AT_ONCE == 0 ? ") || jsonb_build_object(" : ", ");
		appendStringInfo(sql, "%s, %s.%s", quote_literal_cstr(column->name), alias, column->quoted);
	}
	appendStringInfoChar(sql, ')');
}

static void
append_items(StringInfo sql, const SeTable *table)
{
	appendStringInfoString(sql, " FROM jsonb_to_recordset($1) item (__n int");
	se_append_key_defs(sql, table);
	appendStringInfoChar(sql, ')');
}

static Jsonb *
keys_json(const SeTable *table, SeItem **items, int n)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		se_push_item_key(&state, table, i, items[i]->record_id);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

static Jsonb *
json_at(uint64 row, int col)
{
	bool isnull;

	return DatumGetJsonbPCopy(se_spi_datum(row, col, &isnull));
}

static int
place_at(uint64 row)
{
	bool isnull;

	return DatumGetInt32(se_spi_datum(row, 1, &isnull));
}

static void
read_rows(SeTable *table, SeItem **items, List *columns, Jsonb *keys)
{
	StringInfoData sql;
	uint64 rows;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT item.__n, ");
	append_object(&sql, "t", columns);
	append_items(&sql, table);
	appendStringInfo(&sql, " JOIN %s t ON ", table->quoted);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, "%st.%s = item.__k%d", i > 0 ? " AND " : "", table->keys[i]->quoted,
						 i + 1);
	appendStringInfoString(&sql, " FOR NO KEY UPDATE OF t");
	rows = se_execute_as_owner(table, sql.data, 1, &keys, true);
	for (uint64 i = 0; i < rows; i++)
		items[place_at(i)]->ours = json_at(i, 2);
	SPI_freetuptable(SPI_tuptable);
}

static void
read_lines(SeTable *table, SeItem **items, Jsonb *keys)
{
	SeTable *lines = table->lines;
	List *columns = NIL;
	StringInfoData sql;
	uint64 rows;

	for (int i = 0; i < lines->ncolumns; i++)
		columns = lappend(columns, &lines->columns[i]);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT item.__n, jsonb_agg(");
	append_object(&sql, "l", columns);
	appendStringInfoString(&sql, " ORDER BY ");
	for (int i = 0; i < lines->nkeys; i++)
		appendStringInfo(&sql, "%sl.%s", i > 0 ? ", " : "", lines->keys[i]->quoted);
	appendStringInfoChar(&sql, ')');
	append_items(&sql, table);
	appendStringInfo(&sql, " JOIN %s l ON ", lines->quoted);
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(&sql, "%sl.%s = item.__k%d", i > 0 ? " AND " : "",
						 lines->parents[i]->quoted, i + 1);
	appendStringInfoString(&sql, " GROUP BY item.__n");
	rows = se_execute_as_owner(table, sql.data, 1, &keys, true);
	for (uint64 i = 0; i < rows; i++)
		items[place_at(i)]->ours_lines = json_at(i, 2);
	SPI_freetuptable(SPI_tuptable);
}

static Jsonb *
empty_array(void)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

void
se_ours_read(SeTable *table, SeItem **items, int n, List *columns, bool lines)
{
	Jsonb *keys;

	if (n == 0)
		return;
	keys = keys_json(table, items, n);
	for (int i = 0; i < n; i++)
	{
		items[i]->ours = NULL;
		items[i]->ours_lines = lines ? empty_array() : NULL;
	}
	read_rows(table, items, columns, keys);
	if (lines)
		read_lines(table, items, keys);
}

/*
 * Events have no index by record, because every write would pay for it. They have one by number, and
 * number and time grow together, so only what came since is read.
 */
void
se_ours_times(const SeTarget *target, TimestampTz since, SeChangeTime *times, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TIMESTAMPTZOID, TEXTARRAYOID, TEXTARRAYOID};
	SeArg records = se_arg_make(n);
	SeArg fields = se_arg_make(n);
	Datum values[5];
	uint64 rows;

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
	{
		se_arg_text(&records, times[i].record_id);
		se_arg_text(&fields, times[i].field);
	}
	values[0] = Int32GetDatum(target->object_id);
	values[1] = Int32GetDatum(target->system_id);
	values[2] = TimestampTzGetDatum(since);
	values[3] = se_arg_array(&records, TEXTOID);
	values[4] = se_arg_array(&fields, TEXTOID);
	rows = se_spi_execute(
		&plan,
		"SELECT DISTINCT ON (k.i) k.i::int, least(e.at, m.version_at), e.origin"
		" FROM sync.outbox e JOIN unnest($4, $5) WITH ORDINALITY k (record_id, field, i)"
		" ON e.record_id = k.record_id AND (e.op <> 'U' OR e.old ? k.field)"
		/* what another system changed, it changed at its own time, and we saw it later */
		" LEFT JOIN sync.external_id x ON x.object_id = $1 AND x.record_id = e.record_id"
		" AND x.system_id = e.origin LEFT JOIN sync.mirror m ON m.system_id = x.system_id"
		" AND m.object_id = $1 AND m.remote_id = x.remote_id"
		" WHERE e.seq > coalesce((SELECT b.seq FROM sync.outbox b WHERE b.at < $3"
		" ORDER BY b.seq DESC LIMIT 1), 0)"
		" AND e.at >= $3 AND e.object_id = $1 AND e.origin >= 0 AND e.origin <> $2"
		" ORDER BY k.i, e.seq DESC",
		5, types, values, NULL, false, 0);
	for (uint64 i = 0; i < rows; i++)
	{
		bool isnull;
		SeChangeTime *time = &times[place_at(i) - 1];

		time->at = DatumGetTimestampTz(se_spi_datum(i, 2, &isnull));
		time->origin = DatumGetInt32(se_spi_datum(i, 3, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}
