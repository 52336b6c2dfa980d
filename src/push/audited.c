/*
 * audited.c: financial deliveries in the audit trail, written with their outcomes.
 *
 * One row for each that has ended, and for each that now needs a person (dead, conflict): what was
 * sent, under which number and for which amount, and what the other system calls it. Rows go past the
 * executor as outcomes do, so what a default would fill in is filled in here.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "capture/capture.h"
#include "core/json.h"
#include "core/rows.h"
#include "push/internal.h"

static const char *const names[] = {"id",
									"at",
									"incarnation",
									"xid",
									"action",
									"object",
									"record_id",
									"system",
									"detail",
									"reason",
									"actor",
									"role_name",
									"correlation_id",
									"application",
									"salt",
									"session_user_name"};

static bool
is_audited(const SeDelivery *d)
{
	return d->route->financial && !d->discarded &&
		   (se_outcome_is_final(d) || d->ending == SE_END_DEAD || d->ending == SE_END_CONFLICT);
}

static int64
next_id(void)
{
	static Oid sequence = InvalidOid;

	if (!OidIsValid(sequence))
		sequence =
			DatumGetObjectId(DirectFunctionCall1(regclassin, CStringGetDatum("sync.audit_seq")));
	return nextval_internal(sequence, false);
}

static Datum
new_salt(void)
{
	pg_uuid_t *salt = palloc(sizeof(pg_uuid_t));

	if (!pg_strong_random(salt->data, UUID_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random values")));
	return UUIDPGetDatum(salt);
}

static const char *
operation(const SeDelivery *d)
{
	switch (d->event.op)
	{
		case 'I':
			return "insert";
		case 'U':
			return "update";
		case 'D':
			return "delete";
	}
	return "key only";
}

/* What the document calls its amount; the canonical model has these two. */
static Jsonb *
amount(const Jsonb *body)
{
	Jsonb *total = se_obj_get(body, "total_amount");

	return total != NULL ? total : se_obj_get(body, "amount");
}

static void
add_value(SeObjBuilder *b, const char *key, Jsonb *value)
{
	if (value != NULL)
		se_obj_value(b, key, value);
}

static void
add_text(SeObjBuilder *b, const char *key, const char *value)
{
	if (value != NULL && value[0] != '\0')
		se_obj_text(b, key, value);
}

static Jsonb *
detail(const SeDelivery *d)
{
	SeObjBuilder b;
	char hash[2 * sizeof(d->hash) + 1] = "";

	se_obj_begin(&b);
	se_obj_text(&b, "delivery", psprintf("%d/" INT64_FORMAT, d->route->id, d->event.seq));
	se_obj_text(&b, "operation", operation(d));
	if (d->event.body != NULL)
	{
		add_value(&b, "number", se_obj_get(d->event.body, "number"));
		add_value(&b, "amount", amount(d->event.body));
		add_value(&b, "currency", se_obj_get(d->event.body, "currency"));
	}
	add_text(&b, "remote_id", d->extract.remote_id ? d->extract.remote_id : d->remote_id);
	add_text(&b, "remote_number", d->extract.remote_number);
	add_text(&b, "code", d->code);
	if (d->attempt_id != 0)
	{
		hex_encode((const char *) d->hash, sizeof(d->hash), hash);
		se_obj_int(&b, "attempt", d->attempt_id);
		se_obj_text(&b, "request_sha256", hash);
	}
	return se_obj_end(&b);
}

static void
put_row(SeArg *c, const SeDelivery *d, TimestampTz now)
{
	const Jsonb *context = d->event.context;
	NameData *user = palloc0(sizeof(NameData));

	namestrcpy(user, "sync_worker");
	se_arg_add(c++, Int64GetDatum(next_id()), false);
	se_arg_add(c++, TimestampTzGetDatum(now), false);
	se_arg_add(c++, Int32GetDatum(se_incarnation()), false);
	se_arg_add(c++, UInt64GetDatum(U64FromFullTransactionId(GetTopFullTransactionId())), false);
	se_arg_text(c++, psprintf("delivery.%s", se_outcome_state(d)));
	se_arg_text(c++, d->route->object);
	se_arg_text(c++, d->event.record_id);
	se_arg_text(c++, d->route->system->name);
	se_arg_json(c++, detail(d));
	se_arg_text(c++, context ? se_obj_get_text(context, "reason") : NULL);
	se_arg_text(c++, context ? se_obj_get_text(context, "actor") : NULL);
	se_arg_text(c++, "none");
	se_arg_text(c++, context ? se_obj_get_text(context, "correlation_id") : NULL);
	se_arg_text(c++, "sync_ext hub");
	se_arg_add(c++, new_salt(), false);
	se_arg_add(c++, NameGetDatum(user), false);
}

bool
se_audit_deliveries(SeDelivery **deliveries, int n)
{
	SeArg columns[lengthof(names)];
	TimestampTz now = GetCurrentTimestamp();
	int rows = 0;

	for (int i = 0; i < n; i++)
		rows += is_audited(deliveries[i]);
	if (rows == 0)
		return false;
	for (size_t i = 0; i < lengthof(columns); i++)
		columns[i] = se_arg_make(rows);
	for (int i = 0; i < n; i++)
	{
		if (is_audited(deliveries[i]))
			put_row(columns, deliveries[i], now);
	}
	se_rows_insert("audit", now, names, columns, lengthof(columns), rows);
	return true;
}
