/*
 * http_internal.h
 *		Shared by the files of src/http that touch libcurl; nobody else
 *		includes it.
 */
#ifndef SE_HTTP_INTERNAL_H
#define SE_HTTP_INTERNAL_H

#include <curl/curl.h>

#include "http/http.h"

/* CURLOPT_PROTOCOLS_STR */
_Static_assert(LIBCURL_VERSION_NUM >= 0x075500, "libcurl 7.85 or later is needed");

#define SE_HTTP_MAX_HEADERS		  256
#define SE_HTTP_MAX_HEADER_BYTES  (64 * 1024)
#define SE_HTTP_STREAMS			  32  /* requests per HTTP/2 connection */
#define SE_HTTP_IDLE_CALLS		  256 /* requests, and easy handles, kept per lane */
#define SE_HTTP_KEPT			  2 /* times what may be in flight: connections that are kept open */
#define SE_HTTP_IDLE_LANE_US	  (120 * INT64_C(1000000))
#define SE_HTTP_IDLE_CONNECTION_S 30L
#define SE_HTTP_GRACE_US		  (100 * INT64_C(1000))

typedef struct SeHttpCall SeHttpCall;

/*
 * A lane is what may share connections: one group, one origin, one way to get
 * there.  It owns a multi handle, because libcurl keeps its connection pool
 * there and has no other key to part connections by.  All lanes of a loop
 * share the epoll descriptor and the timer.
 */
typedef struct SeHttpLane
{
	struct SeHttpLane *next;
	SeHttpLoop *loop;
	uint64_t hash; /* of the key fields that follow */
	uint64_t group;
	SeEgress *egress;
	char *host;
	int port;
	bool tls;
	bool http2;
	char *proxy;   /* NULL: none */
	char *ca_file; /* NULL: the system's */

	CURLM *multi;
	int64_t deadline_us; /* what libcurl asked for; -1: nothing */
	bool touched;		 /* may have finished messages */
	bool nudge;			 /* a request that connects may have nothing that wakes it */
	int active;			 /* requests given to libcurl */
	int most_active;	 /* at once, so far: it keeps no more connections than that */
	int max_active;
	int wanted_active;		  /* what the last request allowed; 0: max_active */
	SeHttpCall *waiting_head; /* requests not yet given to it, oldest first */
	SeHttpCall *waiting_tail;
	SeHttpCall *idle_calls;
	int nidle;
	CURL *idle_handles[SE_HTTP_IDLE_CALLS];
	int nidle_handles;
	int64_t idle_since_us;
} SeHttpLane;

/*
 * One request.  It gets an easy handle when it is given to libcurl: many more
 * wait than run, and a handle is large.  Handles are reused within their lane
 * only: they keep state (TLS sessions, header memory) that must not pass from
 * one group to another.
 */
struct SeHttpCall
{
	SeHttpLane *lane;
	SeHttpCall *next;	   /* waiting list or idle list of the lane */
	SeHttpCall *live_prev; /* list of all unfinished calls of the loop */
	SeHttpCall *live_next;
	CURL *easy;	 /* NULL while it waits */
	bool active; /* added to the multi handle */

	/* the request */
	SeHttpResult *result; /* made at submit, so that none can get lost */
	char *arena;		  /* holds what follows; libcurl reads it */
	size_t arena_size;
	struct curl_slist *headers;
	const char *method;
	const char *url;
	const char *sent_body;
	size_t sent_len;
	bool repeatable; /* safe method: libcurl may send it twice */
	size_t max_response;
	int64_t submitted_us;
	int64_t deadline_us;
	int timeout_ms;
	int connect_timeout_ms;

	/* what happened */
	int os_error;	 /* why there was no socket; 0: there was */
	bool connected;	 /* its newest connection stood; libcurl tells us when that one closes */
	bool started;	 /* a connection stood and sending began */
	bool second_try; /* libcurl wanted to send it once more */
	bool oom;
	bool too_large;
	bool headers_too_large;
	bool body_begun;
	char refused[200]; /* why egress refused the last address */
	char detail[CURL_ERROR_SIZE];
	int nheaders;
	char *head; /* "name\0value\0" pairs */
	size_t head_len;
	size_t head_size;
	size_t head_total; /* bytes of all header blocks seen */
	char *body;
	size_t body_len;
	size_t body_size;
};

/* What the loop knows of a descriptor; the table is indexed by it. */
typedef struct SeHttpSocket
{
	SeHttpLane *lane;
	bool ours;			 /* made by our socket callback */
	uint32_t wanted;	 /* epoll events libcurl waits for; 0: none */
	uint32_t registered; /* epoll events the kernel watches */
} SeHttpSocket;

struct SeHttpLoop
{
	int epoll_fd;
	int timer_fd;
	int wake_fd;	  /* on a thread of its own: who has work for it rings here; else -1 */
	bool more;		  /* and has more, so that nothing is waited for */
	bool expired;	  /* the timer is readable */
	int64_t armed_us; /* when the timer fires; -1: disarmed */
	int64_t sweep_us; /* when a deadline may have passed; -1: never */
	bool driving;
	int max_total;
	int max_per_host;
	int nactive;
	int nlive;
	SeHttpLane *lanes;
	SeHttpCall *live;
	SeHttpSocket *sockets;
	int nsockets;
	CURLU *scratch; /* to parse URLs with */

	/* what the parser made of the last URL, see known_origin() */
	char origin[300];
	size_t origin_len; /* 0: nothing is known */
	char origin_host[256];
	int origin_port;
	bool origin_tls;
	SeHttpResult *done_head;
	SeHttpResult *done_tail;
};

/* http_loop.c */
extern int64_t se_http_now_us(void);
extern void se_http_wake(SeHttpLoop *loop);
extern SeHttpSocket *se_http_socket(SeHttpLoop *loop, int fd);
extern void se_http_deliver(SeHttpLoop *loop, SeHttpResult *result);
/* From now on a drive waits until there is something to do, or this eventfd is readable. */
extern bool se_http_block_on(SeHttpLoop *loop, int wake_fd);

/* http_lane.c */
extern SeHttpLane *se_http_lane_get(SeHttpLoop *loop, const SeHttpRequest *request,
									const char *host, int port, bool tls);
extern void se_http_lane_free(SeHttpLane *lane);
extern void se_http_lane_enqueue(SeHttpLane *lane, SeHttpCall *call);
extern bool se_http_lane_has_room(const SeHttpLane *lane);
extern bool se_http_lane_start_one(SeHttpLane *lane);
extern void se_http_lane_collect(SeHttpLane *lane);
extern void se_http_call_detach(SeHttpCall *call);

/* http_request.c */
extern SeHttpCall *se_http_call_get(SeHttpLane *lane);
extern bool se_http_call_prepare(SeHttpCall *call); /* an easy handle with all options set */
extern void se_http_call_put(SeHttpCall *call);
extern void se_http_call_free(SeHttpCall *call);

/*
 * http_url.c: where a URL goes; NULL, or what is wrong with it.  host: lower case, at most size bytes.
 * *url: what libcurl gets, NULL: the URL as it stands; freed with curl_free().
 */
extern const char *se_http_read_url(SeHttpLoop *loop, const char *given, char *host, size_t size,
									int *port, bool *tls, char **url);
extern bool se_http_check_proxy(SeHttpLoop *loop, const SeHttpRequest *request, char *error,
								size_t size);

/* http_callback.c */
extern size_t se_http_on_header(char *data, size_t size, size_t n, void *arg);
extern size_t se_http_on_body(char *data, size_t size, size_t n, void *arg);
extern int se_http_on_send(void *arg, char *remote_ip, char *local_ip, int remote_port,
						   int local_port);
extern curl_socket_t se_http_on_open(void *arg, curlsocktype purpose,
									 struct curl_sockaddr *address);
extern int se_http_on_close(void *arg, curl_socket_t fd);
extern int se_http_on_watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *per_socket);
extern int se_http_on_timer(CURLM *multi, long timeout_ms, void *arg);

/* http_result.c */
extern void se_http_finish(SeHttpCall *call, CURLcode code);

#endif /* SE_HTTP_INTERNAL_H */
