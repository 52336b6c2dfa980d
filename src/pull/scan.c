/*
 * scan.c: deletes of a system that tells nobody about them.
 *
 * A walk over everything marks each record that it lists as seen. What the mirror knows and the
 * walk did not list is gone, or was missed; so each is read by id first, where that is possible.
 * When much of the mirror would go at once, none of it does before a person has approved; see deletes.c.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "pull/internal.h"

void
se_scan_finish(SeStream *stream, SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TIMESTAMPTZOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
					  TimestampTzGetDatum(stream->started_at)};
	SePageResult result;
	SeItem *items;
	SeItem **missing;
	char **ids;
	uint64 n;

	n = se_spi_execute(&plan,
					   "SELECT m.remote_id, m.record_id FROM sync.mirror m WHERE m.system_id = $1"
					   " AND m.object_id = $2 AND NOT m.deleted AND m.seen_at < $3"
					   " AND NOT EXISTS (SELECT FROM sync.held_delete h WHERE h.system_id = $1"
					   " AND h.object_id = $2 AND h.remote_id = m.remote_id)",
					   3, types, values, NULL, false, 0);
	ids = palloc(sizeof(char *) * Max(n, 1));
	items = palloc0(sizeof(SeItem) * Max(n, 1));
	missing = palloc(sizeof(SeItem *) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
	{
		missing[i] = &items[i];
		items[i].remote_id = ids[i] = se_spi_text(i, 1);
		items[i].bound = se_spi_text(i, 2);
		items[i].deleted = true;
		items[i].began_at = stream->started_at;
	}
	SPI_freetuptable(SPI_tuptable);
	se_deletes_policy(target);
	/* Even to read so many by id would be wrong. */
	if (target->pull->on_delete != SE_DELETE_IGNORE && se_deletes_hold(target, missing, n))
		return;
	for (uint64 i = 0; i < n; i++)
		items[i].bound = NULL; /* se_page_apply() looks for itself */
	if (target->pull->fetch != NULL)
	{
		if (se_state_want(target->system_id, target->object_id, ids, n,
						  "no longer listed; it is read by id") > 0)
			se_inbox_wake();
		return;
	}
	se_page_apply(target, items, n, false, &result);
}
