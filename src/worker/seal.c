/*
 * seal.c: see seal.h. What is sealed, and how, is SQL (sync._seal_audit); here is when, and the way out
 * of the database: a line in the anchor file, or in the server's log.
 *
 * A seal is on disk before its anchor is written, so the database never lacks what an anchor names. A
 * crash in between leaves a seal without an anchor; the next start asks the file how far it is.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/anchor.h"
#include "core/crash.h"
#include "core/guc.h"
#include "core/spi.h"
#include "push/internal.h"
#include "worker/notice.h"
#include "worker/seal.h"

#define AT_MOST	 1000  /* rows of a seal, and anchors at once */
#define PAUSE_MS 1000  /* between seals: many commits share one */
#define IDLE_MS	 60000 /* for rows of which nobody told us */
#define AGAIN_MS 10000 /* after an error */
#define LOG_MS	 60000 /* between lines in the log, when there is a file */

static bool asked = true;
static TimestampTz due = DT_NOBEGIN;
static TimestampTz ran_at = 0;
static int64 anchored = -1; /* last seal that is known outside; -1: not known yet */
static TimestampTz logged_at = 0;

void
se_seal_look(TimestampTz now)
{
	if (asked)
		return;
	asked = true;
	due = Max(now, TimestampTzPlusMilliseconds(ran_at, PAUSE_MS));
}

bool
se_seal_is_asked(void)
{
	return asked;
}

void
se_seal_reset(void)
{
	anchored = -1;
	asked = true;
	due = DT_NOBEGIN;
}

static int64
query_number(const char *sql)
{
	bool isnull;

	if (SPI_execute(sql, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not run \"%s\"", sql);
	return DatumGetInt64(se_spi_datum(0, 1, &isnull));
}

/* How many rows were sealed; -1 when somebody else is at it. */
static int64
seal(void)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(AT_MOST)};
	bool isnull;
	int64 rows;

	se_txn_begin("sealing the audit trail");
	se_spi_execute(&plan, "SELECT sync._seal_audit($1)::pg_catalog.int8", 1, types, values, NULL,
				   false, 1);
	rows = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	if (isnull)
		rows = -1;
	SE_CRASH_POINT("seal-making");
	se_txn_commit();
	if (rows > 0)
		se_txn_flush();
	SE_CRASH_POINT("seal-made");
	return rows;
}

/*
 * Where the anchors go on. Without a file (there never was one, it was rotated, or only the log is
 * used) with the newest seal: its hash covers those before it.
 */
static int64
last_anchored(void)
{
	int64 last = se_anchor_wanted() ? se_anchor_last_seal(se_hub_id) : 0;

	if (last == 0)
		last = query_number("SELECT coalesce(pg_catalog.max(s.id) - 1, 0) FROM sync.audit_seal s");
	return last;
}

static void
log_anchor(const char *line, TimestampTz now)
{
	const char *marks = strstr(line, " marks=");

	if (se_anchor_wanted() && !TimestampDifferenceExceeds(logged_at, now, LOG_MS))
		return;
	logged_at = now;
	ereport(LOG, (errhidestmt(true), errhidecontext(true),
				  errmsg_internal("%.*s", (int) (marks ? marks - line : strlen(line)), line)));
}

/* True when there may be more. */
static bool
anchor(TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT8OID, BOOLOID, INT4OID};
	Datum values[3];
	StringInfoData lines;
	uint64 n;
	int64 last;

	se_txn_begin("anchoring the audit trail");
	if (anchored < 0)
		anchored = last_anchored();
	last = anchored;
	values[0] = Int64GetDatum(anchored);
	values[1] = BoolGetDatum(se_anchor_wanted());
	values[2] = Int32GetDatum(AT_MOST);
	n = se_spi_execute(&plan, "SELECT a.id, a.line FROM sync._anchors_after($1, $2, $3) a", 3,
					   types, values, NULL, true, 0);
	initStringInfo(&lines);
	for (uint64 i = 0; i < n; i++)
	{
		bool isnull;
		char *line = se_spi_text(i, 2);

		last = DatumGetInt64(se_spi_datum(i, 1, &isnull));
		appendStringInfo(&lines, "%s\n", line);
		if (i + 1 == n || !se_anchor_wanted())
			log_anchor(line, now);
	}
	if (n > 0 && se_anchor_wanted())
		se_anchor_append(se_hub_id, lines.data);
	se_txn_commit();
	anchored = last;
	return n == AT_MOST;
}

void
se_seal_step(SeHubSlot *slot, TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	int64 rows;

	if (due > now)
		return;
	/* Before the look: who commits from here on wakes us again. */
	pg_atomic_fetch_and_u32(&slot->wake, ~(uint32) SE_WAKE_AUDIT);
	pg_memory_barrier();
	asked = false;
	ran_at = now;
	PG_TRY();
	{
		rows = seal();
		/* A seal that was not full may have left a transaction that did not fit. */
		if (anchor(now) || rows >= AT_MOST / 2)
			due = now;
		else
			due = TimestampTzPlusMilliseconds(now, rows != 0 ? PAUSE_MS : IDLE_MS);
		asked = rows != 0 || due <= now;
		se_notice_clear("audit");
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		se_txn_abort();
		anchored = -1;
		asked = true;
		due = TimestampTzPlusMilliseconds(now, AGAIN_MS);
		se_notice_put("audit", "error",
					  psprintf("audit rows cannot be sealed or anchored: %s", error->message),
					  error->hint ? pstrdup(error->hint)
								  : "It is tried again every ten seconds; audit rows are written "
									"all the same.");
	}
	PG_END_TRY();
}

TimestampTz
se_seal_next_due(void)
{
	return due;
}
