/*
 * guard_build.c: what of a table belongs to systems, from sync.owner.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_collation.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "capture/guard.h"
#include "core/errors.h"

typedef struct OwnerRow
{
	char *field;
	SeOwner owner;
} OwnerRow;

typedef struct OwnerRows
{
	int object_id;
	List *rows;
} OwnerRows;

static bool
match_owner(TupleTableSlot *slot, void *arg)
{
	OwnerRows *found = arg;
	OwnerRow *row;
	char *policy;
	bool isnull;
	Datum system;

	if (DatumGetInt32(se_registry_value(slot, "object_id", &isnull)) != found->object_id)
		return false;
	row = palloc(sizeof(OwnerRow));
	row->field = TextDatumGetCString(se_registry_value(slot, "field", &isnull));
	policy = TextDatumGetCString(se_registry_value(slot, "on_violation", &isnull));
	/* A policy that this library does not know yet is kept to the strictest that it knows. */
	if (!se_on_violation_parse(policy, &row->owner.on_violation))
		row->owner.on_violation = SE_ON_VIOLATION_REJECT;
	system = se_registry_value(slot, "system_id", &isnull);
	row->owner.owner = isnull ? SE_OWNER_HUB : DatumGetInt32(system);
	found->rows = lappend(found->rows, row);
	return false;
}

static const SeOwner *
find_owner(List *rows, const char *field)
{
	ListCell *lc;

	foreach (lc, rows)
	{
		OwnerRow *row = lfirst(lc);

		if (strcmp(row->field, field) == 0)
			return &row->owner;
	}
	return NULL;
}

/* Whether a default is a constant, and which. */
static void
resolve_default(SeGuardField *field, Relation rel)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), field->column->attnum - 1);
	Node *expr;

	if (attr->attidentity != '\0')
	{
		field->computed = true;
		return;
	}
	expr = build_column_default(rel, field->column->attnum);
	if (expr == NULL)
		return;
	expr = eval_const_expressions(NULL, expr);
	/* A domain's default, or one of another type modifier, is coerced when it is used. */
	if (IsA(expr, CoerceToDomain))
		expr = (Node *) ((CoerceToDomain *) expr)->arg;
	if (!IsA(expr, Const))
		field->computed = true;
	else if (!((Const *) expr)->constisnull)
	{
		field->has_default = true;
		field->preset =
			datumCopy(((Const *) expr)->constvalue, field->column->typbyval, field->column->typlen);
	}
}

static void
build_field(SeGuardField *field, SeTable *table, int index, SeOwner owner, Relation rel,
			Bitmapset *partition_key)
{
	SeColumn *column = &table->shape->columns[index];
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), column->attnum - 1);
	TypeCacheEntry *type = lookup_type_cache(column->type, TYPECACHE_EQ_OPR_FINFO);

	memset(field, 0, sizeof(SeGuardField));
	field->column = column;
	field->index = index;
	field->owner = owner;
	for (int i = 0; i < table->key_count; i++)
		field->is_key = field->is_key || table->key[i] == column;
	if (OidIsValid(type->eq_opr_finfo.fn_oid))
		fmgr_info_cxt(type->eq_opr_finfo.fn_oid, &field->equal, CurrentMemoryContext);
	/* A line is inserted or not, whatever is in it. */
	if (table->role == SE_TABLE_LINES)
		return;
	resolve_default(field, rel);
	field->must_stay =
		(attr->attnotnull && !field->has_default) ||
		bms_is_member(column->attnum - FirstLowInvalidHeapAttributeNumber, partition_key);
}

/* Columns that decide in which partition a row belongs. */
static Bitmapset *
find_partition_key(Relation rel)
{
	Bitmapset *found = NULL;

	if (rel->rd_rel->relispartition)
		pull_varattnos((Node *) RelationGetPartitionQual(rel), 1, &found);
	return found;
}

SeGuard *
se_guard_build(SeTable *table, Relation rel, Oid *relid)
{
	OwnerRows found = {.object_id = table->object_id};
	SeOwner nobody = {.owner = SE_OWNER_NOBODY};
	bool lines = table->role == SE_TABLE_LINES;
	const SeOwner *all;
	Bitmapset *partition_key;
	SeGuard *guard;

	se_registry_scan("owner", relid, match_owner, &found);
	if (found.rows == NIL)
		return NULL;
	all = find_owner(found.rows, "*");
	if (lines && find_owner(found.rows, "lines") != NULL)
		all = find_owner(found.rows, "lines");

	guard = palloc0(sizeof(SeGuard));
	guard->record = all != NULL ? *all : nobody;
	guard->fields = palloc(sizeof(SeGuardField) * Max(table->shape->count, 1));
	partition_key = find_partition_key(rel);
	for (int i = 0; i < table->shape->count; i++)
	{
		SeColumn *column = &table->shape->columns[i];
		Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), column->attnum - 1);
		const SeOwner *owner = lines ? NULL : find_owner(found.rows, column->name);

		if (attr->attgenerated != '\0')
			continue;
		if (owner == NULL && !column->is_volatile)
			owner = all;
		if (owner != NULL && se_owner_binds(*owner, SE_OWNER_HUB))
			build_field(&guard->fields[guard->count++], table, i, *owner, rel, partition_key);
	}
	if (guard->count == 0 && !se_owner_binds(guard->record, SE_OWNER_HUB))
		return NULL;
	return guard;
}
