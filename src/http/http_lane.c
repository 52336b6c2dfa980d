/*
 * http_lane.c
 *		Lanes: what may share connections, and the queue in front of them.
 */
#include "http/http_internal.h"

#include <stdlib.h>
#include <string.h>

static uint64_t
hash_bytes(uint64_t hash, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char) data[i]) * UINT64_C(1099511628211);
	return hash;
}

static uint64_t
hash_text(uint64_t hash, const char *text)
{
	return text ? hash_bytes(hash, text, strlen(text) + 1) : hash * 31;
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static char *
copy_text(const char *text, bool *ok)
{
	char *copy = text ? strdup(text) : NULL;

	if (text != NULL && copy == NULL)
		*ok = false;
	return copy;
}

static bool
set_up_multi(SeHttpLane *lane)
{
	CURLM *multi = curl_multi_init();
	long connections = lane->loop->max_per_host;

	lane->multi = multi;
	return multi != NULL &&
		   curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, se_http_on_watch) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, lane) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, se_http_on_timer) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_TIMERDATA, lane) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_PIPELINING,
							 lane->http2 ? CURLPIPE_MULTIPLEX : CURLPIPE_NOTHING) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, (long) SE_HTTP_STREAMS) ==
			   CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, connections) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, connections) == CURLM_OK &&
		   curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, connections) == CURLM_OK;
}

static SeHttpLane *
lane_create(SeHttpLoop *loop, const SeHttpRequest *request, const char *host, int port, bool tls,
			uint64_t hash)
{
	SeHttpLane *lane = calloc(1, sizeof(SeHttpLane));
	bool ok = true;

	if (lane == NULL)
		return NULL;
	lane->loop = loop;
	lane->hash = hash;
	lane->group = request->connection_group;
	lane->egress = se_egress_ref(request->egress);
	lane->port = port;
	lane->tls = tls;
	lane->http2 = tls && request->http2;
	lane->host = copy_text(host, &ok);
	lane->proxy = copy_text(request->proxy, &ok);
	lane->ca_file = copy_text(request->ca_file, &ok);
	lane->deadline_us = -1;
	lane->idle_since_us = se_http_now_us();
	lane->max_active = loop->max_per_host * (lane->http2 ? SE_HTTP_STREAMS : 1);
	lane->wanted_active = request->max_active;
	if (!ok || !set_up_multi(lane))
	{
		se_http_lane_free(lane);
		return NULL;
	}
	lane->next = loop->lanes;
	loop->lanes = lane;
	return lane;
}

/*
 * The lane of a request, made if there is none; NULL when out of memory.
 * host: lower case.  The policy is part of the key, because it was checked
 * when a connection was opened and is not checked again on its reuse.
 */
SeHttpLane *
se_http_lane_get(SeHttpLoop *loop, const SeHttpRequest *request, const char *host, int port,
				 bool tls)
{
	uint64_t hash = UINT64_C(14695981039346656037);
	bool http2 = tls && request->http2;

	hash = hash_bytes(hash, (const char *) &request->connection_group,
					  sizeof(request->connection_group));
	hash = hash_bytes(hash, (const char *) &port, sizeof(port));
	hash = hash_text(hash, host);
	hash = hash_text(hash, request->proxy);
	hash = hash_text(hash, request->ca_file);

	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
	{
		if (lane->hash == hash && lane->group == request->connection_group && lane->port == port &&
			lane->tls == tls && lane->http2 == http2 && same_text(lane->host, host) &&
			same_text(lane->proxy, request->proxy) && same_text(lane->ca_file, request->ca_file) &&
			se_egress_equal(lane->egress, request->egress))
		{
			lane->wanted_active = request->max_active;
			return lane;
		}
	}
	return lane_create(loop, request, host, port, tls, hash);
}

/* The lane must hold no live calls and be off the loop's list. */
void
se_http_lane_free(SeHttpLane *lane)
{
	while (lane->idle_calls != NULL)
	{
		SeHttpCall *call = lane->idle_calls;

		lane->idle_calls = call->next;
		se_http_call_free(call);
	}
	for (int i = 0; i < lane->nidle_handles; i++)
		curl_easy_cleanup(lane->idle_handles[i]);
	if (lane->multi != NULL)
		curl_multi_cleanup(lane->multi);
	se_egress_free(lane->egress);
	free(lane->host);
	if (lane->proxy != NULL)
		explicit_bzero(lane->proxy, strlen(lane->proxy)); /* may hold a password */
	free(lane->proxy);
	free(lane->ca_file);
	free(lane);
}

void
se_http_lane_enqueue(SeHttpLane *lane, SeHttpCall *call)
{
	SeHttpLoop *loop = lane->loop;

	call->next = NULL;
	if (lane->waiting_tail != NULL)
		lane->waiting_tail->next = call;
	else
		lane->waiting_head = call;
	lane->waiting_tail = call;

	call->live_prev = NULL;
	call->live_next = loop->live;
	if (loop->live != NULL)
		loop->live->live_prev = call;
	loop->live = call;
	loop->nlive++;
	if (loop->sweep_us < 0 || call->deadline_us < loop->sweep_us)
		loop->sweep_us = call->deadline_us;
}

static void
unlink_waiting(SeHttpLane *lane, SeHttpCall *call)
{
	SeHttpCall *previous = NULL;

	for (SeHttpCall *at = lane->waiting_head; at != call; at = at->next)
		previous = at;
	if (previous != NULL)
		previous->next = call->next;
	else
		lane->waiting_head = call->next;
	if (lane->waiting_tail == call)
		lane->waiting_tail = previous;
	call->next = NULL;
}

/* Take a live call out of everything; it then belongs to the caller alone. */
void
se_http_call_detach(SeHttpCall *call)
{
	SeHttpLane *lane = call->lane;
	SeHttpLoop *loop = lane->loop;

	if (call->active)
	{
		curl_multi_remove_handle(lane->multi, call->easy);
		call->active = false;
		lane->active--;
		loop->nactive--;
	}
	else
		unlink_waiting(lane, call);

	if (call->live_prev != NULL)
		call->live_prev->live_next = call->live_next;
	else
		loop->live = call->live_next;
	if (call->live_next != NULL)
		call->live_next->live_prev = call->live_prev;
	call->live_prev = call->live_next = NULL;
	loop->nlive--;
	if (lane->active == 0 && lane->waiting_head == NULL)
		lane->idle_since_us = se_http_now_us();
}

bool
se_http_lane_has_room(const SeHttpLane *lane)
{
	return lane->active < lane->max_active &&
		   (lane->wanted_active <= 0 || lane->active < lane->wanted_active);
}

/*
 * Give the oldest waiting request to libcurl if the lane has room; the caller
 * has checked the loop.  Returns whether one left the queue.
 */
bool
se_http_lane_start_one(SeHttpLane *lane)
{
	SeHttpCall *call = lane->waiting_head;
	int64_t left_us;

	if (call == NULL || !se_http_lane_has_room(lane))
		return false;

	/* The time spent in the queue counts; libcurl gets what is left. */
	left_us = call->deadline_us - se_http_now_us();
	if (left_us < 1000)
	{
		se_http_finish(call, CURLE_OPERATION_TIMEDOUT);
		return true;
	}
	if (!se_http_call_prepare(call) ||
		curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS, (long) (left_us / 1000)) != CURLE_OK ||
		curl_multi_add_handle(lane->multi, call->easy) != CURLM_OK)
	{
		se_http_finish(call, CURLE_OUT_OF_MEMORY);
		return true;
	}
	unlink_waiting(lane, call);
	call->active = true;
	lane->active++;
	if (lane->most_active < lane->active)
		lane->most_active = lane->active;
	lane->loop->nactive++;
	return true;
}

/* Turn libcurl's finished transfers into results. */
void
se_http_lane_collect(SeHttpLane *lane)
{
	CURLMsg *message;
	int left;

	lane->touched = false;
	while ((message = curl_multi_info_read(lane->multi, &left)) != NULL)
	{
		CURLcode code = message->data.result;
		SeHttpCall *call = NULL;
		long version = 0;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &call);

		/* The other side has no HTTP/2: a connection carries one request. */
		if (lane->max_active > lane->loop->max_per_host && code == CURLE_OK &&
			curl_easy_getinfo(call->easy, CURLINFO_HTTP_VERSION, &version) == CURLE_OK &&
			version != CURL_HTTP_VERSION_2_0)
			lane->max_active = lane->loop->max_per_host;
		se_http_finish(call, code);
	}
}
