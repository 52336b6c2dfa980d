/*
 * http_loop.c
 *		One epoll descriptor for all lanes, a timer in it, and the drive.
 *
 * The descriptor of the loop is an epoll set that holds the sockets of all
 * lanes and one timerfd.  A worker waits on it beside its latch; nothing runs
 * outside se_http_drive().
 *
 * System calls are what a small request costs beside libcurl's own work, so:
 *
 * - A socket that libcurl no longer watches stays in the epoll set.  The next
 *	 request on that connection then needs no epoll_ctl at all.  If it becomes
 *	 readable meanwhile (mostly: the other side closed it), it is taken out at
 *	 that moment.
 * - The timer is set once at the end of a drive, and left alone when it fires
 *	 too early; one wake-up for nothing is cheaper than a call per request.
 */
#include "http/http_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SE_HTTP_EVENTS 128 /* taken from the kernel at once */
#define SE_HTTP_ROUNDS 8   /* per drive, so that a flood cannot hold it */

int64_t
se_http_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/*
 * Block all signals while libcurl runs: its resolver threads inherit the
 * mask, and a handler of the server must never run in one of them.
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

static const char *
check_libcurl(void)
{
	static bool initialized = false;
	const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

	/* The library at run time need not be the one we were compiled with. */
	if (info->version_num < 0x075500)
		return "libcurl 7.85 or later is needed";
	if ((info->features & CURL_VERSION_SSL) == 0)
		return "libcurl was built without TLS";
	if ((info->features & CURL_VERSION_ASYNCHDNS) == 0)
		return "libcurl was built without an asynchronous resolver";
#ifdef CURL_VERSION_THREADSAFE
	if ((info->features & CURL_VERSION_THREADSAFE) == 0)
		return "libcurl was built without thread-safe initialization";
#endif
	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return "libcurl could not be initialized";
	initialized = true;
	return NULL;
}

/* With CURLOPT_NOSIGNAL libcurl leaves SIGPIPE to us. */
static void
ignore_sigpipe(void)
{
	struct sigaction action;

	if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL)
	{
		action.sa_handler = SIG_IGN;
		sigaction(SIGPIPE, &action, NULL);
	}
}

SeHttpLoop *
se_http_create(int max_connections_total, int max_per_host, const char **error)
{
	SeHttpLoop *loop;
	struct epoll_event event = {.events = EPOLLIN};

	if ((*error = check_libcurl()) != NULL)
		return NULL;
	ignore_sigpipe();

	*error = "out of memory or file descriptors";
	loop = calloc(1, sizeof(SeHttpLoop));
	if (loop == NULL)
		return NULL;
	loop->armed_us = -1;
	loop->sweep_us = -1;
	loop->wake_fd = -1;
	loop->max_total = max_connections_total > 0 ? max_connections_total : 1;
	loop->max_per_host = max_per_host > 0 ? max_per_host : 1;
	loop->scratch = curl_url();
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	event.data.fd = loop->timer_fd;
	if (loop->scratch == NULL || loop->epoll_fd < 0 || loop->timer_fd < 0 ||
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->timer_fd, &event) != 0)
	{
		se_http_destroy(loop);
		return NULL;
	}
	*error = NULL;
	return loop;
}

bool
se_http_block_on(SeHttpLoop *loop, int wake_fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = wake_fd};

	loop->wake_fd = wake_fd;
	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) == 0;
}

int
se_http_fd(SeHttpLoop *loop)
{
	return loop->epoll_fd;
}

int
se_http_in_flight(SeHttpLoop *loop)
{
	return loop->nlive;
}

/* The entry of a descriptor, NULL when out of memory. */
SeHttpSocket *
se_http_socket(SeHttpLoop *loop, int fd)
{
	if (fd >= loop->nsockets)
	{
		int n = fd + 64;
		SeHttpSocket *grown = realloc(loop->sockets, n * sizeof(SeHttpSocket));

		if (grown == NULL)
			return NULL;
		memset(grown + loop->nsockets, 0, (n - loop->nsockets) * sizeof(SeHttpSocket));
		loop->sockets = grown;
		loop->nsockets = n;
	}
	return &loop->sockets[fd];
}

static void
set_timer(SeHttpLoop *loop, int64_t when_us)
{
	struct itimerspec spec = {0};

	if (when_us == 0)
		spec.it_value.tv_nsec = 1; /* all zero would disarm it */
	else if (when_us > 0)
	{
		spec.it_value.tv_sec = when_us / 1000000;
		spec.it_value.tv_nsec = when_us % 1000000 * 1000;
	}
	/* Setting it also makes an expired timer unreadable; no read needed. */
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
	loop->armed_us = when_us;
	loop->expired = false;
}

/*
 * Make the descriptor readable; a batch of submits pays for it once. On a thread of its own the loop
 * looks by itself before it waits.
 */
void
se_http_wake(SeHttpLoop *loop)
{
	if (loop->armed_us != 0 && loop->wake_fd < 0)
		set_timer(loop, 0);
}

static int64_t
earlier(int64_t a, int64_t b)
{
	if (a < 0 || b < 0)
		return a < 0 ? b : a;
	return a < b ? a : b;
}

static bool
lane_is_idle(const SeHttpLane *lane)
{
	return lane->active == 0 && lane->waiting_head == NULL;
}

/* Does a request wait that there is room for? */
static bool
can_start(const SeHttpLoop *loop)
{
	if (loop->nlive == loop->nactive || loop->nactive >= loop->max_total)
		return false;
	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
	{
		if (lane->waiting_head != NULL && se_http_lane_has_room(lane))
			return true;
	}
	return false;
}

static void
arm_timer(SeHttpLoop *loop)
{
	/* A request that ended last may have made room that nobody took yet. */
	int64_t next = can_start(loop) ? 0 : loop->sweep_us;

	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
	{
		next = earlier(next, lane->deadline_us);
		if (lane_is_idle(lane))
			next = earlier(next, lane->idle_since_us + SE_HTTP_IDLE_LANE_US);
	}
	if (loop->expired || loop->armed_us == 0 ||
		(next >= 0 && (loop->armed_us < 0 || next < loop->armed_us)))
		set_timer(loop, next);
}

/* Hand one event of the kernel to libcurl. */
static void
handle_event(SeHttpLoop *loop, const struct epoll_event *event)
{
	int fd = event->data.fd;
	SeHttpSocket *sock;
	int running;
	int what = 0;

	if (fd == loop->timer_fd)
	{
		loop->expired = true;
		return;
	}
	if (fd == loop->wake_fd)
	{
		uint64_t count;

		/* Read before the inbox is: what comes after that rings again. */
		if (read(fd, &count, sizeof(count)) < 0)
			return;
		return;
	}
	sock = &loop->sockets[fd];

	/* Closed by what libcurl did for an earlier event of this batch; the number may be anybody's. */
	if (sock->registered == 0)
		return;
	if (sock->wanted == 0)
	{
		/* Left in the set for reuse, but something happened: take it out. */
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		sock->registered = 0;
		return;
	}
	if (event->events & EPOLLIN)
		what |= CURL_CSELECT_IN;
	if (event->events & EPOLLOUT)
		what |= CURL_CSELECT_OUT;
	if (event->events & (EPOLLERR | EPOLLHUP))
		what |= CURL_CSELECT_ERR;
	sock->lane->touched = true;
	curl_multi_socket_action(sock->lane->multi, fd, what, &running);
}

/* On a thread of its own: whether nothing can be done, nor handed over, without an event. */
static bool
may_wait(const SeHttpLoop *loop)
{
	return loop->wake_fd >= 0 && !loop->more && loop->done_head == NULL && !can_start(loop);
}

static int
handle_events(SeHttpLoop *loop, bool wait)
{
	struct epoll_event events[SE_HTTP_EVENTS];
	int n = epoll_wait(loop->epoll_fd, events, SE_HTTP_EVENTS, wait ? -1 : 0);

	for (int i = 0; i < n; i++)
		handle_event(loop, &events[i]);
	return n;
}

/* Let libcurl look at all requests of a lane, also at those whose time has not come. */
static void
run_all(SeHttpLane *lane)
{
	int running;

	lane->nudge = false;
	lane->touched = true;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	curl_multi_socket_all(lane->multi, &running);
#pragma GCC diagnostic pop
}

static bool
run_timers(SeHttpLoop *loop)
{
	int64_t now = se_http_now_us();
	bool any = false;
	int running;

	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
	{
		if (lane->nudge)
		{
			run_all(lane);
			any = true;
		}
		if (lane->deadline_us < 0 || lane->deadline_us > now)
			continue;
		/* Cleared first: libcurl sets the next one from inside the call. */
		lane->deadline_us = -1;
		lane->touched = true;
		curl_multi_socket_action(lane->multi, CURL_SOCKET_TIMEOUT, 0, &running);
		any = true;
	}
	return any;
}

static void
collect(SeHttpLoop *loop)
{
	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
	{
		if (lane->touched)
			se_http_lane_collect(lane);
	}
}

/*
 * Give waiting requests to libcurl, one of each lane in turn, so that a lane
 * with a long queue leaves room for the others.  The list is turned by one
 * lane each time for the same reason.
 */
static void
start_waiting(SeHttpLoop *loop)
{
	bool any = loop->nlive > loop->nactive;

	while (any && loop->nactive < loop->max_total)
	{
		SeHttpLane *first = loop->lanes;

		any = false;
		for (SeHttpLane *lane = first; lane != NULL; lane = lane->next)
		{
			if (loop->nactive < loop->max_total && se_http_lane_start_one(lane))
				any = true;
		}
	}
	if (loop->nlive > loop->nactive && loop->lanes->next != NULL)
	{
		SeHttpLane *first = loop->lanes;
		SeHttpLane *last = first;

		while (last->next != NULL)
			last = last->next;
		loop->lanes = first->next;
		first->next = NULL;
		last->next = first;
	}
}

/*
 * End requests past their deadline that libcurl did not end itself: those
 * that wait here, and those it keeps waiting for a connection, on which its
 * own timeout does not run.
 */
static void
sweep_deadlines(SeHttpLoop *loop)
{
	int64_t now = se_http_now_us();
	SeHttpCall *next_call;

	if (loop->sweep_us < 0 || now < loop->sweep_us)
		return;
	loop->sweep_us = -1;
	for (SeHttpCall *call = loop->live; call != NULL; call = next_call)
	{
		int64_t due = call->deadline_us + (call->active ? SE_HTTP_GRACE_US : 0);

		next_call = call->live_next;
		if (due <= now)
			se_http_finish(call, CURLE_OPERATION_TIMEDOUT);
		else
			loop->sweep_us = earlier(loop->sweep_us, due);
	}
}

/* The idle lane that has been so for the longest, as the pointer to it; NULL: none. */
static SeHttpLane **
longest_idle(SeHttpLoop *loop)
{
	SeHttpLane **found = NULL;

	for (SeHttpLane **link = &loop->lanes; *link != NULL; link = &(*link)->next)
	{
		if (lane_is_idle(*link) &&
			(found == NULL || (*link)->idle_since_us < (*found)->idle_since_us))
			found = link;
	}
	return found;
}

/*
 * Close the connections of lanes that nobody has used for a while; sooner, where there are many:
 * what is open at once stays below se_http_max_sockets().
 */
static void
drop_idle_lanes(SeHttpLoop *loop)
{
	int64_t limit = se_http_now_us() - SE_HTTP_IDLE_LANE_US;
	int connections = 0;
	SeHttpLane **link;

	for (SeHttpLane *lane = loop->lanes; lane != NULL; lane = lane->next)
		connections += lane->most_active;
	while ((link = longest_idle(loop)) != NULL)
	{
		SeHttpLane *lane = *link;

		if (lane->idle_since_us > limit && connections <= SE_HTTP_KEPT * loop->max_total)
			break;
		connections -= lane->most_active;
		*link = lane->next;
		se_http_lane_free(lane);
	}
}

int
se_http_max_sockets(int max_connections_total)
{
	/* What is kept when a drive begins, what is opened in it, resolvers and libcurl's own. */
	return (SE_HTTP_KEPT + 1) * max_connections_total + max_connections_total / 2 + 100;
}

void
se_http_drive(SeHttpLoop *loop)
{
	sigset_t saved;
	int nevents = SE_HTTP_EVENTS;
	int rounds = 0;
	bool fired;

	if (loop->driving)
		return;
	if (loop->wake_fd < 0)
		block_signals(&saved);
	loop->driving = true;

	do
	{
		if (nevents == SE_HTTP_EVENTS)
			nevents = handle_events(loop, rounds == 0 && may_wait(loop));
		collect(loop);
		start_waiting(loop);
		fired = run_timers(loop);
		collect(loop);
	} while (++rounds < SE_HTTP_ROUNDS && (nevents == SE_HTTP_EVENTS || fired || can_start(loop)));
	sweep_deadlines(loop);
	drop_idle_lanes(loop);
	arm_timer(loop);

	loop->driving = false;
	if (loop->wake_fd < 0)
		restore_signals(&saved);
}

void
se_http_deliver(SeHttpLoop *loop, SeHttpResult *result)
{
	result->next = NULL;
	if (loop->done_tail != NULL)
		loop->done_tail->next = result;
	else
		loop->done_head = result;
	loop->done_tail = result;
}

SeHttpResult *
se_http_next(SeHttpLoop *loop)
{
	SeHttpResult *result = loop->done_head;

	if (result != NULL)
	{
		loop->done_head = result->next;
		if (loop->done_head == NULL)
			loop->done_tail = NULL;
		result->next = NULL;
	}
	return result;
}

void
se_http_cancel(SeHttpLoop *loop, void *owner)
{
	SeHttpCall *next_call;
	SeHttpResult *results = loop->done_head;
	sigset_t saved;

	block_signals(&saved);
	for (SeHttpCall *call = loop->live; call != NULL; call = next_call)
	{
		next_call = call->live_next;
		if (call->result->owner == owner)
		{
			se_http_call_detach(call);
			se_http_call_put(call);
		}
	}
	loop->done_head = loop->done_tail = NULL;
	while (results != NULL)
	{
		SeHttpResult *next_result = results->next;

		if (results->owner == owner)
			se_http_result_free(results);
		else
			se_http_deliver(loop, results);
		results = next_result;
	}
	if (loop->nlive > loop->nactive)
		se_http_wake(loop);
	restore_signals(&saved);
}

void
se_http_destroy(SeHttpLoop *loop)
{
	SeHttpResult *result;
	sigset_t saved;

	/*
	 * A process that dies inside libcurl cannot tidy it up; the kernel closes
	 * what is left.
	 */
	if (loop == NULL || loop->driving)
		return;
	block_signals(&saved);
	while (loop->live != NULL)
	{
		SeHttpCall *call = loop->live;

		se_http_call_detach(call);
		se_http_call_free(call);
	}
	while (loop->lanes != NULL)
	{
		SeHttpLane *lane = loop->lanes;

		loop->lanes = lane->next;
		se_http_lane_free(lane);
	}
	while ((result = se_http_next(loop)) != NULL)
		se_http_result_free(result);
	curl_url_cleanup(loop->scratch);
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	free(loop->sockets);
	free(loop);
	restore_signals(&saved);
}
