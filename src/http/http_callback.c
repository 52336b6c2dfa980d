/*
 * http_callback.c
 *		What libcurl calls.  Nothing here may throw, longjmp or call back into
 *		libcurl; failure is a flag in the call and a return value.
 */
#include "http/http_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room for len more bytes and one zero; doubles, never beyond the cap. */
static bool
reserve(char **buffer, size_t *size, size_t used, size_t len, size_t cap)
{
	size_t need = used + len + 1;
	size_t wanted = *size * 2;
	char *grown;

	if (need <= *size)
		return true;
	if (wanted < need)
		wanted = need;
	if (wanted > cap + 1 && need <= cap + 1)
		wanted = cap + 1;
	grown = realloc(*buffer, wanted);
	if (grown == NULL)
		return false;
	*buffer = grown;
	*size = wanted;
	return true;
}

/* Keep "Name: value" as two strings. */
static bool
keep_header(SeHttpCall *call, const char *line, size_t len)
{
	const char *colon = memchr(line, ':', len);
	const char *value;
	size_t name_len;
	size_t value_len;
	char *to;

	if (colon == NULL || colon == line || line[0] == ' ' || line[0] == '\t')
		return true;
	name_len = colon - line;
	while (name_len > 0 && line[name_len - 1] == ' ')
		name_len--;
	value = colon + 1;
	value_len = line + len - value;
	while (value_len > 0 && (*value == ' ' || *value == '\t'))
	{
		value++;
		value_len--;
	}
	while (value_len > 0 && strchr(" \t\r\n", value[value_len - 1]) != NULL)
		value_len--;

	if (!reserve(&call->head, &call->head_size, call->head_len, name_len + value_len + 2,
				 SE_HTTP_MAX_HEADER_BYTES * 2))
	{
		call->oom = true;
		return false;
	}
	to = call->head + call->head_len;
	memcpy(to, line, name_len);
	to[name_len] = '\0';
	memcpy(to + name_len + 1, value, value_len);
	to[name_len + 1 + value_len] = '\0';
	call->head_len += name_len + value_len + 2;
	call->nheaders++;
	return true;
}

size_t
se_http_on_header(char *data, size_t size, size_t n, void *arg)
{
	SeHttpCall *call = arg;
	size_t len = size * n;

	/* All blocks count, so that endless 1xx answers come to an end too. */
	call->head_total += len;
	if (call->head_total > SE_HTTP_MAX_HEADER_BYTES || call->nheaders >= SE_HTTP_MAX_HEADERS)
	{
		call->headers_too_large = true;
		return 0;
	}
	if (call->body_begun)
		return len; /* trailers are of no use here */
	if (len >= 5 && strncasecmp(data, "HTTP/", 5) == 0)
	{
		call->nheaders = 0;
		call->head_len = 0;
		return len;
	}
	return keep_header(call, data, len) ? len : 0;
}

size_t
se_http_on_body(char *data, size_t size, size_t n, void *arg)
{
	SeHttpCall *call = arg;
	size_t len = size * n;

	call->body_begun = true;
	if (len > call->max_response - call->body_len)
	{
		call->too_large = true;
		return 0;
	}
	if (!reserve(&call->body, &call->body_size, call->body_len, len, call->max_response))
	{
		call->oom = true;
		return 0;
	}
	memcpy(call->body + call->body_len, data, len);
	call->body_len += len;
	return len;
}

/*
 * A connection stands (TLS included) and the first byte of the request is
 * about to leave: the line between NOT_SENT and MAYBE_SENT.
 *
 * libcurl silently sends a request again if a reused connection closes before
 * any answer, a POST as well.  The other side may have acted on the first
 * one, so for methods that change something the second is stopped here.
 */
int
se_http_on_send(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	SeHttpCall *call = arg;

	(void) remote_ip;
	(void) local_ip;
	(void) remote_port;
	(void) local_port;
	call->connected = true;
	if (call->started && !call->repeatable)
	{
		call->second_try = true;
		return CURL_PREREQFUNC_ABORT;
	}
	call->started = true;
	return CURL_PREREQFUNC_OK;
}

static bool
watch(SeHttpLoop *loop, SeHttpSocket *sock, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	int op = sock->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	sock->wanted = events;
	if (sock->registered == events)
		return true;
	if (epoll_ctl(loop->epoll_fd, op, fd, &event) != 0)
		return false;
	sock->registered = events;
	return true;
}

/*
 * Make the socket for one address, if the policy allows that address.  Behind
 * a proxy the address is the proxy's, which was allowed by name.
 */
curl_socket_t
se_http_on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	SeHttpCall *call = arg;
	SeHttpLane *lane = call->lane;
	SeHttpSocket *sock;
	uint32_t wanted;
	int fd;

	if (purpose != CURLSOCKTYPE_IPCXN ||
		(lane->proxy == NULL &&
		 !se_egress_check_address(lane->egress, lane->host, lane->port, &address->addr,
								  call->refused, sizeof(call->refused))))
		return CURL_SOCKET_BAD;

	fd = socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
				address->protocol);
	if (fd < 0)
	{
		call->os_error = errno;
		return CURL_SOCKET_BAD;
	}
	sock = se_http_socket(lane->loop, fd);
	if (sock == NULL)
	{
		close(fd);
		return CURL_SOCKET_BAD;
	}

	/*
	 * What the table holds was about an earlier descriptor of this number.  If libcurl closed that
	 * one without a word while it was connecting, it believes that the number is still watched.
	 */
	wanted = sock->lane == lane ? sock->wanted : 0;
	*sock = (SeHttpSocket){.lane = lane, .ours = true};
	if (wanted != 0 && !watch(lane->loop, sock, fd, wanted))
	{
		*sock = (SeHttpSocket){0};
		close(fd);
		return CURL_SOCKET_BAD;
	}
	call->connected = false;
	call->os_error = 0;
	return fd;
}

/* arg is the loop: a connection outlives the request that opened it. */
int
se_http_on_close(void *arg, curl_socket_t fd)
{
	SeHttpSocket *sock = se_http_socket(arg, fd);

	if (sock != NULL)
		*sock = (SeHttpSocket){0};
	return close(fd); /* which also takes it out of the epoll set */
}

/* The request has a connection that stands, and it is not the resolver that is asked about. */
static bool
is_connected(CURL *easy)
{
	SeHttpCall *call = NULL;

	return curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &call) == CURLE_OK && call != NULL &&
		   call->connected;
}

/* libcurl says what it waits for on a socket. */
int
se_http_on_watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *per_socket)
{
	SeHttpLane *lane = arg;
	SeHttpLoop *loop = lane->loop;
	SeHttpSocket *sock = se_http_socket(loop, fd);

	(void) per_socket;
	if (sock == NULL)
		return -1;
	if (what == CURL_POLL_REMOVE)
	{
		/* One that was closed without a word: the number is another lane's by now. */
		if (sock->lane != lane)
			return 0;
		sock->wanted = 0;

		/*
		 * The resolver's sockets, and ours before the connection stands, are closed without telling
		 * us (libcurl 7.88), and their numbers come back as other sockets; none may be left in.
		 */
		if (sock->registered != 0 && !(sock->ours && is_connected(easy)))
		{
			/* Perhaps to try another address, and libcurl 7.88 forgets to say that it waits for us. */
			lane->nudge = sock->ours;
			epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
			*sock = (SeHttpSocket){0};
		}
		return 0;
	}
	if (sock->lane != lane)
		*sock = (SeHttpSocket){.lane = lane};
	return watch(loop, sock, fd,
				 ((what & CURL_POLL_IN) ? EPOLLIN : 0) | ((what & CURL_POLL_OUT) ? EPOLLOUT : 0))
			   ? 0
			   : -1;
}

int
se_http_on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	SeHttpLane *lane = arg;

	(void) multi;
	if (timeout_ms < 0)
		lane->deadline_us = -1;
	else if (timeout_ms == 0)
		lane->deadline_us = 0;
	else
		/* libcurl rounds down; half a millisecond later is never too early */
		lane->deadline_us = se_http_now_us() + (int64_t) timeout_ms * 1000 + 500;
	return 0;
}
