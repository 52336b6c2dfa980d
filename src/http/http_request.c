/*
 * http_request.c
 *		From a request to an easy handle: checks, the copy, the options.
 */
#include "http/http_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static char submit_error[400];

/* Options that never change in the life of a handle, i.e. in its lane. */
static bool
set_fixed_options(SeHttpCall *call)
{
	SeHttpLane *lane = call->lane;
	CURL *easy = call->easy;
	CURLcode code = CURLE_OK;

#define SET(option, value)                                                                         \
	do                                                                                             \
	{                                                                                              \
		if (code == CURLE_OK)                                                                      \
			code = curl_easy_setopt(easy, option, value);                                          \
	} while (0)

	SET(CURLOPT_PRIVATE, call);
	SET(CURLOPT_ERRORBUFFER, call->detail);
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
	SET(CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
	SET(CURLOPT_USERAGENT, "sync_ext");
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
	SET(CURLOPT_HEADERDATA, call);
	SET(CURLOPT_WRITEFUNCTION, se_http_on_body);
	SET(CURLOPT_WRITEDATA, call);
	SET(CURLOPT_PREREQFUNCTION, se_http_on_send);
	SET(CURLOPT_PREREQDATA, call);
	SET(CURLOPT_OPENSOCKETFUNCTION, se_http_on_open);
	SET(CURLOPT_OPENSOCKETDATA, call);
	SET(CURLOPT_CLOSESOCKETFUNCTION, se_http_on_close);
	SET(CURLOPT_CLOSESOCKETDATA, lane->loop);
	return code == CURLE_OK;
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
		call->easy = curl_easy_init();
		if (call->easy == NULL || !set_fixed_options(call))
		{
			se_http_call_free(call);
			return NULL;
		}
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
	if (call->arena != NULL)
		explicit_bzero(call->arena, call->arena_size);
	free(call->arena);
	free(call->body);
	se_http_result_free(call->result);
	call->arena = NULL;
	call->arena_size = 0;
	call->body = NULL;
	call->body_len = call->body_size = 0;
	call->result = NULL;
	call->nheaders = 0;
	call->head_len = call->head_total = 0;
	call->connected = call->started = call->second_try = call->oom = false;
	call->too_large = call->headers_too_large = call->body_begun = false;
	call->refused[0] = '\0';
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
	if (call->easy != NULL)
		curl_easy_cleanup(call->easy);
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
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
	{
		if (strcasecmp(header->name, reserved[i]) == 0)
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

/*
 * Take scheme, host and port of a URL apart with libcurl's own parser, so that
 * what is checked is what libcurl connects to ("127.1" comes out as
 * 127.0.0.1).  host: lower case, at most size bytes.
 */
static const char *
parse_url(CURLU *parser, const char *url, char *host, size_t size, int *port, bool *tls)
{
	char *part = NULL;
	const char *problem = NULL;
	CURLUcode code = curl_url_set(parser, CURLUPART_URL, url, CURLU_DISALLOW_USER);

	if (code == CURLUE_USER_NOT_ALLOWED)
		return "the URL contains a user name";
	if (code != CURLUE_OK)
		return "the URL is not valid";

	if (curl_url_get(parser, CURLUPART_SCHEME, &part, 0) != CURLUE_OK)
		return "the URL has no scheme";
	*tls = strcasecmp(part, "https") == 0;
	if (!*tls && strcasecmp(part, "http") != 0)
		problem = "the URL is neither http nor https";
	curl_free(part);
	if (problem != NULL)
		return problem;

	if (curl_url_get(parser, CURLUPART_HOST, &part, 0) != CURLUE_OK)
		return "the URL has no host";
	if (strlen(part) >= size)
		problem = "the host name is too long";
	else
	{
		for (size_t i = 0; i <= strlen(part); i++)
			host[i] = (char) tolower((unsigned char) part[i]);
	}
	curl_free(part);
	if (problem != NULL)
		return problem;

	if (curl_url_get(parser, CURLUPART_ZONEID, &part, 0) == CURLUE_OK)
	{
		curl_free(part);
		return "the URL has an address with a zone";
	}
	if (curl_url_get(parser, CURLUPART_PORT, &part, CURLU_DEFAULT_PORT) != CURLUE_OK)
		return "the URL has no port";
	*port = atoi(part);
	curl_free(part);
	return NULL;
}

/* The proxy is checked by name only, and may carry a password. */
static bool
check_proxy(SeHttpLoop *loop, const SeHttpRequest *request)
{
	char host[256];
	char reason[300];
	int port;
	char *part = NULL;
	bool scheme_ok;

	if (curl_url_set(loop->scratch, CURLUPART_URL, request->proxy, 0) != CURLUE_OK ||
		curl_url_get(loop->scratch, CURLUPART_SCHEME, &part, 0) != CURLUE_OK)
	{
		snprintf(submit_error, sizeof(submit_error), "the proxy is not a valid URL");
		return false;
	}
	scheme_ok = strcasecmp(part, "http") == 0 || strcasecmp(part, "https") == 0;
	curl_free(part);
	part = NULL;
	if (!scheme_ok || curl_url_get(loop->scratch, CURLUPART_HOST, &part, 0) != CURLUE_OK ||
		strlen(part) >= sizeof(host))
	{
		curl_free(part);
		snprintf(submit_error, sizeof(submit_error), "the proxy is not an http or https URL");
		return false;
	}
	strcpy(host, part);
	curl_free(part);
	part = NULL;

	/* Without a port libcurl takes 1080 for a proxy: demand one. */
	if (curl_url_get(loop->scratch, CURLUPART_PORT, &part, 0) != CURLUE_OK)
	{
		snprintf(submit_error, sizeof(submit_error), "the proxy URL has no port");
		return false;
	}
	port = atoi(part);
	curl_free(part);

	/* How we speak to the proxy says nothing about the request in it. */
	if (!se_egress_check_host(request->egress, host, port, false, reason, sizeof(reason)))
	{
		snprintf(submit_error, sizeof(submit_error), "proxy: %s", reason);
		return false;
	}
	return true;
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

/*
 * Copy headers and body into one block.  libcurl only reads the header list,
 * so its nodes can be an array there instead of many small allocations.
 */
static bool
fill_arena(SeHttpCall *call, const SeHttpRequest *request, char **body)
{
	size_t size = (request->nheaders + 2) * sizeof(struct curl_slist) + 40;
	struct curl_slist *first;
	struct curl_slist *node;
	char *to;
	bool has_type = false;

	for (int i = 0; i < request->nheaders; i++)
		size += strlen(request->headers[i].name) + strlen(request->headers[i].value) + 4;
	size += request->body_len + 1;
	call->arena = malloc(size);
	if (call->arena == NULL)
		return false;
	call->arena_size = size;

	first = node = (struct curl_slist *) call->arena;
	to = (char *) (first + request->nheaders + 2);
	for (int i = 0; i < request->nheaders; i++)
	{
		const SeHttpHeader *header = &request->headers[i];

		if (strcasecmp(header->name, "Content-Type") == 0)
			has_type = true;
		node = add_line(node, &to, header->name, header->value);
	}
	/* A large body would wait for "100 Continue", which few APIs send. */
	node = add_removal(node, &to, "Expect");
	/* libcurl would call it a form. */
	if (!has_type)
		node = add_removal(node, &to, "Content-Type");
	node[-1].next = NULL;

	*body = to;
	if (request->body_len > 0)
		memcpy(to, request->body, request->body_len);
	to[request->body_len] = '\0';
	return curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, first) == CURLE_OK;
}

static bool
set_method(SeHttpCall *call, const SeHttpRequest *request, const char *body)
{
	const char *method = request->method;
	CURL *easy = call->easy;
	bool post = strcmp(method, "POST") == 0;
	bool get = strcmp(method, "GET") == 0;
	bool head = strcmp(method, "HEAD") == 0;
	bool with_body =
		request->body_len > 0 || post || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0;
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
			 curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len) ==
				 CURLE_OK &&
			 curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body) == CURLE_OK;
	else if (ok && head)
		ok = curl_easy_setopt(easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
	return ok;
}

static bool
set_request(SeHttpCall *call, const SeHttpRequest *request, const char *url)
{
	CURL *easy = call->easy;
	char *body;

	call->result->owner = request->owner;
	call->max_response = request->max_response ? request->max_response : 10 * 1024 * 1024;
	call->timeout_ms = request->timeout_ms > 0 ? request->timeout_ms : 30000;
	call->connect_timeout_ms =
		request->connect_timeout_ms > 0 ? request->connect_timeout_ms : 10000;
	call->submitted_us = se_http_now_us();
	call->deadline_us = call->submitted_us + (int64_t) call->timeout_ms * 1000;

	return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
		   fill_arena(call, request, &body) && set_method(call, request, body) &&
		   curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) call->connect_timeout_ms) ==
			   CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) call->max_response) ==
			   CURLE_OK;
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
		(problem = parse_url(loop->scratch, request->url, host, sizeof(host), &port, &tls)) != NULL)
	{
		*error = problem;
		return false;
	}
	if (!se_egress_check_host(request->egress, host, port, !tls, submit_error,
							  sizeof(submit_error)))
		return false;
	/* libcurl gets the URL as its parser wrote it, not as it was given. */
	if (curl_url_get(loop->scratch, CURLUPART_URL, &url, 0) != CURLUE_OK)
	{
		*error = "the URL is not valid";
		return false;
	}
	if (request->proxy != NULL && !check_proxy(loop, request))
	{
		curl_free(url);
		return false;
	}

	*error = "out of memory";
	lane = se_http_lane_get(loop, request, host, port, tls);
	call = lane != NULL ? se_http_call_get(lane) : NULL;
	ok = call != NULL && set_request(call, request, url);
	explicit_bzero(url, strlen(url)); /* a query may hold a key */
	curl_free(url);
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
