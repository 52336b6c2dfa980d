/*
 * history.c: changes of mirrors, kept in sync.mirror_history in the transaction that makes them.
 *
 * Of a financial record the state is kept, so that what was known at a moment can be told years later.
 * Of others it is kept that a pull has changed them; what pushes change of those stands in
 * sync.outcome already, and a delivery must not pay for it again.
 *
 * Writers in SQL (merges, refused deletes, …) call sync._note_mirror().
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "capture/capture.h"
#include "core/json.h"
#include "core/spi.h"
#include "pull/internal.h"

static const char *const history_names[] = {"system_id", "object_id", "remote_id",
											"at",		 "xid",		  "incarnation",
											"record_id", "fields",	  "deleted"};

typedef struct History
{
	const SeTarget *target;
	TimestampTz at;
	SeArg columns[lengthof(history_names)];
	int n;
} History;

static void
begin(History *history, const SeTarget *target, int n)
{
	history->target = target;
	history->at = GetCurrentTimestamp();
	history->n = 0;
	for (int i = 0; i < lengthof(history_names); i++)
		history->columns[i] = se_arg_make(n);
}

static void
add(History *history, const SeItem *item, Jsonb *fields, bool deleted)
{
	SeArg *c = history->columns;

	se_arg_add(c++, Int32GetDatum(history->target->system_id), false);
	se_arg_add(c++, Int32GetDatum(history->target->object_id), false);
	se_arg_text(c++, item->remote_id);
	se_arg_add(c++, TimestampTzGetDatum(history->at), false);
	se_arg_add(c++, UInt64GetDatum(U64FromFullTransactionId(GetTopFullTransactionId())), false);
	se_arg_add(c++, Int32GetDatum(se_incarnation()), false);
	se_arg_text(c++, item->record_id);
	se_arg_json(c++, history->target->financial ? fields : NULL);
	se_arg_add(c++, BoolGetDatum(deleted), false);
	history->n++;
}

static void
put(History *history)
{
	se_rows_insert("mirror_history", 0, history_names, history->columns, lengthof(history_names),
				   history->n);
}

/* Whether the mirror has said so already. */
static bool
is_known(const SeItem *item, Jsonb *fields, bool deleted)
{
	const Jsonb *known = item->mirror_fields;

	if (known == NULL || item->mirror_deleted != deleted ||
		(item->record_id == NULL
			 ? item->mirror_record != NULL
			 : item->mirror_record == NULL || strcmp(item->record_id, item->mirror_record) != 0))
		return false;
	if (VARSIZE(known) == VARSIZE(fields) &&
		memcmp(VARDATA(known), VARDATA(fields), VARSIZE(fields) - VARHDRSZ) == 0)
		return true;
	return compareJsonbContainers(&item->mirror_fields->root, &fields->root) == 0;
}

/* What a page has made of the mirror. */
void
se_history_page(const SeTarget *target, SeItem **items, int n)
{
	History history;

	begin(&history, target, n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];
		bool gone = item->fate == SE_FATE_DELETE;
		Jsonb *fields = NULL;

		/* A deleted record keeps the fields that were known of it. */
		if (gone)
			fields = item->in_mirror ? item->mirror_fields : se_obj_empty();
		else if (item->in_mirror || target->financial)
			fields = se_fields_with_lines(item->map.fields, item->map.lines);
		if (!item->in_mirror || !is_known(item, fields, gone))
			add(&history, item, fields, gone);
	}
	put(&history);
}

/* What pushes have put into the mirror for the first time. */
void
se_history_pushed_new(const SeTarget *target, SeItem **items, int n)
{
	History history;

	if (!target->financial || n == 0)
		return;
	begin(&history, target, n);
	for (int i = 0; i < n; i++)
		add(&history, items[i],
			items[i]->map.fields != NULL
				? se_fields_with_lines(items[i]->map.fields, items[i]->map.lines)
				: se_obj_empty(),
			items[i]->deleted);
	put(&history);
}

static SeItem *
item_of(SeItem **items, int n, uint64 likely, const char *remote_id)
{
	if (likely < n && strcmp(items[likely]->remote_id, remote_id) == 0)
		return items[likely];
	for (int i = 0; i < n; i++)
	{
		if (strcmp(items[i]->remote_id, remote_id) == 0)
			return items[i];
	}
	elog(ERROR, "remote record %s was not written", remote_id);
}

/* What pushes have changed: rows of SPI are remote id, fields and deleted, as they are now. */
void
se_history_pushed(const SeTarget *target, SeItem **items, int n)
{
	History history;

	begin(&history, target, n);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SeItem *item = item_of(items, n, i, se_spi_text(i, 1));
		bool isnull;
		Jsonb *fields = DatumGetJsonbP(se_spi_datum(i, 2, &isnull));
		bool deleted = DatumGetBool(se_spi_datum(i, 3, &isnull));

		if (!is_known(item, fields, deleted))
			add(&history, item, fields, deleted);
	}
	put(&history);
}

/* A record has left a remote one that is gone: rows of SPI are that one's id and fields. */
void
se_history_gone(const SeTarget *target, const SeItem *item)
{
	History history;

	begin(&history, target, (int) SPI_processed);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SeItem gone = {.remote_id = se_spi_text(i, 1), .record_id = item->record_id};
		bool isnull;

		add(&history, &gone, DatumGetJsonbP(se_spi_datum(i, 2, &isnull)), true);
	}
	put(&history);
}
