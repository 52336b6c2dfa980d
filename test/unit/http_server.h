/*
 * http_server.h
 *		For the tests of the HTTP loop: all of src/http in one unit, a server
 *		in this process that misbehaves on demand (the path of the URL says
 *		how), and a client that waits as a worker would.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "http/address.c"
#include "http/egress.c"
#include "http/http_loop.c"
#include "http/http_lane.c"
#include "http/http_request.c"
#include "http/http_url.c"
#include "http/http_callback.c"
#include "http/http_result.c"

#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "http_tap.h"

static int port;
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
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

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
	char buf[512];

	snprintf(buf, sizeof(buf), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n", len, head);
	return say(fd, buf) && send_all(fd, body, len);
}

static void
nap(int ms)
{
	poll(NULL, 0, ms);
}

/* Returns false if the connection is to be closed.  nth: request on it, from 1. */
static bool
serve(int fd, const char *method, const char *path, const char *head, const char *body,
	  size_t body_len, int nth)
{
	if (strncmp(path, "http://", 7) == 0)
		path = strchr(path + 7, '/'); /* we are the proxy */
	if (strcmp(path, "/echo") == 0)
	{
		char extra[200];

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
		char chunk[1100];

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
	if (strcmp(path, "/last") == 0)
	{
		answer(fd, "", "bye", 3);
		nap(20);
		return false;
	}
	if (strcmp(method, "CONNECT") == 0)
		return say(fd, "HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n");
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
	int fd = (int) (intptr_t) arg;
	char *buf = malloc(4 * 1024 * 1024);
	size_t have = 0;
	int now = ++open_now;

	connections++;
	if (now > open_peak)
		open_peak = now;
	for (int nth = 1;; nth++)
	{
		char method[20];
		char path[200];
		char *end;
		char *length;
		size_t head_len;
		size_t body_len;

		while (buf[have] = '\0', (end = strstr(buf, "\r\n\r\n")) == NULL)
		{
			ssize_t n = recv(fd, buf + have, 1024 * 1024, 0);

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
			ssize_t n = recv(fd, buf + have, 1024 * 1024, 0);

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
	int listener = (int) (intptr_t) arg;

	for (;;)
	{
		int fd = accept(listener, NULL, NULL);
		int one = 1;
		pthread_t thread;

		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		pthread_create(&thread, NULL, connection, (void *) (intptr_t) fd);
		pthread_detach(thread);
	}
	return NULL;
}

/* Port 0 is one that is free; a backlog of 0 does not listen. */
static int
listen_at(const char *ip, int at, int backlog)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(at)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, ip, &addr.sin_addr);
	bind(fd, (struct sockaddr *) &addr, sizeof(addr));
	if (backlog > 0)
		listen(fd, backlog);
	return fd;
}

static int
listen_somewhere(int backlog, int *at)
{
	struct sockaddr_in addr;
	socklen_t len = sizeof(addr);
	int fd = listen_at("127.0.0.1", 0, backlog);

	getsockname(fd, (struct sockaddr *) &addr, &len);
	*at = ntohs(addr.sin_port);
	return fd;
}

/* Listen, serve and return the port. */
static int
start_server(void)
{
	pthread_t thread;
	int at;
	int listener = listen_somewhere(512, &at);

	pthread_create(&thread, NULL, server, (void *) (intptr_t) listener);
	pthread_detach(thread);
	return at;
}

/* ---- the client side ---- */

static SeHttpLoop *loop;
static SeEgress *egress;
static int driven;

/* Wait for the next result as a worker would; NULL after ms. */
static SeHttpResult *
wait_result(int ms)
{
	int64_t until = se_http_now_us() + (int64_t) ms * 1000;
	SeHttpResult *result;

	while ((result = se_http_next(loop)) == NULL)
	{
		struct pollfd fd = {.fd = se_http_fd(loop), .events = POLLIN};
		int64_t left = (until - se_http_now_us()) / 1000;

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
	return (SeHttpRequest){
		.method = method,
		.url = url_of(path),
		.egress = egress,
		.timeout_ms = 5000,
		.connect_timeout_ms = 2000,
		.max_response = 100000,
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
	bool taken = se_http_submit(loop, request, &error);

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
	   "%s: %s, %s", path,
	   result->phase == SE_HTTP_NOT_SENT	 ? "not sent"
	   : result->phase == SE_HTTP_MAYBE_SENT ? "maybe sent"
											 : "answered",
	   result->error);
	ok(strstr(result->error, "key=") == NULL, "%s: no query in the error", path);
	se_http_result_free(result);
}

#endif /* HTTP_SERVER_H */
