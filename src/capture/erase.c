/*
 * erase.c: clearing the personal fields of a record in its table, whoever owns them.
 *
 * sync.erase() runs as its caller, who needs the right to change the table. That personal data goes is
 * not a change against an owner, so applications' rules do not hold here. What is executed is made here
 * and nowhere else: nobody gets anything else past the owners by calling this.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "capture/guard.h"
#include "core/spi.h"

static void
run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls, int expected)
{
	if (SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0) != expected)
		elog(ERROR, "unexpected result of: %s", sql);
}

PG_FUNCTION_INFO_V1(se_erase_row);

/* sync._erase_row(object, id, reason): clears the row and notes that the rest is to follow. */
PGDLLEXPORT Datum
se_erase_row(PG_FUNCTION_ARGS)
{
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID};
	Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	bool isnull;
	int64 made;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	run("SELECT format('UPDATE %s t SET %s WHERE %s', f.relation, f.assignments, f.condition),"
		" sync._object_id($1) FROM sync._erase_fields($1, $2) f WHERE f.assignments IS NOT NULL",
		2, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed > 0)
	{
		char *update = se_spi_text(0, 1);

		se_owner_bypass(DatumGetInt32(se_spi_datum(0, 2, &isnull)));
		run(update, 1, &types[1], &values[1], NULL, SPI_OK_UPDATE);
		se_owner_bypass(0);
	}
	run("SELECT sync._erase($1, $2, $3)", 3, types, values, NULL, SPI_OK_SELECT);
	made = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	SPI_finish();
	PG_RETURN_INT64(made);
}
