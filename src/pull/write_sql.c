/*
 * write_sql.c: text of the statements that write.c runs.
 *
 *	 $1	one object per record: __n its place, __k1 … its key, and the columns to write
 *	 $2	one object per line: __n its place in the document, __k1 … the document's key, columns
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "capture/key_text.h"
#include "pull/internal.h"

static bool
is_key(SeColumn **keys, int n, const SeColumn *column)
{
	for (int i = 0; i < n; i++)
	{
		if (keys[i] == column)
			return true;
	}
	return false;
}

void
se_append_record_id(StringInfo sql, const SeTable *table, const char *alias)
{
	const char **operands = palloc(sizeof(char *) * table->nkeys);
	Oid *types = palloc(sizeof(Oid) * table->nkeys);

	for (int i = 0; i < table->nkeys; i++)
	{
		operands[i] = psprintf("%s.%s", alias, table->keys[i]->quoted);
		types[i] = table->keys[i]->typid;
	}
	se_append_key_texts(sql, operands, types, table->nkeys);
}

/* "__k1 type, …": how a record id travels. */
void
se_append_key_defs(StringInfo sql, const SeTable *table)
{
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(sql, ", __k%d %s", i + 1, table->keys[i]->type);
}

static void
append_defs(StringInfo sql, List *columns)
{
	ListCell *lc;

	foreach (lc, columns)
	{
		SeColumn *column = lfirst(lc);

		appendStringInfo(sql, ", %s %s", column->quoted, column->type);
	}
}

static void
append_line_parts(StringInfo sql, const SeTable *table, const SeGroup *group)
{
	SeTable *lines = table->lines;
	bool by_key = true;
	ListCell *lc;

	for (int i = 0; i < lines->nkeys; i++)
		by_key = by_key && list_member_ptr(group->line_columns, lines->keys[i]);

	appendStringInfoString(sql, ", line AS MATERIALIZED (SELECT * FROM jsonb_to_recordset($2)"
								" r (__n int");
	se_append_key_defs(sql, table);
	append_defs(sql, group->line_columns);

	/* Lines that stand there now; without a key of theirs in the record they pair by position. */
	appendStringInfoString(sql, ")), old AS MATERIALIZED (SELECT ");
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "l.%s AS __k%d, ", lines->parents[i]->quoted, i + 1);
	for (int i = 0; i < lines->nkeys; i++)
		appendStringInfo(sql, "l.%s AS __o%d, ", lines->keys[i]->quoted, i + 1);
	appendStringInfoString(sql, "row_number() OVER (PARTITION BY ");
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "%sl.%s", i > 0 ? ", " : "", lines->parents[i]->quoted);
	appendStringInfoString(sql, " ORDER BY ");
	for (int i = 0; i < lines->nkeys; i++)
		appendStringInfo(sql, "%sl.%s", i > 0 ? ", " : "", lines->keys[i]->quoted);
	appendStringInfo(sql, ") AS __n FROM item JOIN %s l ON ", lines->quoted);
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "%sl.%s = item.__k%d", i > 0 ? " AND " : "",
						 lines->parents[i]->quoted, i + 1);

	/* gone: no line of the record is paired with it */
	appendStringInfoString(sql, "), pair AS MATERIALIZED (SELECT ");
	for (int i = 0; i < lines->nkeys; i++)
		appendStringInfo(sql, "old.__o%d, ", i + 1);
	appendStringInfoString(sql, "old.__n IS NOT NULL AS __is, line.__n IS NOT NULL AS __stays,"
								" line.__n AS __ln");
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, ", coalesce(line.__k%d, old.__k%d) AS __k%d", i + 1, i + 1, i + 1);
	foreach (lc, group->line_columns)
		appendStringInfo(sql, ", line.%s", ((SeColumn *) lfirst(lc))->quoted);
	appendStringInfoString(sql, " FROM line FULL JOIN old ON ");
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "line.__k%d = old.__k%d AND ", i + 1, i + 1);
	if (by_key)
	{
		for (int i = 0; i < lines->nkeys; i++)
			appendStringInfo(sql, "%sline.%s = old.__o%d", i > 0 ? " AND " : "",
							 lines->keys[i]->quoted, i + 1);
	}
	else
		appendStringInfoString(sql, "line.__n = old.__n");
	appendStringInfoString(sql, ")");
}

static void
append_line_match(StringInfo sql, const SeTable *lines)
{
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "l.%s = pair.__k%d AND ", lines->parents[i]->quoted, i + 1);
	for (int i = 0; i < lines->nkeys; i++)
		appendStringInfo(sql, "%sl.%s = pair.__o%d", i > 0 ? " AND " : "", lines->keys[i]->quoted,
						 i + 1);
}

/* Deletes, updates and inserts of lines; the main query of the statement. */
static void
append_line_writes(StringInfo sql, const SeTable *table, const SeGroup *group)
{
	SeTable *lines = table->lines;
	List *writable = NIL;
	ListCell *lc;
	bool first = true;

	foreach (lc, group->line_columns)
	{
		if (!is_key(lines->parents, lines->nparents, lfirst(lc)))
			writable = lappend(writable, lfirst(lc));
	}
	appendStringInfo(sql, ", gone AS (DELETE FROM %s l USING pair WHERE __is AND NOT __stays AND ",
					 lines->quoted);
	append_line_match(sql, lines);
	appendStringInfoString(sql, " RETURNING 1)");
	foreach (lc, writable)
	{
		SeColumn *column = lfirst(lc);

		if (is_key(lines->keys, lines->nkeys, column))
			continue;
		if (first)
			appendStringInfo(sql, ", changed AS (UPDATE %s l SET ", lines->quoted);
		appendStringInfo(sql, "%s%s = pair.%s", first ? "" : ", ", column->quoted, column->quoted);
		first = false;
	}
	if (!first)
	{
		/* An untouched line raises no event and meets no guard. */
		appendStringInfoString(sql, " FROM pair WHERE __is AND __stays AND ");
		append_line_match(sql, lines);
		appendStringInfoString(sql, " AND (false");
		foreach (lc, writable)
		{
			SeColumn *column = lfirst(lc);
			const char *cast = column->typid == JSONOID || column->typid == XMLOID ? "::text" : "";

			if (!is_key(lines->keys, lines->nkeys, column))
				appendStringInfo(sql, " OR l.%s%s IS DISTINCT FROM pair.%s%s", column->quoted, cast,
								 column->quoted, cast);
		}
		appendStringInfoString(sql, ") RETURNING 1)");
	}
	appendStringInfo(sql, " INSERT INTO %s (", lines->quoted);
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "%s%s", i > 0 ? ", " : "", lines->parents[i]->quoted);
	foreach (lc, writable)
		appendStringInfo(sql, ", %s", ((SeColumn *) lfirst(lc))->quoted);
	appendStringInfoString(sql, ") OVERRIDING SYSTEM VALUE SELECT ");
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "%s__k%d", i > 0 ? ", " : "", i + 1);
	foreach (lc, writable)
		appendStringInfo(sql, ", pair.%s", ((SeColumn *) lfirst(lc))->quoted);
	/* Counting what is gone makes the deletes come first, so that a line's number can be reused. */
	/* In order, for line numbers that the table draws itself. */
	appendStringInfoString(sql, " FROM pair WHERE NOT __is AND (SELECT count(*) FROM gone) >= 0"
								" ORDER BY ");
	for (int i = 0; i < lines->nparents; i++)
		appendStringInfo(sql, "__k%d, ", i + 1);
	appendStringInfoString(sql, "__ln");
}

static void
append_insert(StringInfo sql, const SeTable *table, const SeGroup *group)
{
	List *columns = NIL;
	bool first = true;
	ListCell *lc;

	foreach (lc, group->columns)
	{
		if (!group->keyed || !is_key(table->keys, table->nkeys, lfirst(lc)))
			columns = lappend(columns, lfirst(lc));
	}
	appendStringInfo(sql, "INSERT INTO %s AS t (", table->quoted);
	for (int i = 0; group->keyed && i < table->nkeys; i++, first = false)
		appendStringInfo(sql, "%s%s", first ? "" : ", ", table->keys[i]->quoted);
	foreach (lc, columns)
	{
		appendStringInfo(sql, "%s%s", first ? "" : ", ", ((SeColumn *) lfirst(lc))->quoted);
		first = false;
	}
	appendStringInfoString(sql, ") OVERRIDING SYSTEM VALUE SELECT ");
	first = true;
	for (int i = 0; group->keyed && i < table->nkeys; i++, first = false)
		appendStringInfo(sql, "%sitem.__k%d", first ? "" : ", ", i + 1);
	foreach (lc, columns)
	{
		appendStringInfo(sql, "%sitem.%s", first ? "" : ", ", ((SeColumn *) lfirst(lc))->quoted);
		first = false;
	}
	appendStringInfoString(sql, " FROM item ORDER BY item.__n RETURNING ");
	se_append_record_id(sql, table, "t");
}

static void
append_update(StringInfo sql, const SeTable *table, const SeGroup *group)
{
	bool first = true;
	ListCell *lc;

	appendStringInfo(sql, "UPDATE %s t SET ", table->quoted);
	foreach (lc, group->columns)
	{
		SeColumn *column = lfirst(lc);

		appendStringInfo(sql, "%s%s = item.%s", first ? "" : ", ", column->quoted, column->quoted);
		first = false;
	}
	appendStringInfoString(sql, " FROM item WHERE ");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(sql, "%st.%s = item.__k%d", i > 0 ? " AND " : "", table->keys[i]->quoted,
						 i + 1);
	appendStringInfoString(sql, " RETURNING 1");
}

static void
append_delete(StringInfo sql, const SeTable *table)
{
	SeTable *lines = table->lines;

	if (lines != NULL)
	{
		appendStringInfo(sql, ", gone AS (DELETE FROM %s l USING item WHERE ", lines->quoted);
		for (int i = 0; i < lines->nparents; i++)
			appendStringInfo(sql, "%sl.%s = item.__k%d", i > 0 ? " AND " : "",
							 lines->parents[i]->quoted, i + 1);
		appendStringInfoString(sql, " RETURNING 1)");
	}
	appendStringInfo(sql, " DELETE FROM %s t USING item WHERE ", table->quoted);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(sql, "%st.%s = item.__k%d", i > 0 ? " AND " : "", table->keys[i]->quoted,
						 i + 1);
}

char *
se_group_sql(const SeTable *table, const SeGroup *group)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "WITH item AS MATERIALIZED (SELECT * FROM jsonb_to_recordset($1)"
								 " r (__n int");
	if (group->kind != SE_WRITE_INSERT || group->keyed)
		se_append_key_defs(&sql, table);
	append_defs(&sql, group->columns);
	appendStringInfoString(&sql, "))");
	if (group->kind == SE_WRITE_DELETE)
	{
		append_delete(&sql, table);
		return sql.data;
	}
	if (group->lines && group->kind != SE_WRITE_LINES)
		appendStringInfoString(&sql, ", header AS (");
	else
		appendStringInfoChar(&sql, ' ');
	if (group->kind == SE_WRITE_INSERT)
		append_insert(&sql, table, group);
	else if (group->kind == SE_WRITE_UPDATE)
		append_update(&sql, table, group);
	if (group->lines)
	{
		if (group->kind != SE_WRITE_LINES)
			appendStringInfoChar(&sql, ')');
		append_line_parts(&sql, table, group);
		append_line_writes(&sql, table, group);
	}
	return sql.data;
}
