/*
 * table.c: the canonical table behind an object, read from the catalog for each page.
 *
 * Read anew each time because a user may alter it at any time; the lock taken here keeps it as it
 * is until commit. ROW EXCLUSIVE is what the writes need anyway.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "capture/key_text.h"
#include "core/errors.h"
#include "core/spi.h"
#include "pull/internal.h"

SeColumn *
se_table_column(const SeTable *table, const char *name, int len)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (strncmp(table->columns[i].name, name, len) == 0 && table->columns[i].name[len] == '\0')
			return &table->columns[i];
	}
	return NULL;
}

static SeColumn **
columns_of(SeTable *table, ArrayType *names, int *n)
{
	Datum *values;
	SeColumn **columns;

	deconstruct_array(names, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &values, NULL, n);
	columns = palloc(sizeof(SeColumn *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		const char *name = NameStr(*DatumGetName(values[i]));

		columns[i] = se_table_column(table, name, strlen(name));
		if (columns[i] == NULL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("table %s has no column \"%s\"", table->quoted, name),
							errhint("Call sync.track() again after changing keys.")));
	}
	return columns;
}

/* Marks the columns that an index begins with, by which a row is found without reading all. */
static void
mark_indexed(SeTable *table, Relation rel)
{
	ListCell *lc;

	foreach (lc, RelationGetIndexList(rel))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisvalid && heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
		{
			for (int i = 0; i < table->ncolumns; i++)
				table->columns[i].indexed |= table->columns[i].attnum == index->indkey.values[0];
		}
		ReleaseSysCache(tuple);
	}
}

static SeTable *
open_table(const char *schema, const char *name)
{
	SeTable *table = palloc0(sizeof(SeTable));
	Oid namespace = get_namespace_oid(schema, true);
	Oid relid = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;
	Relation rel;
	TupleDesc desc;

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("table \"%s.%s\" does not exist", schema, name)));
	rel = table_open(relid, RowExclusiveLock);
	desc = RelationGetDescr(rel);
	table->relid = relid;
	table->owner = rel->rd_rel->relowner;
	table->quoted = quote_qualified_identifier(schema, name);
	table->columns = palloc0(sizeof(SeColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		SeColumn *column;

		if (att->attisdropped)
			continue;
		column = &table->columns[table->ncolumns++];
		column->name = pstrdup(NameStr(att->attname));
		column->quoted = pstrdup(quote_identifier(column->name));
		column->attnum = att->attnum;
		column->typmod = att->atttypmod;
		column->typid = getBaseTypeAndTypmod(att->atttypid, &column->typmod);
		column->type = format_type_extended(att->atttypid, att->atttypmod,
											FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
		column->generated = att->attgenerated != '\0';
		column->identity_always = att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
	}
	mark_indexed(table, rel);
	table_close(rel, NoLock);
	return table;
}

SeTable *
se_table_open(int object_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID};
	Datum values[] = {Int32GetDatum(object_id)};
	SeTable *table;
	bool isnull;
	char *line_table;

	if (se_spi_execute(&plan,
					   "SELECT o.schema_name, o.table_name, o.key_columns, o.line_schema,"
					   " o.line_table, o.line_parent_columns, o.line_key_columns"
					   " FROM sync.object o WHERE o.id = $1",
					   1, types, values, NULL, true, 0) != 1)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_OBJECT),
						errmsg("there is no object with id %d", object_id)));
	table = open_table(se_spi_text(0, 1), se_spi_text(0, 2));
	table->keys = columns_of(table, DatumGetArrayTypeP(se_spi_datum(0, 3, &isnull)), &table->nkeys);
	line_table = se_spi_text(0, 5);
	if (line_table != NULL)
	{
		SeTable *lines = open_table(se_spi_text(0, 4), line_table);

		lines->parents =
			columns_of(lines, DatumGetArrayTypeP(se_spi_datum(0, 6, &isnull)), &lines->nparents);
		lines->keys =
			columns_of(lines, DatumGetArrayTypeP(se_spi_datum(0, 7, &isnull)), &lines->nkeys);
		if (lines->nparents != table->nkeys)
			ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
							errmsg("lines in %s do not hold the whole key of %s", lines->quoted,
								   table->quoted)));
		table->lines = lines;
	}
	SPI_freetuptable(SPI_tuptable);
	return table;
}

static char *
scalar_text(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

/* What the type makes of the text; NULL when it takes no such text. */
static char *
canonical_text(const SeColumn *column, char *text)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid input;
	Oid param;
	char *volatile result = NULL;

	getTypeInputInfo(column->typid, &input, &param);

	/*
	 * Safe without a subtransaction: these are built-in input functions, which hold nothing that
	 * an abort would have to release. Whatever is no data error goes on.
	 */
	PG_TRY();
	{
		result =
			se_key_text(column->typid, OidInputFunctionCall(input, text, param, column->typmod));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

char *
se_column_text(const SeColumn *column, const JsonbValue *v)
{
	char *text = scalar_text(v);

	return text != NULL ? canonical_text(column, text) : NULL;
}

/*
 * An event renders a value in our way, the other side in its own: 10.50 and "10.5", two ways to
 * write an instant. Taking that for a change would write the value back over a newer one of the
 * app.
 */
bool
se_column_same(const SeColumn *column, const JsonbValue *a, const JsonbValue *b)
{
	char *left;
	char *right;

	switch (column->typid)
	{
		case NUMERICOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case DATEOID:
		case TIMEOID:
		case INTERVALOID:
		case UUIDOID:
		case BPCHAROID:
		case BOOLOID:
			break;
		default:
			return false;
	}
	left = se_column_text(column, a);
	right = se_column_text(column, b);
	if (left == NULL || right == NULL)
		return false;
	if (column->typid == NUMERICOID)
		return DatumGetBool(DirectFunctionCall2(
			numeric_eq,
			DirectFunctionCall3(numeric_in, CStringGetDatum(left), ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1)),
			DirectFunctionCall3(numeric_in, CStringGetDatum(right), ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1))));
	return strcmp(left, right) == 0;
}
