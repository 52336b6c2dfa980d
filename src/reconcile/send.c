/*
 * send.c: has records as they stand sent to one system, for backfills.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "capture/correction.h"
#include "pull/internal.h"
#include "push/record_body.h"

#define LOCK_WAIT_MS 20 /* nothing is sent while the hub waits: a row that is locked comes later */

extern PGDLLEXPORT Datum se_record_send(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_record_send);

/*
 * sync._record_send(object_id, record_id, system_id, op, old): an event for that system alone, drawn under
 * the row's lock with the row as it stands. What an app has committed before is in it; what it commits
 * later is an event of its own with a higher number. False: there is no such record. A row that is locked
 * raises 55P03.
 */
PGDLLEXPORT Datum
se_record_send(PG_FUNCTION_ARGS)
{
	int object_id = PG_GETARG_INT32(0);
	SeItem *item;
	SeTable *table;
	Jsonb *body = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	se_write_lock_wait(LOCK_WAIT_MS);
	item = palloc0(sizeof(SeItem));
	item->record_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	table = se_table_open(object_id);
	se_ours_read(table, &item, 1, list_make1(table->keys[0]), false);
	if (item->ours != NULL)
		body = se_record_body(object_id, item->record_id);
	if (body != NULL)
		se_correction_add(object_id, PG_GETARG_CHAR(3), item->record_id, body,
						  PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4), PG_GETARG_INT32(2));
	SPI_finish();
	PG_RETURN_BOOL(body != NULL);
}
