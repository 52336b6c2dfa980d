/*
 * http_thread.h
 *		The HTTP loop on a thread of its own.
 *
 * libcurl's work for a request (20 to 40 microseconds, most of it in the kernel) goes on beside what
 * the process does with its database.  The thread knows nothing of the server: it gets copies of
 * requests, gives back results, has all signals blocked, and never throws.
 *
 * All functions are for the one thread that started it.
 */
#ifndef SE_HTTP_HTTP_THREAD_H
#define SE_HTTP_HTTP_THREAD_H

#include "http/http.h"

typedef struct SeHttpThread SeHttpThread;

/* As se_http_create(), and starts the thread. */
extern SeHttpThread *se_http_thread_start(int max_connections_total, int max_per_host,
										  const char **error);

/* Descriptor that is readable when se_http_thread_next() has something. */
extern int se_http_thread_fd(SeHttpThread *thread);

/*
 * Queue a request; everything in it is copied.  It is handed over by the next se_http_thread_push().
 * What se_http_submit() would refuse becomes a result with `refused` set.  False: out of memory.
 */
extern bool se_http_thread_submit(SeHttpThread *thread, const SeHttpRequest *request);

/* Hand over what was queued: one wake-up for many. */
extern void se_http_thread_push(SeHttpThread *thread);

/* The next finished request, NULL if there is none.  The caller frees it with se_http_thread_free(). */
extern SeHttpResult *se_http_thread_next(SeHttpThread *thread);
extern void se_http_thread_free(SeHttpThread *thread, SeHttpResult *result);

/* Requests submitted and not yet taken back. */
extern int se_http_thread_in_flight(SeHttpThread *thread);

/*
 * End the thread and drop everything, without waiting for anybody outside.  Must have been called
 * before the process exits, because libraries tidy up then.  NULL is allowed.
 */
extern void se_http_thread_stop(SeHttpThread *thread);

#endif /* SE_HTTP_HTTP_THREAD_H */
