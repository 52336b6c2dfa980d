/*
 * scan.c: deletes of a system that tells nobody about them.
 *
 * A walk over everything marks each record that it lists as seen. What the mirror knows and the
 * walk did not list is gone, or was missed; so each is read by id first, where that is possible.
 * When much of the mirror would go at once, a filter, a permission or a broken answer is likelier
 * than so many deletes: then nothing is deleted and a person is told.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "pull/internal.h"
#include "worker/notice.h"

#define GUARD_COUNT	  10
#define GUARD_PERCENT 20

static int64
count_of(int col)
{
	bool isnull;

	return DatumGetInt64(se_spi_datum(0, col, &isnull));
}

static bool
looks_wrong(SeStream *stream, const SeTarget *target, int64 *missing)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TIMESTAMPTZOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
					  TimestampTzGetDatum(stream->started_at)};
	char *key = psprintf("pull.deletes.%d", stream->id);
	int64 known;

	se_spi_execute(&plan,
				   "SELECT count(*), count(*) FILTER (WHERE m.seen_at < $3) FROM sync.mirror m"
				   " WHERE m.system_id = $1 AND m.object_id = $2 AND NOT m.deleted",
				   3, types, values, NULL, false, 0);
	known = count_of(1);
	*missing = count_of(2);
	SPI_freetuptable(SPI_tuptable);
	if (*missing <= GUARD_COUNT || *missing * 100 <= known * GUARD_PERCENT)
	{
		se_notice_clear(key);
		return false;
	}
	se_notice_put(key, "error",
				  psprintf("a walk over object \"%s\" did not list " INT64_FORMAT
						   " of " INT64_FORMAT " known records; none of them was deleted",
						   target->object, *missing, known),
				  "Look whether the system lists what it should. What is really gone there can be "
				  "applied with sync._apply_page().");
	return true;
}

void
se_scan_finish(SeStream *stream, SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TIMESTAMPTZOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
					  TimestampTzGetDatum(stream->started_at)};
	SePageResult result;
	SeItem *items;
	char **ids;
	int64 missing;
	uint64 n;

	if (looks_wrong(stream, target, &missing) || missing == 0)
		return;
	n = se_spi_execute(&plan,
					   "SELECT m.remote_id FROM sync.mirror m WHERE m.system_id = $1"
					   " AND m.object_id = $2 AND NOT m.deleted AND m.seen_at < $3",
					   3, types, values, NULL, false, 0);
	ids = palloc(sizeof(char *) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
		ids[i] = se_spi_text(i, 1);
	SPI_freetuptable(SPI_tuptable);
	if (target->pull->fetch != NULL)
	{
		if (se_state_want(target->system_id, target->object_id, ids, n,
						  "no longer listed; it is read by id") > 0)
			se_inbox_wake();
		return;
	}
	items = palloc0(sizeof(SeItem) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
	{
		items[i].remote_id = ids[i];
		items[i].deleted = true;
		items[i].began_at = stream->started_at;
	}
	se_page_apply(target, items, n, false, &result);
}
