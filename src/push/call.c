/*
 * call.c: one-off API calls that were asked for with sync.call().
 *
 * A call is an operation of the connector, "object.operation", rendered over the caller's
 * parameters. It is durable like a delivery: claimed (state 'sent', flushed) before its first byte
 * leaves, repeated under the same key where the vendor honours one, otherwise left 'ambiguous' for
 * the caller to decide.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/json.h"
#include "core/spi.h"
#include "govern/retry.h"
#include "push/internal.h"
#include "push/push.h"

#define BATCH 50

typedef struct Call
{
	dlist_node node;
	MemoryContext cxt;
	int64 id;
	SeSystem *system;
	char *operation;
	Jsonb *params;
	int attempts;
	char key[40];
	SeRendered rendered;
	const SeOperation *op;
	SeExchange exchange;
	/* the answer */
	const char *state;
	int status;
	char *code;
	char *message;
	Jsonb *response;
	TimestampTz due_at;
} Call;

static bool look = true;
static TimestampTz next_due = DT_NOEND;
static MemoryContext calls_cxt = NULL;
static List *in_memory = NIL; /* Call * */
static dlist_head answered = DLIST_STATIC_INIT(answered);

void
se_call_look(void)
{
	look = true;
}

void
se_call_reset(void)
{
	if (calls_cxt != NULL)
		MemoryContextDelete(calls_cxt);
	calls_cxt = NULL;
	in_memory = NIL;
	dlist_init(&answered);
	look = true;
	next_due = DT_NOEND;
}

TimestampTz
se_call_next_due(void)
{
	return next_due;
}

static void
answer(Call *call, const char *state, const char *code, const char *message)
{
	call->state = state;
	call->code = code ? MemoryContextStrdup(call->cxt, code) : NULL;
	call->message = message ? MemoryContextStrdup(call->cxt, message) : NULL;
	dlist_push_tail(&answered, &call->node);
}

static void
call_done(SeExchange *exchange, SeReply *reply)
{
	Call *call = exchange->arg;
	SeSystem *system = call->system;
	const SeVerdict *verdict = &reply->verdict;
	const char *message = verdict->message == NULL
							  ? NULL
							  : se_bounded_text(system, verdict->message, strlen(verdict->message));
	TimestampTz now = GetCurrentTimestamp();

	call->status = (int) reply->answer.status;
	if (reply->answer.json != NULL)
	{
		char *text =
			se_system_redact(system, reply->answer.body, reply->answer.body_len, 1024 * 1024);
		char *error = NULL;
		MemoryContext old = MemoryContextSwitchTo(call->cxt);

		call->response = se_parse_json(text, strlen(text), &error);
		MemoryContextSwitchTo(old);
	}
	switch (verdict->outcome)
	{
		case SE_DONE:
			answer(call, "done", NULL, NULL);
			return;
		case SE_REJECTED:
			answer(call, "failed", verdict->code, message);
			return;
		case SE_THROTTLED:
		case SE_AUTH:
			call->due_at = TimestampTzPlusMilliseconds(now, 1000);
			answer(call, "queued", verdict->code, message);
			return;
		case SE_AMBIGUOUS:
			call->attempts++;
			call->due_at = TimestampTzPlusMilliseconds(
				now, se_retry_backoff_ms(call->attempts, pg_prng_double(&pg_global_prng_state)));
			if (call->attempts < system->max_attempts &&
				(call->op->kind == SE_OP_READ || call->op->kind == SE_OP_LOOKUP ||
				 (call->op->takes_key && system->manifest->idempotency.header != NULL)))
				answer(call, "queued", verdict->code, message);
			else
				answer(call, "ambiguous", verdict->code, message);
			return;
	}
}

/* "object.operation" of the manifest. */
static const SeOperation *
find_operation(Call *call)
{
	char *name = pstrdup(call->operation);
	char *dot = strchr(name, '.');
	const SeManifestObject *object;

	if (dot == NULL)
		return NULL;
	*dot = '\0';
	object = se_manifest_object(call->system->manifest, name);
	return object == NULL ? NULL : se_object_operation(object, dot + 1);
}

static bool
render_call(Call *call)
{
	MemoryContext old = MemoryContextSwitchTo(call->cxt);
	SeObjBuilder b;
	SeObjBuilder remote;
	Jsonb *ctx;

	call->op = find_operation(call);
	if (call->op == NULL)
	{
		MemoryContextSwitchTo(old);
		answer(call, "failed", "unknown_operation", "the connector has no such operation");
		return false;
	}
	se_obj_begin(&remote);
	se_obj_text(&remote, "id", se_obj_get_text(call->params, "remote_id"));
	se_obj_begin(&b);
	se_obj_value(&b, "new", call->params);
	se_obj_text(&b, "id", se_obj_get_text(call->params, "id"));
	se_obj_value(&b, "remote", se_obj_end(&remote));
	se_obj_value(&b, "param", call->system->param);
	se_obj_value(&b, "entity", call->system->entity);
	ctx = se_obj_end(&b);
	se_render(call->system->manifest, call->op, ctx, se_context_refs(call->system),
			  &call->rendered);
	MemoryContextSwitchTo(old);
	if (call->rendered.status == SE_RENDER_OK)
		return true;
	answer(call, "failed", call->rendered.code ? call->rendered.code : "not_rendered",
		   call->rendered.message ? call->rendered.message : "there is nothing to send");
	return false;
}

static bool
is_loaded(int64 id)
{
	ListCell *cell;

	foreach (cell, in_memory)
	{
		if (((Call *) lfirst(cell))->id == id)
			return true;
	}
	return false;
}

static Call *
make_call(uint64 row)
{
	MemoryContext cxt = AllocSetContextCreate(calls_cxt, "sync_ext call", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Call *call = palloc0(sizeof(Call));
	bool isnull;

	call->cxt = cxt;
	call->id = DatumGetInt64(se_spi_datum(row, 1, &isnull));
	call->system = se_system_by_id(DatumGetInt32(se_spi_datum(row, 2, &isnull)));
	call->operation = se_spi_text(row, 3);
	call->params = se_obj_copy(DatumGetJsonbP(se_spi_datum(row, 4, &isnull)));
	call->attempts = DatumGetInt32(se_spi_datum(row, 5, &isnull));
	snprintf(call->key, sizeof(call->key), "sync-call-%.8s-" INT64_FORMAT, se_hub_id, call->id);
	MemoryContextSwitchTo(calls_cxt);
	in_memory = lappend(in_memory, call);
	MemoryContextSwitchTo(old);
	return call;
}

/* Nobody can tell what became of it: sent, unanswered, and neither a question nor under a key. */
static bool
is_lost(const Call *call)
{
	return call->op->kind != SE_OP_READ && call->op->kind != SE_OP_LOOKUP &&
		   !(call->op->takes_key && call->system->manifest->idempotency.header != NULL);
}

/* One due row: rendered and in memory, or answered already; NULL: not to be sent now. */
static Call *
prepare_call(uint64 row, TimestampTz now, int taken)
{
	bool isnull;
	SeSystem *system = se_system_by_id(DatumGetInt32(se_spi_datum(row, 2, &isnull)));
	bool was_sent = strcmp(se_spi_text(row, 6), "sent") == 0;
	Call *call;

	if (is_loaded(DatumGetInt64(se_spi_datum(row, 1, &isnull))) || system == NULL ||
		se_system_capacity(system, 1, now) <= taken)
		return NULL;
	call = make_call(row);
	if (!render_call(call))
		return NULL;
	if (was_sent && is_lost(call))
	{
		answer(call, "ambiguous", "no_answer",
			   "the server stopped before the answer came; it may have taken effect");
		return NULL;
	}
	return call;
}

static Datum
systems_with_room(TimestampTz now)
{
	Datum *ids = palloc(sizeof(Datum) * (list_length(se_systems()) + 1));
	int n = 0;
	ListCell *cell;

	foreach (cell, se_systems())
	{
		SeSystem *system = lfirst(cell);

		if (se_system_capacity(system, 1, now) > 0)
			ids[n++] = Int32GetDatum(system->id);
	}
	return PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
}

static Datum
loaded_calls(void)
{
	Datum *ids = palloc(sizeof(Datum) * (list_length(in_memory) + 1));
	int n = 0;
	ListCell *cell;

	foreach (cell, in_memory)
		ids[n++] = Int64GetDatum(((Call *) lfirst(cell))->id);
	return PointerGetDatum(construct_array(ids, n, INT8OID, 8, true, TYPALIGN_DOUBLE));
}

/* Due calls; one that an earlier process sent and never heard of is due, too. In a transaction. */
static int
read_due_calls(Call **calls, TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT4ARRAYOID, INT8ARRAYOID};
	Datum values[2];
	uint64 rows;
	SPITupleTable *table;
	int n = 0;

	/* Calls of a system that takes none now must not stand before those of the others. */
	values[0] = systems_with_room(now);
	values[1] = loaded_calls();
	rows = se_spi_execute(&plan,
						  "SELECT id, system_id, operation, params, attempts, state "
						  "FROM sync.api_call WHERE kind = 'call' AND state IN ('queued', 'sent') "
						  "AND coalesce(next_attempt_at, '-infinity') <= "
						  "pg_catalog.clock_timestamp() AND system_id = ANY ($1) "
						  "AND id <> ALL ($2) ORDER BY id LIMIT 50",
						  2, types, values, NULL, false, 0);
	table = SPI_tuptable;
	for (uint64 i = 0; i < rows; i++)
	{
		Call *call;

		/* Rendering runs queries of its own. */
		SPI_tuptable = table;
		call = prepare_call(i, now, n);
		if (call != NULL)
			calls[n++] = call;
	}
	return n;
}

static void
claim_calls(Call **calls, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT8OID, TEXTOID};

	for (int i = 0; i < n; i++)
	{
		Datum values[2];

		values[0] = Int64GetDatum(calls[i]->id);
		values[1] = CStringGetTextDatum(calls[i]->key);
		se_spi_execute(&plan,
					   "UPDATE sync.api_call SET state = 'sent', idempotency_key = $2 "
					   "WHERE id = $1",
					   2, types, values, NULL, false, 0);
	}
}

static void
read_next_due(void)
{
	static SPIPlanPtr plan = NULL;
	bool isnull;
	Datum value;

	se_spi_execute(&plan,
				   "SELECT min(next_attempt_at) FROM sync.api_call WHERE kind = 'call' "
				   "AND state = 'queued' AND next_attempt_at > pg_catalog.clock_timestamp()",
				   0, NULL, NULL, NULL, false, 1);
	value = se_spi_datum(0, 1, &isnull);
	next_due = isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

static void
submit_call(Call *call)
{
	SeExchange *x = &call->exchange;

	memset(x, 0, sizeof(*x));
	x->system = call->system;
	x->op = call->op;
	x->request = call->rendered.request;
	x->idempotency_key = call->key;
	x->done = call_done;
	x->arg = call;
	se_exchange_submit(x);
}

/* claim → flush → HTTP, as for deliveries. */
static bool
start_calls(TimestampTz now)
{
	Call *calls[BATCH];
	int n;

	se_txn_begin("looking for calls");
	n = read_due_calls(calls, now);
	claim_calls(calls, n);
	read_next_due();
	se_txn_commit();
	if (n > 0)
	{
		se_txn_flush();
		SE_CRASH_POINT("call-claimed");
	}
	for (int i = 0; i < n; i++)
		submit_call(calls[i]);
	return n > 0;
}

static bool
record_answers(void)
{
	static SPIPlanPtr plan = NULL;
	Oid types[8] = {INT8OID, TEXTOID, INT4OID, TEXTOID, TEXTOID, JSONBOID, INT4OID, TIMESTAMPTZOID};
	List *recorded = NIL;
	ListCell *cell;

	if (dlist_is_empty(&answered))
		return false;
	se_txn_begin("recording calls");
	while (!dlist_is_empty(&answered))
	{
		Call *call = dlist_container(Call, node, dlist_pop_head_node(&answered));
		Datum values[8];
		char nulls[9] = "        ";

		values[0] = Int64GetDatum(call->id);
		values[1] = CStringGetTextDatum(call->state);
		values[2] = Int32GetDatum(call->status);
		nulls[2] = call->status == 0 ? 'n' : ' ';
		values[3] = call->code ? CStringGetTextDatum(call->code) : (Datum) 0;
		nulls[3] = call->code ? ' ' : 'n';
		values[4] = call->message ? CStringGetTextDatum(call->message) : (Datum) 0;
		nulls[4] = call->message ? ' ' : 'n';
		values[5] = PointerGetDatum(call->response);
		nulls[5] = call->response ? ' ' : 'n';
		values[6] = Int32GetDatum(call->attempts);
		values[7] = TimestampTzGetDatum(call->due_at);
		nulls[7] = call->due_at == 0 ? 'n' : ' ';
		se_spi_execute(&plan,
					   "UPDATE sync.api_call SET state = $2, status = $3, code = $4, message = $5, "
					   "response = $6, attempts = $7, next_attempt_at = $8, finished_at = "
					   "CASE WHEN $2 <> 'queued' THEN pg_catalog.clock_timestamp() END "
					   "WHERE id = $1",
					   8, types, values, nulls, false, 0);
		recorded = lappend(recorded, call);
	}
	foreach (cell, recorded)
	{
		Call *call = lfirst(cell);

		in_memory = list_delete_ptr(in_memory, call);
		MemoryContextDelete(call->cxt);
	}
	se_txn_commit();
	look = true;
	return true;
}

bool
se_call_step(TimestampTz now)
{
	bool busy;

	if (calls_cxt == NULL)
		calls_cxt =
			AllocSetContextCreate(TopMemoryContext, "sync_ext calls", ALLOCSET_DEFAULT_SIZES);
	busy = record_answers();
	if (!look && next_due > now)
		return busy;
	look = false;
	return start_calls(now) || busy;
}
