/*
 * apply_sql.c: sync._apply_page(), the way a page is applied, without a hub and without HTTP, and
 * sync._map_records(), the way its records are mapped.
 *
 * For tests and for whoever writes a manifest: raw remote records go through the very functions
 * that the hub's pages go through.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/role.h"
#include "core/spi.h"
#include "pull/internal.h"

extern PGDLLEXPORT Datum se_apply_page(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_map_records(PG_FUNCTION_ARGS);

extern PGDLLEXPORT Datum se_apply_delete(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_apply_page);
PG_FUNCTION_INFO_V1(se_map_records);
PG_FUNCTION_INFO_V1(se_apply_delete);

/* The system's legal entity, as a hub reads it: with the rights of its table's owner. */
static Jsonb *
read_entity(const char *code)
{
	Oid types[] = {TEXTOID};
	Datum values[] = {CStringGetTextDatum(code)};
	MemoryContext cxt = CurrentMemoryContext;
	Jsonb *entity = NULL;
	SeRole role;
	char *sql;
	bool isnull;
	Oid owner;

	if (SPI_execute("SELECT format('%I.%I', n.nspname, c.relname), c.relowner"
					" FROM pg_catalog.pg_class c"
					" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
					" LEFT JOIN sync.object o ON o.name = 'legal_entity'"
					" WHERE n.nspname = coalesce(o.schema_name, 'canonical')"
					" AND c.relname = coalesce(o.table_name, 'legal_entity')",
					true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("there is no table of legal entities, which the server option "
							   "legal_entity needs")));
	owner = DatumGetObjectId(se_spi_datum(0, 2, &isnull));
	sql = psprintf("SELECT pg_catalog.to_jsonb(e) FROM %s e WHERE e.code = $1", se_spi_text(0, 1));
	se_role_become(owner, &role);
	if (SPI_execute_with_args(sql, 1, types, values, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1)
	{
		Datum value = se_spi_datum(0, 1, &isnull);

		MemoryContextSwitchTo(cxt);
		entity = DatumGetJsonbPCopy(value);
	}
	se_role_restore(&role);
	MemoryContextSwitchTo(cxt);
	if (entity == NULL)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
						errmsg("legal entity \"%s\" does not exist", code)));
	return entity;
}

static Jsonb *
with_entity(Jsonb *vars, const char *code)
{
	JsonbParseState *state = NULL;
	JsonbValue key = {.type = jbvString};
	JsonbValue value = {.type = jbvBinary};
	Jsonb *entity = read_entity(code);
	Jsonb *addition;

	key.val.string.val = "entity";
	key.val.string.len = strlen("entity");
	value.val.binary.data = &entity->root;
	value.val.binary.len = VARSIZE(entity) - VARHDRSZ;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, &value);
	addition = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(vars), JsonbPGetDatum(addition)));
}

/*
 * What records of an object are read by, from the tables; raises when something is missing.
 * connector_id: a manifest, 0 for the current one of the system.
 */
static void
read_target(int system_id, int object_id, int connector_id, SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(system_id), Int32GetDatum(object_id),
					  Int32GetDatum(connector_id)};
	const SeManifestObject *object;
	char *entity;
	Datum manifest;
	bool isnull;

	if (se_spi_execute(
			&plan,
			"SELECT o.name, CASE WHEN $3 = 0 THEN sync._manifest(y.name)"
			" ELSE (SELECT c.manifest FROM sync.connector c WHERE c.id = $3) END,"
			" jsonb_build_object('param', coalesce(sync._system_options(y.name) -> 'param', '{}'),"
			" 'entity', jsonb '{}'), y.name, sync._system_options(y.name) ->> 'legal_entity'"
			" FROM sync.system y, sync.object o WHERE y.id = $1 AND o.id = $2",
			3, types, values, NULL, true, 0) != 1)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("there is no system %d or no object %d", system_id, object_id)));
	target->system_id = system_id;
	target->object_id = object_id;
	target->object = se_spi_text(0, 1);
	manifest = se_spi_datum(0, 2, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(SE_ERRCODE_UNKNOWN_CONNECTOR),
				 errmsg("the connector of system \"%s\" is not registered", se_spi_text(0, 4))));
	target->manifest = se_manifest_compile(DatumGetJsonbPCopy(manifest), CurrentMemoryContext);
	target->vars = DatumGetJsonbPCopy(se_spi_datum(0, 3, &isnull));
	entity = se_spi_text(0, 5);
	SPI_freetuptable(SPI_tuptable);
	if (entity != NULL)
		target->vars = with_entity(target->vars, entity);

	object = se_manifest_object(target->manifest, target->object);
	if (object == NULL || object->pull == NULL)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_OBJECT),
						errmsg("connector \"%s\" does not pull object \"%s\"",
							   target->manifest->name, target->object)));
	target->pull = object->pull;
}

static void
read_stream_target(int stream_id, SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID};
	Datum values[] = {Int32GetDatum(stream_id)};
	int system_id;
	int object_id;
	bool isnull;

	if (se_spi_execute(&plan, "SELECT t.system_id, t.object_id FROM sync.stream t WHERE t.id = $1",
					   1, types, values, NULL, true, 0) != 1)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("there is no stream with id %d", stream_id)));
	system_id = DatumGetInt32(se_spi_datum(0, 1, &isnull));
	object_id = DatumGetInt32(se_spi_datum(0, 2, &isnull));
	SPI_freetuptable(SPI_tuptable);
	read_target(system_id, object_id, 0, target);
}

static Jsonb *
records_arg(Jsonb *records)
{
	if (!JB_ROOT_IS_ARRAY(records) || JB_ROOT_IS_SCALAR(records))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("items must be an array of remote records")));
	return records;
}

/* {"remote_id": …, "gone": true} stands for a record of which only the end is known. */
static void
take_item(SeItem *item, JsonbValue *value, TimestampTz began_at, bool fetched)
{
	JsonbValue gone;
	JsonbValue id;

	item->began_at = began_at;
	item->fetched = fetched;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("items must be objects: remote records")));
	if (getKeyJsonValueFromContainer(value->val.binary.data, "gone", 4, &gone) != NULL &&
		gone.type == jbvBool && gone.val.boolean &&
		getKeyJsonValueFromContainer(value->val.binary.data, "remote_id", 9, &id) != NULL &&
		id.type == jbvString)
	{
		item->remote_id = pnstrdup(id.val.string.val, id.val.string.len);
		item->deleted = true;
		return;
	}
	item->record = JsonbValueToJsonb(value);
}

Datum
se_apply_page(PG_FUNCTION_ARGS)
{
	Jsonb *records;
	SeTarget target = {0};
	SePageResult result;
	SeItem *items;
	TupleDesc desc;
	Datum values[7];
	bool nulls[7] = {0};
	int n;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	records = records_arg(PG_GETARG_JSONB_P(1));
	se_role_fire_deferred();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	read_stream_target(PG_GETARG_INT32(0), &target);
	n = JB_ROOT_COUNT(records);
	items = palloc0(sizeof(SeItem) * Max(n, 1));
	for (int i = 0; i < n; i++)
		take_item(&items[i], getIthJsonbValueFromContainer(&records->root, i),
				  PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_BOOL(3));
	se_page_apply(&target, items, n, PG_GETARG_BOOL(4), &result);
	SPI_finish();

	values[0] = Int32GetDatum(result.applied);
	values[1] = Int32GetDatum(result.mirrored);
	values[2] = Int32GetDatum(result.unchanged);
	values[3] = Int32GetDatum(result.bound);
	values[4] = Int32GetDatum(result.to_inbox);
	values[5] = Int32GetDatum(result.read_again);
	values[6] = BoolGetDatum(result.held);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * sync._map_records(system_id, object_id, connector_id, records): a jsonb for each record, in their
 * order.
 */
Datum
se_map_records(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Jsonb *records = records_arg(PG_GETARG_JSONB_P(3));
	int n = JB_ROOT_COUNT(records);
	SeItem *items = palloc0(sizeof(SeItem) * Max(n, 1));
	SeItem **all = palloc(sizeof(SeItem *) * Max(n, 1));
	SeTarget target = {0};

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	read_target(PG_GETARG_INT32(0), PG_GETARG_INT32(1), PG_GETARG_INT32(2), &target);
	for (int i = 0; i < n; i++)
	{
		take_item(&items[i], getIthJsonbValueFromContainer(&records->root, i), 0, true);
		all[i] = &items[i];
	}
	se_map_all(&target, se_ref_cache(target.system_id), all, n);
	for (int i = 0; i < n; i++)
	{
		Datum value = JsonbPGetDatum(se_mapped_json(&items[i].map));
		bool isnull = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
	SPI_finish();
	return (Datum) 0;
}

/*
 * sync._apply_delete(): a person has decided that a delete at the other side takes effect here, which
 * the mirror says had happened already.
 */
Datum
se_apply_delete(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTOID};
	SeTarget target = {0};
	SeItem item = {.deleted = true, .fetched = true, .decided = true};
	Datum values[3];
	SePageResult result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	read_stream_target(PG_GETARG_INT32(0), &target);
	item.remote_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	item.began_at = GetCurrentTimestamp();
	values[0] = Int32GetDatum(target.system_id);
	values[1] = Int32GetDatum(target.object_id);
	values[2] = CStringGetTextDatum(item.remote_id);
	se_spi_execute(&plan,
				   "UPDATE sync.mirror SET deleted = false"
				   " WHERE system_id = $1 AND object_id = $2 AND remote_id = $3",
				   3, types, values, NULL, false, 0);
	se_page_apply(&target, &item, 1, false, &result);
	if (item.fate != SE_FATE_DELETE)
		ereport(ERROR, (errcode(SE_ERRCODE_CONFLICT),
						errmsg("the record could not be deleted: %s",
							   item.reason != NULL ? item.reason : "it is not known"),
						errhint("Look at the record, and at what refers to it.")));
	SPI_finish();
	PG_RETURN_VOID();
}
