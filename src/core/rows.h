/*
 * rows.h: many rows at once into the extension's own tables, past executor and plans.
 *
 * They go through the table access method, sharing page accesses and WAL records, and into the
 * indexes straight away. No trigger, default or foreign key of the table is looked at.
 */
#ifndef SE_ROWS_H
#define SE_ROWS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

/* A column of rows, or an array parameter of a statement: one value per row. */
typedef struct SeArg
{
	Datum *values;
	bool *nulls;
	int n;
} SeArg;

extern SeArg se_arg_make(int n); /* room for n */
extern void se_arg_add(SeArg *arg, Datum value, bool isnull);
extern void se_arg_text(SeArg *arg, const char *text); /* NULL: SQL NULL; as are the next ones */
extern void se_arg_json(SeArg *arg, Jsonb *json);
extern Datum se_arg_array(const SeArg *arg, Oid type);

/*
 * Inserts n rows into a table of schema sync; columns not named are NULL. A partitioned table is
 * partitioned by an instant: `at` chooses the partition. In a transaction.
 */
extern void se_rows_insert(const char *table, TimestampTz at, const char *const *names,
						   const SeArg *columns, int ncolumns, int n);

/* Whether the table has never had a row since it was last truncated or vacuumed empty. */
extern bool se_rows_none(const char *table);

#endif
