/*
 * commit.c: sync._check_can_commit(), asked by a procedure before it begins.
 *
 * A procedure that commits after each piece of work learns at its first COMMIT that it may not, when the
 * piece is done and is lost. The connection of the procedure knows beforehand: it is the caller's here, as
 * long as nothing that connects to SPI itself stands between the two.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

extern PGDLLEXPORT Datum se_check_can_commit(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_check_can_commit);

/* (procedure, what does the same in one transaction) */
Datum
se_check_can_commit(PG_FUNCTION_ARGS)
{
	if (!SPI_inside_nonatomic_context())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block",
						text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 errdetail("It commits after each piece of its work. Nothing was done."),
				 errhint("CALL it by itself: not after BEGIN, nor in a function or a block with "
						 "EXCEPTION, nor with other statements in one string. %s",
						 text_to_cstring(PG_GETARG_TEXT_PP(1)))));
	PG_RETURN_VOID();
}
