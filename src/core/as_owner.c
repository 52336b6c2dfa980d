/*
 * as_owner.c: sync._as_owner(), one statement with the rights of a table's owner.
 *
 * Functions of the extension that write users' tables run as the extension's owner, a superuser as
 * a rule. Triggers, policies and operators of those tables are their owners' code, so the statement
 * itself runs as the owner: security-restricted, search_path pinned. Nobody else may call this.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "capture/guard.h"
#include "core/role.h"
#include "core/spi.h"

extern PGDLLEXPORT Datum se_as_owner(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fire_deferred(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_as_owner);
PG_FUNCTION_INFO_V1(se_fire_deferred);

/*
 * (relation, statement, argument jsonb) → the jsonb that the statement returns in its first row, NULL
 * when it returns none. The statement sees the argument as $1.
 */
Datum
se_as_owner(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid types[] = {JSONBOID};
	Datum values[] = {PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2)};
	char nulls[] = {PG_ARGISNULL(2) ? 'n' : ' ', '\0'};
	Jsonb *result = NULL;
	SeRole saved;
	char *sql;
	int rc;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	sql = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	se_role_become(se_relation_owner(PG_GETARG_OID(0)), &saved);
	/* A policy that binds the owner, too, would hide rows: that is an error, not an empty answer. */
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	/* What a person has decided about records is not an application's change of them. */
	se_owner_bypass_table(PG_GETARG_OID(0));
	rc = SPI_execute_with_args(sql, 1, types, values, nulls, false, 0);
	se_owner_bypass_table(InvalidOid);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	if (SPI_processed > 0 && SPI_tuptable != NULL)
	{
		bool isnull;
		Datum value = se_spi_datum(0, 1, &isnull);

		if (!isnull)
		{
			MemoryContext old = MemoryContextSwitchTo(caller);

			result = DatumGetJsonbPCopy(value);
			MemoryContextSwitchTo(old);
		}
	}
	se_role_restore(&saved);
	SPI_finish();
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}

/*
 * sync._fire_deferred(): what the session has put off is checked now, and what comes at once, until the
 * transaction ends. Before a statement on a table that has deferred checks: nothing security-restricted
 * may leave any for the commit.
 */
Datum
se_fire_deferred(PG_FUNCTION_ARGS)
{
	se_role_fire_deferred();
	PG_RETURN_VOID();
}
