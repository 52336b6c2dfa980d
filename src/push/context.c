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
#include "core/lookup.h"
#include "core/rows.h"
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
	se_stale_begin();
	se_identity_begin();
	se_mask_begin();
}

/* Whether a change of the system itself was applied to the row since the event. */
static bool
is_stale(const SeDelivery *d, const Binding *b)
{
	return b->applied_seq > d->event.seq && !d->route->financial && d->event.op != 'D';
}

static void
load_stale(SeDelivery **deliveries, int n)
{
	SeDelivery **stale = palloc(sizeof(SeDelivery *) * n);
	int64 last_seq = 0;
	int nstale = 0;

	for (int i = 0; i < n; i++)
	{
		if (!is_stale(deliveries[i], &bindings[i]))
			continue;
		stale[nstale++] = deliveries[i];
		last_seq = Max(last_seq, bindings[i].applied_seq);
	}
	if (nstale > 0)
		se_stale_load(stale, nstale, last_seq);
}

/* Columns of sync.external_id and sync.mirror. */
enum
{
	EXTERNAL_REMOTE_ID = 4,
	EXTERNAL_NUMBER = 5,
	EXTERNAL_VERSION = 6,
	MIRROR_RAW = 6,
	MIRROR_APPLIED_SEQ = 10
};

static void
read_mirror(SeLookup *mirror, const SeDelivery *d, Binding *b)
{
	Datum keys[3] = {Int32GetDatum(d->route->system->id), Int32GetDatum(d->event.object_id),
					 CStringGetTextDatum(b->remote_id)};
	bool isnull;
	Datum applied_seq;

	if (!se_lookup_find(mirror, keys))
		return;
	b->raw = (Jsonb *) se_lookup_copy(mirror, MIRROR_RAW);
	applied_seq = se_lookup_datum(mirror, MIRROR_APPLIED_SEQ, &isnull);
	b->applied_seq = isnull ? 0 : DatumGetInt64(applied_seq);
}

/* Bindings and mirrors of a batch. */
void
se_context_preload(SeDelivery **deliveries, int n)
{
	SeLookup external;
	SeLookup mirror;

	loaded = deliveries;
	nloaded = n;
	bindings = palloc0(sizeof(Binding) * Max(n, 1));
	se_lookup_open(&external, "external_id", "external_id_pkey", 3);
	se_lookup_open(&mirror, "mirror", "mirror_pkey", 3);
	for (int i = 0; i < n; i++)
	{
		SeDelivery *d = deliveries[i];
		Binding *b = &bindings[i];
		Datum keys[3] = {Int32GetDatum(d->event.object_id), CStringGetTextDatum(d->event.record_id),
						 Int32GetDatum(d->route->system->id)};

		d->batch_index = i;
		if (!se_lookup_find(&external, keys))
			continue;
		b->remote_id = se_lookup_text(&external, EXTERNAL_REMOTE_ID);
		b->number = se_lookup_text(&external, EXTERNAL_NUMBER);
		b->version = se_lookup_text(&external, EXTERNAL_VERSION);
		read_mirror(&mirror, d, b);
	}
	se_lookup_close(&mirror);
	se_lookup_close(&external);
	load_stale(deliveries, n);
	se_mask_load(deliveries, n);
}

static Binding *
binding_of(SeDelivery *d)
{
	if (d->batch_index < nloaded && loaded[d->batch_index] == d)
		return &bindings[d->batch_index];
	return NULL;
}

/*
 * The body to send. An event without its row (too large) is replaced by the row as it stands; one
 * that is older than a change of this system that was applied since takes in what that one set. What
 * is in conflict with the system is said as it says it.
 */
static Jsonb *
current_body(SeDelivery *d, const Binding *b)
{
	Jsonb *body = d->event.body;

	if (d->event.op == 'K')
		body = se_record_body(d->event.object_id, d->event.record_id);
	else if (is_stale(d, b))
		body = se_stale_body(d, d->event.body);
	return d->event.op == 'D' ? body : se_mask_body(d, body);
}

static const char *
change_word(SeChange change)
{
	return change == SE_CREATE ? "create" : change == SE_UPDATE ? "update" : "delete";
}

/*
 * What an event is called where it is the cause of something; its correlation id, too, when its
 * application gave it none. NULL before an adoption, when nothing is sent.
 */
char *
se_event_id(const SeEvent *event)
{
	char id[64];
	int len = (int) strnlen(se_hub_id, 8);

	if (len == 0)
		return NULL;
	memcpy(id, se_hub_id, len);
	id[len++] = '-';
	len += pg_ltoa(event->incarnation, id + len);
	id[len++] = '-';
	len += pg_lltoa(event->seq, id + len);
	return pnstrdup(id, len);
}

static Jsonb *
event_object(const SeEvent *event)
{
	SeObjBuilder b;

	char *id = se_event_id(event);
	char *correlation_id =
		event->context != NULL ? se_obj_get_text(event->context, "correlation_id") : NULL;

	se_obj_begin(&b);
	se_obj_text(&b, "at", timestamptz_to_str(event->at));
	se_obj_text(&b, "id", id);
	se_obj_int(&b, "seq", event->seq);
	se_obj_value(&b, "context", event->context);
	se_obj_text(&b, "correlation_id", correlation_id != NULL ? correlation_id : id);
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

/* The values that the row had in the fields that are set in place of its delete. */
static Jsonb *
values_before(Jsonb *body, Jsonb *fields)
{
	JsonbIterator *it = JsonbIteratorInit(&fields->root);
	JsonbIteratorToken token;
	JsonbValue key;
	SeObjBuilder b;

	se_obj_begin(&b);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		char *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		se_obj_value(&b, name, se_obj_get(body, name));
	}
	return se_obj_end(&b);
}

/*
 * A delete of ours may be an update over there, which sets fields of the row as it last was. Sets
 * `old` and `body` when it is.
 */
static void
take_deactivation(SeDelivery *d, const Binding *binding, Jsonb **body, Jsonb **old)
{
	Jsonb *fields;

	if (se_delete_policy(d, &fields) != SE_PUSH_DEACTIVATE || *body == NULL ||
		binding->remote_id == NULL || (d->step != NULL && d->change == SE_DELETE))
		return;
	d->change = SE_UPDATE;
	*old = values_before(*body, fields);
	*body = DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(*body), JsonbPGetDatum(fields)));
}

/* Sets remote_id, change (unless a plan is under way) and ctx. */
void
se_context_build(SeDelivery *d)
{
	static const Binding none = {0};
	const Binding *binding = binding_of(d);
	SeObjBuilder b;
	Jsonb *body;
	Jsonb *before = d->event.old;
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
	if (d->event.op == 'D')
		take_deactivation(d, binding, &body, &before);
	/* In the order of jsonb, by length and then by bytes: there is nothing to sort then. */
	se_obj_begin(&b);
	se_obj_text(&b, "id", d->event.record_id);
	se_obj_text(&b, "op", change_word(d->change));
	se_obj_value(&b, "new", body);
	se_obj_value(&b, "old", before);
	se_obj_value(&b, "event", event_object(&d->event));
	se_obj_value(&b, "param", d->route->system->param);
	se_obj_value(&b, "entity", d->route->system->entity);
	se_obj_value(&b, "mirror", d->record_there != NULL ? d->record_there : binding->raw);
	se_obj_text(&b, "object", d->route->object);
	se_obj_value(&b, "remote", remote_object(binding));
	if (before != NULL)
		se_obj_value(&b, "changed", se_obj_keys(before));
	se_obj_value(&b, "response", d->answer);
	se_obj_value(&b, "withheld", se_withheld(d));
	old = MemoryContextSwitchTo(d->attempt_cxt);
	d->ctx = se_obj_end(&b);
	d->remote_id = binding->remote_id ? pstrdup(binding->remote_id) : NULL;
	MemoryContextSwitchTo(old);
}

/* ---- references ---- */

/* The record that stands for one that was merged away; NULL: it was not. */
static char *
survivor_of(int object_id, const char *record_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT4OID, TEXTOID};
	Datum values[2];
	char *survivor = NULL;

	if (se_rows_none("merge"))
		return NULL;
	values[0] = Int32GetDatum(object_id);
	values[1] = CStringGetTextDatum(record_id);
	if (se_spi_execute(
			&plan,
			"WITH RECURSIVE s (id, n) AS (SELECT $2, 0 UNION ALL "
			"SELECT m.survivor::text, s.n + 1 FROM s JOIN sync.merge m ON m.object_id = $1 "
			"AND m.loser = s.id AND m.undone_at IS NULL WHERE s.n < 100) "
			"SELECT s.id FROM s WHERE s.n > 0 ORDER BY s.n DESC LIMIT 1",
			2, types, values, NULL, true, 1) > 0)
		survivor = se_spi_text(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return survivor;
}

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
	while (se_spi_execute(&plan,
						  "SELECT e.remote_id, m.raw FROM sync.external_id e "
						  "LEFT JOIN sync.mirror m USING (system_id, object_id, remote_id) "
						  "WHERE e.system_id = $1 AND e.object_id = $2 AND e.record_id = $3",
						  3, types, values, NULL, true, 1) == 0)
	{
		record_id = survivor_of(object_id, record_id);
		if (record_id == NULL)
			return false;
		values[2] = CStringGetTextDatum(record_id);
	}
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
					   "AND object_id = $2 AND remote_id = $3 UNION ALL "
					   "SELECT record_id FROM sync.external_alias WHERE system_id = $1 "
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
