/*
 * preview.c: sync.preview(): the requests that would be sent for a record as it stands, its
 * uncommitted changes included; sync._preview_events(): those of events. Sends and stores nothing.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/json.h"
#include "core/role.h"
#include "core/spi.h"
#include "push/internal.h"
#include "push/record_body.h"

PG_FUNCTION_INFO_V1(se_preview);
PG_FUNCTION_INFO_V1(se_preview_events);
PG_FUNCTION_INFO_V1(se_for_reader);

#define NCOLUMNS 8

/*
 * The record is read with its owner's rights, so the caller's are asked for: who may not read the
 * table may not read it here either, and whom row security shows some rows only gets none.
 */
static void
check_table(Oid relation, Oid caller)
{
	if (pg_class_aclcheck(relation, caller, ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relation));
	if (check_enable_rls(relation, caller, true) == RLS_ENABLED)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for table %s", get_rel_name(relation)),
						errdetail("Its row security applies to role \"%s\".",
								  GetUserNameFromId(caller, false))));
}

static void
check_may_read(int object_id, Oid caller)
{
	Oid types[1] = {INT4OID};
	Datum values[1];
	Oid relations[2];
	bool isnull[2];

	values[0] = Int32GetDatum(object_id);
	if (SPI_execute_with_args(
			"SELECT pg_catalog.format('%I.%I', schema_name, table_name)::"
			"pg_catalog.regclass::pg_catalog.oid, CASE WHEN line_table IS NOT NULL "
			"THEN pg_catalog.format('%I.%I', line_schema, line_table)::"
			"pg_catalog.regclass::pg_catalog.oid END FROM sync.object WHERE id = $1",
			1, types, values, NULL, true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "object %d is not registered", object_id);
	for (int i = 0; i < 2; i++)
		relations[i] = DatumGetObjectId(se_spi_datum(0, i + 1, &isnull[i]));
	for (int i = 0; i < 2; i++)
	{
		if (!isnull[i])
			check_table(relations[i], caller);
	}
}

static SeSystem *
find_system(const char *name)
{
	SeSystem *system = se_system_build(name);

	if (system == NULL)
	{
		/* A server that nothing refers to yet has no row in sync.system. */
		Oid types[1] = {TEXTOID};
		Datum values[1];

		values[0] = CStringGetTextDatum(name);
		if (SPI_execute_with_args("SELECT sync._system_id($1)", 1, types, values, NULL, false, 1) !=
			SPI_OK_SELECT)
			elog(ERROR, "could not look up system \"%s\"", name);
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		system = se_system_build(name);
		PopActiveSnapshot();
	}
	if (system == NULL || !system->usable)
		ereport(ERROR,
				(errcode(SE_ERRCODE_UNKNOWN_SYSTEM), errmsg("system \"%s\" cannot be used", name),
				 errdetail("%s", system && system->problem ? system->problem : "It is not known."),
				 errhint("SELECT * FROM sync.check_system(%s) tells what is missing.",
						 quote_literal_cstr(name))));
	return system;
}

/* Another manifest than the system's current one: what a new version would send. */
static void
take_manifest(SeSystem *system, int connector_id)
{
	Oid types[1] = {INT4OID};
	Datum values[1];
	bool isnull;

	values[0] = Int32GetDatum(connector_id);
	if (SPI_execute_with_args("SELECT manifest FROM sync.connector WHERE id = $1", 1, types, values,
							  NULL, true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_CONNECTOR),
						errmsg("there is no manifest with id %d", connector_id)));
	system->manifest =
		se_manifest_compile(DatumGetJsonbP(se_spi_datum(0, 1, &isnull)), CurrentMemoryContext);
}

static void
put_text(Datum *values, bool *nulls, int i, const char *text)
{
	nulls[i] = text == NULL;
	values[i] = text ? CStringGetTextDatum(text) : (Datum) 0;
}

static Jsonb *
headers_object(const SeRequestOut *request)
{
	SeObjBuilder b;
	ListCell *cell;

	se_obj_begin(&b);
	foreach (cell, request->headers)
		se_obj_text(&b, ((SeHeader *) lfirst(cell))->name, ((SeHeader *) lfirst(cell))->value);
	se_obj_text(&b, "Content-Type", request->content_type);
	return se_obj_end(&b);
}

static const char *
state_word(const SeRendered *r)
{
	switch (r->status)
	{
		case SE_RENDER_OK:
			return r->ahead ? "later" : "ready";
		case SE_RENDER_SKIP:
			return "skipped";
		case SE_RENDER_WAIT:
			return "waiting";
		case SE_RENDER_INVALID:
			return "invalid";
	}
	return "invalid";
}

static const char *
explain(const SeRendered *r)
{
	if (r->status == SE_RENDER_WAIT)
		return psprintf("waits for %s %s to be %s", r->wait_object, r->wait_key,
						r->wait_state ? r->wait_state : "known in the system");
	if (r->status == SE_RENDER_OK && r->ahead)
		return "what stands in <> is what an earlier step answers";
	return r->status == SE_RENDER_INVALID ? r->message : NULL;
}

static void
put_request(Datum *values, bool *nulls, SeSystem *system, const SeRequestOut *request)
{
	put_text(values, nulls, 3, request->method);
	put_text(values, nulls, 4, psprintf("%s%s", system->base_url, request->target));
	values[5] = PointerGetDatum(headers_object(request));
	nulls[5] = false;
	if (request->body != NULL)
		put_text(values, nulls, 6,
				 pg_any_to_server(pnstrdup(request->body, request->body_len),
								  (int) request->body_len, PG_UTF8));
}

/* (n, step, state, method, url, headers, body, message) */
static void
put_step(ReturnSetInfo *rsinfo, int n, SeSystem *system, const SeOperation *op, Jsonb *ctx)
{
	Datum values[NCOLUMNS] = {0};
	bool nulls[NCOLUMNS];
	SeRendered r;

	memset(nulls, true, sizeof(nulls));
	memset(&r, 0, sizeof(r));
	se_render_ahead(system->manifest, op, ctx, se_context_refs(system), &r);
	values[0] = Int32GetDatum(n);
	nulls[0] = false;
	put_text(values, nulls, 1, op->name);
	put_text(values, nulls, 2, state_word(&r));
	if (r.status == SE_RENDER_OK)
		put_request(values, nulls, system, &r.request);
	put_text(values, nulls, 7, explain(&r));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* How the step travels when others are ready at the same moment: as a batch of one here. */
static void
put_batch(ReturnSetInfo *rsinfo, int n, SeSystem *system, const SeOperation *op, SeDelivery *d)
{
	Datum values[NCOLUMNS] = {0};
	bool nulls[NCOLUMNS];
	SeRendered r;

	memset(nulls, true, sizeof(nulls));
	se_render(system->manifest, op, d->ctx, se_context_refs(system), &d->rendered);
	if (d->rendered.status != SE_RENDER_OK)
		return;
	se_batch_prepare(d, op);
	if (d->item.body == NULL)
		return;
	se_batch_render(system->manifest, op->batch, system->vars, &d->item, 1, &r);
	values[0] = Int32GetDatum(n);
	nulls[0] = false;
	put_text(values, nulls, 1, op->name);
	put_text(values, nulls, 2, r.status == SE_RENDER_OK ? "batch" : "invalid");
	if (r.status == SE_RENDER_OK)
		put_request(values, nulls, system, &r.request);
	put_text(values, nulls, 7,
			 r.status == SE_RENDER_OK
				 ? psprintf("where others are ready, too: up to %d in one request",
							op->batch->max_items)
				 : r.message);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* What a preview is made over, with the rights of the function's owner until it is closed. */
typedef struct Preview
{
	SeRoute route;
	const SeManifestObject *object;
	Oid caller;
	int context;
} Preview;

static void
open_preview(Preview *p, FunctionCallInfo fcinfo)
{
	char *system_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *object = text_to_cstring(PG_GETARG_TEXT_PP(1));

	InitMaterializedSRF(fcinfo, 0);
	memset(p, 0, sizeof(*p));

	/*
	 * Not SECURITY DEFINER, in which nothing could tell who called: the session's user need not be
	 * the caller, for instance when a superuser's REINDEX runs an owner's function.
	 */
	GetUserIdAndSecContext(&p->caller, &p->context);
	SetUserIdAndSecContext(se_function_owner(fcinfo->flinfo->fn_oid),
						   p->context | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	se_registry_load();
	p->route.object_id = se_object_id(object);
	if (p->route.object_id == 0)
		ereport(ERROR,
				(errcode(SE_ERRCODE_UNKNOWN_OBJECT), errmsg("object \"%s\" does not exist", object),
				 errhint("Declare its table with sync.track().")));
	check_may_read(p->route.object_id, p->caller);
	p->route.system = find_system(system_name);
	p->route.object = object;
	p->route.owned = se_owned_fields(p->route.object_id, p->route.system->id);
}

/* With the manifest that the system has by now. */
static void
choose_object(Preview *p)
{
	p->object = se_manifest_object(p->route.system->manifest, p->route.object);
	if (p->object == NULL || !p->object->can_push)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("connector \"%s\" cannot push object \"%s\"",
							   p->route.system->manifest->name, p->route.object)));
}

static void
close_preview(Preview *p)
{
	SPI_finish();
	SetUserIdAndSecContext(p->caller, p->context);
}

/* A delivery of the event, as a claim would have it. Unbound: as if the system did not know the record. */
static void
build_delivery(Preview *p, SeDelivery *d, bool unbound)
{
	SeDelivery *batch[1] = {d};

	d->cxt = d->attempt_cxt = CurrentMemoryContext;
	d->route = &p->route;
	d->event.object_id = p->route.object_id;
	se_context_begin();
	if (!unbound)
		se_context_preload(batch, 1);
	se_context_build(d);
}

/* The record id as external ids have it: in another spelling the record would look unbound. */
static char *
whole_id(int object_id, Datum id)
{
	Oid types[] = {INT4OID, TEXTOID};
	Datum values[] = {Int32GetDatum(object_id), id};

	if (SPI_execute_with_args("SELECT sync._record_id($1, $2)", 2, types, values, NULL, true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not normalize a record id");
	return se_spi_text(0, 1);
}

/*
 * sync.preview(system, object, id): a row for each step of the plan that the record's state calls
 * for: create when it is not bound in the system, else update. Later steps are shown as far as they
 * can be rendered without the answers of earlier ones. sync._preview_with() names another manifest.
 */
PGDLLEXPORT Datum
se_preview(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char *id;
	Preview p;
	SeDelivery d = {0};
	int n = 0;
	ListCell *cell;

	/* No rows would read as: nothing would be sent. */
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a preview needs a system, an object and a record"),
						errhint("For instance: sync.preview('erp', 'customer', id::text).")));
	open_preview(&p, fcinfo);
	if (PG_NARGS() > 3)
		take_manifest(p.route.system, PG_GETARG_INT32(3));
	choose_object(&p);
	id = whole_id(p.route.object_id, PG_GETARG_DATUM(2));
	d.event.op = 'U';
	d.event.record_id = id;
	d.event.at = GetCurrentTransactionStartTimestamp();
	d.event.seq = PG_INT64_MAX;
	d.event.body = se_record_body(p.route.object_id, id);
	if (d.event.body == NULL)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
						errmsg("record \"%s\" of object \"%s\" does not exist", id, p.route.object),
						errdetail("Its table has no row with that key."),
						errhint("SELECT * FROM sync.find(%s) looks for it by remote id and number.",
								quote_literal_cstr(id))));
	build_delivery(&p, &d, false);
	foreach (cell, p.object->plan[d.change])
	{
		const SeOperation *op = lfirst(cell);

		put_step(rsinfo, ++n, p.route.system, op, d.ctx);
		if (op->batch != NULL)
			put_batch(rsinfo, n, p.route.system, op, &d);
	}
	close_preview(&p);
	return (Datum) 0;
}

/* ---- events ---- */

#define NEVENT_COLUMNS 7

static void
read_event(SeEvent *e, const Jsonb *from)
{
	char *at = se_obj_get_text(from, "at");
	char *op = se_obj_get_text(from, "op");

	e->seq = se_obj_get_int(from, "seq", PG_INT64_MAX);
	e->record_id = se_obj_get_text(from, "record_id");
	e->op = op ? op[0] : 'U';
	e->at = at == NULL ? GetCurrentTransactionStartTimestamp()
					   : DatumGetTimestampTz(
							 DirectFunctionCall3(timestamptz_in, CStringGetDatum(at),
												 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	e->body = se_obj_get(from, "body");
	e->old = se_obj_get_text(from, "old") ? se_obj_get(from, "old") : NULL;
	e->context = se_obj_get_text(from, "context") ? se_obj_get(from, "context") : NULL;
}

/* (event, step, state, method, target, body, message) of the first step that may change something. */
static void
put_event(ReturnSetInfo *rsinfo, int n, Preview *p, SeDelivery *d)
{
	Datum values[NEVENT_COLUMNS] = {0};
	bool nulls[NEVENT_COLUMNS];
	SeRendered r;
	ListCell *cell;

	memset(nulls, true, sizeof(nulls));
	memset(&r, 0, sizeof(r));
	r.status = SE_RENDER_SKIP;
	values[0] = Int32GetDatum(n);
	nulls[0] = false;
	foreach (cell, p->object->plan[d->change])
	{
		const SeOperation *op = lfirst(cell);

		if (!se_has_effect(op))
			continue;
		se_render_ahead(p->route.system->manifest, op, d->ctx, se_context_refs(p->route.system),
						&r);
		put_text(values, nulls, 1, op->name);
		if (r.status != SE_RENDER_SKIP)
			break;
	}
	put_text(values, nulls, 2, state_word(&r));
	if (r.status == SE_RENDER_OK)
	{
		put_text(values, nulls, 3, r.request.method);
		put_text(values, nulls, 4, r.request.target);
		if (r.request.body != NULL)
			put_text(values, nulls, 5,
					 pg_any_to_server(pnstrdup(r.request.body, r.request.body_len),
									  (int) r.request.body_len, PG_UTF8));
	}
	put_text(values, nulls, 6, explain(&r));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A record with fields that are about to change. */
static Jsonb *
as_it_would_be(Jsonb *body, Jsonb *with)
{
	if (body == NULL || with == NULL)
		return body;
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(body), JsonbPGetDatum(with)));
}

/*
 * sync._preview_events(system, object, events): what each of an array of events (record_id, op, body,
 * old, seq, at, context, unbound, with) would send now: a row for each, in order. Without a body: the
 * record's own, with what `with` says of it.
 */
PGDLLEXPORT Datum
se_preview_events(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Jsonb *events = PG_GETARG_JSONB_P(2);
	MemoryContext each =
		AllocSetContextCreate(CurrentMemoryContext, "sync_ext preview", ALLOCSET_DEFAULT_SIZES);
	Preview p;

	open_preview(&p, fcinfo);
	choose_object(&p);
	for (uint32 i = 0; JB_ROOT_IS_ARRAY(events) && i < JB_ROOT_COUNT(events); i++)
	{
		MemoryContext old = MemoryContextSwitchTo(each);
		SeDelivery d = {0};
		Jsonb *event = JsonbValueToJsonb(getIthJsonbValueFromContainer(&events->root, i));

		CHECK_FOR_INTERRUPTS();
		read_event(&d.event, event);
		if (d.event.body == NULL && d.event.record_id != NULL)
			d.event.body = as_it_would_be(se_record_body(p.route.object_id, d.event.record_id),
										  se_obj_get(event, "with"));
		if (d.event.record_id != NULL)
		{
			build_delivery(&p, &d, se_obj_get(event, "unbound") != NULL);
			put_event(rsinfo, (int) i + 1, &p, &d);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(each);
	}
	close_preview(&p);
	return (Datum) 0;
}

/* ---- what is shown to readers of a table only ---- */

/*
 * sync._for_reader(object, call, args): what sync._reader_<call>(args) answers as the extension's owner,
 * for a caller who may read the object's table. It holds bodies, which not every operator may see.
 */
PGDLLEXPORT Datum
se_for_reader(PG_FUNCTION_ARGS)
{
	MemoryContext caller_cxt = CurrentMemoryContext;
	char *object = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *call = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Oid types[1] = {JSONBOID};
	Datum values[1] = {PG_GETARG_DATUM(2)};
	Jsonb *answer = NULL;
	Oid caller;
	int context;
	bool isnull;
	Datum value;

	GetUserIdAndSecContext(&caller, &context);
	SetUserIdAndSecContext(se_function_owner(fcinfo->flinfo->fn_oid),
						   context | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	se_registry_load();
	if (se_object_id(object) == 0)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_OBJECT),
						errmsg("object \"%s\" does not exist", object)));
	check_may_read(se_object_id(object), caller);
	if (SPI_execute_with_args(psprintf("SELECT sync.%s($1)",
									   quote_identifier(psprintf("_reader_%s", call))),
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not ask for \"%s\"", call);
	value = se_spi_datum(0, 1, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(caller_cxt);

		answer = DatumGetJsonbPCopy(value);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	SetUserIdAndSecContext(caller, context);
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(answer);
}
