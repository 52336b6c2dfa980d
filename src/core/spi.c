/*
 * spi.c: see spi.h.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/pg_control.h"
#include "fmgr.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/spi.h"

extern PGDLLEXPORT Datum se_flush(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_flush);

void
se_txn_begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

void
se_txn_commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
se_txn_abort(void)
{
	AbortOutOfAnyTransaction();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
se_txn_flush(void)
{
	if (XactLastCommitEnd != InvalidXLogRecPtr)
		XLogFlush(XactLastCommitEnd);
}

/*
 * As se_txn_flush(), for what any process has committed. The end of the WAL is known for certain only
 * to who has written something there, so a record is that says nothing.
 */
Datum
se_flush(PG_FUNCTION_ARGS)
{
	char nothing = 0;

	if (RecoveryInProgress() || GetFlushRecPtr(NULL) >= GetXLogInsertRecPtr())
		PG_RETURN_VOID();
	XLogBeginInsert();
	XLogRegisterData(&nothing, sizeof(nothing));
	XLogFlush(XLogInsert(RM_XLOG_ID, XLOG_NOOP));
	PG_RETURN_VOID();
}

uint64
se_spi_execute(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *values,
			   const char *nulls, bool read_only, long limit)
{
	/* SPI goes back to a context of its own, not to the one it was called in. */
	MemoryContext caller = CurrentMemoryContext;
	int rc;

	if (*plan == NULL)
	{
		SPIPlanPtr fresh = SPI_prepare(sql, nargs, types);

		if (fresh == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
		if (SPI_keepplan(fresh) != 0)
			elog(ERROR, "could not keep the plan of \"%s\"", sql);
		*plan = fresh;
	}
	rc = SPI_execute_plan(*plan, values, nulls, read_only, limit);
	MemoryContextSwitchTo(caller);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

Datum
se_spi_datum(uint64 row, int col, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col, isnull);
}

char *
se_spi_text(uint64 row, int col)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col);
}

TimestampTz
se_spi_time_or_0(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}
