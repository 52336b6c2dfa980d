/*
 * expression.c: whether a text is one SQL expression and nothing more.
 *
 * Conditions are put between parentheses into a query of ours and run as the role that declared
 * them. The parser says here, before any of it is planned, that the text cannot close those
 * parentheses, add clauses, or bring a second statement along.
 */
#include "postgres.h"

#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"

#include "core/errors.h"

PG_FUNCTION_INFO_V1(se_check_expression);

static bool
is_single_expression(List *statements)
{
	SelectStmt *select;
	ResTarget *target;

	if (list_length(statements) != 1)
		return false;
	select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (!IsA(select, SelectStmt) || select->op != SETOP_NONE ||
		list_length(select->targetList) != 1)
		return false;
	if (select->distinctClause || select->intoClause || select->fromClause || select->whereClause ||
		select->groupClause || select->havingClause || select->windowClause ||
		select->valuesLists || select->sortClause || select->limitOffset || select->limitCount ||
		select->lockingClause || select->withClause)
		return false;
	target = linitial_node(ResTarget, select->targetList);
	return target->name == NULL && target->indirection == NIL;
}

/* sync._check_expression(expression text) */
PGDLLEXPORT Datum
se_check_expression(PG_FUNCTION_ARGS)
{
	char *expression = text_to_cstring(PG_GETARG_TEXT_PP(0));

	/* The line feed ends a comment that would otherwise swallow what follows in our query. */
	if (!is_single_expression(raw_parser(psprintf("SELECT %s\n", expression), RAW_PARSE_DEFAULT)) ||
		!is_single_expression(raw_parser(psprintf("SELECT (%s\n)", expression), RAW_PARSE_DEFAULT)))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR), errmsg("the condition is not a single expression"),
				 errdetail("It must be what could stand after WHERE."),
				 errhint("Use sub-queries in parentheses where other tables are needed.")));
	PG_RETURN_VOID();
}
