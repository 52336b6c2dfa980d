/*
 * sink.c: a system that takes a while and says when each request came.
 *
 *   sink DELAY_MS LOG     prints its port; answers each request DELAY_MS after it has come
 *
 * LOG gets a line for each request: when its last byte had come (microseconds since the epoch), and
 * the number that the request carries in metadata[number], as billing's mapping sends it. Ends with
 * the parent process. Listens on 127.0.0.1 only.
 */
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

typedef struct Request
{
	struct Request *next; /* waiting, oldest first: all wait equally long */
	struct MHD_Connection *connection;
	long long due_us;
	char number[40];
	size_t seen;
	char head[4096]; /* beginning of the body */
} Request;

static Request *first = NULL;
static Request *last = NULL;
static long long delay_us;
static long long requests = 0;
static FILE *record;

static long long
now_us(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return at.tv_sec * 1000000LL + at.tv_nsec / 1000;
}

static void
take_number(Request *r)
{
	static const char name[] = "metadata%5Bnumber%5D=";
	char *at;

	r->head[r->seen < sizeof(r->head) ? r->seen : sizeof(r->head) - 1] = '\0';
	at = strstr(r->head, name);
	if (at == NULL)
		at = strstr(r->head, "metadata[number]=");
	if (at == NULL)
		return;
	at = strchr(at, '=') + 1;
	snprintf(r->number, sizeof(r->number), "%.*s", (int) strcspn(at, "&"), at);
}

static enum MHD_Result
answer(struct MHD_Connection *connection)
{
	char body[120];
	struct MHD_Response *response;
	enum MHD_Result result;

	snprintf(body, sizeof(body), "{\"id\": \"cus_%d_%lld\", \"object\": \"customer\"}",
			 (int) getpid(), ++requests);
	response = MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_COPY);
	MHD_add_response_header(response, "Content-Type", "application/json");
	result = MHD_queue_response(connection, 200, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
		   const char *version, const char *data, size_t *size, void **state)
{
	Request *r = *state;

	(void) arg;
	(void) url;
	(void) method;
	(void) version;
	if (r == NULL)
	{
		*state = r = calloc(1, sizeof(Request));
		r->connection = connection;
		return MHD_YES;
	}
	if (*size > 0)
	{
		if (r->seen < sizeof(r->head) - 1)
		{
			size_t room = sizeof(r->head) - 1 - r->seen;

			memcpy(r->head + r->seen, data, *size < room ? *size : room);
		}
		r->seen += *size;
		*size = 0;
		return MHD_YES;
	}
	if (r->due_us == 0)
	{
		take_number(r);
		fprintf(record, "%lld %s\n", now_us(CLOCK_REALTIME), r->number);
		if (delay_us == 0)
			return answer(connection);
		r->due_us = now_us(CLOCK_MONOTONIC) + delay_us;
		r->next = NULL;
		if (last != NULL)
			last->next = r;
		else
			first = r;
		last = r;
		MHD_suspend_connection(connection);
		return MHD_YES;
	}
	return answer(connection);
}

static void
on_end(void *arg, struct MHD_Connection *connection, void **state,
	   enum MHD_RequestTerminationCode code)
{
	(void) arg;
	(void) connection;
	(void) code;
	free(*state);
	*state = NULL;
}

/* Lets go who has waited long enough; milliseconds until the next one has, -1: nobody waits. */
static int
resume_due(void)
{
	long long now = now_us(CLOCK_MONOTONIC);

	while (first != NULL && first->due_us <= now)
	{
		Request *r = first;

		first = r->next;
		if (first == NULL)
			last = NULL;
		MHD_resume_connection(r->connection);
	}
	return first == NULL ? -1 : (int) ((first->due_us - now + 999) / 1000);
}

static struct MHD_Daemon *
start(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request,
							NULL, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT,
							4096u, MHD_OPTION_LISTEN_BACKLOG_SIZE, 4096u,
							MHD_OPTION_NOTIFY_COMPLETED, on_end, NULL, MHD_OPTION_END);
}

int
main(int argc, char **argv)
{
	struct MHD_Daemon *daemon;
	int fd;

	if (argc != 3 || (record = fopen(argv[2], "w")) == NULL)
	{
		fprintf(stderr, "usage: sink DELAY_MS LOG\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGPIPE, SIG_IGN);
	delay_us = atoll(argv[1]) * 1000;
	setvbuf(record, NULL, _IOLBF, 0);
	daemon = start();
	if (daemon == NULL)
		return 1;
	printf("%d\n", MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
	fflush(stdout);
	fd = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
	for (;;)
	{
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		MHD_UNSIGNED_LONG_LONG asked;
		int wait = resume_due();

		MHD_run(daemon);
		if (MHD_get_timeout(daemon, &asked) == MHD_YES && (wait < 0 || asked < (unsigned) wait))
			wait = (int) asked;
		poll(&poll_fd, 1, wait);
	}
}
