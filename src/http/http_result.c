/*
 * http_result.c
 *		From a finished easy handle to a result with a readable error.
 */
#include "http/http_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t
time_info(SeHttpCall *call, CURLINFO which)
{
	curl_off_t value = 0;

	curl_easy_getinfo(call->easy, which, &value);
	return (int64_t) value;
}

static long
long_info(SeHttpCall *call, CURLINFO which)
{
	long value = 0;

	curl_easy_getinfo(call->easy, which, &value);
	return value;
}

/*
 * A peer address is known from the moment TCP stands.  (libcurl's connect time
 * would not do: up to 7.88 it is set only after TLS.)
 */
static bool
tcp_stands(SeHttpCall *call)
{
	char *ip = NULL;

	return curl_easy_getinfo(call->easy, CURLINFO_PRIMARY_IP, &ip) == CURLE_OK && ip != NULL &&
		   ip[0] != '\0';
}

/* What a request that ran out of time was waiting for. */
static void
describe_timeout(SeHttpCall *call, bool was_active, char *text, size_t size)
{
	SeHttpLane *lane = call->lane;
	int64_t ms = (se_http_now_us() - call->submitted_us) / 1000;

	if (call->body_begun)
		snprintf(text, size, "timed out after %lld ms while reading the answer (%zu bytes came)",
				 (long long) ms, call->body_len);
	else if (call->started)
		snprintf(text, size, "timed out after %lld ms while waiting for an answer", (long long) ms);
	else if (!was_active)
		snprintf(text, size, "timed out after %lld ms while waiting for a free connection",
				 (long long) ms);
	else if (time_info(call, CURLINFO_NAMELOOKUP_TIME_T) == 0)
		snprintf(
			text, size,
			"timed out after %lld ms while resolving host \"%.100s\" or waiting for a connection",
			(long long) ms, lane->proxy ? "(proxy)" : lane->host);
	else if (!tcp_stands(call))
		snprintf(text, size, "timed out after %lld ms while connecting to host \"%.100s\" port %d",
				 (long long) ms, lane->host, lane->port);
	else
		snprintf(text, size,
				 "timed out after %lld ms during the TLS or proxy handshake with host \"%.100s\"",
				 (long long) ms, lane->host);
}

static void
describe_before_sending(SeHttpCall *call, CURLcode code, char *text, size_t size)
{
	SeHttpLane *lane = call->lane;
	long proxy_status = long_info(call, CURLINFO_HTTP_CONNECTCODE);
	long os_error = call->os_error != 0 ? call->os_error : long_info(call, CURLINFO_OS_ERRNO);

	if (call->refused[0] != '\0')
		snprintf(text, size, "%s", call->refused);
	else if (code == CURLE_COULDNT_RESOLVE_HOST)
		snprintf(text, size, "could not resolve host \"%.100s\"", lane->host);
	else if (code == CURLE_COULDNT_RESOLVE_PROXY)
		snprintf(text, size, "could not resolve the proxy's host name");
	else if (proxy_status != 0 && proxy_status / 100 != 2)
		snprintf(text, size, "the proxy refused the connection to host \"%.100s\" with status %ld",
				 lane->host, proxy_status);
	else if (code == CURLE_COULDNT_CONNECT)
		snprintf(text, size, "could not connect to host \"%.100s\" port %d%s%s%s", lane->host,
				 lane->port, lane->proxy ? " by proxy" : "", os_error ? ": " : "",
				 os_error ? strerror((int) os_error) : "");
	else if (lane->tls && tcp_stands(call))
		snprintf(text, size, "TLS with host \"%.80s\" failed: %.140s", lane->host,
				 call->detail[0] ? call->detail : curl_easy_strerror(code));
	else
		snprintf(text, size, "connection to host \"%.100s\" port %d failed: %s", lane->host,
				 lane->port, curl_easy_strerror(code));
}

/* libcurl's own details may quote what was sent, so only its codes are used. */
static void
describe_after_sending(SeHttpCall *call, CURLcode code, char *text, size_t size)
{
	if (call->headers_too_large)
		snprintf(text, size, "the answer has more than %d headers or %d bytes of them",
				 SE_HTTP_MAX_HEADERS, SE_HTTP_MAX_HEADER_BYTES);
	else if (call->too_large || code == CURLE_FILESIZE_EXCEEDED)
		snprintf(text, size, "the answer is larger than %zu bytes", call->max_response);
	else if (call->second_try)
		snprintf(text, size, "the connection was closed before an answer came");
	else if (call->body_begun)
		snprintf(text, size, "reading the answer failed after %zu bytes: %s", call->body_len,
				 curl_easy_strerror(code));
	else
		snprintf(text, size, "the connection failed before an answer came: %s",
				 curl_easy_strerror(code));
}

static void
describe(SeHttpCall *call, CURLcode code, bool was_active, char *text, size_t size)
{
	if (call->oom || code == CURLE_OUT_OF_MEMORY)
		snprintf(text, size, "out of memory");
	else if (code == CURLE_OPERATION_TIMEDOUT)
		describe_timeout(call, was_active, text, size);
	else if (!call->started)
		describe_before_sending(call, code, text, size);
	else
		describe_after_sending(call, code, text, size);
}

/* One block: the array, then the strings it points into. */
static bool
hand_over_headers(SeHttpCall *call, SeHttpResult *result)
{
	size_t array = call->nheaders * sizeof(SeHttpHeader);
	char *at;

	if (call->nheaders == 0)
		return true;
	result->headers = malloc(array + call->head_len);
	if (result->headers == NULL)
		return false;
	at = (char *) result->headers + array;
	memcpy(at, call->head, call->head_len);
	for (int i = 0; i < call->nheaders; i++)
	{
		result->headers[i].name = at;
		at += strlen(at) + 1;
		result->headers[i].value = at;
		at += strlen(at) + 1;
	}
	result->nheaders = call->nheaders;
	return true;
}

static void
hand_over_body(SeHttpCall *call, SeHttpResult *result)
{
	result->body = result->no_body;
	if (call->body == NULL)
		return;
	call->body[call->body_len] = '\0';
	result->body = call->body;
	result->body_len = call->body_len;
	call->body = NULL;
}

static void
fill_measures(SeHttpCall *call, SeHttpResult *result)
{
	char *ip = NULL;

	result->total_us = se_http_now_us() - call->submitted_us;
	result->status = long_info(call, CURLINFO_RESPONSE_CODE);
	if (result->status < 200 || !call->started)
		result->status = 0; /* an interim answer is none */
	result->first_byte_us = time_info(call, CURLINFO_STARTTRANSFER_TIME_T);
	if (long_info(call, CURLINFO_NUM_CONNECTS) > 0)
		result->connect_us =
			time_info(call, call->lane->tls ? CURLINFO_APPCONNECT_TIME_T : CURLINFO_CONNECT_TIME_T);
	if (curl_easy_getinfo(call->easy, CURLINFO_PRIMARY_IP, &ip) == CURLE_OK && ip != NULL)
		snprintf(result->remote_ip, sizeof(result->remote_ip), "%s", ip);
}

/*
 * End a live call with libcurl's code: its result goes to the queue of the
 * loop, the call back to its lane.
 */
void
se_http_finish(SeHttpCall *call, CURLcode code)
{
	SeHttpLoop *loop = call->lane->loop;
	SeHttpResult *result = call->result;
	bool was_active = call->active;

	/* A handle that never ran still holds the measures of its last request. */
	if (was_active)
		fill_measures(call, result);
	else
		result->total_us = se_http_now_us() - call->submitted_us;
	if (code == CURLE_OK && result->status == 0)
		code = CURLE_WEIRD_SERVER_REPLY;
	result->too_large =
		call->too_large || call->headers_too_large || code == CURLE_FILESIZE_EXCEEDED;
	hand_over_body(call, result);
	if (!hand_over_headers(call, result))
		code = CURLE_OUT_OF_MEMORY;

	result->curl_code = code;
	if (code == CURLE_OK)
		result->phase = SE_HTTP_ANSWERED;
	else
	{
		result->phase = call->started ? SE_HTTP_MAYBE_SENT : SE_HTTP_NOT_SENT;
		describe(call, code, was_active, result->error, sizeof(result->error));
	}
	call->result = NULL;
	se_http_deliver(loop, result);
	se_http_call_detach(call);
	se_http_call_put(call);
}

void
se_http_result_free(SeHttpResult *result)
{
	if (result == NULL)
		return;
	free(result->headers);
	if (result->body != result->no_body)
		free(result->body);
	free(result);
}

const char *
se_http_header(const SeHttpResult *result, const char *name)
{
	for (int i = 0; i < result->nheaders; i++)
	{
		if (curl_strequal(result->headers[i].name, name))
			return result->headers[i].value;
	}
	return NULL;
}
