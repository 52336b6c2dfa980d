/*
 * curl_bare.c: how fast libcurl's multi interface alone delivers, recording nothing.
 *
 *   curl_bare URL REQUESTS CONNECTIONS BODY_BYTES      prints requests per second
 *
 * The fastest simple use of it: one easy handle a connection, its options set once, sockets in
 * one epoll set, a handle put back as soon as its answer is there.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

static int epoll_fd;
static long timeout_ms = -1;

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct epoll_event event = {.data.fd = fd};

	(void) easy;
	if (what == CURL_POLL_REMOVE)
	{
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		curl_multi_assign(arg, fd, NULL);
		return 0;
	}
	event.events = ((what & CURL_POLL_IN) ? EPOLLIN : 0) | ((what & CURL_POLL_OUT) ? EPOLLOUT : 0);
	epoll_ctl(epoll_fd, known != NULL ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
	if (known == NULL)
		curl_multi_assign(arg, fd, &epoll_fd);
	return 0;
}

static int
on_timer(CURLM *multi, long ms, void *arg)
{
	(void) multi;
	(void) arg;
	timeout_ms = ms;
	return 0;
}

static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) arg;
	return size * n;
}

static CURL *
make_handle(const char *url, const char *body, struct curl_slist *headers)
{
	CURL *easy = curl_easy_init();

	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long) strlen(body));
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	return easy;
}

static double
now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

/* Takes what has ended; gives back the number, and puts handles in again while `left` lasts. */
static long
collect(CURLM *multi, long *left)
{
	CURLMsg *message;
	int queued;
	long ended = 0;

	while ((message = curl_multi_info_read(multi, &queued)) != NULL)
	{
		CURL *easy = message->easy_handle;
		long status = 0;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
		if (message->data.result != CURLE_OK || status != 200)
		{
			fprintf(stderr, "request failed: %s, status %ld\n",
					curl_easy_strerror(message->data.result), status);
			exit(1);
		}
		curl_multi_remove_handle(multi, easy);
		ended++;
		if (*left > 0)
		{
			(*left)--;
			curl_multi_add_handle(multi, easy);
		}
	}
	return ended;
}

static double
run(CURLM *multi, long requests, long connections, CURL **handles)
{
	long left = requests - connections;
	long ended = 0;
	int running;
	double began = now();

	for (long i = 0; i < connections; i++)
		curl_multi_add_handle(multi, handles[i]);
	while (ended < requests)
	{
		struct epoll_event events[256];
		int n;

		if (timeout_ms == 0)
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
		n = epoll_wait(epoll_fd, events, 256, timeout_ms < 0 ? 1000 : (int) timeout_ms);
		if (n == 0)
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
		for (int i = 0; i < n; i++)
		{
			int what = ((events[i].events & EPOLLIN) ? CURL_CSELECT_IN : 0) |
					   ((events[i].events & EPOLLOUT) ? CURL_CSELECT_OUT : 0);

			curl_multi_socket_action(multi, events[i].data.fd, what, &running);
		}
		ended += collect(multi, &left);
	}
	return now() - began;
}

int
main(int argc, char **argv)
{
	CURLM *multi;
	CURL **handles;
	struct curl_slist *headers = NULL;
	char *body;
	long requests;
	long connections;
	size_t size;

	if (argc != 5)
	{
		fprintf(stderr, "usage: curl_bare URL REQUESTS CONNECTIONS BODY_BYTES\n");
		return 2;
	}
	requests = atol(argv[2]);
	connections = atol(argv[3]);
	size = (size_t) atol(argv[4]);
	body = malloc(size + 1);
	memset(body, 'x', size);
	memcpy(body, "{\"name\": \"", 10);
	memcpy(body + size - 2, "\"}", 3);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Expect:");
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, multi);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, connections);
	handles = calloc(connections, sizeof(CURL *));
	for (long i = 0; i < connections; i++)
		handles[i] = make_handle(argv[1], body, headers);
	(void) run(multi, connections * 2, connections, handles); /* connections are open now */
	printf("%.0f\n", requests / run(multi, requests, connections, handles));
	return 0;
}
