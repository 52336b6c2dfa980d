/*
 * guard_act.c: what a violation gets: an error, a correction to come, or a conflict for a person.
 *
 * All of this is the rare case. The writer has no right in schema sync, so the statements run as the
 * extension's owner; values are rendered before, with the writer's rights.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "capture/document_read.h"
#include "capture/guard.h"
#include "core/errors.h"
#include "core/role.h"

typedef struct SystemName
{
	int id;
	char *name;
} SystemName;

static bool
match_system(TupleTableSlot *slot, void *arg)
{
	SystemName *wanted = arg;
	bool isnull;

	if (DatumGetInt32(se_registry_value(slot, "id", &isnull)) != wanted->id)
		return false;
	wanted->name = TextDatumGetCString(se_registry_value(slot, "name", &isnull));
	return true;
}

/* The owner as messages call it. */
static const char *
owner_name(int owner)
{
	SystemName wanted = {.id = owner};

	se_registry_scan("system", NULL, match_system, &wanted);
	return wanted.name != NULL ? wanted.name : psprintf("#%d", owner);
}

/* The fields of an error that an application reads: of the table as tracked, not of a partition. */
static int
error_table(const SeTable *table, const SeGuardField *field)
{
	Oid relid = table->role == SE_TABLE_LINES ? table->line_relid : table->header_relid;
	char *name = get_rel_name(relid);
	char *schema = get_namespace_name(get_rel_namespace(relid));

	if (schema != NULL)
		err_generic_string(PG_DIAG_SCHEMA_NAME, schema);
	if (name != NULL)
		err_generic_string(PG_DIAG_TABLE_NAME, name);
	if (field != NULL)
		err_generic_string(PG_DIAG_COLUMN_NAME, field->column->name);
	return 0;
}

void
se_guard_refuse(const SeTable *table, const SeGuardField *field, SeOwner owner, const char *done)
{
	const char *name = owner_name(owner.owner);
	bool undoable = owner.on_violation != SE_ON_VIOLATION_REJECT;
	bool lines = table->role == SE_TABLE_LINES;

	ereport(
		ERROR,
		(errcode(SE_ERRCODE_NOT_OWNER),
		 lines ? errmsg("lines of object \"%s\" are owned by \"%s\"", table->object, name)
		 : field != NULL
			 ? errmsg("field \"%s\" of object \"%s\" is owned by \"%s\"", field->column->name,
					  table->object, name)
			 : errmsg("records of object \"%s\" are owned by \"%s\"", table->object, name),
		 undoable
			 ? errdetail(
				   "Owner is system \"%s\". An application wanted to %s, which could not be undone without breaking other rows or what a later trigger did.",
				   name, done)
			 : errdetail("Owner is system \"%s\". An application wanted to %s.", name, done),
		 errhint("Change it in \"%s\", or ask a member of sync_admin for another owner "
				 "(sync.set_owner).",
				 name),
		 error_table(table, field)));
}

/*
 * The functions of the schema run as its owner, who owns the tables; they pin search_path themselves.
 * Not by se_role_become(): a worker's deadline for the code of others must go on.
 */
static void
run_as_owner(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	Oid relid = get_relname_relid("owner", get_namespace_oid("sync", false));
	Oid user;
	int security;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(se_relation_owner(relid),
						   security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of: %s", sql);
	SPI_finish();
	SetUserIdAndSecContext(user, security);
}

/* The record that a row belongs to; NULL for a line that belongs to none. */
static char *
record_of(const SeTable *table, const Datum *values, const bool *nulls)
{
	char **texts = palloc(sizeof(char *) * Max(table->key_count, 1));

	if (!se_table_key_texts((SeTable *) table, values, nulls, texts))
		return NULL;
	return se_record_id_from_texts(table->key_count, texts);
}

void
se_guard_correct(const SeTable *table, const char *field, int owner, const Datum *values,
				 const bool *nulls)
{
	Oid types[] = {INT4OID, TEXTOID, TEXTOID, INT4OID};
	Datum args[4];
	char *record_id = record_of(table, values, nulls);

	if (record_id == NULL)
		return;
	args[0] = Int32GetDatum(table->object_id);
	args[1] = CStringGetTextDatum(record_id);
	args[2] = CStringGetTextDatum(field);
	args[3] = Int32GetDatum(owner);
	run_as_owner("SELECT sync._want_correction($1, $2, $3, $4)", 4, types, args, NULL);
}

/* One field of a row, or all of it; (Datum) 0 when there is no row or it is too large. */
static Datum
render_value(const SeTable *table, const SeGuardField *field, const Datum *values,
			 const bool *nulls)
{
	Jsonb *json = NULL;
	bool *chosen;

	if (values == NULL || !se_row_fits(table->shape, values, nulls))
		return (Datum) 0;
	if (field == NULL)
		json = se_render_row(table->shape, values, nulls, NULL);
	else
	{
		chosen = palloc0(sizeof(bool) * table->shape->count);
		chosen[field->index] = true;
		json = se_render_some(table->shape, values, nulls, chosen);
	}
	return json != NULL ? JsonbPGetDatum(json) : (Datum) 0;
}

void
se_guard_hold(const SeTable *table, const SeGuardField *field, int owner, const Datum *hub_values,
			  const bool *hub_nulls, const Datum *values, const bool *nulls)
{
	bool lines = table->role == SE_TABLE_LINES;
	Oid types[] = {INT4OID, TEXTOID, TEXTOID, INT4OID, JSONBOID, JSONBOID};
	Datum args[6];
	char nothing[] = "      ";
	char *record_id = hub_values != NULL ? record_of(table, hub_values, hub_nulls)
										 : record_of(table, values, nulls);
	int pin;

	/* A line that belongs to no document is nobody's business. */
	if (record_id == NULL)
		return;
	pin = se_pin_settings(table->shape);
	args[0] = Int32GetDatum(table->object_id);
	args[1] = CStringGetTextDatum(record_id);
	args[2] = (Datum) 0;
	if (lines)
		args[2] = CStringGetTextDatum("lines");
	else if (field != NULL)
		args[2] = CStringGetTextDatum(field->column->name);
	args[3] = Int32GetDatum(owner);
	args[4] = render_value(table, lines ? NULL : field, hub_values, hub_nulls);
	args[5] = render_value(table, lines ? NULL : field, values, nulls);
	se_unpin_settings(pin);
	for (int i = 2; i < 6; i++)
		nothing[i] = i != 3 && args[i] == (Datum) 0 ? 'n' : ' ';
	run_as_owner("SELECT sync._open_violation($1, $2, $3, $4, $5, $6)", 6, types, args, nothing);
}

bool
se_guard_document_gone(SeTable *table, const Datum *values, const bool *nulls)
{
	char **texts = palloc(sizeof(char *) * Max(table->key_count, 1));

	return se_table_key_texts(table, values, nulls, texts) && !se_document_exists(table, texts);
}

/* Unique indexes that ON CONFLICT could name. */
static List *
arbiters(ResultRelInfo *result)
{
	List *found = NIL;

	for (int i = 0; i < result->ri_NumIndices; i++)
	{
		Form_pg_index index = result->ri_IndexRelationDescs[i]->rd_index;

		if (index->indisunique && index->indimmediate && index->indisready)
			found = lappend_oid(found, index->indexrelid);
	}
	return found;
}

bool
se_guard_collides(Relation rel, TupleTableSlot *slot)
{
	EState *estate = CreateExecutorState();
	ResultRelInfo *result = makeNode(ResultRelInfo);
	ItemPointerData where;
	List *indexes;
	bool free_of_it = true;

	InitResultRelInfo(result, rel, 1, NULL, 0);
	ExecOpenIndices(result, true);
	indexes = arbiters(result);
	if (indexes != NIL)
		free_of_it = ExecCheckIndexConstraints(result, slot, estate, &where, indexes);
	ExecCloseIndices(result);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
	return !free_of_it;
}
