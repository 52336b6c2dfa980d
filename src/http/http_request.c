/*
 * http_request.c
 *		From a request to an easy handle: checks, the copy, the options.
 */
#include "http/http_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USER_AGENT "sync_ext"
#define ACCEPTED   "gzip, deflate"

static char submit_error[400];

/* Options that never change in the life of a handle, i.e. in its lane. */
static bool
set_fixed_options(CURL *easy, SeHttpLane *lane)
{
	CURLcode code = CURLE_OK;

#define SET(option, value)                                                                         \
	do                                                                                             \
	{                                                                                              \
		if (code == CURLE_OK)                                                                      \
			code = curl_easy_setopt(easy, option, value);                                          \
	} while (0)

	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_PROTOCOLS_STR, lane->tls ? "https" : "http");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_TCP_NODELAY, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_MAXAGE_CONN, SE_HTTP_IDLE_CONNECTION_S);
	/* What is decoded, and who asks a proxy to CONNECT; requests have lines of their own: add_headers(). */
	SET(CURLOPT_ACCEPT_ENCODING, ACCEPTED);
	SET(CURLOPT_USERAGENT, lane->proxy ? USER_AGENT : NULL);
	SET(CURLOPT_HTTP_VERSION,
		lane->http2 ? (long) CURL_HTTP_VERSION_2TLS : (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_PIPEWAIT, lane->http2 ? 1L : 0L);

	/* An empty proxy, not none: none would ask http_proxy and no_proxy. */
	SET(CURLOPT_PROXY, lane->proxy ? lane->proxy : "");
	SET(CURLOPT_NOPROXY, "");
	SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(CURLOPT_PROXY_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_PROXY_SSL_VERIFYHOST, 2L);
	if (lane->ca_file != NULL)
	{
		SET(CURLOPT_CAINFO, lane->ca_file);
		SET(CURLOPT_CAPATH, NULL);
		SET(CURLOPT_PROXY_CAINFO, lane->ca_file);
		SET(CURLOPT_PROXY_CAPATH, NULL);
	}

#if LIBCURL_VERSION_NUM >= 0x075700
	/*
	 * Do not join a resolver thread when its request ends: a dead name server
	 * would otherwise stop all requests of the loop for as long as it takes.
	 * The thread is detached and frees what it holds.
	 */
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif

	SET(CURLOPT_HEADERFUNCTION, se_http_on_header);
	SET(CURLOPT_WRITEFUNCTION, se_http_on_body);
	SET(CURLOPT_PREREQFUNCTION, se_http_on_send);
	SET(CURLOPT_OPENSOCKETFUNCTION, se_http_on_open);
	SET(CURLOPT_CLOSESOCKETFUNCTION, se_http_on_close);
	SET(CURLOPT_CLOSESOCKETDATA, lane->loop);
	return code == CURLE_OK;
}

/* A fresh or reused handle of this lane; NULL when out of memory. */
static CURL *
get_handle(SeHttpLane *lane)
{
	CURL *easy;

	if (lane->nidle_handles > 0)
		return lane->idle_handles[--lane->nidle_handles];
	easy = curl_easy_init();
	if (easy != NULL && !set_fixed_options(easy, lane))
	{
		curl_easy_cleanup(easy);
		return NULL;
	}
	return easy;
}

static void
put_handle(SeHttpLane *lane, CURL *easy)
{
	if (easy == NULL)
		return;
	if (lane->nidle_handles < SE_HTTP_IDLE_CALLS)
		lane->idle_handles[lane->nidle_handles++] = easy;
	else
		curl_easy_cleanup(easy);
}

/* A fresh or reused call of this lane; NULL when out of memory. */
SeHttpCall *
se_http_call_get(SeHttpLane *lane)
{
	SeHttpCall *call = lane->idle_calls;

	if (call != NULL)
	{
		lane->idle_calls = call->next;
		lane->nidle--;
		call->next = NULL;
	}
	else
	{
		call = calloc(1, sizeof(SeHttpCall));
		if (call == NULL)
			return NULL;
		call->lane = lane;
	}
	call->result = calloc(1, sizeof(SeHttpResult));
	if (call->result == NULL)
	{
		se_http_call_free(call);
		return NULL;
	}
	return call;
}

/* Forget one request: it may have carried credentials. */
static void
forget_request(SeHttpCall *call)
{
	put_handle(call->lane, call->easy);
	call->easy = NULL;
	if (call->arena != NULL)
		explicit_bzero(call->arena, call->arena_size);
	free(call->arena);
	free(call->body);
	se_http_result_free(call->result);
	call->arena = NULL;
	call->arena_size = 0;
	call->headers = NULL;
	call->method = call->url = call->sent_body = NULL;
	call->sent_len = 0;
	call->body = NULL;
	call->body_len = call->body_size = 0;
	call->result = NULL;
	call->nheaders = 0;
	call->head_len = call->head_total = 0;
	call->connected = call->started = call->second_try = call->oom = false;
	call->too_large = call->headers_too_large = call->body_begun = false;
	call->refused[0] = '\0';
	call->os_error = 0;
	call->detail[0] = '\0';
}

/* The call is detached; keep it for the next request of its lane. */
void
se_http_call_put(SeHttpCall *call)
{
	SeHttpLane *lane = call->lane;

	forget_request(call);
	if (lane->nidle >= SE_HTTP_IDLE_CALLS)
	{
		se_http_call_free(call);
		return;
	}
	call->next = lane->idle_calls;
	lane->idle_calls = call;
	lane->nidle++;
}

void
se_http_call_free(SeHttpCall *call)
{
	forget_request(call);
	free(call->head);
	free(call);
}

static bool
is_token(const char *text)
{
	if (*text == '\0')
		return false;
	for (; *text; text++)
	{
		if (!isalnum((unsigned char) *text) && strchr("!#$%&'*+-.^_`|~", *text) == NULL)
			return false;
	}
	return true;
}

/* Headers that say where a message ends or goes are libcurl's alone. */
static const char *
check_header(const SeHttpHeader *header)
{
	static const char *const reserved[] = {
		"Host", "Content-Length", "Transfer-Encoding",	 "Connection",		 "Upgrade", "Expect",
		"TE",	"Trailer",		  "Proxy-Authorization", "Proxy-Connection",
	};

	if (!is_token(header->name) || strlen(header->name) > 256)
		return "a header has an invalid name";
	for (const char *at = header->value; *at; at++)
	{
		if ((unsigned char) *at < 0x20 && *at != '\t')
			return "a header value contains a control character";
	}
	/* Not by strcasecmp(), which asks the locale what an I is. */
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
	{
		if (curl_strequal(header->name, reserved[i]))
			return "a header is set that the transport sets itself (Host, Content-Length, Connection, …)";
	}
	return NULL;
}

static const char *
check_request(const SeHttpRequest *request)
{
	const char *problem;

	if (!is_token(request->method) || strlen(request->method) > 20 ||
		strcmp(request->method, "CONNECT") == 0)
		return "the method is not valid";
	if (request->egress == NULL)
		return "the request has no egress policy";
	if (request->body_len > 0 && strcmp(request->method, "HEAD") == 0)
		return "a HEAD request cannot have a body";
	if (request->nheaders > SE_HTTP_MAX_HEADERS)
		return "the request has too many headers";
	for (int i = 0; i < request->nheaders; i++)
	{
		if ((problem = check_header(&request->headers[i])) != NULL)
			return problem;
	}
	return NULL;
}

/* Lay one header line down at *to and link it. */
static struct curl_slist *
add_line(struct curl_slist *node, char **to, const char *name, const char *value)
{
	size_t name_len = strlen(name);
	size_t value_len = strlen(value);

	node->data = *to;
	node->next = node + 1;
	memcpy(*to, name, name_len);
	*to += name_len;
	if (value_len == 0)
		*(*to)++ = ';'; /* libcurl's spelling of an empty header */
	else
	{
		memcpy(*to, ": ", 2);
		memcpy(*to + 2, value, value_len);
		*to += value_len + 2;
	}
	*(*to)++ = '\0';
	return node + 1;
}

/* Lay down a header that libcurl is to leave out. */
static struct curl_slist *
add_removal(struct curl_slist *node, char **to, const char *name)
{
	size_t len = strlen(name);

	node->data = *to;
	node->next = node + 1;
	memcpy(*to, name, len);
	(*to)[len] = ':';
	(*to)[len + 1] = '\0';
	*to += len + 2;
	return node + 1;
}

static char *
add_bytes(char **to, const char *bytes, size_t len)
{
	char *copy = *to;

	if (len > 0)
		memcpy(copy, bytes, len);
	copy[len] = '\0';
	*to += len + 1;
	return copy;
}

/* Whether libcurl makes it a POST of its own, with a body that may be empty. */
static bool
has_body(const char *method, size_t len)
{
	return len > 0 || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
		   strcmp(method, "PATCH") == 0;
}

static const char *
find_header(const SeHttpRequest *request, const char *name)
{
	for (int i = 0; i < request->nheaders; i++)
	{
		if (curl_strequal(request->headers[i].name, name))
			return request->headers[i].value;
	}
	return NULL;
}

/*
 * Lay down the header lines.  libcurl prints each of them byte by byte, which is half of its
 * own work for a small request, and those of its options twice.  So the two that all requests
 * have are lines here, and what it copies by itself, the type of a form, is left to it.
 */
static struct curl_slist *
add_headers(struct curl_slist *node, char **to, const SeHttpRequest *request)
{
	const char *type = find_header(request, "Content-Type");
	bool form = type != NULL && strcmp(type, "application/x-www-form-urlencoded") == 0 &&
				has_body(request->method, request->body_len);

	if (find_header(request, "User-Agent") == NULL)
		node = add_line(node, to, "User-Agent", USER_AGENT);
	if (find_header(request, "Accept-Encoding") == NULL)
		node = add_line(node, to, "Accept-Encoding", ACCEPTED);
	for (int i = 0; i < request->nheaders; i++)
	{
		const SeHttpHeader *header = &request->headers[i];

		if (!form || header->value != type)
			node = add_line(node, to, header->name, header->value);
	}
	/* A large body would wait for "100 Continue", which few APIs send. */
	node = add_removal(node, to, "Expect");
	/* libcurl would call it a form. */
	if (type == NULL)
		node = add_removal(node, to, "Content-Type");
	return node;
}

/*
 * Copy the request into one block.  libcurl only reads the header list, so
 * its nodes can be an array there instead of many small allocations.
 */
static bool
fill_arena(SeHttpCall *call, const SeHttpRequest *request, const char *url)
{
	size_t size = (request->nheaders + 4) * sizeof(struct curl_slist) + 120;
	char *to;

	for (int i = 0; i < request->nheaders; i++)
		size += strlen(request->headers[i].name) + strlen(request->headers[i].value) + 4;
	size += strlen(request->method) + strlen(url) + request->body_len + 3;
	call->arena = malloc(size);
	if (call->arena == NULL)
		return false;
	call->arena_size = size;

	call->headers = (struct curl_slist *) call->arena;
	to = (char *) (call->headers + request->nheaders + 4);
	add_headers(call->headers, &to, request)[-1].next = NULL;

	call->method = add_bytes(&to, request->method, strlen(request->method));
	call->url = add_bytes(&to, url, strlen(url));
	call->sent_body = add_bytes(&to, request->body, request->body_len);
	call->sent_len = request->body_len;
	return true;
}

static bool
set_method(SeHttpCall *call)
{
	const char *method = call->method;
	CURL *easy = call->easy;
	bool post = strcmp(method, "POST") == 0;
	bool get = strcmp(method, "GET") == 0;
	bool head = strcmp(method, "HEAD") == 0;
	bool with_body = has_body(method, call->sent_len);
	bool ok;

	call->repeatable = get || head || strcmp(method, "OPTIONS") == 0;

	/*
	 * Undo what the last request of the handle was.  In this order: setting
	 * POSTFIELDS makes it a POST, even to NULL.
	 */
	ok = curl_easy_setopt(easy, CURLOPT_POSTFIELDS, NULL) == CURLE_OK &&
		 curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) -1) == CURLE_OK &&
		 curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L) == CURLE_OK &&
		 curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST,
						  (with_body ? post : get || head) ? NULL : method) == CURLE_OK;
	if (ok && with_body)
		ok = curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
			 curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) call->sent_len) ==
				 CURLE_OK &&
			 curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->sent_body) == CURLE_OK;
	else if (ok && head)
		ok = curl_easy_setopt(easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
	return ok;
}

/* A request that is about to be given to libcurl gets its handle. */
bool
se_http_call_prepare(SeHttpCall *call)
{
	CURL *easy = get_handle(call->lane);

	call->easy = easy;
	return easy != NULL && curl_easy_setopt(easy, CURLOPT_PRIVATE, call) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->detail) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_HEADERDATA, call) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_WRITEDATA, call) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_PREREQDATA, call) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, call) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_URL, call->url) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK &&
		   set_method(call) &&
		   curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) call->connect_timeout_ms) ==
			   CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) call->max_response) ==
			   CURLE_OK;
}

static bool
take_request(SeHttpCall *call, const SeHttpRequest *request, const char *url)
{
	call->result->owner = request->owner;
	call->max_response = request->max_response ? request->max_response : 10 * 1024 * 1024;
	call->timeout_ms = request->timeout_ms > 0 ? request->timeout_ms : 30000;
	call->connect_timeout_ms =
		request->connect_timeout_ms > 0 ? request->connect_timeout_ms : 10000;
	call->submitted_us = se_http_now_us();
	call->deadline_us = call->submitted_us + (int64_t) call->timeout_ms * 1000;
	return fill_arena(call, request, url);
}

static void
forget_url(char *url)
{
	if (url == NULL)
		return;
	explicit_bzero(url, strlen(url)); /* a query may hold a key */
	curl_free(url);
}

bool
se_http_submit(SeHttpLoop *loop, const SeHttpRequest *request, const char **error)
{
	const char *problem;
	char host[256];
	int port;
	bool tls;
	SeHttpLane *lane;
	SeHttpCall *call;
	char *url = NULL;
	bool ok;

	*error = submit_error;
	if ((problem = check_request(request)) != NULL ||
		(problem = se_http_read_url(loop, request->url, host, sizeof(host), &port, &tls, &url)) !=
			NULL)
	{
		*error = problem;
		return false;
	}
	if (!se_egress_check_host(request->egress, host, port, !tls, submit_error,
							  sizeof(submit_error)) ||
		(request->proxy != NULL &&
		 !se_http_check_proxy(loop, request, submit_error, sizeof(submit_error))))
	{
		forget_url(url);
		return false;
	}

	*error = "out of memory";
	lane = se_http_lane_get(loop, request, host, port, tls);
	call = lane != NULL ? se_http_call_get(lane) : NULL;
	ok = call != NULL && take_request(call, request, url != NULL ? url : request->url);
	forget_url(url);
	if (!ok)
	{
		if (call != NULL)
			se_http_call_free(call);
		return false;
	}
	*error = NULL;
	se_http_lane_enqueue(lane, call);
	se_http_wake(loop);
	return true;
}
