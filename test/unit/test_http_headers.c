/*
 * test_http_headers.c
 *		What head a request has at the server, on one connection after another request's.
 */
#include "http_server.h"

#define FORM "application/x-www-form-urlencoded"

static int
count(const char *text, const char *part)
{
	int n = 0;

	for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part))
		n++;
	return n;
}

/* The head that a request of these headers has at the server. */
static SeHttpResult *
head_of(const char *method, const char *body, SeHttpHeader *headers, int nheaders)
{
	SeHttpRequest request = request_for(method, "/head");

	request.headers = headers;
	request.nheaders = nheaders;
	request.body = body;
	request.body_len = body ? strlen(body) : 0;
	return run(&request);
}

static void
test_given(void)
{
	SeHttpHeader headers[] = {{"X-Key", "secret"},
							  {"X-Void", ""},
							  {"Content-Type", "application/json"}};
	SeHttpRequest request = request_for("POST", "/head");
	SeHttpResult *result = head_of("POST", NULL, headers, 3);

	ok(strstr(result->body, "X-Key: secret\r\n") && strstr(result->body, "X-Void:\r\n") &&
		   strstr(result->body, "Content-Type: application/json\r\n"),
	   "headers are sent, an empty one too");
	ok(count(result->body, "Content-Type") == 1, "one type");
	ok(strstr(result->body, "Content-Length: 0\r\n") != NULL, "POST without body says so");
	ok(strstr(result->body, "Expect:") == NULL, "no Expect header");
	ok(count(result->body, "User-Agent: sync_ext\r\n") == 1 &&
		   count(result->body, "Accept-Encoding: gzip, deflate\r\n") == 1,
	   "who we are and what we can unpack is said once");
	se_http_result_free(result);

	request.body_len = 2 * 1024 * 1024;
	request.body = calloc(1, request.body_len);
	result = run(&request);
	ok(strstr(result->body, "Expect:") == NULL && strstr(result->body, "X-Key") == NULL &&
		   strstr(result->body, "Content-Type") == NULL,
	   "a big body: no Expect, no headers of the request before, no type made up");
	free((char *) request.body);
	se_http_result_free(result);
}

static void
test_replaced(void)
{
	SeHttpHeader headers[] = {{"user-agent", "acme/1"}, {"ACCEPT-ENCODING", "identity"}};
	SeHttpResult *result = head_of("GET", NULL, headers, 2);

	ok(strstr(result->body, "user-agent: acme/1\r\n") && !strstr(result->body, "sync_ext"),
	   "a request may say who it is");
	ok(strstr(result->body, "ACCEPT-ENCODING: identity\r\n") && !strstr(result->body, "gzip"),
	   "and that nothing is to be packed");
	se_http_result_free(result);
}

/* libcurl writes this type by itself, wherever it writes a body; elsewhere it is ours to write. */
static void
test_form(void)
{
	static const char *const methods[] = {"POST", "GET", "PATCH", "PUT", "DELETE", "GET", "POST"};
	SeHttpHeader headers[] = {{"X-Key", "secret"}, {"content-type", FORM}, {"X-Last", "z"}};
	SeHttpResult *result;

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
	{
		for (int with_body = 0; with_body < 2; with_body++)
		{
			result = head_of(methods[i], with_body ? "a=1" : NULL, headers, 3);
			ok(count(result->body, FORM) == 1 && strstr(result->body, "X-Last: z\r\n") &&
				   strncmp(result->body, methods[i], strlen(methods[i])) == 0,
			   "%s of a form %s: its type is said once", methods[i],
			   with_body ? "with a body" : "without a body");
			se_http_result_free(result);
		}
	}
	headers[1].value = FORM "; charset=utf-8";
	result = head_of("POST", "a=1", headers, 3);
	ok(count(result->body, "content-type: " FORM "; charset=utf-8\r\n") == 1 &&
		   count(result->body, FORM) == 1,
	   "a form's type with a parameter is sent as it is");
	se_http_result_free(result);
}

int
main(void)
{
	char mine[40];
	const char *entries[1] = {mine};
	char *err;
	const char *error;

	port = start_server();
	snprintf(mine, sizeof(mine), "http://127.0.0.1:%d", port);
	egress = se_egress_parse(entries, 1, &err);
	loop = se_http_create(100, 10, &error);
	ok(loop != NULL && egress != NULL, "loop and policy");
	test_given();
	test_replaced();
	test_form();
	se_http_destroy(loop);
	se_egress_free(egress);
	return tap_done();
}
