/*
 * spi.h: transactions and queries of the workers.
 *
 * A worker's transaction is short: begin, a few statements, commit; never across a wait. Results
 * that outlive it must be copied out before se_txn_commit().
 */
#ifndef SE_SPI_H
#define SE_SPI_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "executor/spi.h"

/*
 * Starts a transaction with SPI connected and a snapshot active. `activity` is what
 * pg_stat_activity shows; it must not hold data. Memory allocated afterwards in
 * CurrentMemoryContext lives until SPI_finish, so until commit.
 */
extern void se_txn_begin(const char *activity);

/* Commits; asynchronously unless se_txn_flush() follows. */
extern void se_txn_commit(void);

/* Rolls back whatever is open; safe when nothing is. */
extern void se_txn_abort(void);

/*
 * Waits until everything this process has committed is on disk, whatever synchronous_commit says:
 * the claim must be there before the first byte of its request leaves.
 */
extern void se_txn_flush(void);

/*
 * Runs `sql` with parameters, preparing it at the first call and keeping the plan in *plan (a
 * static of the caller). Returns SPI_processed; SPI_tuptable holds the rows. limit 0: all rows.
 * Raises an error when the statement fails.
 */
extern uint64 se_spi_execute(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types,
							 Datum *values, const char *nulls, bool read_only, long limit);

/* Column `col` (from 1) of row `row` (from 0) of SPI_tuptable. */
extern Datum se_spi_datum(uint64 row, int col, bool *isnull);
extern char *se_spi_text(uint64 row, int col);			  /* NULL when null; palloc'd here */
extern TimestampTz se_spi_time_or_0(uint64 row, int col); /* 0 when null */

#endif
