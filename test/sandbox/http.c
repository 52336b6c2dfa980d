/*
 * http.c
 *		The glue to libmicrohttpd: reading requests, starting the server.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "form.h"
#include "http.h"
#include "pipeline.h"

#define MAX_BODY		(64u * 1024 * 1024)
#define MAX_CONNECTIONS 8192
#define THREAD_STACK	(512u * 1024)

const char *
request_header(const Request *req, const char *lower_name)
{
	return json_string_value(json_object_get(req->headers, lower_name));
}

Request *
request_copy(const Request *req)
{
	Request *copy = xcalloc(1, sizeof(*copy));

	*copy = *req;
	copy->method = xstrdup(req->method);
	copy->path = xstrdup(req->path);
	copy->query = xstrdup(req->query);
	copy->headers = json_deep_copy(req->headers);
	memset(&copy->body, 0, sizeof(copy->body));
	buf_append(&copy->body, req->body.data, req->body.len);
	return copy;
}

void
request_free(Request *req)
{
	free(req->method);
	free(req->path);
	free(req->query);
	json_decref(req->headers);
	buf_free(&req->body);
	free(req);
}

/* The query string as a hash; what cannot be read of it is left out. */
json_t *
request_query(const Request *req)
{
	json_t *params = json_object();

	(void) form_decode(params, req->query, strlen(req->query));
	return params;
}

/* The body as a JSON object, an empty one if there is no body; NULL if bad. */
json_t *
request_json(const Request *req)
{
	json_t *body;

	if (req->body.len == 0)
		return json_object();
	body = json_loadb(req->body.data, req->body.len, JSON_REJECT_DUPLICATES, NULL);
	if (body != NULL && !json_is_object(body))
	{
		json_decref(body);
		return NULL;
	}
	return body;
}

void
reply_header(Reply *reply, const char *name, const char *value)
{
	if (reply->headers == NULL)
		reply->headers = json_object();
	json_object_set_new(reply->headers, name, json_string(value));
}

static int
append_dump(const char *text, size_t len, void *buf)
{
	buf_append(buf, text, len);
	return 0;
}

/* Takes over the reference to body. */
void
reply_json(Reply *reply, int status, json_t *body)
{
	reply->status = status;
	reply->body.len = 0;
	json_dump_callback(body, append_dump, &reply->body, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(body);
}

void
reply_clear(Reply *reply)
{
	buf_free(&reply->body);
	json_decref(reply->headers);
	json_decref(reply->effect);
	memset(reply, 0, sizeof(*reply));
}

/*
 * libmicrohttpd calls this first, with the target as it came over the wire;
 * later it would only give us a decoded path that has lost "%2F".
 */
static void *
on_target(void *cls, const char *uri, struct MHD_Connection *conn)
{
	Request *req = xcalloc(1, sizeof(*req));
	const char *question = strchr(uri, '?');
	size_t path_len = question ? (size_t) (question - uri) : strlen(uri);

	(void) cls;
	(void) conn;
	req->path = url_decode(uri, path_len, false, NULL);
	req->query = xstrdup(question ? question + 1 : "");
	req->headers = json_object();
	make_id(req->id, sizeof(req->id), "req_", 14);
	return req;
}

static enum MHD_Result
on_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	Request *req = cls;
	char lower[128];
	size_t i;

	(void) kind;
	for (i = 0; name[i] != '\0' && i + 1 < sizeof(lower); i++)
		lower[i] = (char) tolower((unsigned char) name[i]);
	lower[i] = '\0';
	json_object_set_new(req->headers, lower, json_string(value ? value : ""));
	return MHD_YES;
}

static enum MHD_Result
on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
		   const char *version, const char *upload, size_t *upload_size, void **con_cls)
{
	Request *req = *con_cls;

	(void) cls;
	(void) url;
	(void) version;
	if (!req->started)
	{
		req->started = true;
		req->method = xstrdup(method);
		MHD_get_connection_values(conn, MHD_HEADER_KIND, on_header, req);
		return MHD_YES;
	}
	if (*upload_size > 0)
	{
		if (req->body.len + *upload_size > MAX_BODY)
			req->too_large = true;
		else
			buf_append(&req->body, upload, *upload_size);
		*upload_size = 0;
		return MHD_YES;
	}
	return pipeline_serve(conn, req);
}

static void
on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
			 enum MHD_RequestTerminationCode why)
{
	(void) cls;
	(void) conn;
	(void) why;
	if (*con_cls != NULL)
		request_free(*con_cls);
	*con_cls = NULL;
}

/*
 * One thread a connection: a fault that delays an answer may simply sleep, and
 * keep-alive connections of a benchmark never wait for one another.
 */
struct MHD_Daemon *
http_start(const ServerOptions *options)
{
	unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL;
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(options->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, options->tls_cert},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, options->tls_key},
		{MHD_OPTION_END, 0, NULL},
	};
	struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};

	if (options->tls_cert != NULL)
		flags |= MHD_USE_TLS;
	return MHD_start_daemon(flags, 0, NULL, NULL, on_request, NULL, MHD_OPTION_SOCK_ADDR,
							(struct sockaddr *) &address, MHD_OPTION_URI_LOG_CALLBACK, on_target,
							NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
							MHD_OPTION_CONNECTION_LIMIT, (unsigned) MAX_CONNECTIONS,
							MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024u, MHD_OPTION_THREAD_STACK_SIZE,
							(size_t) THREAD_STACK, MHD_OPTION_ARRAY, options->tls_cert ? tls : none,
							MHD_OPTION_END);
}

unsigned short
http_port(struct MHD_Daemon *daemon)
{
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);

	return info ? info->port : 0;
}
