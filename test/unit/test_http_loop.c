/*
 * test_http_loop.c
 *		The HTTP loop against a server in this process that misbehaves on
 *		demand: the path of the URL says how.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "http/address.c"
#include "http/egress.c"
#include "http/http_loop.c"
#include "http/http_lane.c"
#include "http/http_request.c"
#include "http/http_callback.c"
#include "http/http_result.c"

#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "http_tap.h"

static int	port;
static int	dead_port;
static atomic_int hits_effect;
static atomic_int connections;
static atomic_bool tls_is_silent;
static atomic_int open_now;
static atomic_int open_peak;
static char gzip_bomb[65536];
static size_t gzip_bomb_len;

/* ---- the server: a thread a connection ---- */

static bool
send_all(int fd, const char *data, size_t len)
{
	while (len > 0)
	{
		ssize_t		n = send(fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		data += n;
		len -= n;
	}
	return true;
}

static bool
say(int fd, const char *text)
{
	return send_all(fd, text, strlen(text));
}

static bool
answer(int fd, const char *head, const char *body, size_t len)
{
	char		buf[512];

	snprintf(buf, sizeof(buf), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n", len, head);
	return say(fd, buf) && send_all(fd, body, len);
}

static void
nap(int ms)
{
	poll(NULL, 0, ms);
}

/* Returns false if the connection is to be closed. */
static bool
serve(int fd, const char *method, const char *path, const char *head,
	  const char *body, size_t body_len, int nth)
{
	if (strcmp(path, "/echo") == 0)
	{
		char		extra[200];

		snprintf(extra, sizeof(extra), "X-Method: %s\r\nX-Empty:\r\nX-Conn: %d\r\n", method, nth);
		return answer(fd, extra, body, strcmp(method, "HEAD") == 0 ? 0 : body_len);
	}
	if (strcmp(path, "/head") == 0)
		return answer(fd, "", head, strlen(head));
	if (strcmp(path, "/nap") == 0)
	{
		nap(200);
		return answer(fd, "", "late", 4);
	}
	if (strcmp(path, "/nul") == 0)
		return answer(fd, "", "a\0b\0", 4);
	if (strcmp(path, "/429") == 0)
		return say(fd, "HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno");
	if (strcmp(path, "/redirect") == 0)
		return say(fd, "HTTP/1.1 302 Found\r\nLocation: /effect\r\nContent-Length: 0\r\n\r\n");
	if (strcmp(path, "/interim") == 0)
		return say(fd, "HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n") &&
			answer(fd, "X-Final: 1\r\n", "ok", 2);
	if (strcmp(path, "/silent") == 0)
	{
		nap(3000);
		return false;
	}
	if (strcmp(path, "/cut") == 0)
	{
		say(fd, "HTTP/1.1 201 Created\r\nX-Id: 42\r\nContent-Length: 1000\r\n\r\nshort");
		return false;
	}
	if (strcmp(path, "/reset") == 0)
	{
		struct linger hard = {1, 0};

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		return false;
	}
	if (strcmp(path, "/garbage") == 0)
	{
		say(fd, "\x16\x03 what?\r\n\r\n");
		return false;
	}
	if (strcmp(path, "/drip") == 0)
	{
		say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
		for (int i = 0; i < 100 && say(fd, "x"); i++)
			nap(20);
		return false;
	}
	if (strcmp(path, "/endless") == 0)
	{
		char		chunk[1100];

		say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
		memset(chunk, 'x', sizeof(chunk));
		memcpy(chunk, "400\r\n", 5);
		memcpy(chunk + 5 + 1024, "\r\n", 2);
		while (send_all(fd, chunk, 5 + 1024 + 2))
			;
		return false;
	}
	if (strcmp(path, "/announced") == 0)
	{
		say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n");
		return false;
	}
	if (strcmp(path, "/bomb") == 0)
		return answer(fd, "Content-Encoding: gzip\r\n", gzip_bomb, gzip_bomb_len);
	if (strcmp(path, "/headers") == 0)
	{
		say(fd, "HTTP/1.1 200 OK\r\n");
		for (int i = 0; i < 100000 && say(fd, "X-Again: and again\r\n"); i++)
			;
		return false;
	}
	if (strcmp(path, "/effect") == 0)
	{
		/* Acts, and on a connection that was used before closes in silence. */
		hits_effect++;
		return nth == 1 && answer(fd, "", "done", 4);
	}
	return say(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

static void *
connection(void *arg)
{
	int			fd = (int) (intptr_t) arg;
	char	   *buf = malloc(4 * 1024 * 1024);
	size_t		have = 0;
	int			now = ++open_now;

	connections++;
	if (now > open_peak)
		open_peak = now;
	for (int nth = 1;; nth++)
	{
		char		method[20];
		char		path[200];
		char	   *end;
		char	   *length;
		size_t		head_len;
		size_t		body_len;

		while (buf[have] = '\0', (end = strstr(buf, "\r\n\r\n")) == NULL)
		{
			ssize_t		n = recv(fd, buf + have, 1024 * 1024, 0);

			if (n <= 0)
				goto out;
			have += n;
			if (buf[0] == 0x16 && !tls_is_silent)
			{
				say(fd, "this is no TLS\r\n\r\n");
				goto out;
			}
		}
		head_len = end + 4 - buf;
		end[2] = '\0';
		length = strcasestr(buf, "\r\nContent-Length:");
		body_len = length ? strtoul(length + 17, NULL, 10) : 0;
		while (have < head_len + body_len)
		{
			ssize_t		n = recv(fd, buf + have, 1024 * 1024, 0);

			if (n <= 0)
				goto out;
			have += n;
		}
		sscanf(buf, "%19s %199[^ ?]", method, path);
		if (!serve(fd, method, path, buf, buf + head_len, body_len, nth))
			break;
		memmove(buf, buf + head_len + body_len, have - head_len - body_len);
		have -= head_len + body_len;
	}
out:
	open_now--;
	free(buf);
	close(fd);
	return NULL;
}

static void *
server(void *arg)
{
	int			listener = (int) (intptr_t) arg;

	for (;;)
	{
		int			fd = accept(listener, NULL, NULL);
		int			one = 1;
		pthread_t	thread;

		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		pthread_create(&thread, NULL, connection, (void *) (intptr_t) fd);
		pthread_detach(thread);
	}
	return NULL;
}

static int
listen_somewhere(int backlog, int *at)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t	len = sizeof(addr);
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	bind(fd, (struct sockaddr *) &addr, sizeof(addr));
	if (backlog > 0)
		listen(fd, backlog);
	getsockname(fd, (struct sockaddr *) &addr, &len);
	*at = ntohs(addr.sin_port);
	return fd;
}

/* ---- the client side ---- */

static SeHttpLoop *loop;
static SeEgress *egress;
static int	driven;

/* Wait for the next result as a worker would; NULL after ms. */
static SeHttpResult *
wait_result(int ms)
{
	int64_t		until = se_http_now_us() + (int64_t) ms * 1000;
	SeHttpResult *result;

	while ((result = se_http_next(loop)) == NULL)
	{
		struct pollfd fd = {.fd = se_http_fd(loop),.events = POLLIN};
		int64_t		left = (until - se_http_now_us()) / 1000;

		if (left <= 0)
			return NULL;
		if (poll(&fd, 1, (int) left) > 0)
		{
			se_http_drive(loop);
			driven++;
		}
	}
	return result;
}

static const char *
url_of(const char *path)
{
	static char url[300];

	snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", port, path);
	return url;
}

static SeHttpRequest
request_for(const char *method, const char *path)
{
	return (SeHttpRequest) {
		.method = method,.url = url_of(path),.egress = egress,
		.timeout_ms = 5000,.connect_timeout_ms = 2000,.max_response = 100000,
	};
}

static SeHttpResult *
run(const SeHttpRequest *request)
{
	const char *error;
	SeHttpResult *result;

	if (!se_http_submit(loop, request, &error))
	{
		ok(0, "submit: %s", error);
		return calloc(1, sizeof(SeHttpResult));
	}
	result = wait_result(8000);
	if (result == NULL)
	{
		ok(0, "no result for %s", request->url);
		result = calloc(1, sizeof(SeHttpResult));
	}
	return result;
}

static SeHttpResult *
fetch(const char *method, const char *path)
{
	SeHttpRequest request = request_for(method, path);

	return run(&request);
}

static void
refused(const SeHttpRequest *request, const char *reason)
{
	const char *error = "";
	bool		taken = se_http_submit(loop, request, &error);

	ok(!taken && strstr(error, reason) != NULL, "submit refuses: %s", taken ? "(taken)" : error);
}

static void
failed(const char *path, SeHttpPhase phase, const char *text)
{
	SeHttpRequest request = request_for("POST", path);
	SeHttpResult *result;

	request.timeout_ms = 400;
	result = run(&request);
	ok(result->phase == phase && strstr(result->error, text) != NULL && result->curl_code != 0,
	   "%s: %s, %s", path, result->phase == SE_HTTP_NOT_SENT ? "not sent" :
	   result->phase == SE_HTTP_MAYBE_SENT ? "maybe sent" : "answered", result->error);
	ok(strstr(result->error, "key=") == NULL, "%s: no query in the error", path);
	se_http_result_free(result);
}

static void
test_answers(void)
{
	SeHttpHeader headers[] = {{"X-Key", "secret"}, {"X-Void", ""}, {"Content-Type", "application/json"}};
	SeHttpRequest request = request_for("POST", "/echo?q=1");
	SeHttpResult *result;
	static const char *const methods[] = {"GET", "PUT", "PATCH", "DELETE", "HEAD", "POST", "GET"};

	request.body = "x\0y";
	request.body_len = 3;
	request.owner = &request;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 200, "POST is answered");
	ok(result->body_len == 3 && memcmp(result->body, "x\0y", 4) == 0, "body goes and comes with its zero byte");
	ok(result->owner == &request, "the owner comes back");
	ok(result->error[0] == '\0' && result->curl_code == 0, "no error");
	ok(strcmp(result->remote_ip, "127.0.0.1") == 0, "remote address %s", result->remote_ip);
	ok(result->connect_us > 0 && result->first_byte_us >= result->connect_us &&
	   result->total_us >= result->first_byte_us, "times are in order");
	ok(se_http_header(result, "x-METHOD") && strcmp(se_http_header(result, "x-METHOD"), "POST") == 0,
	   "headers are found in any case");
	ok(se_http_header(result, "X-Empty") && se_http_header(result, "X-Empty")[0] == '\0', "empty header");
	ok(se_http_header(result, "X-None") == NULL, "absent header");
	se_http_result_free(result);

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
	{
		const char *seen;

		result = fetch(methods[i], "/echo");
		seen = se_http_header(result, "X-Method");
		ok(result->phase == SE_HTTP_ANSWERED && seen && strcmp(seen, methods[i]) == 0 &&
		   result->connect_us == 0, "%s without a body on a reused connection", methods[i]);
		se_http_result_free(result);
	}

	request = request_for("POST", "/head");
	request.headers = headers;
	request.nheaders = 3;
	result = run(&request);
	ok(strstr(result->body, "X-Key: secret\r\n") && strstr(result->body, "X-Void:\r\n") &&
	   strstr(result->body, "Content-Type: application/json\r\n"), "headers are sent, an empty one too");
	ok(strstr(result->body, "Content-Length: 0\r\n") != NULL, "POST without body says so");
	ok(strstr(result->body, "Expect:") == NULL, "no Expect header");
	se_http_result_free(result);

	request = request_for("POST", "/head");
	request.body_len = 2 * 1024 * 1024;
	request.body = calloc(1, request.body_len);
	result = run(&request);
	ok(strstr(result->body, "Expect:") == NULL && strstr(result->body, "X-Key") == NULL &&
	   strstr(result->body, "Content-Type") == NULL,
	   "a big body: no Expect, no headers of the request before, no type made up");
	free((char *) request.body);
	se_http_result_free(result);

	result = fetch("GET", "/nul");
	ok(result->body_len == 4 && memcmp(result->body, "a\0b\0", 5) == 0, "answer with zero bytes");
	se_http_result_free(result);
	result = fetch("GET", "/429");
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 429 &&
	   strcmp(se_http_header(result, "retry-after"), "7") == 0, "an error status is an answer");
	se_http_result_free(result);
	result = fetch("GET", "/redirect");
	ok(result->status == 302 && hits_effect == 0, "a redirect is not followed");
	se_http_result_free(result);
	result = fetch("GET", "/interim");
	ok(result->status == 200 && se_http_header(result, "X-Early") == NULL &&
	   se_http_header(result, "X-Final") != NULL, "interim answers leave nothing behind");
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
	   result->body_len == 5, "what came before a cut is handed over");
	se_http_result_free(result);
	result = fetch("POST", "/endless");
	ok(result->too_large && result->body_len <= 100000, "too large is marked");
	se_http_result_free(result);

	request = request_for("POST", "/");
	request.url = "http://127.0.0.1:1/";
	result = NULL;
	{
		char		url[100];

		snprintf(url, sizeof(url), "http://127.0.0.1:%d/x?key=s3cret", dead_port);
		request.url = url;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "Connection refused") &&
		   !strstr(result->error, "s3cret") && result->status == 0, "nobody listens: %s", result->error);
		se_http_result_free(result);

		snprintf(url, sizeof(url), "https://127.0.0.1:%d/429", port);
		request.url = url;
		request.timeout_ms = 1500;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "TLS with"), "no TLS there: %s", result->error);
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
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "resolv"), "no such name: %s", result->error);
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
	   "a POST whose connection closes in silence is not repeated (%d acts): %s",
	   hits_effect, result->error);
	se_http_result_free(result);

	hits_effect = 0;
	request.method = "GET";
	se_http_result_free(run(&request));
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && hits_effect == 3, "a GET may be repeated (%d)", hits_effect);
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
	int			answered = 0;
	int64_t		begin = se_http_now_us();
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
	int			answered = 0;
	int			timed_out = 0;

	loop = se_http_create(8, 4, &error);
	open_peak = open_now = 0;
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
	ok(open_peak <= 16, "connections stay few (%d)", open_peak);

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
		answered += result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "free connection") != NULL;
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
	int			before = connections;

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

static void
test_cancel(void)
{
	SeHttpRequest request = request_for("GET", "/nap");
	SeHttpResult *result;
	const char *error;
	int			mine;
	int			yours;

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
	sigset_t	mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	ok(!sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGUSR1), "the signal mask is as before");
}

static void
make_bomb(void)
{
	FILE	   *pipe = popen("head -c 10000000 /dev/zero | gzip -9 2>/dev/null", "r");

	if (pipe != NULL)
	{
		gzip_bomb_len = fread(gzip_bomb, 1, sizeof(gzip_bomb), pipe);
		pclose(pipe);
	}
}

static void
set_up(void)
{
	pthread_t	thread;
	char		mine[64];
	char		dead[64];
	char		tls[64];
	char		evil[64];
	const char *entries[] = {mine, dead, tls, evil, "allowed.example", "no-such-host.invalid", "*.evil"};
	char	   *err;
	const char *error;
	int			listener;

	make_bomb();
	listen_somewhere(0, &dead_port);	/* bound, nobody listens */
	listener = listen_somewhere(512, &port);
	pthread_create(&thread, NULL, server, (void *) (intptr_t) listener);
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
	SeHttpHeader headers[] = {{"Authorization", "Bearer 0123456789"}, {"Content-Type", "application/json"},
	{"Idempotency-Key", "0123456789abcdef"}, {"Accept", "application/json"}};
	struct rusage usage;
	const char *error;
	double		cpu = 0;
	int			sent = 0;

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
	test_cancel();
	test_mask();
	se_http_destroy(loop);
	se_egress_free(egress);
	return tap_done();
}
