/*
 * test_http_loop.c
 *		The HTTP loop against the server of http_server.h.
 */
#include "http_server.h"

#include <sys/resource.h>

static int dead_port;

static void
test_answers(void)
{
	SeHttpRequest request = request_for("POST", "/echo?q=1");
	SeHttpResult *result;
	static const char *const methods[] = {"GET", "PUT", "PATCH", "DELETE", "HEAD", "POST", "GET"};

	request.body = "x\0y";
	request.body_len = 3;
	request.owner = &request;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 200, "POST is answered");
	ok(result->body_len == 3 && memcmp(result->body, "x\0y", 4) == 0,
	   "body goes and comes with its zero byte");
	ok(result->owner == &request, "the owner comes back");
	ok(result->error[0] == '\0' && result->curl_code == 0, "no error");
	ok(strcmp(result->remote_ip, "127.0.0.1") == 0, "remote address %s", result->remote_ip);
	ok(result->connect_us > 0 && result->first_byte_us >= result->connect_us &&
		   result->total_us >= result->first_byte_us,
	   "times are in order");
	ok(se_http_header(result, "x-METHOD") &&
		   strcmp(se_http_header(result, "x-METHOD"), "POST") == 0,
	   "headers are found in any case");
	ok(se_http_header(result, "X-Empty") && se_http_header(result, "X-Empty")[0] == '\0',
	   "empty header");
	ok(se_http_header(result, "X-None") == NULL, "absent header");
	se_http_result_free(result);

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
	{
		const char *seen;

		result = fetch(methods[i], "/echo");
		seen = se_http_header(result, "X-Method");
		ok(result->phase == SE_HTTP_ANSWERED && seen && strcmp(seen, methods[i]) == 0 &&
			   result->connect_us == 0,
		   "%s without a body on a reused connection", methods[i]);
		se_http_result_free(result);
	}

	result = fetch("GET", "/nul");
	ok(result->body_len == 4 && memcmp(result->body, "a\0b\0", 5) == 0, "answer with zero bytes");
	se_http_result_free(result);
	result = fetch("GET", "/429");
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 429 &&
		   strcmp(se_http_header(result, "retry-after"), "7") == 0,
	   "an error status is an answer");
	se_http_result_free(result);
	result = fetch("GET", "/redirect");
	ok(result->status == 302 && hits_effect == 0, "a redirect is not followed");
	se_http_result_free(result);
	result = fetch("GET", "/interim");
	ok(result->status == 200 && se_http_header(result, "X-Early") == NULL &&
		   se_http_header(result, "X-Final") != NULL,
	   "interim answers leave nothing behind");
	se_http_result_free(result);
}

static void
test_failures(void)
{
	SeHttpResult *result;
	SeHttpRequest request;

	failed("/silent?key=s3cret", SE_HTTP_MAYBE_SENT, "waiting for an answer");
	failed("/drip?key=s3cret", SE_HTTP_MAYBE_SENT, "while reading");
	failed("/cut?key=s3cret", SE_HTTP_MAYBE_SENT, "after 5 bytes");
	failed("/reset?key=s3cret", SE_HTTP_MAYBE_SENT, "before an answer");
	failed("/garbage?key=s3cret", SE_HTTP_MAYBE_SENT, "before an answer");
	failed("/endless?key=s3cret", SE_HTTP_MAYBE_SENT, "larger than 100000");
	failed("/announced?key=s3cret", SE_HTTP_MAYBE_SENT, "larger than 100000");
	failed("/headers?key=s3cret", SE_HTTP_MAYBE_SENT, "headers");
	if (gzip_bomb_len > 0)
		failed("/bomb?key=s3cret", SE_HTTP_MAYBE_SENT, "larger than 100000");

	result = fetch("POST", "/cut");
	ok(result->status == 201 && strcmp(se_http_header(result, "X-Id"), "42") == 0 &&
		   result->body_len == 5,
	   "what came before a cut is handed over");
	se_http_result_free(result);
	result = fetch("POST", "/endless");
	ok(result->too_large && result->body_len <= 100000, "too large is marked");
	se_http_result_free(result);

	request = request_for("POST", "/");
	request.url = "http://127.0.0.1:1/";
	result = NULL;
	{
		char url[100];

		snprintf(url, sizeof(url), "http://127.0.0.1:%d/x?key=s3cret", dead_port);
		request.url = url;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "Connection refused") &&
			   !strstr(result->error, "s3cret") && result->status == 0,
		   "nobody listens: %s", result->error);
		se_http_result_free(result);

		snprintf(url, sizeof(url), "https://127.0.0.1:%d/429", port);
		request.url = url;
		request.timeout_ms = 1500;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "TLS with"),
		   "no TLS there: %s", result->error);
		se_http_result_free(result);
		tls_is_silent = true;
		request.timeout_ms = 300;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "during the TLS"),
		   "a TLS handshake that hangs: %s", result->error);
		se_http_result_free(result);

		request.url = "https://no-such-host.invalid/x?key=s3cret";
		request.timeout_ms = 5000;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "resolv"), "no such name: %s",
		   result->error);
		se_http_result_free(result);

		/* curl answers names below localhost itself, with loopback */
		request.url = "https://evil.localhost:9/";
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "a loopback address"),
		   "an allowed name that resolves to loopback: %s", result->error);
		se_http_result_free(result);
	}
}

/* libcurl repeats a request on a connection that dies; we must not let it. */
static void
test_no_repeat(void)
{
	SeHttpRequest request = request_for("POST", "/effect");
	SeHttpResult *result;

	request.connection_group = 77;
	hits_effect = 0;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && hits_effect == 1, "first POST acts");
	se_http_result_free(result);
	result = run(&request);
	ok(result->phase == SE_HTTP_MAYBE_SENT && hits_effect == 2,
	   "a POST whose connection closes in silence is not repeated (%d acts): %s", hits_effect,
	   result->error);
	se_http_result_free(result);

	hits_effect = 0;
	request.method = "GET";
	se_http_result_free(run(&request));
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && hits_effect == 3, "a GET may be repeated (%d)",
	   hits_effect);
	se_http_result_free(result);
}

/* What begins as an origin that was just spoken to is not taken for it. */
static void
test_known_origin(void)
{
	static const struct
	{
		const char *suffix;
		const char *problem;
	} tails[] = {{"@evil.example/", "user name"}, {"1/", ""},
				 {".evil.example/", ""},		  {"\\@evil.example/", ""},
				 {"/a b", "not valid"},			  {"/a\nb", "not valid"},
				 {"/\x7f", "not valid"}};
	SeHttpRequest request = request_for("GET", "/echo");
	char origin[100];
	char url[200];
	SeHttpResult *result;

	snprintf(origin, sizeof(origin), "%s", request.url);
	*strrchr(origin, '/') = '\0';
	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++)
	{
		result = fetch("GET", "/echo");
		ok(result->phase == SE_HTTP_ANSWERED, "an origin is known");
		se_http_result_free(result);
		snprintf(url, sizeof(url), "%s%s", origin, tails[i].suffix);
		request.url = url;
		refused(&request, tails[i].problem);
	}
	result = fetch("GET", "/x/../echo");
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 200,
	   "dots of a path are resolved all the same");
	se_http_result_free(result);
}

static void
test_submit(void)
{
	SeHttpHeader split = {"X-A", "b\r\nX-C: d"};
	SeHttpHeader name = {"X A", "b"};
	SeHttpHeader host = {"host", "other"};
	SeHttpRequest request = request_for("GET", "/");

	request.url = "https://example.org/";
	refused(&request, "not in the list");
	request.url = "http://allowed.example/";
	refused(&request, "plain http");
	request.url = "https://u:p@allowed.example/";
	refused(&request, "user name");
	request.url = "ftp://allowed.example/";
	refused(&request, "neither http");
	request.url = "file:///etc/passwd";
	refused(&request, "");
	request.url = "https://allowed.example/a b";
	refused(&request, "not valid");
	request.url = "http://0x7f000001:1/";
	refused(&request, "127.0.0.1");
	request.url = "http://2130706433:1/";
	refused(&request, "127.0.0.1");
	request.url = "https://allowed.example@evil.example/";
	refused(&request, "user name");
	request.url = "https://allowed.example\\@evil.example/";
	refused(&request, "");
	test_known_origin();
	request = request_for("GET", "/");
	request.headers = &split;
	request.nheaders = 1;
	refused(&request, "control character");
	request.headers = &name;
	refused(&request, "invalid name");
	request.headers = &host;
	refused(&request, "transport");
	request = request_for("GET /x", "/");
	refused(&request, "method");
	request = request_for("HEAD", "/");
	request.body = "x";
	request.body_len = 1;
	refused(&request, "HEAD");
	request = request_for("GET", "/");
	request.proxy = "http://u:pw@proxy.evil:3128";
	refused(&request, "proxy");
	request.proxy = "socks5://proxy.evil:3128";
	refused(&request, "proxy");
	ok(se_http_in_flight(loop) == 0, "what was refused is not in flight");
}

static void
test_concurrency(void)
{
	SeHttpRequest request = request_for("GET", "/nap");
	const char *error;
	int answered = 0;
	int64_t begin = se_http_now_us();
	SeHttpResult *result;

	request.connection_group = 5;
	driven = 0;
	for (int i = 0; i < 200; i++)
		se_http_submit(loop, &request, &error);
	ok(se_http_in_flight(loop) == 200, "200 in flight");
	for (int i = 0; i < 200 && (result = wait_result(5000)) != NULL; i++)
	{
		answered += result->phase == SE_HTTP_ANSWERED;
		se_http_result_free(result);
	}
	ok(answered == 200, "200 concurrent requests are answered (%d)", answered);
	ok(se_http_now_us() - begin < 2000000, "at the same time (%d ms, %d drives)",
	   (int) ((se_http_now_us() - begin) / 1000), driven);
	ok(se_http_in_flight(loop) == 0, "none left");
}

static void
test_limits(void)
{
	const char *error;
	SeHttpLoop *outer = loop;
	SeHttpRequest request = request_for("GET", "/nap");
	SeHttpResult *result;
	int answered = 0;
	int already;
	int timed_out = 0;

	loop = se_http_create(8, 4, &error);
	open_peak = already = open_now;
	for (int i = 0; i < 20; i++)
	{
		request.connection_group = i % 4;
		se_http_submit(loop, &request, &error);
	}
	for (int i = 0; i < 20 && (result = wait_result(5000)) != NULL; i++)
	{
		answered += result->phase == SE_HTTP_ANSWERED;
		se_http_result_free(result);
	}
	ok(answered == 20, "more requests than the loop has room for all get through (%d)", answered);
	ok(open_peak - already <= 16, "connections stay few (%d)", open_peak - already);

	/* One silent host must not keep another waiting. */
	request = request_for("GET", "/silent");
	request.timeout_ms = 600;
	request.connection_group = 1;
	for (int i = 0; i < 10; i++)
		se_http_submit(loop, &request, &error);
	request = request_for("GET", "/echo");
	request.connection_group = 2;
	request.owner = &request;
	se_http_submit(loop, &request, &error);
	result = wait_result(500);
	ok(result && result->owner == &request, "a neighbour of a silent host is served at once");
	se_http_result_free(result);
	answered = 0;
	for (int i = 0; i < 10 && (result = wait_result(2000)) != NULL; i++)
	{
		timed_out += result->phase == SE_HTTP_MAYBE_SENT && strstr(result->error, "answer") != NULL;
		answered +=
			result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "free connection") != NULL;
		if (result->total_us > 900000)
			answered = 100;
		se_http_result_free(result);
	}
	ok(timed_out == 4 && answered == 6, "the deadline holds in the queue too (%d sent, %d queued)",
	   timed_out, answered);
	se_http_destroy(loop);
	loop = outer;
}

static void
test_groups(void)
{
	SeHttpRequest request = request_for("GET", "/echo");
	SeHttpResult *result;
	int before = connections;

	request.connection_group = 1001;
	se_http_result_free(run(&request));
	request.connection_group = 1002;
	se_http_result_free(run(&request));
	ok(connections == before + 2, "another group opens its own connection");
	request.connection_group = 1001;
	result = run(&request);
	ok(connections == before + 2 && strcmp(se_http_header(result, "X-Conn"), "2") == 0,
	   "the same group uses its connection again");
	se_http_result_free(result);
}

/* A connection must not outlive the policy under which it was opened. */
static void
test_policy_change(void)
{
	SeHttpRequest request = request_for("GET", "/echo");
	char mine[64];
	const char *entries[] = {mine, "more.example"};
	char *err;
	SeEgress *first;
	SeEgress *same;
	SeEgress *other;
	int before;

	snprintf(mine, sizeof(mine), "http://127.0.0.1:%d", port);
	first = se_egress_parse(entries, 1, &err);
	same = se_egress_parse(entries, 1, &err);
	other = se_egress_parse(entries, 2, &err);
	request.egress = first;
	se_http_result_free(run(&request));
	before = connections;
	se_egress_free(first);
	request.egress = same;
	se_http_result_free(run(&request));
	ok(connections == before, "a policy that was parsed again keeps its connections");
	request.egress = other;
	se_http_result_free(run(&request));
	ok(connections == before + 1, "a changed one opens its own");
	se_egress_free(same);
	se_egress_free(other);
}

static void
test_idle_lanes(void)
{
	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
		lane->idle_since_us -= SE_HTTP_IDLE_LANE_US;
	se_http_drive(loop);
	for (int i = 0; i < 100 && open_now > 0; i++)
		nap(10);
	ok(loop->lanes == NULL && open_now == 0, "lanes that nobody uses are closed (%d open)",
	   open_now);
}

/* Each group has its own connections; those of the ones that rest make room. */
static void
test_many_lanes(void)
{
	SeHttpLoop *outer = loop;
	SeHttpRequest request = request_for("GET", "/echo");
	const char *error;
	int answered = 0;
	int most = 0;

	loop = se_http_create(4, 4, &error);
	for (int i = 1; i <= 40; i++)
	{
		SeHttpResult *result;

		request.connection_group = (uint64_t) i;
		result = run(&request);
		answered += result->phase == SE_HTTP_ANSWERED;
		se_http_result_free(result);
		for (int t = 0; t < 100 && open_now > SE_HTTP_KEPT * 4 + 1; t++)
			nap(10);
		most = open_now > most ? open_now : most;
	}
	ok(answered == 40 && most > 4 && most <= SE_HTTP_KEPT * 4 + 1,
	   "forty groups in turn keep at most %d connections", most);
	se_http_destroy(loop);
	loop = outer;
	for (int i = 0; i < 100 && open_now > 0; i++)
		nap(10);
}

static void
test_no_descriptor(void)
{
	SeHttpRequest request = request_for("GET", "/echo");
	SeHttpResult *result;
	struct rlimit limit;
	struct rlimit none;
	const char *error;

	se_http_result_free(run(&request)); /* its connection stays, and takes the next request */
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = dup(0); /* the lowest that is free */
	close((int) none.rlim_cur);
	setrlimit(RLIMIT_NOFILE, &none);
	request = request_for("GET", "/nap");
	se_http_submit(loop, &request, &error);
	se_http_submit(loop, &request, &error);
	result = wait_result(3000);
	setrlimit(RLIMIT_NOFILE, &limit);
	ok(result && result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "Too many open files"),
	   "without a descriptor: %s", result ? result->error : "nothing");
	se_http_result_free(result);
	result = wait_result(3000);
	ok(result && result->phase == SE_HTTP_ANSWERED, "a connection that stands needs none");
	se_http_result_free(result);
}

static void
test_cancel(void)
{
	SeHttpRequest request = request_for("GET", "/nap");
	SeHttpResult *result;
	const char *error;
	int mine;
	int yours;

	request.owner = &mine;
	for (int i = 0; i < 5; i++)
		se_http_submit(loop, &request, &error);
	request.owner = &yours;
	se_http_submit(loop, &request, &error);
	se_http_drive(loop);
	se_http_cancel(loop, &mine);
	ok(se_http_in_flight(loop) == 1, "cancel leaves what is another's");
	result = wait_result(3000);
	ok(result && result->owner == &yours && result->phase == SE_HTTP_ANSWERED, "which is answered");
	se_http_result_free(result);
	ok(wait_result(400) == NULL, "nothing comes for the cancelled");
}

static void
test_mask(void)
{
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	ok(!sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGUSR1),
	   "the signal mask is as before");
}

static void
make_bomb(void)
{
	FILE *pipe = popen("head -c 10000000 /dev/zero | gzip -9 2>/dev/null", "r");

	if (pipe != NULL)
	{
		gzip_bomb_len = fread(gzip_bomb, 1, sizeof(gzip_bomb), pipe);
		pclose(pipe);
	}
}

static void
set_up(void)
{
	char mine[64];
	char dead[64];
	char tls[64];
	char evil[64];
	const char *entries[] = {mine,	  dead, tls, evil, "allowed.example", "no-such-host.invalid",
							 "*.evil"};
	char *err;
	const char *error;

	make_bomb();
	listen_somewhere(0, &dead_port); /* bound, nobody listens */
	port = start_server();
	snprintf(mine, sizeof(mine), "http://127.0.0.1:%d", port);
	snprintf(dead, sizeof(dead), "http://127.0.0.1:%d", dead_port);
	snprintf(tls, sizeof(tls), "127.0.0.1:%d", port);
	snprintf(evil, sizeof(evil), "evil.localhost:9");
	egress = se_egress_parse(entries, 6, &err);
	loop = se_http_create(1000, 250, &error);
}

/* CPU of one small request, for the curious: test_http_loop bench [n] */
static int
bench(int n)
{
	SeHttpRequest request = request_for("POST", "/echo");
	SeHttpHeader headers[] = {{"Authorization", "Bearer 0123456789"},
							  {"Content-Type", "application/json"},
							  {"Idempotency-Key", "0123456789abcdef"},
							  {"Accept", "application/json"}};
	struct rusage usage;
	const char *error;
	double cpu = 0;
	int sent = 0;

	request.headers = headers;
	request.nheaders = 4;
	request.body = "{\"name\":\"a small customer\",\"email\":\"a@example.com\"}";
	request.body_len = strlen(request.body);
	for (int done = -1000; done < n;)
	{
		SeHttpResult *result;

		if (done == 0)
		{
			getrusage(RUSAGE_THREAD, &usage);
			cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
				  (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
			driven = 0;
		}
		while (sent < 50 && se_http_submit(loop, &request, &error))
			sent++;
		result = wait_result(5000);
		done++;
		sent--;
		se_http_result_free(result);
	}
	getrusage(RUSAGE_THREAD, &usage);
	cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		  (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6 - cpu;
	printf("# %.1f us CPU a request, %d drives for %d\n", cpu * 1e6 / n, driven, n);
	return 0;
}

int
main(int argc, char **argv)
{
	set_up();
	if (argc > 1 && strcmp(argv[1], "bench") == 0)
		return bench(argc > 2 ? atoi(argv[2]) : 20000);
	ok(loop != NULL && egress != NULL, "loop and policy");
	test_answers();
	test_failures();
	test_no_repeat();
	test_submit();
	test_concurrency();
	test_limits();
	test_groups();
	test_policy_change();
	test_cancel();
	test_no_descriptor();
	nap(3000); /* the silent paths of the server end */
	test_idle_lanes();
	test_many_lanes();
	test_mask();
	se_http_destroy(loop);
	se_egress_free(egress);
	return tap_done();
}
