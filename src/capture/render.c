/*
 * render.c: rows as canonical jsonb.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "capture/render.h"

/*
 * Shapes.
 */

static int
compare_columns(const void *a, const void *b)
{
	const SeColumn *x = a;
	const SeColumn *y = b;

	return se_json_compare_keys(x->name, x->name_len, y->name, y->name_len);
}

/* Writes header and keys of a whole row once, to be copied for each row. */
static void
prepare_keys(SeShape *shape)
{
	SeJsonWriter w;
	SeJsonContainer c;

	se_json_begin(&w, 0);
	se_json_open(&w, &c, JB_FOBJECT, shape->count);
	for (int i = 0; i < shape->count; i++)
		se_json_entry(&w, &c,
					  se_json_string(&w, shape->columns[i].name, shape->columns[i].name_len));
	shape->keys_len = w.buf.len - VARHDRSZ;
	shape->keys = palloc(shape->keys_len);
	memcpy(shape->keys, w.buf.data + VARHDRSZ, shape->keys_len);
	c.entries -= VARHDRSZ;
	c.base -= VARHDRSZ;
	shape->keys_end = c;
	shape->size_hint = w.buf.len + shape->count * 16;
	pfree(w.buf.data);
}

static SeColumn *
add_column(SeShape *shape, AttrNumber attnum, const char *name)
{
	SeColumn *column = &shape->columns[shape->count++];

	column->attnum = attnum;
	column->name = pstrdup(name);
	column->name_len = strlen(name);
	return column;
}

SeShape *
se_shape_build(TupleDesc desc, AttrNumber first, bool with_lines)
{
	SeShape *shape = palloc0(sizeof(SeShape));

	shape->columns = palloc0(sizeof(SeColumn) * (desc->natts + 1));
	for (int i = first - 1; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			se_column_type(shape, add_column(shape, att->attnum, NameStr(att->attname)),
						   att->atttypid);
	}
	if (with_lines)
		add_column(shape, 0, "lines");
	qsort(shape->columns, shape->count, sizeof(SeColumn), compare_columns);
	prepare_keys(shape);
	return shape;
}

SeColumn *
se_shape_column(SeShape *shape, const char *name)
{
	for (int i = 0; i < shape->count; i++)
	{
		if (shape->columns[i].attnum > 0 && strcmp(shape->columns[i].name, name) == 0)
			return &shape->columns[i];
	}
	return NULL;
}

/*
 * Rows.
 */

static uint32
put_column(SeJsonWriter *w, SeColumn *column, const Datum *values, const bool *nulls, Jsonb *lines)
{
	if (column->attnum == 0)
		return lines == NULL ? JENTRY_ISNULL : se_json_jsonb(w, lines);
	if (nulls[column->attnum - 1])
		return JENTRY_ISNULL;
	return column->emit(w, column, values[column->attnum - 1]);
}

void
se_render_object(SeJsonWriter *w, SeShape *shape, const Datum *values, const bool *nulls,
				 Jsonb *lines)
{
	SeJsonContainer c = shape->keys_end;
	int start;

	if (!se_json_fits(w, shape->keys_len + sizeof(int)))
		return;
	se_json_container(w, (const JsonbContainer *) shape->keys, shape->keys_len);
	start = w->buf.len - shape->keys_len;
	c.entries += start;
	c.base += start;
	for (int i = 0; i < shape->count && !w->overflow; i++)
		se_json_entry(w, &c, put_column(w, &shape->columns[i], values, nulls, lines));
}

Jsonb *
se_render_row(SeShape *shape, const Datum *values, const bool *nulls, Jsonb *lines)
{
	SeJsonWriter w;

	se_json_begin(&w, shape->size_hint);
	se_render_object(&w, shape, values, nulls, lines);
	/* The next row is likely as large; a huge one must not make all later buffers huge. */
	if (!w.overflow && w.buf.len > shape->size_hint)
		shape->size_hint = Min(w.buf.len + 64, 8192);
	return se_json_end(&w);
}

Jsonb *
se_render_some(SeShape *shape, const Datum *values, const bool *nulls, const bool *chosen)
{
	SeJsonWriter w;
	SeJsonContainer c;
	int count = 0;

	for (int i = 0; i < shape->count; i++)
		count += chosen[i];
	se_json_begin(&w, 0);
	se_json_open(&w, &c, JB_FOBJECT, count);
	for (int i = 0; i < shape->count; i++)
	{
		if (chosen[i])
			se_json_entry(&w, &c,
						  se_json_string(&w, shape->columns[i].name, shape->columns[i].name_len));
	}
	for (int i = 0; i < shape->count && !w.overflow; i++)
	{
		if (chosen[i])
			se_json_entry(&w, &c, put_column(&w, &shape->columns[i], values, nulls, NULL));
	}
	return se_json_end(&w);
}

char *
se_render_text(SeColumn *column, Datum value)
{
	SeJsonWriter w;
	uint32 type;

	se_json_begin(&w, 0);
	type = column->emit(&w, column, value);
	if (w.overflow)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("value of key column \"%s\" is too long", column->name)));
	switch (type)
	{
		case JENTRY_ISSTRING:
			/* As a cast to text has it, by which bindings name the record. */
			while (column->type == BPCHAROID && w.buf.len > VARHDRSZ &&
				   w.buf.data[w.buf.len - 1] == ' ')
				w.buf.len--;
			/* Not every writer ends its bytes with a zero: jsonb needs none. */
			appendStringInfoChar(&w.buf, '\0');
			return w.buf.data + VARHDRSZ;
		case JENTRY_ISNUMERIC:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, PointerGetDatum(w.buf.data + VARHDRSZ)));
		case JENTRY_ISBOOL_TRUE:
			return "true";
		case JENTRY_ISBOOL_FALSE:
			return "false";
		default:
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("column \"%s\" of type %s cannot be a key column", column->name,
								   format_type_be(column->type))));
	}
	return NULL;
}

bool
se_row_fits(SeShape *shape, const Datum *values, const bool *nulls)
{
	Size total = 0;

	for (int i = 0; i < shape->count; i++)
	{
		SeColumn *column = &shape->columns[i];

		if (column->attnum > 0 && column->typlen == -1 && !nulls[column->attnum - 1])
			total += toast_raw_datum_size(values[column->attnum - 1]);
	}
	return total < SE_EVENT_LIMIT;
}

/*
 * Only for tables with columns that need it: it costs more than all other rendering. An error in
 * between is cleaned up by the abort of the (sub)transaction.
 */
int
se_pin_settings(SeShape *shape)
{
	static const char *const settings[][2] = {
		{"bytea_output", "hex"},
		{"DateStyle", "ISO, YMD"},
		{"extra_float_digits", "1"},
		{"IntervalStyle", "postgres"},
		{"lc_monetary", "C"},
		{"quote_all_identifiers", "off"},
		{"search_path", "pg_catalog, pg_temp"},
		{"TimeZone", "UTC"},
	};
	int nest_level;

	if (!shape->pinned)
		return 0;
	nest_level = NewGUCNestLevel();
	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

void
se_unpin_settings(int nest_level)
{
	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
}
