/*
 * test_http_thread.c
 *		The HTTP loop on a thread of its own: every request comes back once, no
 *		signal of the process is handled there, and it ends when it is told to.
 *		Under ThreadSanitizer it also says who shares what with whom.
 */
#include "http_server.h"

#include "http/http_thread.c"

#include <signal.h>

static SeHttpThread *hub;

/* ---- signals ---- */

static pthread_t main_thread;
static atomic_int handled;
static atomic_int handled_elsewhere;

static void
on_signal(int signo)
{
	(void) signo;
	handled++;
	if (!pthread_equal(pthread_self(), main_thread))
		handled_elsewhere++;
}

/* The server of this test has threads, too, which the worker has not: theirs are blocked. */
static void
start_quiet_server(void)
{
	sigset_t all;
	sigset_t saved;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	port = start_server();
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

/* ---- as a worker does ---- */

static SeHttpResult *
next_result(int ms)
{
	int64_t until = se_http_now_us() + (int64_t) ms * 1000;
	SeHttpResult *result;

	while ((result = se_http_thread_next(hub)) == NULL)
	{
		struct pollfd fd = {.fd = se_http_thread_fd(hub), .events = POLLIN};
		int64_t left = (until - se_http_now_us()) / 1000;

		if (left <= 0)
			return NULL;
		poll(&fd, 1, (int) left);
	}
	return result;
}

static void
test_many(void)
{
	static const char *const paths[] = {"/echo", "/cut", "/reset",	 "/429",
										"/last", "/nap", "/endless", "/silent"};
	const int n = 2000;
	char *seen = calloc(n, 1);
	int submitted = 0;
	int ended = 0;
	int twice = 0;
	int answered = 0;
	SeHttpResult *result;

	while (ended < n)
	{
		/* A few hundred at a time, pushed in parts, as claims come. */
		while (submitted < n && submitted - ended < 300)
		{
			SeHttpRequest request =
				request_for(submitted % 3 ? "POST" : "GET", paths[submitted % 8]);

			request.connection_group = submitted % 5;
			request.timeout_ms = submitted % 8 == 7 ? 50 : 20000;
			request.body = "a body that is copied";
			request.body_len = strlen(request.body);
			request.owner = seen + submitted;
			se_http_thread_submit(hub, &request);
			if (++submitted % 50 == 0)
				se_http_thread_push(hub);
		}
		se_http_thread_push(hub);
		if ((result = next_result(20000)) == NULL)
			break;
		kill(getpid(), SIGUSR1);
		twice += (*(char *) result->owner)++ != 0;
		answered += result->phase == SE_HTTP_ANSWERED;
		ended++;
		se_http_thread_free(hub, result);
	}
	ok(ended == n && twice == 0 && se_http_thread_in_flight(hub) == 0,
	   "%d requests end once each (%d answered)", ended, answered);
	ok(answered > n / 3, "and those that could be answered were");
	free(seen);
}

static void
test_refused(void)
{
	SeHttpRequest request = request_for("GET", "/echo");
	SeHttpResult *result;

	request.url = "http://elsewhere.test/";
	se_http_thread_submit(hub, &request);
	se_http_thread_push(hub);
	result = next_result(5000);
	ok(result != NULL && result->refused && result->phase == SE_HTTP_NOT_SENT,
	   "what may not be sent comes back as a result: %s", result ? result->error : "(none)");
	se_http_result_free(result);
}

/* The policy that a request was made under lives as long as the request does. */
static void
test_policy(void)
{
	SeEgress *first = egress;
	const char *entries[1];
	char entry[100];
	char *error;
	SeHttpResult *result;
	SeHttpRequest request = request_for("GET", "/nap");

	se_http_thread_submit(hub, &request);
	se_http_thread_push(hub);
	snprintf(entry, sizeof(entry), "http://127.0.0.1:%d", port);
	entries[0] = entry;
	egress = se_egress_parse(entries, 1, &error);
	se_egress_free(first);
	result = next_result(5000);
	ok(result != NULL && result->phase == SE_HTTP_ANSWERED, "a request outlives its policy");
	se_http_result_free(result);
}

/* As when a worker is told to go: some queued, some on their way, some back. */
static void
test_stop(void)
{
	int64_t begin;

	for (int i = 0; i < 200; i++)
	{
		SeHttpRequest request = request_for("POST", i % 2 ? "/echo" : "/silent");

		se_http_thread_submit(hub, &request);
		if (i < 150)
			se_http_thread_push(hub);
		if (i == 100)
			nap(20);
	}
	begin = se_http_now_us();
	se_http_thread_stop(hub);
	ok(se_http_now_us() - begin < 1000000, "it ends at once, whatever is in flight");
	se_http_thread_stop(NULL);
}

int
main(void)
{
	const char *entries[1];
	char entry[100];
	const char *error;
	char *parse_error;

	main_thread = pthread_self();
	signal(SIGUSR1, on_signal);
	start_quiet_server();
	snprintf(entry, sizeof(entry), "http://127.0.0.1:%d", port);
	entries[0] = entry;
	egress = se_egress_parse(entries, 1, &parse_error);
	hub = se_http_thread_start(100, 50, &error);
	if (!ok(hub != NULL, "the thread runs"))
		return tap_done();
	test_many();
	test_refused();
	test_policy();
	test_stop();
	ok(handled > 0 && handled_elsewhere == 0, "%d signals, all handled by the main thread",
	   handled);
	se_egress_free(egress);
	return tap_done();
}
