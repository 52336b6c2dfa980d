/*
 * http_thread.c
 *		See http_thread.h.
 *
 *	 owner: submit → queued ──push──▶ inbox ─┐            ┌─▶ outbox ──next──▶ taken → owner
 *	                               (mutex, wake_fd)  loop  (mutex, ready_fd)
 *
 * A descriptor is written only when its list was empty before, so a busy side is never woken, and an
 * idle one always is: whoever empties a list does it under the mutex after having read the descriptor.
 *
 * Emptied parcels and read results go back the same ways, unannounced, because each side frees what
 * it has allocated: malloc would lock the other's arena for it, in which that one is busy.
 */
#include "http/http_thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "http/http_internal.h"

#define MAX_KEPT_BODY  65536
#define OPENED_AT_ONCE 32 /* what is on the wire does not wait until hundreds are */

/* A copy of a request in one block; the strings follow the struct. */
typedef struct SeHttpParcel
{
	struct SeHttpParcel *next;
	size_t size;
	SeHttpRequest request;
} SeHttpParcel;

struct SeHttpThread
{
	pthread_t id;
	SeHttpLoop *loop;		/* the thread's alone while it runs, */
	SeHttpParcel *unopened; /* as are these, from the inbox, */
	SeHttpParcel *emptied;	/* and these, on their way to `returned` */
	int wake_fd;
	int ready_fd;

	/* the owner's alone */
	SeHttpParcel *queued_head;
	SeHttpParcel *queued_tail;
	SeHttpResult *taken;
	SeHttpResult *read; /* on their way to `used` */
	int in_flight;

	pthread_mutex_t mutex; /* of what follows */
	SeHttpParcel *inbox_head;
	SeHttpParcel *inbox_tail;
	SeHttpResult *outbox_head;
	SeHttpResult *outbox_tail;
	SeHttpParcel *returned;
	SeHttpResult *used;
	bool stop;
};

static void
ring(int fd)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then it rings already. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static void
hush(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0)
		return;
}

/* ---- parcels ---- */

static size_t
text_size(const char *text)
{
	return text != NULL ? strlen(text) + 1 : 0;
}

static const char *
put_text(char **to, const char *text)
{
	size_t size = text_size(text);
	char *copy = *to;

	if (text == NULL)
		return NULL;
	memcpy(copy, text, size);
	*to += size;
	return copy;
}

static SeHttpParcel *
pack(const SeHttpRequest *request)
{
	size_t size = sizeof(SeHttpParcel) + request->nheaders * sizeof(SeHttpHeader) +
				  text_size(request->method) + text_size(request->url) + text_size(request->proxy) +
				  text_size(request->ca_file) + request->body_len + 1;
	SeHttpParcel *parcel;
	SeHttpHeader *headers;
	char *to;

	for (int i = 0; i < request->nheaders; i++)
		size += text_size(request->headers[i].name) + text_size(request->headers[i].value);
	parcel = malloc(size);
	if (parcel == NULL)
		return NULL;
	parcel->next = NULL;
	parcel->size = size;
	parcel->request = *request;
	headers = (SeHttpHeader *) (parcel + 1);
	to = (char *) (headers + request->nheaders);
	for (int i = 0; i < request->nheaders; i++)
	{
		headers[i].name = (char *) put_text(&to, request->headers[i].name);
		headers[i].value = (char *) put_text(&to, request->headers[i].value);
	}
	parcel->request.headers = headers;
	parcel->request.method = put_text(&to, request->method);
	parcel->request.url = put_text(&to, request->url);
	parcel->request.proxy = put_text(&to, request->proxy);
	parcel->request.ca_file = put_text(&to, request->ca_file);
	parcel->request.body = to;
	if (request->body_len > 0)
		memcpy(to, request->body, request->body_len);
	to[request->body_len] = '\0';
	if (request->egress != NULL)
		parcel->request.egress = se_egress_ref(request->egress);
	return parcel;
}

/* It may have carried credentials. */
static void
empty(SeHttpParcel *parcel)
{
	SeHttpParcel *next = parcel->next;

	se_egress_free((SeEgress *) parcel->request.egress);
	explicit_bzero(parcel, parcel->size);
	parcel->next = next;
}

static void
free_emptied(SeHttpParcel *parcel)
{
	while (parcel != NULL)
	{
		SeHttpParcel *next = parcel->next;

		free(parcel);
		parcel = next;
	}
}

static void
free_results(SeHttpResult *result)
{
	while (result != NULL)
	{
		SeHttpResult *next = result->next;

		se_http_result_free(result);
		result = next;
	}
}

/* ---- the thread ---- */

/* Results without a request that ran; the thread must not fail for want of memory. */
static void
refuse(SeHttpLoop *loop, const SeHttpRequest *request, const char *why)
{
	SeHttpResult *result = calloc(1, sizeof(SeHttpResult));

	if (result == NULL)
		return; /* the owner's own deadline ends it */
	result->owner = request->owner;
	result->phase = SE_HTTP_NOT_SENT;
	result->refused = true;
	result->body = result->no_body;
	strncpy(result->error, why, sizeof(result->error) - 1);
	se_http_deliver(loop, result);
}

/* False when it is to end. */
static bool
take_inbox(SeHttpThread *t)
{
	SeHttpResult *used;
	bool stop;

	pthread_mutex_lock(&t->mutex);
	if (t->unopened == NULL)
	{
		t->unopened = t->inbox_head;
		t->inbox_head = t->inbox_tail = NULL;
	}
	used = t->used;
	t->used = NULL;
	stop = t->stop;
	pthread_mutex_unlock(&t->mutex);
	free_results(used);
	for (int i = 0; i < OPENED_AT_ONCE && t->unopened != NULL && !stop; i++)
	{
		SeHttpParcel *parcel = t->unopened;
		const char *error;

		t->unopened = parcel->next;
		if (!se_http_submit(t->loop, &parcel->request, &error))
			refuse(t->loop, &parcel->request, error);
		empty(parcel);
		parcel->next = t->emptied;
		t->emptied = parcel;
	}
	t->loop->more = t->unopened != NULL;
	return !stop;
}

static void
fill_outbox(SeHttpThread *t)
{
	SeHttpResult *head = t->loop->done_head;
	bool was_empty;

	if (head == NULL)
		return;
	pthread_mutex_lock(&t->mutex);
	was_empty = t->outbox_head == NULL;
	if (was_empty)
		t->outbox_head = head;
	else
		t->outbox_tail->next = head;
	t->outbox_tail = t->loop->done_tail;
	if (t->returned == NULL)
	{
		t->returned = t->emptied;
		t->emptied = NULL;
	}
	pthread_mutex_unlock(&t->mutex);
	t->loop->done_head = t->loop->done_tail = NULL;
	if (was_empty)
		ring(t->ready_fd);
}

static void *
thread_main(void *arg)
{
	SeHttpThread *t = arg;

	while (take_inbox(t))
	{
		se_http_drive(t->loop);
		fill_outbox(t);
	}
	return NULL;
}

/* ---- the owner ---- */

SeHttpThread *
se_http_thread_start(int max_connections_total, int max_per_host, const char **error)
{
	SeHttpThread *t = calloc(1, sizeof(SeHttpThread));
	sigset_t all;
	sigset_t saved;
	bool ok;

	*error = "out of memory or file descriptors";
	if (t == NULL)
		return NULL;
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&t->mutex, NULL);
	if (t->wake_fd >= 0 && t->ready_fd >= 0)
		t->loop = se_http_create(max_connections_total, max_per_host, error);
	ok = t->loop != NULL && se_http_block_on(t->loop, t->wake_fd);

	/* The thread inherits the mask: no handler of the server ever runs in it. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	if (ok)
		ok = pthread_create(&t->id, NULL, thread_main, t) == 0;
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (ok)
	{
		*error = NULL;
		return t;
	}
	se_http_destroy(t->loop);
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	if (t->ready_fd >= 0)
		close(t->ready_fd);
	free(t);
	return NULL;
}

int
se_http_thread_fd(SeHttpThread *t)
{
	return t->ready_fd;
}

int
se_http_thread_in_flight(SeHttpThread *t)
{
	return t->in_flight;
}

bool
se_http_thread_submit(SeHttpThread *t, const SeHttpRequest *request)
{
	SeHttpParcel *parcel = pack(request);

	if (parcel == NULL)
		return false;
	if (t->queued_tail != NULL)
		t->queued_tail->next = parcel;
	else
		t->queued_head = parcel;
	t->queued_tail = parcel;
	t->in_flight++;
	return true;
}

/* Under the mutex. */
static void
hand_back(SeHttpThread *t)
{
	if (t->used != NULL)
		return;
	t->used = t->read;
	t->read = NULL;
}

void
se_http_thread_push(SeHttpThread *t)
{
	bool was_empty;

	if (t->queued_head == NULL)
		return;
	pthread_mutex_lock(&t->mutex);
	was_empty = t->inbox_head == NULL;
	if (was_empty)
		t->inbox_head = t->queued_head;
	else
		t->inbox_tail->next = t->queued_head;
	t->inbox_tail = t->queued_tail;
	hand_back(t);
	pthread_mutex_unlock(&t->mutex);
	t->queued_head = t->queued_tail = NULL;
	if (was_empty)
		ring(t->wake_fd);
}

SeHttpResult *
se_http_thread_next(SeHttpThread *t)
{
	SeHttpResult *result = t->taken;

	if (result == NULL)
	{
		SeHttpParcel *returned;

		/* Hushed first: what comes after that rings again. */
		hush(t->ready_fd);
		pthread_mutex_lock(&t->mutex);
		result = t->outbox_head;
		t->outbox_head = t->outbox_tail = NULL;
		returned = t->returned;
		t->returned = NULL;
		hand_back(t);
		pthread_mutex_unlock(&t->mutex);
		free_emptied(returned);
	}
	if (result == NULL)
		return NULL;
	t->taken = result->next;
	result->next = NULL;
	t->in_flight--;
	return result;
}

void
se_http_thread_free(SeHttpThread *t, SeHttpResult *result)
{
	/* The thread may sleep until the next request: nothing large waits for it. */
	if (result->body_len > MAX_KEPT_BODY)
	{
		se_http_result_free(result);
		return;
	}
	result->next = t->read;
	t->read = result;
}

static void
free_parcels(SeHttpParcel *parcel)
{
	for (SeHttpParcel *p = parcel; p != NULL; p = p->next)
		empty(p);
	free_emptied(parcel);
}

void
se_http_thread_stop(SeHttpThread *t)
{
	if (t == NULL)
		return;
	pthread_mutex_lock(&t->mutex);
	t->stop = true;
	pthread_mutex_unlock(&t->mutex);
	ring(t->wake_fd);
	pthread_join(t->id, NULL);
	se_http_destroy(t->loop);
	free_parcels(t->queued_head);
	free_parcels(t->inbox_head);
	free_parcels(t->unopened);
	free_emptied(t->emptied);
	free_emptied(t->returned);
	free_results(t->taken);
	free_results(t->outbox_head);
	free_results(t->read);
	free_results(t->used);
	close(t->wake_fd);
	close(t->ready_fd);
	pthread_mutex_destroy(&t->mutex);
	free(t);
}
