/*
 * main.c
 *		The sandbox: options, start, end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "http.h"
#include "pipeline.h"

typedef struct Options
{
	ServerOptions server;
	const char *port_file;
	int64_t clock_start;	 /* 0: the wall clock */
	int64_t idempotency_ttl; /* -1: the default */
	uint64_t seed;
	bool exit_with_parent;
} Options;

static const char *port_file;

static const char usage_text[] =
	"usage: sandbox [options]\n"
	"  --port N               listen on 127.0.0.1:N; 0, the default, takes a free port\n"
	"  --port-file FILE       write the port there once requests are served\n"
	"  --tls-cert FILE        serve HTTPS with this certificate and\n"
	"  --tls-key FILE           this key, both PEM\n"
	"  --key KEY              the secret key of the Stripe-like API (sk_test_sandbox)\n"
	"  --idempotency-ttl S    forget stored answers after S seconds (86400)\n"
	"  --clock-start EPOCH    what time it is at the start (now)\n"
	"  --seed N               of identifiers and probabilities (1)\n"
	"  --exit-with-parent     end when the parent process or its end of our stdin does\n";

/* Callable from a signal handler. */
static void
quit(int signal_number)
{
	(void) signal_number;
	if (port_file != NULL)
		unlink(port_file);
	_exit(0);
}

static void
fail(const char *what, const char *name)
{
	fprintf(stderr, "sandbox: %s %s: %s\n", what, name, strerror(errno));
	exit(1);
}

static char *
read_file(const char *name)
{
	FILE *file = fopen(name, "r");
	Buf text = {0};
	char chunk[4096];
	size_t n;

	if (file == NULL)
		fail("cannot read", name);
	while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
		buf_append(&text, chunk, n);
	fclose(file);
	return text.data;
}

/* Whoever waits for the file must never see it half written. */
static void
write_port_file(const char *name, unsigned port)
{
	char temporary[4096];
	FILE *file;

	snprintf(temporary, sizeof(temporary), "%s.new", name);
	file = fopen(temporary, "w");
	if (file == NULL || fprintf(file, "%u\n", port) < 0 || fclose(file) != 0 ||
		rename(temporary, name) != 0)
		fail("cannot write", name);
}

static bool
set_option(Options *options, int option, const char *value)
{
	switch (option)
	{
		case 'p':
			options->server.port = (unsigned short) atoi(value);
			return true;
		case 'f':
			options->port_file = value;
			return true;
		case 'c':
			options->server.tls_cert = read_file(value);
			return true;
		case 'k':
			options->server.tls_key = read_file(value);
			return true;
		case 'a':
			snprintf(config.api_key, sizeof(config.api_key), "%s", value);
			return true;
		case 'i':
			options->idempotency_ttl = atoll(value);
			return true;
		case 't':
			options->clock_start = atoll(value);
			return true;
		case 's':
			options->seed = strtoull(value, NULL, 10);
			return true;
		case 'x':
			options->exit_with_parent = true;
			return true;
		default:
			return false;
	}
}

static void
read_options(int argc, char **argv, Options *options)
{
	static const struct option names[] = {
		{"port", required_argument, NULL, 'p'},
		{"port-file", required_argument, NULL, 'f'},
		{"tls-cert", required_argument, NULL, 'c'},
		{"tls-key", required_argument, NULL, 'k'},
		{"key", required_argument, NULL, 'a'},
		{"idempotency-ttl", required_argument, NULL, 'i'},
		{"clock-start", required_argument, NULL, 't'},
		{"seed", required_argument, NULL, 's'},
		{"exit-with-parent", no_argument, NULL, 'x'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
	{
		if (option == 'h')
		{
			fputs(usage_text, stdout);
			exit(0);
		}
		if (!set_option(options, option, optarg))
		{
			fputs(usage_text, stderr);
			exit(2);
		}
	}
	if ((options->server.tls_cert == NULL) != (options->server.tls_key == NULL))
	{
		fputs("sandbox: --tls-cert and --tls-key go together\n", stderr);
		exit(2);
	}
}

/* A benchmark opens thousands of connections. */
static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
	{
		limit.rlim_cur = limit.rlim_max;
		(void) setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/*
 * The kernel tells of the parent's death, but only of the thread that forked
 * us, and a shell in between hides it; a pipe at stdin closes in any case.
 */
static void
wait_for_the_end(bool with_parent)
{
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	struct stat st;
	char ignored[256];

	if (!with_parent || fstat(STDIN_FILENO, &st) != 0 ||
		!(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)))
	{
		for (;;)
			pause();
	}
	for (;;)
	{
		if (poll(&in, 1, -1) > 0 && read(STDIN_FILENO, ignored, sizeof(ignored)) <= 0)
			return;
	}
}

int
main(int argc, char **argv)
{
	Options options = {.seed = 1, .idempotency_ttl = -1};
	pid_t parent = getppid();
	struct MHD_Daemon *daemon;

	strcpy(config.api_key, "sk_test_sandbox");
	config_defaults();
	read_options(argc, argv, &options);
	if (options.idempotency_ttl >= 0)
		config.idempotency_ttl = options.idempotency_ttl;
	if (options.clock_start > 0)
		clock_set(options.clock_start * 1000);
	state_seed(options.seed);
	raise_file_limit();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, quit);
	signal(SIGINT, quit);
	if (options.exit_with_parent)
	{
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			return 0; /* it died before we asked */
	}
	daemon = http_start(&options.server);
	if (daemon == NULL)
		fail("cannot listen on", "127.0.0.1");
	port_file = options.port_file;
	if (port_file != NULL)
		write_port_file(port_file, http_port(daemon));
	printf("listening on %s://127.0.0.1:%u\n", options.server.tls_cert ? "https" : "http",
		   http_port(daemon));
	fflush(stdout);
	wait_for_the_end(options.exit_with_parent);
	quit(0);
}
