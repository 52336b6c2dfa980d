/*
 * mask.c: fields of which a system is not to be told our value.
 *
 * While a person decides about a conflict neither side is changed, so requests that are sent for other
 * fields of the record say of that one what the system says itself. The same holds where an app has
 * changed what the system owns, until its owner's value has been read and written.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/rows.h"
#include "core/spi.h"
#include "pull/same.h"
#include "push/internal.h"

typedef struct Mask
{
	int64 conflict_id; /* 0: of a correction */
	int object_id;
	int system_id;
	char *record_id;
	char *field;
	Jsonb *theirs; /* NULL: of the field '*', a delete */
	TimestampTz since;
} Mask;

static Mask *masks;
static int nmasks;

void
se_mask_begin(void)
{
	nmasks = 0;
}

static bool
is_about(const Mask *m, const SeDelivery *d)
{
	return m->object_id == d->event.object_id && m->system_id == d->route->system->id &&
		   strcmp(m->record_id, d->event.record_id) == 0;
}

void
se_mask_load(SeDelivery **deliveries, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID};
	SeArg columns[3];
	Datum values[3];

	if (n == 0 || (se_rows_none("conflict_entry") && se_rows_none("correction")))
		return;
	for (int i = 0; i < 3; i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		se_arg_add(&columns[0], Int32GetDatum(deliveries[i]->route->system->id), false);
		se_arg_add(&columns[1], Int32GetDatum(deliveries[i]->event.object_id), false);
		se_arg_text(&columns[2], deliveries[i]->event.record_id);
	}
	values[0] = se_arg_array(&columns[0], INT4OID);
	values[1] = se_arg_array(&columns[1], INT4OID);
	values[2] = se_arg_array(&columns[2], TEXTOID);
	nmasks = (int) se_spi_execute(
		&plan,
		"SELECT c.id, c.object_id, c.system_id, c.record_id, c.field, c.remote_value, c.opened_at"
		" FROM sync.conflict_entry c WHERE c.resolved_at IS NULL AND c.field IS NOT NULL"
		" AND c.remote_value IS NOT NULL AND c.system_id = ANY ($1) AND c.object_id = ANY ($2)"
		" AND c.record_id = ANY ($3)"
		" UNION ALL SELECT 0, k.object_id, k.system_id, k.record_id, k.field, m.fields -> k.field,"
		" k.at FROM sync.correction k JOIN sync.external_id x USING (object_id, record_id, system_id)"
		" JOIN sync.mirror m USING (system_id, object_id, remote_id)"
		" WHERE k.object_id = ANY ($2) AND k.record_id = ANY ($3)"
		" AND (k.field = '*' OR (m.fields ? k.field AND k.system_id = ANY ($1)))",
		3, types, values, NULL, true, 0);
	masks = palloc(sizeof(Mask) * Max(nmasks, 1));
	for (int i = 0; i < nmasks; i++)
	{
		bool isnull;
		Datum theirs;
		Mask *m = &masks[i];

		m->conflict_id = DatumGetInt64(se_spi_datum(i, 1, &isnull));
		m->object_id = DatumGetInt32(se_spi_datum(i, 2, &isnull));
		m->system_id = DatumGetInt32(se_spi_datum(i, 3, &isnull));
		m->record_id = se_spi_text(i, 4);
		m->field = se_spi_text(i, 5);
		theirs = se_spi_datum(i, 6, &isnull);
		m->theirs = isnull ? NULL : se_obj_copy(DatumGetJsonbP(theirs));
		m->since = DatumGetTimestampTz(se_spi_datum(i, 7, &isnull));
	}
}

static Jsonb *
with_member(Jsonb *object, const char *key, Jsonb *value)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	se_obj_value(&b, key, value);
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(object), JsonbPGetDatum(se_obj_end(&b))));
}

/* A request that was claimed before is repeated as it was. */
Jsonb *
se_mask_body(const SeDelivery *d, Jsonb *body)
{
	for (int i = 0; body != NULL && i < nmasks; i++)
	{
		if (is_about(&masks[i], d) && masks[i].theirs != NULL &&
			se_obj_get(body, masks[i].field) != NULL &&
			!(d->frozen != NULL && d->first_claim_at != 0 && d->first_claim_at < masks[i].since))
			body = with_member(body, masks[i].field, masks[i].theirs);
	}
	return body;
}

static bool
is_masked(const SeDelivery *d, const char *field)
{
	for (int i = 0; i < nmasks; i++)
	{
		if (is_about(&masks[i], d) && strcmp(masks[i].field, field) == 0)
			return true;
	}
	return false;
}

/*
 * What the system owns is left out of partial updates: it may have changed it since. Not, though, what
 * the event itself has changed: that was an act of the hub, a person's decision or an erasure, of which
 * the owner is to be told. (An app's change is masked until its owner's value is back.)
 */
Jsonb *
se_withheld(const SeDelivery *d)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;
	int n = 0;

	if (d->route->owned == NULL)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	it = JsonbIteratorInit(&d->route->owned->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char *field;

		if (token != WJB_ELEM)
			continue;
		field = pnstrdup(v.val.string.val, v.val.string.len);
		if (d->event.old != NULL && se_obj_get(d->event.old, field) != NULL && !is_masked(d, field))
			continue;
		pushJsonbValue(&state, WJB_ELEM, &v);
		n++;
	}
	v = *pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return n > 0 ? JsonbValueToJsonb(&v) : NULL;
}

/* An app has deleted what a system owns; the record is read there and made anew here. */
bool
se_mask_hides_delete(const SeDelivery *d)
{
	for (int i = 0; i < nmasks; i++)
	{
		const Mask *m = &masks[i];

		if (strcmp(m->field, "*") == 0 && m->object_id == d->event.object_id &&
			strcmp(m->record_id, d->event.record_id) == 0)
			return true;
	}
	return false;
}

/* Our side of a conflict is another value now; when it is theirs, there is no conflict any more. */
static void
note_value(const Mask *m, const SeEvent *event, Jsonb *ours)
{
	static SPIPlanPtr plan = NULL;
	Oid types[5] = {INT8OID, JSONBOID, TIMESTAMPTZOID, INT4OID, BOOLOID};
	Datum values[5] = {Int64GetDatum(m->conflict_id), JsonbPGetDatum(ours),
					   TimestampTzGetDatum(event->at), Int32GetDatum(event->origin),
					   BoolGetDatum(se_jsonb_same(ours, m->theirs))};

	se_spi_execute(&plan,
				   "WITH c AS (UPDATE sync.conflict_entry SET hub_value = $2, hub_at = $3,"
				   " hub_origin = $4, resolved_at = CASE WHEN $5 THEN clock_timestamp() END,"
				   " reason = CASE WHEN $5 THEN 'both sides say the same' END"
				   " WHERE id = $1 AND resolved_at IS NULL AND coalesce(hub_at, opened_at) < $3"
				   " RETURNING *)"
				   " SELECT sync._audit('conflict.settled', o.name, c.record_id, y.name,"
				   " jsonb_build_object('conflicts', c.id, 'field', c.field), c.reason)"
				   " FROM c JOIN sync.object o ON o.id = c.object_id"
				   " JOIN sync.system y ON y.id = c.system_id WHERE $5",
				   5, types, values, NULL, false, 0);
	SPI_freetuptable(SPI_tuptable);
}

void
se_mask_note(SeDelivery **deliveries, int n)
{
	for (int i = 0; i < n; i++)
	{
		const SeDelivery *d = deliveries[i];

		for (int k = 0; k < nmasks; k++)
		{
			const Mask *m = &masks[k];
			Jsonb *ours;

			if (m->conflict_id == 0 || !is_about(m, d) || d->event.origin < 0 ||
				d->event.at <= m->since || d->event.body == NULL || d->event.old == NULL ||
				se_obj_get(d->event.old, m->field) == NULL)
				continue;
			ours = se_obj_get(d->event.body, m->field);
			if (ours != NULL)
				note_value(m, &d->event, ours);
		}
	}
}
