/*
 * run_as.c: a query of the registry's (a condition of a policy or guard) with the rights of the role
 * that declared it.
 *
 * A SECURITY DEFINER function cannot SET ROLE, and must not: what it may do and what the condition may
 * do are kept apart here, for the length of one read-only query. Nobody but the extension's owner may
 * call it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "core/role.h"
#include "push/record_body.h"

PG_FUNCTION_INFO_V1(se_run_as);
PG_FUNCTION_INFO_V1(se_record_now);

/* An array of the one value, or of one NULL. */
static Datum
one(FunctionCallInfo fcinfo, int arg, Oid type)
{
	bool null = PG_ARGISNULL(arg);
	Datum value = null ? (Datum) 0 : PG_GETARG_DATUM(arg);
	int n = 1;
	int lower = 1;

	return PointerGetDatum(
		construct_md_array(&value, &null, 1, &n, &lower, type, -1, false, TYPALIGN_INT));
}

/* sync._run_as(role, query, body, op, old): first column of the first row, as text. */
PGDLLEXPORT Datum
se_run_as(PG_FUNCTION_ARGS)
{
	Oid types[3] = {JSONBARRAYOID, TEXTARRAYOID, JSONBARRAYOID};
	Datum values[3];
	const char *query;
	char *answer = NULL;
	MemoryContext caller = CurrentMemoryContext;
	SeRole saved;
	Oid role;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("role and query must not be null")));
	role = get_role_oid(NameStr(*PG_GETARG_NAME(0)), false);
	query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	values[0] = one(fcinfo, 2, JSONBOID);
	values[1] = one(fcinfo, 3, TEXTOID);
	values[2] = one(fcinfo, 4, JSONBOID);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	se_role_become(role, &saved);
	if (SPI_execute_with_args(query, 3, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of: %s", query);
	if (SPI_processed > 0)
	{
		/* Still as that role: the value's output function is its business, too. */
		char *text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		answer = text == NULL ? NULL : MemoryContextStrdup(caller, text);
	}
	se_role_restore(&saved);
	SPI_finish();
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}

/* sync._record_now(object_id, record_id): the record as an event would have it, read as its owner. */
PGDLLEXPORT Datum
se_record_now(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext inner;
	char *record_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Jsonb *body;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	body = se_record_body(PG_GETARG_INT32(0), record_id);
	if (body != NULL)
	{
		inner = MemoryContextSwitchTo(caller);
		body = DatumGetJsonbPCopy(PointerGetDatum(body));
		MemoryContextSwitchTo(inner);
	}
	SPI_finish();
	if (body == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(body);
}
