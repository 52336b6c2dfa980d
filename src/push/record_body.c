/*
 * record_body.c: see record_body.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "capture/key_text.h"
#include "core/json.h"
#include "core/role.h"
#include "core/spi.h"
#include "push/record_body.h"

typedef struct Table /* what the registry says of an object's table */
{
	Oid relid;
	Oid owner;
	char *name; /* quoted */
	char **key;
	int nkey;
	char *lines; /* quoted; NULL: no lines */
	char **parent;
	int nparent;
	char **line_key;
	int nline_key;
} Table;

static char **
name_array(uint64 row, int col, int *n)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);
	Datum *elements;
	char **names;

	*n = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(value), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &elements, NULL, n);
	names = palloc(sizeof(char *) * *n);
	for (int i = 0; i < *n; i++)
		names[i] = pstrdup(NameStr(*DatumGetName(elements[i])));
	return names;
}

static bool
read_table(int object_id, Table *table)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {INT4OID};
	Datum values[1];
	bool isnull;

	values[0] = Int32GetDatum(object_id);
	if (se_spi_execute(
			&plan,
			"SELECT c.relowner, pg_catalog.format('%I.%I', o.schema_name, o.table_name), "
			"o.key_columns, CASE WHEN o.line_table IS NOT NULL THEN "
			"pg_catalog.format('%I.%I', o.line_schema, o.line_table) END, "
			"o.line_parent_columns, o.line_key_columns, c.oid FROM sync.object o "
			"JOIN pg_catalog.pg_namespace n ON n.nspname = o.schema_name "
			"JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid "
			"AND c.relname = o.table_name WHERE o.id = $1",
			1, types, values, NULL, true, 1) == 0)
		return false;
	table->owner = DatumGetObjectId(se_spi_datum(0, 1, &isnull));
	table->name = se_spi_text(0, 2);
	table->key = name_array(0, 3, &table->nkey);
	table->lines = se_spi_text(0, 4);
	table->parent = name_array(0, 5, &table->nparent);
	table->line_key = name_array(0, 6, &table->nline_key);
	table->relid = DatumGetObjectId(se_spi_datum(0, 7, &isnull));
	return true;
}

/* Texts of the key columns: the record id itself, or the elements of its JSON array. */
static Datum
key_array(const Table *table, const char *record_id)
{
	Datum *texts = palloc(sizeof(Datum) * table->nkey);

	if (table->nkey == 1)
		texts[0] = CStringGetTextDatum(record_id);
	else
	{
		Jsonb *array = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(record_id)));

		for (int i = 0; i < table->nkey; i++)
		{
			JsonbValue *v = getIthJsonbValueFromContainer(&array->root, (uint32) i);

			if (v == NULL || v->type != jbvString)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
						 errmsg("\"%s\" is no record id of this object", record_id),
						 errdetail("A composite key is a JSON array of %d texts.", table->nkey)));
			texts[i] =
				PointerGetDatum(cstring_to_text_with_len(v->val.string.val, v->val.string.len));
		}
	}
	return PointerGetDatum(construct_array(texts, table->nkey, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Key columns are compared with values of their own type, so that the primary key's index serves
 * and every spelling of a value (a uuid in capitals) finds its row.
 */
static void
append_key_match(StringInfo sql, char **columns, int n, const char *table, const char *alias)
{
	for (int i = 0; i < n; i++)
		appendStringInfo(sql,
						 "%s%s.%s = (pg_catalog.jsonb_populate_record(NULL::%s, "
						 "pg_catalog.jsonb_build_object(%s, $1[%d]))).%s",
						 i > 0 ? " AND " : "", alias, quote_identifier(columns[i]), table,
						 quote_literal_cstr(columns[i]), i + 1, quote_identifier(columns[i]));
}

static void
append_lines(StringInfo sql, const Table *table)
{
	appendStringInfo(sql, " || pg_catalog.jsonb_build_object('lines', coalesce((SELECT "
						  "pg_catalog.jsonb_agg(pg_catalog.to_jsonb(l.*) ORDER BY ");
	for (int i = 0; i < table->nline_key; i++)
		appendStringInfo(sql, "%sl.%s", i > 0 ? ", " : "", quote_identifier(table->line_key[i]));
	appendStringInfo(sql, ") FROM %s l WHERE ", table->lines);
	for (int i = 0; i < table->nparent; i++)
		appendStringInfo(sql, "%sl.%s = t.%s", i > 0 ? " AND " : "",
						 quote_identifier(table->parent[i]), quote_identifier(table->key[i]));
	appendStringInfoString(sql, "), '[]'))");
}

/* Settings under which values read as capture renders them. */
static void
pin_output(void)
{
	static const char *const settings[][2] = {
		{"TimeZone", "UTC"},	 {"DateStyle", "ISO"},		  {"IntervalStyle", "postgres"},
		{"bytea_output", "hex"}, {"extra_float_digits", "1"},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

Jsonb *
se_record_body(int object_id, const char *record_id)
{
	Table table;
	StringInfoData sql;
	Oid types[1] = {TEXTARRAYOID};
	Datum values[1];
	SeRole role;
	Jsonb *body = NULL;

	if (!read_table(object_id, &table))
		return NULL;
	values[0] = key_array(&table, record_id);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.to_jsonb(t.*)");
	if (table.lines != NULL)
		append_lines(&sql, &table);
	appendStringInfo(&sql, " FROM %s t WHERE ", table.name);
	append_key_match(&sql, table.key, table.nkey, table.name, "t");

	se_role_become(table.owner, &role);
	pin_output();
	if (SPI_execute_with_args(sql.data, 1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read record \"%s\"", record_id);
	if (SPI_processed == 1)
	{
		bool isnull;

		body = se_obj_copy(DatumGetJsonbP(se_spi_datum(0, 1, &isnull)));
	}
	se_role_restore(&role);
	return body;
}

static void
append_record_id(StringInfo sql, const Table *table)
{
	const char **operands = palloc(sizeof(char *) * table->nkey);
	Oid *types = palloc(sizeof(Oid) * table->nkey);

	for (int i = 0; i < table->nkey; i++)
	{
		operands[i] = psprintf("t.%s", quote_identifier(table->key[i]));
		types[i] = get_atttype(table->relid, get_attnum(table->relid, table->key[i]));
	}
	se_append_key_texts(sql, operands, types, table->nkey);
}

char *
se_record_by_column(int object_id, const char *column, const char *value)
{
	Table table;
	StringInfoData sql;
	Oid types[1] = {TEXTOID};
	Datum values[1];
	SeRole role;
	char *result = NULL;

	if (!read_table(object_id, &table))
		return NULL;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_record_id(&sql, &table);
	appendStringInfo(&sql, " FROM %s t WHERE t.%s::text = $1 LIMIT 2", table.name,
					 quote_identifier(column));
	values[0] = CStringGetTextDatum(value);
	se_role_become(table.owner, &role);
	if (SPI_execute_with_args(sql.data, 1, types, values, NULL, false, 2) != SPI_OK_SELECT)
		elog(ERROR, "could not search column \"%s\"", column);
	if (SPI_processed == 1)
		result = se_spi_text(0, 1);
	se_role_restore(&role);
	return result;
}
