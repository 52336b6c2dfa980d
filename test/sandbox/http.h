/*
 * http.h
 *		A request as received, a reply as decided, and the server itself.
 */
#ifndef SANDBOX_HTTP_H
#define SANDBOX_HTTP_H

#include <stdint.h>
#include <jansson.h>
#include <microhttpd.h>

#include "util.h"

typedef struct Request
{
	char *method;
	char *path;		 /* decoded, without the query */
	char *query;	 /* raw, never NULL */
	json_t *headers; /* lower-case names */
	Buf body;
	char id[32];	/* req_… */
	int64_t number; /* in the journal */
	/* set by faults */
	int64_t slow_ms;	   /* time between taking the key and the effect */
	int64_t frozen_at;	   /* clock to use, 0: the common one */
	int64_t hide_newer_ms; /* lists omit what is younger than this */
	/* reading */
	bool started;
	bool too_large;
} Request;

typedef struct Reply
{
	int status;
	Buf body;
	const char *content_type; /* NULL: JSON */
	json_t *headers;
	json_t *effect; /* {object, id, metadata}: something was changed; or an array of these */
	bool replayed;
} Reply;

typedef struct ServerOptions
{
	unsigned short port;
	char *tls_cert; /* PEM text, NULL: plain HTTP */
	char *tls_key;
} ServerOptions;

extern struct MHD_Daemon *http_start(const ServerOptions *options);
extern unsigned short http_port(struct MHD_Daemon *daemon);

extern const char *request_header(const Request *req, const char *lower_name);
extern Request *request_copy(const Request *req);
extern void request_free(Request *req);
extern json_t *request_query(const Request *req);
extern json_t *request_json(const Request *req);

extern void reply_header(Reply *reply, const char *name, const char *value);
extern void reply_json(Reply *reply, int status, json_t *body);
extern void reply_clear(Reply *reply);

#endif
