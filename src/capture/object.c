/*
 * object.c: changes of sync.object on behalf of who owns the table.
 *
 * sync.track() runs as its caller, who must own the table, because it makes triggers there. The
 * registry belongs to the extension's owner. A SECURITY DEFINER function could no longer tell who
 * called it, so these C functions check the caller first and change the user only for one fixed
 * call each.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "core/compat.h"
#include "core/role.h"

static void
require_ownership(Oid relid, const char *act)
{
	const char *name;

	if (SE_OWNS_RELATION(relid, GetUserId()))
		return;
	name = get_rel_name(relid);
	ereport(
		ERROR,
		(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		 errmsg("must be owner of table %s", name ? name : "(dropped)"),
		 errhint("%s makes triggers on the table; let its owner do it, as a member of sync_admin.",
				 act)));
}

/* One row, one column of a query run as the owner of the calling function. */
static Datum
call_as_owner(FunctionCallInfo fcinfo, const char *sql, int nargs, Oid *types, Datum *values,
			  const char *nulls, bool *isnull)
{
	Oid user;
	int security;
	Datum result;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(se_function_owner(fcinfo->flinfo->fn_oid),
						   security | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute_with_args(sql, nargs, types, values, nulls, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "unexpected result of: %s", sql);
	result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	if (!*isnull)
		result = SPI_datumTransfer(result, get_typbyval(SPI_gettypeid(SPI_tuptable->tupdesc, 1)),
								   get_typlen(SPI_gettypeid(SPI_tuptable->tupdesc, 1)));
	SPI_finish();
	SetUserIdAndSecContext(user, security);
	return result;
}

PG_FUNCTION_INFO_V1(se_save_object);
PG_FUNCTION_INFO_V1(se_drop_object);
PG_FUNCTION_INFO_V1(se_owner_act);

/* sync._save_object(relation, lines, definition): for sync.track(). */
PGDLLEXPORT Datum
se_save_object(PG_FUNCTION_ARGS)
{
	Oid types[] = {REGCLASSOID, REGCLASSOID, JSONBOID};
	Datum values[3];
	char nulls[] = "   ";
	bool isnull;
	Datum result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("relation and definition must not be null")));
	require_ownership(PG_GETARG_OID(0), "Tracking");
	if (!PG_ARGISNULL(1))
		require_ownership(PG_GETARG_OID(1), "Tracking");
	values[0] = PG_GETARG_DATUM(0);
	values[1] = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	nulls[1] = PG_ARGISNULL(1) ? 'n' : ' ';
	values[2] = PG_GETARG_DATUM(2);
	result = call_as_owner(fcinfo, "SELECT sync._write_object($1, $2, $3)", 3, types, values, nulls,
						   &isnull);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* sync._drop_object(object, force): for sync.untrack(). A table that is gone has no owner. */
PGDLLEXPORT Datum
se_drop_object(PG_FUNCTION_ARGS)
{
	Oid types[] = {TEXTOID, BOOLOID};
	Datum values[2];
	bool isnull;
	Datum result;

	values[0] = PG_GETARG_DATUM(0);
	values[1] = PG_GETARG_DATUM(1);
	result =
		call_as_owner(fcinfo, "SELECT sync._table_of_object($1)", 1, types, values, NULL, &isnull);
	if (!isnull)
		require_ownership(DatumGetObjectId(result), "Tracking");
	result = call_as_owner(fcinfo, "SELECT sync._delete_object($1, $2)", 2, types, values, NULL,
						   &isnull);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* sync._owner_act(operation, call, reason): for sync.set_owner() and its kin. */
PGDLLEXPORT Datum
se_owner_act(PG_FUNCTION_ARGS)
{
	Oid types[] = {TEXTOID, JSONBOID, TEXTOID};
	Datum values[3];
	char nulls[] = "   ";
	bool isnull;
	Datum table;
	Datum result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("operation and call must not be null")));
	for (int i = 0; i < 3; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	table = call_as_owner(fcinfo, "SELECT sync._table_of_object($1 ->> 'object')", 1, &types[1],
						  &values[1], NULL, &isnull);
	/* A table that is gone has no owner; the function says so. */
	if (!isnull)
		require_ownership(DatumGetObjectId(table), "Declaring owners");
	result = call_as_owner(fcinfo, "SELECT sync._owner_request($1, $2, $3)", 3, types, values,
						   nulls, &isnull);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}
