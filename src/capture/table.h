/*
 * table.h: what the triggers must know of a table, cached per backend.
 */
#ifndef SE_CAPTURE_TABLE_H
#define SE_CAPTURE_TABLE_H

#include "postgres.h"

#include "executor/spi.h"
#include "utils/rel.h"

#include "capture/render.h"

struct SeGuard;

typedef enum SeTableRole
{
	SE_TABLE_PLAIN,	 /* rows are records */
	SE_TABLE_HEADER, /* rows are records that go with lines */
	SE_TABLE_LINES	 /* rows are lines of records of another table */
} SeTableRole;

typedef struct SeTable
{
	Oid relid;			   /* hash key */
	bool stale;			   /* set by the invalidation callback, which does nothing else */
	uint64 epoch;		   /* of the registry that this was built from */
	MemoryContext context; /* holds all that follows */

	SeTableRole role;
	int object_id;
	char *object;
	bool record_truncate;
	SeShape *shape;
	int key_count;
	SeColumn **key; /* columns of shape; of lines: those that hold the header's key */
	List *volatile_columns;
	struct SeGuard *guard; /* NULL: no system owns anything of it */

	/* Headers and lines: the two tables, and the columns that order the lines. */
	Oid header_relid;
	Oid line_relid;
	List *header_key; /* column names */
	List *line_parent;
	List *line_key;
	SPIPlanPtr lock_plan; /* prepared when first needed */
	SPIPlanPtr read_plan;
	SPIPlanPtr lines_plan;
	SeShape *header_shape; /* of what the plans return */
	TupleDesc header_desc;
	SeShape *line_shape;
	TupleDesc line_desc;
} SeTable;

/* The entry of a table that belongs to the named object; valid until the end of the transaction. */
extern SeTable *se_table_lookup(Relation rel, const char *object);

/* The record id: text of the key, or a JSON array of texts when it has several columns. */
extern char *se_table_record_id(SeTable *table, const Datum *values, const bool *nulls);

/* Text of each key column; false when one is null. */
extern bool se_table_key_texts(SeTable *table, const Datum *values, const bool *nulls,
							   char **texts);
extern char *se_record_id_from_texts(int count, char **texts);

/*
 * Calls back for each row of a small table of schema sync until that returns true; no right is asked
 * for, and the latest snapshot is used. *relid, unless NULL, is the table's OID before the first call.
 */
typedef bool (*SeRegistryMatch)(TupleTableSlot *slot, void *arg);
extern void se_registry_scan(const char *table, Oid *relid, SeRegistryMatch match, void *arg);

/* Value of a column by name: a later version may have more of them. */
extern Datum se_registry_value(TupleTableSlot *slot, const char *column, bool *isnull);

/* Same value by its image? A value kept in the TOAST table is the same if kept in the same place. */
extern bool se_same_image(const SeColumn *column, Datum a, Datum b);

#endif
