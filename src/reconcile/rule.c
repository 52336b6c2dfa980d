/*
 * rule.c: the query of a completeness rule, with the rights of the role that defined it.
 *
 * A rule is somebody's SELECT. It is parsed and planned here as that role, security-restricted and
 * with search_path pinned; it must be one statement that reads, and its columns must be those a
 * finding has. While it runs the transaction is read-only, functions that it calls included, and a
 * deadline of its own cancels it. Nobody but the extension's owner may run one: sync._rule_rows() is
 * granted to nobody, sync._rule_check() acts as its caller.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/role.h"

PG_FUNCTION_INFO_V1(se_rule_check);
PG_FUNCTION_INFO_V1(se_rule_rows);

/* More than a person can look at; a rule that finds more is wrong itself. */
#define MOST_FINDINGS 100000

typedef enum Kind
{
	WORD,	/* what has a plain text: names, ids, numbers */
	VALUE,	/* anything that JSON can show exactly */
	AMOUNT, /* exact numbers */
	DAY
} Kind;

static const struct
{
	const char *name;
	Kind kind;
} columns[] = {
	{"kind", WORD},		 {"object", WORD},		 {"record_id", WORD},	 {"record_number", WORD},
	{"system", WORD},	 {"other_system", WORD}, {"remote_id", WORD},	 {"field", WORD},
	{"ours", VALUE},	 {"theirs", VALUE},		 {"difference", AMOUNT}, {"currency", WORD},
	{"at_risk", AMOUNT}, {"entity", WORD},		 {"period", DAY},		 {"customer", WORD},
	{"severity", WORD},	 {"class", WORD},		 {"explanation", WORD},	 {"delivery", WORD},
	{"detail", WORD},
};

static const char *const expected[] = {
	[WORD] = "text, an id or a number",
	[VALUE] = "anything but a binary float",
	[AMOUNT] = "numeric",
	[DAY] = "date",
};

#define refuse(...) ereport(ERROR, (errcode(SE_ERRCODE_RULE), __VA_ARGS__))

static bool
fits(Kind kind, Oid type)
{
	char category;
	bool preferred;

	type = getBaseType(type);
	if (type == FLOAT4OID || type == FLOAT8OID)
		return false;
	switch (kind)
	{
		case VALUE:
			return true;
		case AMOUNT:
			return type == NUMERICOID || type == INT8OID || type == INT4OID || type == INT2OID;
		case DAY:
			return type == DATEOID;
		case WORD:
			break;
	}
	get_type_category_preferred(type, &category, &preferred);
	return category == TYPCATEGORY_STRING || category == TYPCATEGORY_ENUM ||
		   category == TYPCATEGORY_UNKNOWN || category == TYPCATEGORY_NUMERIC ||
		   category == TYPCATEGORY_DATETIME || type == UUIDOID;
}

/* Where a column stands in the list above. */
static int
place(const char *name)
{
	for (size_t i = 0; i < lengthof(columns); i++)
	{
		if (strcmp(columns[i].name, name) == 0)
			return (int) i;
	}
	refuse(errmsg("a rule cannot return a column \"%s\"", name),
		   errdetail("A finding has no such column."),
		   errhint("Columns are kind, object, record_id, record_number, system, other_system, "
				   "remote_id, field, ours, theirs, difference, currency, at_risk, entity, period, "
				   "customer, severity, class, explanation, delivery, detail."));
	return -1;
}

static void
check_columns(TupleDesc desc)
{
	bool seen[lengthof(columns)] = {false};

	if (desc->natts == 0)
		refuse(errmsg("a rule returns no columns"),
			   errhint("Return what tells one finding from another, for example record_id."));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int at = place(NameStr(att->attname));

		if (seen[at])
			refuse(errmsg("column \"%s\" of a rule appears twice", columns[at].name),
				   errhint("Give each column of the SELECT a name of its own."));
		seen[at] = true;
		if (!fits(columns[at].kind, att->atttypid))
			refuse(errmsg("column \"%s\" of a rule is of type %s", columns[at].name,
						  format_type_be(att->atttypid)),
				   errdetail("It must be %s.", expected[columns[at].kind]),
				   errhint("Cast it, for example %s::%s.", columns[at].name,
						   columns[at].kind == AMOUNT ? "numeric"
						   : columns[at].kind == DAY  ? "date"
													  : "text"));
	}
}

/* The one statement in `query`, without what ends it. */
static char *
only_statement(const char *query)
{
	List *statements = raw_parser(query, RAW_PARSE_DEFAULT);
	RawStmt *raw;

	if (list_length(statements) != 1)
		refuse(errmsg("a rule is a single SELECT"),
			   errdetail("The text has %d statements.", list_length(statements)),
			   errhint("Join queries with UNION ALL."));
	raw = linitial_node(RawStmt, statements);
	if (!IsA(raw->stmt, SelectStmt))
		refuse(errmsg("a rule is a single SELECT"), errdetail("The text is another command."),
			   errhint("A rule only reads; what it returns becomes breaks by itself."));
	query += Max(raw->stmt_location, 0);
	return raw->stmt_len > 0 ? pnstrdup(query, raw->stmt_len) : pstrdup(query);
}

/* Plans it as whoever is current, and refuses what is no rule. */
static SPIPlanPtr
plan_rule(const char *sql)
{
	SPIPlanPtr plan = SPI_prepare(sql, 0, NULL);
	CachedPlanSource *source;
	Query *query;

	if (plan == NULL)
		elog(ERROR, "could not plan a rule: %s", SPI_result_code_string(SPI_result));
	source = linitial(SPI_plan_get_plan_sources(plan));
	query = linitial_node(Query, source->query_list);
	if (list_length(source->query_list) != 1 || query->commandType != CMD_SELECT ||
		query->hasModifyingCTE || query->rowMarks != NIL || source->resultDesc == NULL)
		refuse(errmsg("a rule only reads"),
			   errdetail("The query writes or locks, or makes a table."),
			   errhint("Leave out INTO, FOR UPDATE, and INSERT, UPDATE or DELETE in WITH."));
	check_columns(source->resultDesc);
	return plan;
}

/* sync._rule_check(query): an error unless the caller could define a rule with it. */
PGDLLEXPORT Datum
se_rule_check(PG_FUNCTION_ARGS)
{
	char *sql = only_statement(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	SeRole saved;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	se_role_become(GetUserId(), &saved);
	(void) plan_rule(sql);
	/* Rights on tables are looked at when it starts; that is enough to see them. */
	if (SPI_execute(psprintf("SELECT FROM (%s\n) q LIMIT 0", sql), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of: %s", sql);
	se_role_restore(&saved);
	SPI_finish();
	PG_RETURN_VOID();
}

/* Until se_role_restore(). */
static void
set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
}

static void
rearm(TimestampTz outer)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (!TIMESTAMP_IS_NOEND(outer))
		enable_timeout_at(STATEMENT_TIMEOUT, outer);
}

/* Still as that role: how values are shown is their types' business, too. */
static void
keep_rows(ReturnSetInfo *result)
{
	TupleDesc desc = BlessTupleDesc(SPI_tuptable->tupdesc);

	if (SPI_processed > MOST_FINDINGS)
		refuse(errmsg("the rule finds more than %d records", MOST_FINDINGS),
			   errdetail("None of it was kept; its breaks stay as they are."),
			   errhint("A rule returns what is wrong, not what is right; narrow it down."));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool null = false;
		Datum row = heap_copy_tuple_as_datum(SPI_tuptable->vals[i], desc);

		row = DirectFunctionCall1(row_to_json, row);
		row = DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(row)));
		tuplestore_putvalues(result->setResult, result->setDesc, &row, &null);
	}
}

/*
 * Plans and runs it. The deadline is ours unless the session's own comes first, and the session's goes
 * on afterwards. Our own is told from a cancel by its time: the message may be translated.
 */
static void
run_within(const char *sql, int milliseconds, ReturnSetInfo *result)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz outer = get_timeout_active(STATEMENT_TIMEOUT)
							? get_timeout_finish_time(STATEMENT_TIMEOUT)
							: DT_NOEND;
	TimestampTz ours = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);

	PG_TRY();
	{
		enable_timeout_at(STATEMENT_TIMEOUT, Min(ours, outer));
		if (SPI_execute_plan(plan_rule(sql), NULL, NULL, true, MOST_FINDINGS + 1) != SPI_OK_SELECT)
			elog(ERROR, "unexpected result of: %s", sql);
		keep_rows(result);
	}
	PG_CATCH();
	{
		ErrorData *error;

		rearm(outer);
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_QUERY_CANCELED || ours > outer ||
			GetCurrentTimestamp() < ours)
			PG_RE_THROW();
		FlushErrorState();
		refuse(errmsg("the rule took longer than %d ms", milliseconds),
			   errdetail("It was canceled; its breaks stay as they are."),
			   errhint("Look at its plan, or give run_rules() more time: timeout => '10 min'."));
	}
	PG_END_TRY();
	rearm(outer);
}

/*
 * sync._rule_rows(role, query, whole, milliseconds): its rows, each as an object. whole: a row policy
 * that would hide something is an error.
 */
PGDLLEXPORT Datum
se_rule_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid role = get_role_oid(NameStr(*PG_GETARG_NAME(0)), false);
	char *sql = only_statement(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	SeRole saved;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	se_role_become(role, &saved);
	set("transaction_read_only", "on");
	/* What it says must not depend on who runs it; dates stand in fingerprints of breaks. */
	set("datestyle", "ISO, YMD");
	set("intervalstyle", "postgres");
	set("timezone", "UTC");
	/* Compiling a rule takes longer than running it. */
	set("jit", "off");
	if (PG_GETARG_BOOL(2))
		set("row_security", "off");
	run_within(sql, PG_GETARG_INT32(3), result);
	se_role_restore(&saved);
	SPI_finish();
	PG_RETURN_NULL();
}
