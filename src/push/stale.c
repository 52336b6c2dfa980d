/*
 * stale.c: events that are older than a change of the same record that was pulled since.
 *
 * Sent as they are, they would take the pulled change back at the system that made it. Sent as the
 * row stands now, they would tell of later changes of ours too, and the deliveries of those would
 * then take the record back in time. So an event keeps its own state, but for the columns that the
 * system's own changes have set since.
 *
 * A request that was claimed before is seen with what was known then: it is repeated as it was.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"

typedef struct Pulled /* an event that a pull has made */
{
	SeEvent event;
	int system_id;
} Pulled;

static Pulled *pulled;
static int npulled;

void
se_stale_begin(void)
{
	npulled = 0;
}

/* Reads what pulls have changed since the oldest of the deliveries; one scan of that part of the log. */
void
se_stale_load(SeDelivery **deliveries, int n, int64 last_seq)
{
	static SPIPlanPtr plan = NULL;
	Oid types[5] = {INT8OID, INT8OID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID};
	Datum values[5];
	Datum *systems = palloc(sizeof(Datum) * n);
	Datum *objects = palloc(sizeof(Datum) * n);
	Datum *records = palloc(sizeof(Datum) * n);
	int64 first_seq = last_seq;

	for (int i = 0; i < n; i++)
	{
		first_seq = Min(first_seq, deliveries[i]->event.seq);
		systems[i] = Int32GetDatum(deliveries[i]->route->system->id);
		objects[i] = Int32GetDatum(deliveries[i]->event.object_id);
		records[i] = CStringGetTextDatum(deliveries[i]->event.record_id);
	}
	values[0] = Int64GetDatum(first_seq);
	values[1] = Int64GetDatum(last_seq);
	values[2] = PointerGetDatum(construct_array(systems, n, INT4OID, 4, true, TYPALIGN_INT));
	values[3] = PointerGetDatum(construct_array(objects, n, INT4OID, 4, true, TYPALIGN_INT));
	values[4] = PointerGetDatum(construct_array(records, n, TEXTOID, -1, false, TYPALIGN_INT));
	npulled = (int) se_spi_execute(
		&plan,
		"SELECT o.seq, o.at, o.object_id, o.origin, o.record_id, o.body, o.old FROM sync.outbox o "
		"WHERE o.seq > $1 AND o.seq <= $2 AND o.op = 'U' AND o.origin = ANY ($3) "
		"AND o.object_id = ANY ($4) AND o.record_id = ANY ($5) ORDER BY o.seq",
		5, types, values, NULL, true, 0);
	pulled = palloc0(sizeof(Pulled) * (npulled + 1));
	for (int i = 0; i < npulled; i++)
	{
		SeEvent *e = &pulled[i].event;
		Datum value;
		bool isnull;

		e->seq = DatumGetInt64(se_spi_datum(i, 1, &isnull));
		e->at = DatumGetTimestampTz(se_spi_datum(i, 2, &isnull));
		e->object_id = DatumGetInt32(se_spi_datum(i, 3, &isnull));
		pulled[i].system_id = DatumGetInt32(se_spi_datum(i, 4, &isnull));
		e->record_id = se_spi_text(i, 5);
		value = se_spi_datum(i, 6, &isnull);
		e->body = isnull ? NULL : DatumGetJsonbP(value);
		value = se_spi_datum(i, 7, &isnull);
		e->old = isnull ? NULL : DatumGetJsonbP(value);
	}
}

/* The members of `to`, where `changed` names one with its value in `from`. */
static Jsonb *
overlay(Jsonb *to, Jsonb *from, Jsonb *changed)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it = JsonbIteratorInit(&to->root);
	JsonbIteratorToken token;
	JsonbValue v;
	JsonbValue key;
	JsonbValue newer;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_OBJECT)
			pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		else if (token == WJB_KEY)
		{
			key = v;
			(void) JsonbIteratorNext(&it, &v, true);
			pushJsonbValue(&state, WJB_KEY, &key);
			if (getKeyJsonValueFromContainer(&changed->root, key.val.string.val, key.val.string.len,
											 &newer) != NULL &&
				getKeyJsonValueFromContainer(&from->root, key.val.string.val, key.val.string.len,
											 &newer) != NULL)
				v = newer;
			pushJsonbValue(&state, WJB_VALUE, &v);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
se_stale_body(const SeDelivery *d, Jsonb *body)
{
	for (int i = 0; body != NULL && i < npulled; i++)
	{
		const SeEvent *e = &pulled[i].event;

		if (e->seq <= d->event.seq || pulled[i].system_id != d->route->system->id ||
			e->object_id != d->event.object_id || strcmp(e->record_id, d->event.record_id) != 0 ||
			e->body == NULL || e->old == NULL ||
			(d->frozen != NULL && d->first_claim_at != 0 && e->at >= d->first_claim_at))
			continue;
		body = overlay(body, e->body, e->old);
	}
	return body;
}
