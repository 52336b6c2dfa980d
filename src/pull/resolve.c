/*
 * resolve.c: what sync.resolve_conflict() and sync.repair() do to a record.
 *
 * SQL decides and keeps the books (71_conflicts.sql, 77_repair_2_act.sql); these functions read, lock
 * and write canonical rows the way a page does: as the table's owner, with the origin set, lines with
 * their document. None is granted to anybody.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "capture/correction.h"
#include "core/json.h"
#include "core/spi.h"
#include "pull/internal.h"
#include "push/record_body.h"

#define LOCK_WAIT_MS 10000 /* a person waits longer than a worker */

extern PGDLLEXPORT Datum se_field_lock(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_field_write(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fields_write(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_record_push(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_field_lock);
PG_FUNCTION_INFO_V1(se_field_write);
PG_FUNCTION_INFO_V1(se_fields_write);
PG_FUNCTION_INFO_V1(se_record_push);

static void
begin(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	se_write_lock_wait(LOCK_WAIT_MS);
}

/* A result that outlives SPI_finish(). */
static Jsonb *
keep(Jsonb *json)
{
	Jsonb *copy;

	if (json == NULL)
		return NULL;
	copy = SPI_palloc(VARSIZE(json));
	memcpy(copy, json, VARSIZE(json));
	return copy;
}

static bool
is_lines(const SeTable *table, const char *field)
{
	return table->lines != NULL && strcmp(field, "lines") == 0;
}

static SeColumn *
writable_column(SeTable *table, const char *field)
{
	SeColumn *column = se_table_column(table, field, strlen(field));

	if (column == NULL || column->generated)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("table %s has no column \"%s\" that can be written", table->quoted,
							   field)));
	return column;
}

/* sync._field_lock(object_id, record_id, field): value of a field of a row that is locked; NULL: no row. */
PGDLLEXPORT Datum
se_field_lock(PG_FUNCTION_ARGS)
{
	SeTable *table;
	SeItem *item;
	char *field;
	Jsonb *value = NULL;

	begin();
	table = se_table_open(PG_GETARG_INT32(0));
	item = palloc0(sizeof(SeItem));
	item->record_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	field = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (is_lines(table, field))
	{
		se_ours_read(table, &item, 1, NIL, true);
		value = item->ours != NULL ? item->ours_lines : NULL;
	}
	else
	{
		se_ours_read(table, &item, 1, list_make1(writable_column(table, field)), false);
		if (item->ours != NULL)
			value = se_obj_get(item->ours, field);
	}
	value = keep(value);
	SPI_finish();
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(value);
}

static void
set_lines(SeTable *table, SeItem *item, Jsonb *value)
{
	if (!JB_ROOT_IS_ARRAY(value) || JB_ROOT_IS_SCALAR(value))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("lines must be an array of objects")));
	item->map.lines = value;
	item->set_lines = true;
	for (int i = 0; i < table->lines->ncolumns; i++)
	{
		SeColumn *column = &table->lines->columns[i];
		JsonbValue *first = getIthJsonbValueFromContainer(&value->root, 0);

		if (first != NULL && first->type == jbvBinary && !column->generated &&
			getKeyJsonValueFromContainer(first->val.binary.data, column->name, strlen(column->name),
										 &(JsonbValue){0}) != NULL)
			item->line_columns = lappend(item->line_columns, column);
	}
}

/* As an app (0), or as a system's change. */
static void
write_fields(int object_id, const char *record_id, Jsonb *values, int origin)
{
	static const SePull pull = {.on_delete = SE_DELETE_IGNORE};
	SeTarget target = {.pull = &pull};
	SeTable *table;
	SeItem *item;
	SeObjBuilder b;
	JsonbIterator *it = JsonbIteratorInit(&values->root);
	JsonbIteratorToken token;
	JsonbValue v;

	target.object_id = object_id;
	target.system_id = origin;
	table = se_table_open(object_id);
	item = palloc0(sizeof(SeItem));
	item->fate = SE_FATE_APPLY;
	item->record_id = pstrdup(record_id);
	se_obj_begin(&b);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char *field;

		if (token != WJB_KEY)
			continue;
		field = pnstrdup(v.val.string.val, v.val.string.len);
		if (is_lines(table, field))
		{
			set_lines(table, item, se_obj_get(values, field));
			continue;
		}
		item->set_columns = lappend(item->set_columns, writable_column(table, field));
		se_obj_value(&b, field, se_obj_get(values, field));
	}
	item->set = b.n > 0 ? se_obj_end(&b) : NULL;
	se_write(&target, table, &item, 1);
}

/* sync._field_write(object_id, record_id, field, value, origin) */
PGDLLEXPORT Datum
se_field_write(PG_FUNCTION_ARGS)
{
	SeObjBuilder b;

	begin();
	se_obj_begin(&b);
	se_obj_value(&b, text_to_cstring(PG_GETARG_TEXT_PP(2)), PG_GETARG_JSONB_P(3));
	write_fields(PG_GETARG_INT32(0), text_to_cstring(PG_GETARG_TEXT_PP(1)), se_obj_end(&b),
				 PG_GETARG_INT32(4));
	SPI_finish();
	PG_RETURN_VOID();
}

/* sync._fields_write(object_id, record_id, values, origin): several at once, as checks over them need it. */
PGDLLEXPORT Datum
se_fields_write(PG_FUNCTION_ARGS)
{
	begin();
	write_fields(PG_GETARG_INT32(0), text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_JSONB_P(2),
				 PG_GETARG_INT32(3));
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * sync._record_push(object_id, record_id, system_id, op, old): has the record as it stands sent to one
 * system. False: there is no such record.
 */
PGDLLEXPORT Datum
se_record_push(PG_FUNCTION_ARGS)
{
	int object_id = PG_GETARG_INT32(0);
	char *record_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char op = PG_GETARG_CHAR(3);
	Jsonb *body;

	begin();
	body = se_record_body(object_id, record_id);
	if (body != NULL)
		se_correction_add(object_id, op, record_id, body,
						  PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4), PG_GETARG_INT32(2));
	SPI_finish();
	PG_RETURN_BOOL(body != NULL);
}
