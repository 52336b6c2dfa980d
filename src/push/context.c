/*
 * context.c: the document that a request is rendered over, and references to other records.
 *
 * Everything here runs in the claim's transaction.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"
#include "push/record_body.h"

typedef struct Binding /* what is known of a delivery's record at the other side */
{
	char *remote_id;
	char *number;
	char *version;
	Jsonb *raw;
	int64 applied_seq;
} Binding;

static SeDelivery **loaded;
static Binding *bindings;
static int nloaded;

void
se_context_begin(void)
{
	nloaded = 0;
}

static Datum
int_array(SeDelivery **deliveries, int n, bool systems)
{
	Datum *values = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		values[i] = Int32GetDatum(systems ? deliveries[i]->route->system->id
										  : deliveries[i]->event.object_id);
	return PointerGetDatum(construct_array(values, n, INT4OID, 4, true, TYPALIGN_INT));
}

/* Bindings and mirrors of a batch, in one query. */
void
se_context_preload(SeDelivery **deliveries, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID};
	Datum values[3];
	Datum *ids = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		ids[i] = CStringGetTextDatum(deliveries[i]->event.record_id);
	values[0] = int_array(deliveries, n, true);
	values[1] = int_array(deliveries, n, false);
	values[2] = PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false, TYPALIGN_INT));
	se_spi_execute(
		&plan,
		"SELECT k.i, e.remote_id, e.remote_number, e.remote_version, m.raw, m.applied_seq "
		"FROM unnest($1, $2, $3) WITH ORDINALITY k(s, o, r, i) "
		"JOIN sync.external_id e ON e.system_id = k.s AND e.object_id = k.o "
		"AND e.record_id = k.r "
		"LEFT JOIN sync.mirror m ON m.system_id = k.s AND m.object_id = k.o "
		"AND m.remote_id = e.remote_id",
		3, types, values, NULL, true, 0);
	loaded = deliveries;
	nloaded = n;
	bindings = palloc0(sizeof(Binding) * n);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool isnull;
		Binding *b = &bindings[DatumGetInt64(se_spi_datum(row, 1, &isnull)) - 1];
		Datum value;

		b->remote_id = se_spi_text(row, 2);
		b->number = se_spi_text(row, 3);
		b->version = se_spi_text(row, 4);
		value = se_spi_datum(row, 5, &isnull);
		b->raw = isnull ? NULL : DatumGetJsonbP(value);
		value = se_spi_datum(row, 6, &isnull);
		b->applied_seq = isnull ? 0 : DatumGetInt64(value);
	}
}

static Binding *
binding_of(SeDelivery *d)
{
	for (int i = 0; i < nloaded; i++)
	{
		if (loaded[i] == d)
			return &bindings[i];
	}
	return NULL;
}

/*
 * The body to send. An event without its row (too large), or one that is older than a change of
 * this system that was applied since, is replaced by the row as it stands.
 */
static Jsonb *
current_body(SeDelivery *d, const Binding *b)
{
	bool stale = b->applied_seq > d->event.seq && !d->route->financial;
	Jsonb *now;

	if (d->event.op == 'D' || (d->event.op != 'K' && !stale))
		return d->event.body;
	now = se_record_body(d->event.object_id, d->event.record_id);
	return now != NULL || d->event.op == 'K' ? now : d->event.body;
}

static const char *
change_word(SeChange change)
{
	return change == SE_CREATE ? "create" : change == SE_UPDATE ? "update" : "delete";
}

static Jsonb *
event_object(const SeEvent *event)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	se_obj_int(&b, "seq", event->seq);
	se_obj_text(&b, "at", timestamptz_to_str(event->at));
	se_obj_value(&b, "context", event->context);
	return se_obj_end(&b);
}

static Jsonb *
remote_object(const Binding *binding)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	se_obj_text(&b, "id", binding->remote_id);
	se_obj_text(&b, "number", binding->number);
	se_obj_text(&b, "version", binding->version);
	return se_obj_end(&b);
}

/* Sets remote_id, change (unless a plan is under way) and ctx. */
void
se_context_build(SeDelivery *d)
{
	static const Binding none = {0};
	const Binding *binding = binding_of(d);
	SeObjBuilder b;
	Jsonb *body;
	MemoryContext old;

	if (binding == NULL)
		binding = &none;
	body = current_body(d, binding);
	if (body == NULL && d->event.op == 'K')
	{
		/* The row that was too large for an event is gone: so it was deleted. */
		d->event.op = 'D';
		body = d->event.body;
	}
	if (d->step == NULL)
		d->change = d->event.op == 'D'			 ? SE_DELETE
					: binding->remote_id != NULL ? SE_UPDATE
												 : SE_CREATE;
	else
		se_delivery_find_plan(d);
	se_obj_begin(&b);
	se_obj_text(&b, "object", d->route->object);
	se_obj_text(&b, "id", d->event.record_id);
	se_obj_text(&b, "op", change_word(d->change));
	se_obj_value(&b, "event", event_object(&d->event));
	se_obj_value(&b, "new", body);
	if (d->event.old != NULL)
	{
		se_obj_value(&b, "old", d->event.old);
		se_obj_value(&b, "changed", se_obj_keys(d->event.old));
	}
	se_obj_value(&b, "remote", remote_object(binding));
	se_obj_value(&b, "mirror", d->record_there != NULL ? d->record_there : binding->raw);
	se_obj_value(&b, "response", d->answer);
	se_obj_value(&b, "param", d->route->system->param);
	se_obj_value(&b, "entity", d->route->system->entity);
	old = MemoryContextSwitchTo(d->attempt_cxt);
	d->ctx = se_obj_end(&b);
	d->remote_id = binding->remote_id ? pstrdup(binding->remote_id) : NULL;
	MemoryContextSwitchTo(old);
}

/* ---- references ---- */

static bool
to_remote(void *arg, const char *object, const char *by, const char *key, bool want_raw,
		  char **remote_id, Jsonb **raw)
{
	static SPIPlanPtr plan = NULL;
	SeSystem *system = arg;
	Oid types[3] = {INT4OID, INT4OID, TEXTOID};
	Datum values[3];
	int object_id = se_object_id(object);
	const char *record_id = key;
	bool isnull;

	if (raw != NULL)
		*raw = NULL;
	if (object_id == 0)
		return false;
	if (by != NULL)
		record_id = se_record_by_column(object_id, by, key);
	if (record_id == NULL)
		return false;
	values[0] = Int32GetDatum(system->id);
	values[1] = Int32GetDatum(object_id);
	values[2] = CStringGetTextDatum(record_id);
	if (se_spi_execute(&plan,
					   "SELECT e.remote_id, m.raw FROM sync.external_id e "
					   "LEFT JOIN sync.mirror m USING (system_id, object_id, remote_id) "
					   "WHERE e.system_id = $1 AND e.object_id = $2 AND e.record_id = $3",
					   3, types, values, NULL, true, 1) == 0)
		return false;
	*remote_id = se_spi_text(0, 1);
	if (want_raw && raw != NULL)
	{
		Datum value = se_spi_datum(0, 2, &isnull);

		*raw = isnull ? NULL : se_obj_copy(DatumGetJsonbP(value));
	}
	return true;
}

static bool
to_ours(void *arg, const char *object, const char *by, const char *remote_id, char **record_id)
{
	static SPIPlanPtr plan = NULL;
	SeSystem *system = arg;
	Oid types[3] = {INT4OID, INT4OID, TEXTOID};
	Datum values[3];
	int object_id = se_object_id(object);

	if (object_id == 0)
		return false;
	if (by != NULL)
	{
		*record_id = se_record_by_column(object_id, by, remote_id);
		return *record_id != NULL;
	}
	values[0] = Int32GetDatum(system->id);
	values[1] = Int32GetDatum(object_id);
	values[2] = CStringGetTextDatum(remote_id);
	if (se_spi_execute(&plan,
					   "SELECT record_id FROM sync.external_id WHERE system_id = $1 "
					   "AND object_id = $2 AND remote_id = $3",
					   3, types, values, NULL, true, 1) == 0)
		return false;
	*record_id = se_spi_text(0, 1);
	return true;
}

const SeRefs *
se_context_refs(SeSystem *system)
{
	static SeRefs refs;

	refs.to_remote = to_remote;
	refs.to_ours = to_ours;
	refs.arg = system;
	return &refs;
}
