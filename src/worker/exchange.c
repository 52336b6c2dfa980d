/*
 * exchange.c: sending and receiving for the systems of this process.
 *
 * submit → waiting → (limits, breaker, login) → in flight → answer → classified → done()
 *
 * An answer that says 'auth' is followed by one login and one repetition of the same request, which
 * the vendor has not executed; if that is refused too, the system is blocked for a while and the
 * owner of the exchange hears 'auth'.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "govern/retry.h"
#include "http/http_thread.h"
#include "worker/capacity.h"
#include "worker/credentials.h"
#include "worker/files.h"
#include "worker/notice.h"
#include "worker/system.h"
#include "worker/system_build.h"

#define BACKGROUND_TURN	   15 /* so many others go before a request that nobody waits for */
#define MAX_PER_HOST_SHARE 2  /* one host gets at most half of the connections … */

static SeHttpThread *http = NULL;
static MemoryContext reply_cxt = NULL;

/* A login of a system: an exchange of our own. */
typedef struct Login
{
	SeExchange exchange;
	SeSystem *system;
	MemoryContext cxt;
} Login;

static void
stop_http(int code, Datum arg)
{
	se_http_thread_stop(http);
	http = NULL;
}

void
se_exchange_init(void)
{
	const char *error;

	static bool registered = false;

	if (http != NULL)
		return;
	/* Its thread must not outlive the process's libraries. */
	if (!registered)
		on_proc_exit(stop_http, (Datum) 0);
	registered = true;
	se_files_reserve(se_http_max_sockets(se_max_in_flight));
	http = se_http_thread_start(se_max_in_flight, Max(se_max_in_flight / MAX_PER_HOST_SHARE, 1),
								&error);
	if (http == NULL)
		ereport(ERROR, (errcode(ERRCODE_SYSTEM_ERROR), errmsg("HTTP cannot start: %s", error)));
	reply_cxt = AllocSetContextCreate(TopMemoryContext, "sync_ext reply", ALLOCSET_DEFAULT_SIZES);
}

int
se_exchange_fd(void)
{
	return se_http_thread_fd(http);
}

int
se_exchange_in_flight(void)
{
	return http == NULL ? 0 : se_http_thread_in_flight(http);
}

void
se_exchange_reset(void)
{
	ListCell *cell;

	stop_http(0, (Datum) 0);
	if (reply_cxt != NULL)
		MemoryContextDelete(reply_cxt);
	reply_cxt = NULL;
	foreach (cell, se_systems())
	{
		SeSystem *system = lfirst(cell);

		se_system_init_queues(system);
		system->in_flight = 0;
		system->logging_in = false;
		system->breaker.probing = false;
	}
}

/* ---- login ---- */

static void
login_failed(SeSystem *system, const char *why)
{
	int64 pause = se_retry_backoff_ms(Min(system->auth_failures + 3, 9), 0.5);

	system->auth_failures++;
	se_credentials_forget(system);
	/* The vendor may repeat what it refuses. */
	why = se_system_redact(system, why, strlen(why), 300);
	system->logged_in = false;
	system->blocked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
	se_notice_put(psprintf("auth:%s", system->name), "error",
				  psprintf("system \"%s\" refuses our credentials: %s", system->name, why),
				  "Correct the secret in sync_ext.secrets_dir; it is read again at the next try.");
}

static void
login_done(SeExchange *exchange, SeReply *reply)
{
	Login *login = exchange->arg;
	SeSystem *system = login->system;
	char *error = NULL;

	system->logging_in = false;
	se_credentials_forget(system);
	if (exchange->manifest != system->manifest)
		; /* asked for with what the server said before: the next request asks again */
	else if (reply->phase != SE_HTTP_ANSWERED)
		system->blocked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000);
	else if (!se_login_answer(system->manifest, &reply->answer, &system->session, &reply->verdict,
							  &error))
		login_failed(system, error != NULL ? error : "login refused");
	else
	{
		system->logged_in = true;
		system->auth_failures = 0;
		se_notice_clear_of("auth", system->name);
	}
	MemoryContextDelete(login->cxt);
}

static void send_exchange(SeExchange *exchange, List *auth);

/* Starts the login of a system that needs one. */
static void
start_login(SeSystem *system, TimestampTz now)
{
	MemoryContext cxt =
		AllocSetContextCreate(TopMemoryContext, "sync_ext login", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Login *login = palloc0(sizeof(Login));
	char *error = NULL;

	login->system = system;
	login->cxt = cxt;
	login->exchange.system = system;
	login->exchange.manifest = system->manifest;
	login->exchange.done = login_done;
	login->exchange.arg = login;
	if (!se_login_request(system->manifest, &system->secrets, system->param,
						  &login->exchange.request, &error))
	{
		MemoryContextSwitchTo(old);
		login_failed(system, error != NULL ? error : "the manifest has no login");
		MemoryContextDelete(cxt);
		return;
	}
	system->logging_in = true;
	MemoryContextSwitchTo(old);
	send_exchange(&login->exchange, NIL);
}

/* True when credentials are at hand; starts a login, or blocks the system, otherwise. */
static bool
credentials_ready(SeSystem *system, TimestampTz now, List **headers)
{
	char *error = NULL;

	if (system->logging_in)
		return false;
	switch (se_credentials_headers(system, now, headers, &error))
	{
		case SE_AUTH_OK:
			system->logged_in = true;
			return true;
		case SE_AUTH_NEED_LOGIN:
			start_login(system, now);
			return false;
		case SE_AUTH_FAILED:
			login_failed(system, error != NULL ? error : "no credentials");
			return false;
	}
	return false;
}

/* ---- sending ---- */

int
se_system_capacity(SeSystem *system, int wanted, TimestampTz now)
{
	int room = se_capacity_room(system, wanted, now);

	if (room > 0 && !system->logged_in)
	{
		MemoryContext old = MemoryContextSwitchTo(reply_cxt);
		List *headers = NIL;

		if (!credentials_ready(system, now, &headers))
			room = 0;
		MemoryContextSwitchTo(old);
	}
	return room;
}

static void
add_header(SeHttpHeader *headers, int *n, const char *name, const char *value)
{
	headers[*n].name = unconstify(char *, name);
	headers[*n].value = unconstify(char *, value);
	(*n)++;
}

/* Hands the reply to the owner, after which the exchange must not be touched. */
static void
call_back(SeExchange *exchange, SeReply *reply)
{
	if (exchange->submitted)
		exchange->system->outstanding[exchange->priority]--;
	exchange->submitted = false;
	exchange->done(exchange, reply);
}

/* Calls back with an answer that never came. */
static void
finish_unsent(SeExchange *exchange, SeHttpPhase phase, const char *message)
{
	SeReply reply = {0};

	reply.phase = phase;
	reply.began_at = exchange->began_at;
	reply.verdict.outcome = phase == SE_HTTP_NOT_SENT ? SE_THROTTLED : SE_AMBIGUOUS;
	reply.verdict.code = phase == SE_HTTP_NOT_SENT ? "not_sent" : "no_answer";
	reply.verdict.message = pstrdup(message);
	reply.verdict.retry_after_ms = -1;
	call_back(exchange, &reply);
}

static char *
join(const char *a, const char *b)
{
	size_t first = strlen(a);
	size_t second = strlen(b) + 1;
	char *both = palloc(first + second);

	memcpy(both, a, first);
	memcpy(both + first, b, second);
	return both;
}

/* Hands the request over. What our own checks refuse comes back as an answer. */
static void
send_exchange(SeExchange *exchange, List *auth)
{
	SeSystem *system = exchange->system;
	SeRequestOut *out = &exchange->request;
	SeHttpHeader *headers =
		palloc(sizeof(SeHttpHeader) * (list_length(out->headers) + list_length(auth) + 2));
	SeHttpRequest request = {0};
	int n = 0;
	ListCell *cell;

	foreach (cell, out->headers)
		add_header(headers, &n, ((SeHeader *) lfirst(cell))->name,
				   ((SeHeader *) lfirst(cell))->value);
	foreach (cell, auth)
		add_header(headers, &n, ((SeHeader *) lfirst(cell))->name,
				   ((SeHeader *) lfirst(cell))->value);
	if (out->content_type != NULL)
		add_header(headers, &n, "Content-Type", out->content_type);
	if (exchange->idempotency_key != NULL && out->takes_key &&
		exchange->manifest->idempotency.header != NULL)
		add_header(headers, &n, exchange->manifest->idempotency.header, exchange->idempotency_key);

	request.method = out->method;
	request.url = join(system->base_url, out->target);
	request.headers = headers;
	request.nheaders = n;
	request.body = out->body;
	request.body_len = out->body_len;
	request.connect_timeout_ms = system->connect_timeout_ms;
	request.timeout_ms = system->timeout_ms;
	request.max_response = (size_t) se_max_response * 1024;
	if (system->manifest->limits.max_response > 0)
		request.max_response =
			Min(request.max_response, (size_t) system->manifest->limits.max_response);
	request.egress = system->egress;
	request.proxy = system->proxy;
	request.ca_file = system->ca_file;
	request.http2 = system->http2;
	request.max_active = system->max_in_flight;
	request.connection_group = (uint64) system->id;
	request.owner = exchange;

	exchange->began_at = GetCurrentTimestamp();
	se_limit_take(&system->limit, 1);
	se_breaker_sent(&system->breaker);
	if (!se_http_thread_submit(http, &request))
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	system->in_flight++;
}

void
se_exchange_submit(SeExchange *exchange)
{
	SeSystem *system = exchange->system;

	exchange->manifest = system->manifest;
	exchange->priority = exchange->background				? SE_BACKGROUND
						 : exchange->op->kind == SE_OP_READ ? SE_READING
															: SE_WRITING;
	exchange->submitted = true;
	system->outstanding[exchange->priority]++;
	system->unsent[exchange->priority]++;
	dlist_push_tail(&system->waiting[exchange->priority], &exchange->node);
}

static bool
has_waiting(SeSystem *system)
{
	return !dlist_is_empty(&system->waiting[SE_WRITING]) ||
		   !dlist_is_empty(&system->waiting[SE_READING]) ||
		   !dlist_is_empty(&system->waiting[SE_BACKGROUND]);
}

/* Whose turn it is. Something must be waiting. */
static SePriority
next_turn(SeSystem *system)
{
	SePriority priority = system->last_sent == SE_WRITING ? SE_READING : SE_WRITING;

	if (!dlist_is_empty(&system->waiting[SE_BACKGROUND]) &&
		system->since_background >= BACKGROUND_TURN)
		return SE_BACKGROUND;
	if (dlist_is_empty(&system->waiting[priority]))
		priority = priority == SE_WRITING ? SE_READING : SE_WRITING;
	return dlist_is_empty(&system->waiting[priority]) ? SE_BACKGROUND : priority;
}

static SeExchange *
pop_waiting(SeSystem *system)
{
	SePriority priority = next_turn(system);

	if (priority == SE_BACKGROUND)
		system->since_background = 0;
	else
	{
		system->last_sent = priority;
		system->since_background++;
	}
	system->unsent[priority]--;
	return dlist_container(SeExchange, node, dlist_pop_head_node(&system->waiting[priority]));
}

static bool
send_waiting(SeSystem *system, TimestampTz now)
{
	bool sent = false;

	while (has_waiting(system) && se_system_speaks(system, now) &&
		   system->in_flight < system->max_in_flight + se_capacity_hand_over(system) &&
		   se_limit_available(&system->limit, now) > 0 &&
		   se_breaker_allows(&system->breaker, now) > 0)
	{
		List *auth = NIL;
		SeExchange *exchange;

		if (!credentials_ready(system, now, &auth))
			break;
		exchange = pop_waiting(system);
		send_exchange(exchange, auth);
		sent = true;
		/* Requests never pile up behind a half-open breaker. */
	}
	return sent;
}

/*
 * What was handed in and cannot be sent for a while goes back to its owner, who knows better what
 * to do with it than a queue that nobody sees.
 */
static bool
return_waiting(SeSystem *system, TimestampTz now)
{
	bool returned = false;
	bool stuck = !se_system_speaks(system, now) ||
				 (system->breaker.state == SE_BREAKER_OPEN && now < system->breaker.until);

	while (stuck && has_waiting(system))
	{
		SeExchange *exchange = pop_waiting(system);

		exchange->began_at = now;
		finish_unsent(exchange, SE_HTTP_NOT_SENT,
					  system->problem != NULL ? system->problem : "the system does not answer");
		returned = true;
	}
	return returned;
}

/* ---- receiving ---- */

static List *
copy_headers(const SeHttpResult *result)
{
	List *headers = NIL;

	for (int i = 0; i < result->nheaders; i++)
	{
		SeHeader *header = palloc(sizeof(SeHeader));

		header->name = result->headers[i].name;
		header->value = result->headers[i].value;
		headers = lappend(headers, header);
	}
	return headers;
}

static void
note_health(SeSystem *system, const SeHttpResult *result, TimestampTz now)
{
	if (result->phase == SE_HTTP_ANSWERED && result->status < 500)
		se_breaker_success(&system->breaker);
	else
		se_breaker_failure(&system->breaker, now, pg_prng_double(&pg_global_prng_state));
	if (result->phase == SE_HTTP_ANSWERED)
	{
		se_notice_clear_of("reach", system->name);
		se_notice_clear_of("send", system->name);
	}
	else if (system->breaker.state != SE_BREAKER_CLOSED)
		se_notice_put(psprintf("reach:%s", system->name), "warning",
					  psprintf("system \"%s\" does not answer: %s", system->name, result->error),
					  "Deliveries wait; they go on by themselves when it answers again.");
}

/* Nothing that a vendor says is free of our secrets for certain. */
static char *
vendor_text(SeSystem *system, char *text)
{
	return text == NULL ? NULL
						: se_system_redact(system, text, strlen(text),
										   (size_t) Max(se_history_body_limit, 256));
}

/* Egress or a malformed request: nothing that the next one would not meet, too. */
static void
note_refused(SeSystem *system, const SeHttpResult *result, TimestampTz now)
{
	se_notice_put(psprintf("send:%s", system->name), "error",
				  psprintf("system \"%s\" cannot be spoken to: %s", system->name, result->error),
				  "Check the server's base_url, the connector's hosts and "
				  "sync_ext.allowed_hosts.");
	system->blocked_until = TimestampTzPlusMilliseconds(now, 10000);
}

static void
make_reply(SeExchange *exchange, const SeHttpResult *result, SeReply *reply)
{
	memset(reply, 0, sizeof(*reply));
	reply->phase = result->phase;
	reply->began_at = exchange->began_at;
	reply->latency_us = result->total_us;
	reply->answer.status = result->status;
	reply->answer.headers = copy_headers(result);
	reply->answer.body = result->body;
	reply->answer.body_len = result->body_len;
	reply->verdict.retry_after_ms = -1;
	if (result->phase == SE_HTTP_ANSWERED)
	{
		char *ignored = NULL;

		reply->answer.json = se_parse_json(result->body, result->body_len, &ignored);
		se_classify(exchange->manifest, exchange->op, &reply->answer, &reply->verdict);
		reply->verdict.code = vendor_text(exchange->system, reply->verdict.code);
		reply->verdict.message = vendor_text(exchange->system, reply->verdict.message);
		reply->verdict.request_id = vendor_text(exchange->system, reply->verdict.request_id);
		return;
	}
	reply->verdict.outcome = result->phase == SE_HTTP_NOT_SENT ? SE_THROTTLED : SE_AMBIGUOUS;
	reply->verdict.code = result->phase == SE_HTTP_NOT_SENT ? "not_sent"
						  : result->too_large				? "too_large"
															: "no_answer";
	reply->verdict.message = pstrdup(result->error);
}

/* Logs in again and repeats, once; false when the owner must hear of it. */
static bool
relogin(SeExchange *exchange, SeReply *reply)
{
	SeSystem *system = exchange->system;

	if (reply->verdict.outcome != SE_AUTH || exchange->op == NULL)
		return false;
	system->logged_in = false;
	if (system->session.values != NULL && !exchange->relogged)
	{
		se_session_expire(&system->session);
		se_credentials_forget(system);
		exchange->relogged = true;
		dlist_push_head(&system->waiting[exchange->priority], &exchange->node);
		system->unsent[exchange->priority]++;
		return true;
	}
	login_failed(system, reply->verdict.message ? reply->verdict.message : "not authorized");
	return false;
}

void
se_system_throttle(SeSystem *system, int64 retry_after_ms, TimestampTz now)
{
	int64 pause = retry_after_ms >= 0 ? retry_after_ms : 1000;

	system->blocked_until =
		Max(system->blocked_until, TimestampTzPlusMilliseconds(now, Min(pause, 86400000)));
}

static void
receive(SeHttpResult *result, TimestampTz now)
{
	SeExchange *exchange = result->owner;
	SeSystem *system = exchange->system;
	SeReply reply;

	system->in_flight--;
	se_capacity_answered(system, now);
	note_health(system, result, now);
	if (result->refused)
		note_refused(system, result, now);
	make_reply(exchange, result, &reply);
	if (relogin(exchange, &reply))
		return;
	if (reply.phase == SE_HTTP_ANSWERED && reply.verdict.outcome != SE_AUTH)
	{
		system->auth_failures = 0;
		se_notice_clear_of("auth", system->name);
	}
	if (reply.verdict.outcome == SE_THROTTLED && reply.phase == SE_HTTP_ANSWERED)
		se_system_throttle(system, reply.verdict.retry_after_ms, now);
	call_back(exchange, &reply);
}

bool
se_exchange_drive(TimestampTz now)
{
	MemoryContext old = MemoryContextSwitchTo(reply_cxt);
	SeHttpResult *result;
	bool busy = false;
	ListCell *cell;

	foreach (cell, se_systems())
	{
		SeSystem *system = lfirst(cell);

		if (!has_waiting(system))
			continue;
		busy |= send_waiting(system, now);
		busy |= return_waiting(system, now);
	}
	se_http_thread_push(http);
	while ((result = se_http_thread_next(http)) != NULL)
	{
		receive(result, now);
		se_http_thread_free(http, result);
		MemoryContextReset(reply_cxt);
		busy = true;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(reply_cxt);
	return busy;
}

TimestampTz
se_exchange_next_due(TimestampTz now)
{
	TimestampTz due = DT_NOEND;
	ListCell *cell;

	foreach (cell, se_systems())
	{
		SeSystem *system = lfirst(cell);
		int64 wait;

		if (!system->usable || system->mode != SE_MODE_LIVE)
			continue;
		if (system->blocked_until > now)
			due = Min(due, system->blocked_until);
		wait = se_limit_wait(&system->limit, now);
		if (wait > 0)
			due = Min(due, now + wait);
		wait = se_breaker_wait(&system->breaker, now);
		if (wait > 0)
			due = Min(due, now + wait);
	}
	return due;
}
