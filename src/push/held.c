/*
 * held.c: rows of sync.pending that people may have locked.
 *
 * Nobody's open transaction makes the hub wait: a row that somebody has locked is skipped, and looked
 * at again a second later.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "push/internal.h"

#define LATER_MS 1000

static TimestampTz promote_at = DT_NOEND; /* a row whose turn came was locked */

TimestampTz
se_held_next_due(void)
{
	return promote_at;
}

/* ---- what stood behind another ---- */

static void
look_later(uint64 row)
{
	bool isnull;

	if (DatumGetInt64(se_spi_datum(row, 1, &isnull)) > 0)
		promote_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LATER_MS);
}

/* Rows of `head` go on, but for those that are dead or locked; how many are locked. */
#define PROMOTE                                                                                    \
	"free AS (SELECT p.id FROM sync.pending p WHERE p.id = ANY (ARRAY(SELECT h.id FROM head h)) "  \
	"AND p.state = 'behind' FOR UPDATE SKIP LOCKED), "                                             \
	"promoted AS (UPDATE sync.pending p SET state = 'retry', "                                     \
	"next_attempt_at = pg_catalog.clock_timestamp() "                                              \
	"WHERE p.id = ANY (ARRAY(SELECT f.id FROM free f)) RETURNING p.id) "                           \
	"SELECT (SELECT count(*) FROM head h WHERE h.state = 'behind') - "                             \
	"(SELECT count(*) FROM promoted)"

/* True: another delivery of the record stands first now. It may be dead and need a person. */
bool
se_held_promote(int route_id, const char *record_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT4OID, TEXTOID};
	Datum values[2] = {Int32GetDatum(route_id), CStringGetTextDatum(record_id)};

	if (se_spi_execute(&plan,
					   "WITH head AS (SELECT id, state FROM sync.pending WHERE route_id = $1 "
					   "AND record_id = $2 ORDER BY seq LIMIT 1), " PROMOTE " FROM head",
					   2, types, values, NULL, false, 0) == 0)
		return false;
	look_later(0);
	return true;
}

#define ORPHANS                                                                                    \
	"WITH head AS (SELECT p.id, p.state FROM sync.pending p WHERE p.state = 'behind' "             \
	"AND NOT EXISTS (SELECT FROM sync.pending q WHERE q.route_id = p.route_id "                    \
	"AND q.record_id = p.record_id AND q.seq < p.seq)"

/*
 * A row that was put behind one that a person discarded at that moment, or that was locked when its
 * turn came, has nothing before it, and nobody to promote it but us.
 */
void
se_held_promote_orphans(Datum *records)
{
	static SPIPlanPtr all_plan = NULL;
	static SPIPlanPtr some_plan = NULL;
	Oid types[2] = {INT4ARRAYOID, TEXTARRAYOID};

	if (records == NULL)
	{
		promote_at = DT_NOEND;
		se_spi_execute(&all_plan, ORPHANS "), " PROMOTE, 0, NULL, NULL, NULL, false, 0);
	}
	else
		se_spi_execute(&some_plan,
					   ORPHANS " AND (p.route_id, p.record_id) IN "
							   "(SELECT r, i FROM unnest($1, $2) k(r, i))), " PROMOTE,
					   2, types, records, NULL, false, 0);
	look_later(0);
}

bool
se_held_step(TimestampTz now)
{
	if (promote_at > now)
		return false;
	se_txn_begin("promoting held deliveries");
	se_held_promote_orphans(NULL);
	se_txn_commit();
	se_pending_dirty = true;
	return true;
}

/* ---- rows that are about to change ---- */

/* Of those among the rows of the last query that nothing is known of yet. */
static void
set_lock(SeDelivery **deliveries, int n, SeRowLock lock)
{
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool isnull;
		int64 id = DatumGetInt64(se_spi_datum(row, 1, &isnull));

		for (int i = 0; i < n; i++)
		{
			if (deliveries[i]->pending_id == id && deliveries[i]->lock == SE_ROW_GONE)
				deliveries[i]->lock = lock;
		}
	}
}

void
se_held_lock(SeDelivery **deliveries, int n)
{
	static SPIPlanPtr lock_plan = NULL;
	static SPIPlanPtr left_plan = NULL;
	Oid types[1] = {INT8ARRAYOID};
	Datum *ids = palloc(sizeof(Datum) * (n + 1));
	Datum values[1];
	int nids = 0;

	for (int i = 0; i < n; i++)
	{
		deliveries[i]->lock = SE_ROW_GONE;
		if (deliveries[i]->pending_id != 0)
			ids[nids++] = Int64GetDatum(deliveries[i]->pending_id);
	}
	if (nids == 0)
		return;
	values[0] = PointerGetDatum(construct_array(ids, nids, INT8OID, 8, true, TYPALIGN_DOUBLE));
	se_spi_execute(&lock_plan,
				   "SELECT id FROM sync.pending WHERE id = ANY ($1) FOR UPDATE SKIP LOCKED", 1,
				   types, values, NULL, false, 0);
	set_lock(deliveries, n, SE_ROW_OURS);
	/* Read after that: who has been at a row until now has left it, or is still at it. */
	se_spi_execute(&left_plan, "SELECT id FROM sync.pending WHERE id = ANY ($1)", 1, types, values,
				   NULL, false, 0);
	set_lock(deliveries, n, SE_ROW_BUSY);
}
