/*
 * capture.c: the triggers of tracked tables.
 *
 * sync_capture is an AFTER row trigger: it sees what every form of write really did, foreign-key
 * cascades and rows put directly into a partition included, and runs while the row is locked.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

#include "capture/document.h"
#include "capture/events.h"
#include "capture/guard.h"
#include "capture/table.h"
#include "core/errors.h"

/* One row before and after a change, in the columns of its own table. */
typedef struct Row
{
	Datum *values;
	bool *nulls;
} Row;

static Row
row_of(TupleTableSlot *slot)
{
	Row row;

	slot_getallattrs(slot);
	row.values = slot->tts_values;
	row.nulls = slot->tts_isnull;
	return row;
}

/* Marks the changed columns; true when one of them is not volatile. */
static bool
find_changes(const SeShape *shape, Row *old, Row *new, bool *changed)
{
	bool found = false;

	for (int i = 0; i < shape->count; i++)
	{
		const SeColumn *column = &shape->columns[i];
		int at = column->attnum - 1;

		if (old->nulls[at] != new->nulls[at])
			changed[i] = true;
		else
			changed[i] =
				!old->nulls[at] && !se_same_image(column, old->values[at], new->values[at]);
		found = found || (changed[i] && !column->is_volatile);
	}
	return found;
}

static bool
key_changed(SeTable *table, const bool *changed)
{
	for (int i = 0; i < table->key_count; i++)
	{
		if (changed[table->key[i] - table->shape->columns])
			return true;
	}
	return false;
}

/* The row, or NULL when it is too large for an event. */
static Jsonb *
render(SeTable *table, Row *row)
{
	if (!se_row_fits(table->shape, row->values, row->nulls))
		return NULL;
	return se_render_row(table->shape, row->values, row->nulls, NULL);
}

static Jsonb *
render_key(SeTable *table, Row *row)
{
	bool *chosen = palloc0(sizeof(bool) * table->shape->count);

	for (int i = 0; i < table->key_count; i++)
		chosen[table->key[i] - table->shape->columns] = true;
	return se_render_some(table->shape, row->values, row->nulls, chosen);
}

/*
 * Plain records.
 */

static void
add_plain(SeTable *table, char op, const char *record_id, Row *row, Jsonb *old)
{
	Jsonb *body = render(table, row);

	if (body == NULL)
		se_event_add(table->object_id, 'K', record_id, render_key(table, row), NULL);
	else
		se_event_add(table->object_id, op, record_id, body, old);
}

static void
plain_deleted(SeTable *table, Row *row, bool moved)
{
	SeEvent *event;
	Jsonb *body = render(table, row);

	event = se_event_add(table->object_id, body ? 'D' : 'K',
						 se_table_record_id(table, row->values, row->nulls),
						 body ? body : render_key(table, row), NULL);
	event->moved = moved;
}

/* An insert may be the second half of a move between partitions: then it is an update. */
static void
plain_inserted(SeTable *table, Row *row, bool is_partition)
{
	char *record_id = se_table_record_id(table, row->values, row->nulls);
	SeEvent *event = is_partition ? se_event_find_move(table->object_id, record_id) : NULL;
	Jsonb *body;
	Jsonb *old;

	if (event == NULL)
	{
		add_plain(table, 'I', record_id, row, NULL);
		return;
	}
	body = render(table, row);
	if (body == NULL || event->op == 'K')
	{
		se_event_finish_move(event, 'K', render_key(table, row), NULL);
		return;
	}
	old = se_json_difference(list_make1(event->body), body, table->volatile_columns, false);
	se_event_finish_move(event, old ? 'U' : '\0', body, old);
}

static void
plain_updated(SeTable *table, Row *old, Row *new, const bool *changed)
{
	Jsonb *before = NULL;
	char *record_id;

	if (key_changed(table, changed))
	{
		plain_deleted(table, old, false);
		add_plain(table, 'I', se_table_record_id(table, new->values, new->nulls), new, NULL);
		return;
	}
	record_id = se_table_record_id(table, new->values, new->nulls);
	if (se_row_fits(table->shape, old->values, old->nulls))
		before = se_render_some(table->shape, old->values, old->nulls, changed);
	if (before == NULL)
		se_event_add(table->object_id, 'K', record_id, render_key(table, new), NULL);
	else
		add_plain(table, 'U', record_id, new, before);
}

/*
 * Headers and lines of documents.
 */

static void
note(SeTable *table, char op, Row *row, Jsonb *value, bool partial)
{
	char **texts = palloc(sizeof(char *) * Max(table->key_count, 1));

	/* A line that belongs to no document is nobody's business. */
	if (!se_table_key_texts(table, row->values, row->nulls, texts))
		return;
	se_document_note(table, op, se_record_id_from_texts(table->key_count, texts), texts, value,
					 partial);
}

static void
header_deleted(SeTable *table, Row *row)
{
	Jsonb *body = render(table, row);

	note(table, 'D', row, body ? body : render_key(table, row), body == NULL);
}

static void
header_updated(SeTable *table, Row *old, Row *new, const bool *changed)
{
	Jsonb *before = NULL;

	if (key_changed(table, changed))
	{
		header_deleted(table, old);
		note(table, 'I', new, NULL, false);
		return;
	}
	if (se_row_fits(table->shape, old->values, old->nulls))
		before = se_render_some(table->shape, old->values, old->nulls, changed);
	note(table, 'U', new, before, before == NULL);
}

static void
line_updated(SeTable *table, Row *old, Row *new, const bool *changed)
{
	if (key_changed(table, changed))
		note(table, 'L', old, NULL, false);
	note(table, 'L', new, NULL, false);
}

/*
 * Dispatch.
 */

static void
row_updated(SeTable *table, Row *old, Row *new)
{
	bool *changed = palloc(sizeof(bool) * table->shape->count);
	bool found = find_changes(table->shape, old, new, changed);

	if (table->guard != NULL)
		se_guard_updated(table, old->values, old->nulls, new->values, new->nulls, changed);
	if (!found)
		return;
	if (table->role == SE_TABLE_PLAIN)
		plain_updated(table, old, new, changed);
	else if (table->role == SE_TABLE_HEADER)
		header_updated(table, old, new, changed);
	else
		line_updated(table, old, new, changed);
}

static void
row_inserted(SeTable *table, Row *row, bool is_partition)
{
	if (table->guard != NULL)
		se_guard_inserted(table, row->values, row->nulls, is_partition);
	if (table->role == SE_TABLE_PLAIN)
		plain_inserted(table, row, is_partition);
	else
		note(table, table->role == SE_TABLE_HEADER ? 'I' : 'L', row, NULL, false);
}

static void
row_deleted(SeTable *table, Row *row, bool moved)
{
	if (table->guard != NULL)
		se_guard_deleted(table, row->values, row->nulls, moved);
	if (table->role == SE_TABLE_PLAIN)
		plain_deleted(table, row, moved);
	else if (table->role == SE_TABLE_HEADER)
		header_deleted(table, row);
	else
		note(table, 'L', row, NULL, false);
}

static void
check_call(FunctionCallInfo fcinfo, const char *function, bool row)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" was not called by trigger manager", function)));
	if (!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(bool) TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) != row)
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" was fired in an unexpected way", function),
						errhint("Let sync.track() make the triggers.")));
	if (trigdata->tg_trigger->tgnargs != 1)
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("trigger \"%s\" must have the object's name as its only argument",
							   trigdata->tg_trigger->tgname)));
}

static void
capture_row(TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;
	SeTable *table = se_table_lookup(rel, trigdata->tg_trigger->tgargs[0]);
	Row row = row_of(trigdata->tg_trigslot);
	int pin = se_pin_settings(table->shape);

	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		Row new = row_of(trigdata->tg_newslot);

		row_updated(table, &row, &new);
	}
	else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		row_inserted(table, &row, rel->rd_rel->relispartition);
	else
		row_deleted(table, &row,
					rel->rd_rel->relispartition &&
						HeapTupleHeaderIndicatesMovedPartitions(trigdata->tg_trigtuple->t_data));
	se_unpin_settings(pin);
}

static void
capture_truncate(TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;
	SeTable *table = se_table_lookup(rel, trigdata->tg_trigger->tgargs[0]);
	Jsonb *body = NULL;
	static const char *const key[] = {"table"};
	const char *name = RelationGetRelationName(rel);

	if (!table->record_truncate)
		ereport(
			ERROR,
			(errcode(SE_ERRCODE_TRUNCATE_REFUSED),
			 errmsg("TRUNCATE of \"%s\" is refused: it holds records of object \"%s\"", name,
					table->object),
			 errdetail("TRUNCATE does not tell which records it removes."),
			 errhint(
				 "Use DELETE, or let sync.track() set on_truncate => 'record', or end the tracking with sync.untrack('%s').",
				 table->object)));
	/* Of a part of the records, or of their lines only: the body names it. */
	if (RelationGetRelid(rel) != table->header_relid)
		body = se_json_from_strings(1, key, &name);
	se_event_add(table->object_id, 'T', "", body, NULL);
}

PG_FUNCTION_INFO_V1(se_capture);
PG_FUNCTION_INFO_V1(se_capture_line);

/* sync.capture(): trigger of the table that holds an object's records. */
PGDLLEXPORT Datum
se_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	check_call(fcinfo, "sync.capture",
			   !CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event));
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		capture_truncate(trigdata);
	else
		capture_row(trigdata);
	return PointerGetDatum(NULL);
}

/* sync.capture_line(): trigger of a table that holds lines. The registry tells them apart. */
PGDLLEXPORT Datum
se_capture_line(PG_FUNCTION_ARGS)
{
	return se_capture(fcinfo);
}
