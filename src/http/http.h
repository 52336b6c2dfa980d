/*
 * http.h
 *		Many concurrent HTTP requests behind one file descriptor.
 *
 * A worker waits on se_http_fd() beside its latch, calls se_http_drive() when
 * that is readable, and takes what has finished with se_http_next().  Nothing
 * here blocks, reports errors through ereport or needs a transaction; memory
 * comes from malloc, because libcurl's callbacks must not throw.
 *
 * One thread only.  Create the loop in the process that uses it, after fork.
 */
#ifndef SE_HTTP_HTTP_H
#define SE_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/egress.h"

typedef struct SeHttpLoop SeHttpLoop;

/*
 * How far a request came; what a sender may conclude from a failure.
 */
typedef enum SeHttpPhase
{
	SE_HTTP_NOT_SENT,	/* proven: no byte of the request left */
	SE_HTTP_MAYBE_SENT, /* the other side may have acted on it */
	SE_HTTP_ANSWERED	/* complete response, whatever its status */
} SeHttpPhase;

typedef struct SeHttpHeader
{
	char *name;
	char *value;
} SeHttpHeader;

typedef struct SeHttpRequest
{
	const char *method; /* upper case, for example "POST" */
	const char *url;	/* absolute http(s) URL without user name */
	const SeHttpHeader *headers;
	int nheaders;
	const char *body; /* body_len bytes, zero bytes allowed */
	size_t body_len;
	int connect_timeout_ms; /* name, TCP and TLS; 0: 10 000 */
	int timeout_ms;			/* from submit to the last byte; 0: 30 000 */
	size_t max_response;	/* bytes after decompression; 0: 10 MB */
	const SeEgress *egress; /* required; the loop takes a reference */
	const char *proxy;		/* http:// or https:// URL, or NULL */
	const char *ca_file;	/* PEM bundle, or NULL for the system's */
	bool http2;				/* try HTTP/2 over TLS and multiplex */
	int max_active; /* requests on the wire of its lane, more wait; 0: the loop's max_per_host */

	/*
	 * Whose credentials the request carries: a connection is never used by
	 * two groups, so nothing bound to a connection passes from one to other.
	 */
	uint64_t connection_group;
	void *owner; /* handed back with the result */
} SeHttpRequest;

typedef struct SeHttpResult
{
	void *owner;
	SeHttpPhase phase;
	int curl_code;	 /* CURLcode, 0 when ANSWERED */
	char error[256]; /* empty when ANSWERED; no URL, no secret */

	/*
	 * The last status and headers that arrived, also when the body then broke
	 * off (phase MAYBE_SENT); 0 if none did.  Names and values are as sent by
	 * the other side: any bytes except CR, LF and zero.
	 */
	long status;
	int nheaders;
	SeHttpHeader *headers;
	char *body; /* never NULL; a zero byte follows body_len */
	size_t body_len;
	bool too_large;			   /* body or headers passed their cap */
	bool refused;			   /* by our own checks; libcurl never saw it */
	int64_t total_us;		   /* since submit */
	int64_t connect_us;		   /* name, TCP and TLS; 0 on a reused one */
	int64_t first_byte_us;	   /* since start; 0 if none came */
	char remote_ip[64];		   /* of the peer (the proxy, if any), or "" */
	struct SeHttpResult *next; /* private, as the next one is */
	char no_body[1];
} SeHttpResult;

/*
 * Prepare this process for HTTP and make a loop.
 *
 * max_connections_total: requests that run at once; more wait in the loop.
 * max_per_host: of those, how many for one host and group.  Keep it well below
 * the total, so that a dead host cannot use up the whole loop.  With HTTP/2 it
 * limits connections, each of which may carry 32 requests.
 *
 * Returns NULL, with a reason in *error (static, do not free), if libcurl
 * lacks something that is needed here or the system is out of resources.
 */
extern SeHttpLoop *se_http_create(int max_connections_total, int max_per_host, const char **error);

/* Descriptors that such a loop may hold at once; the caller sees to it that the process may. */
extern int se_http_max_sockets(int max_connections_total);

/* Descriptor that is readable when se_http_drive() has work. */
extern int se_http_fd(SeHttpLoop *loop);

/*
 * Queue a request; everything in it is copied.  Nothing is sent before the
 * next se_http_drive(), and the descriptor is readable from now on.
 *
 * Returns false, with a reason in *error (static, valid until the next call,
 * do not free), if the request is malformed or its host is not allowed; such
 * a request was not sent and gets no result.
 */
extern bool se_http_submit(SeHttpLoop *loop, const SeHttpRequest *request, const char **error);

/* Make all progress that is possible without waiting. */
extern void se_http_drive(SeHttpLoop *loop);

/* The next finished request, NULL if there is none.  The caller frees it. */
extern SeHttpResult *se_http_next(SeHttpLoop *loop);

extern void se_http_result_free(SeHttpResult *result);

/* First header of that name (any case), or NULL. */
extern const char *se_http_header(const SeHttpResult *result, const char *name);

/* Requests submitted and not yet finished. */
extern int se_http_in_flight(SeHttpLoop *loop);

/*
 * Drop all requests of this owner, and their results that were not yet taken.
 * No result follows; a caller that needs to know must take it as MAYBE_SENT.
 */
extern void se_http_cancel(SeHttpLoop *loop, void *owner);

/*
 * Drop everything and close all connections without waiting for anybody, not
 * even for a resolver thread.  Safe in before_shmem_exit; NULL is allowed.
 */
extern void se_http_destroy(SeHttpLoop *loop);

#endif /* SE_HTTP_HTTP_H */
