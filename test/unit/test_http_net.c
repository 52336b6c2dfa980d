/*
 * test_http_net.c
 *		The HTTP loop and what lies between it and a server: names, TLS,
 *		proxies, connections that close while idle, many failures at once.
 */
#include "http_server.h"

#include <errno.h>
#include <netdb.h>
#include <sys/wait.h>

/* ---- a resolver of our own, in the place of the C library's ---- */

static atomic_int resolver_mask_holes;
static atomic_int resolver_calls;
static const char *rebind_to = "127.0.0.1";

/* libcurl frees what we return with freeaddrinfo(), so that is ours too. */
void
freeaddrinfo(struct addrinfo *info)
{
	while (info != NULL)
	{
		struct addrinfo *next = info->ai_next;

		free(info);
		info = next;
	}
}

static struct addrinfo *
one_address(const char *ip, int at, struct addrinfo *next)
{
	struct addrinfo *info = calloc(1, sizeof(*info) + sizeof(struct sockaddr_in));
	struct sockaddr_in *in4 = (struct sockaddr_in *) (info + 1);

	in4->sin_family = AF_INET;
	in4->sin_port = htons(at);
	inet_pton(AF_INET, ip, &in4->sin_addr);
	info->ai_family = AF_INET;
	info->ai_socktype = SOCK_STREAM;
	info->ai_addrlen = sizeof(*in4);
	info->ai_addr = (struct sockaddr *) in4;
	info->ai_next = next;
	return info;
}

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
			struct addrinfo **result)
{
	int at = service ? atoi(service) : 0;
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (!sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGUSR1) || !sigismember(&mask, SIGHUP))
		resolver_mask_holes++;
	resolver_calls++;
	if (strncmp(node, "slow", 4) == 0)
		nap(2000);
	if (strcmp(node, "none.test") == 0)
		return EAI_NONAME;
	if (strcmp(node, "split.test") == 0)
		*result = one_address("169.254.169.254", at, one_address("127.0.0.1", at, NULL));
	else if (strcmp(node, "half.test") == 0)
		*result = one_address("127.0.0.1", at, one_address("127.0.0.2", at, NULL));
	else if (strcmp(node, "rebind.test") == 0)
		*result = one_address(rebind_to, at, NULL);
	else
		*result = one_address("127.0.0.1", at, NULL);
	return 0;
}

/* ---- tests ---- */

static char url[300];
static char listed[10][100];

static void
use_policy(const char *const *entries, int n)
{
	char *err;

	se_egress_free(egress);
	egress = se_egress_parse(entries, n, &err);
	ok(egress != NULL, "policy of %d entries %s", n, egress ? "" : err);
}

static SeHttpRequest
request_to(const char *scheme, const char *host, const char *path)
{
	SeHttpRequest request = request_for("GET", "/");

	snprintf(url, sizeof(url), "%s://%s:%d%s", scheme, host, port, path);
	request.url = url;
	return request;
}

static SeHttpResult *
get_from(const char *host)
{
	SeHttpRequest request = request_to("http", host, "/echo");

	return run(&request);
}

static void
test_names(void)
{
	static const char *const names[] = {"good.test", "none.test", "split.test", "rebind.test"};
	const char *entries[5];
	SeHttpResult *result;

	for (int i = 0; i < 4; i++)
	{
		snprintf(listed[i], sizeof(listed[i]), "http://%s:%d", names[i], port);
		entries[i] = listed[i];
	}
	use_policy(entries, 4);
	result = get_from("good.test");
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "127.0.0.1, a loopback"),
	   "a name that leads to loopback: %s", result->error);
	se_http_result_free(result);

	snprintf(listed[4], sizeof(listed[4]), "127.0.0.1:%d", port);
	entries[4] = listed[4];
	use_policy(entries, 5);
	result = get_from("good.test");
	ok(result->phase == SE_HTTP_ANSWERED, "is reached once the address is listed: %s",
	   result->error);
	se_http_result_free(result);
	result = get_from("none.test");
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "could not resolve"),
	   "a name that does not exist: %s", result->error);
	se_http_result_free(result);
	result = get_from("split.test");
	ok(result->phase == SE_HTTP_ANSWERED && strcmp(result->remote_ip, "127.0.0.1") == 0,
	   "of several addresses the refused one is passed over: %s", result->error);
	se_http_result_free(result);
	rebind_to = "169.254.169.254";
	result = get_from("rebind.test");
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "link-local"),
	   "a name bound to the metadata address: %s", result->error);
	se_http_result_free(result);
	use_policy(entries, 0);
	{
		SeHttpRequest request = request_to("http", "good.test", "/echo");

		refused(&request, "not in the list");
	}
	ok(resolver_mask_holes == 0 && resolver_calls > 3,
	   "resolver threads run with signals blocked (%d calls)", resolver_calls);
}

static void
test_slow_names(void)
{
	const char *entries[2] = {listed[0], "slow.test"};
	const char *error;
	SeHttpRequest request;
	SeHttpResult *result;
	int64_t begin;
	SeHttpLoop *outer = loop;

	snprintf(listed[0], sizeof(listed[0]), "http://127.0.0.1:%d", port);
	use_policy(entries, 2);
	loop = se_http_create(10, 5, &error);
	request = request_to("https", "slow.test", "/echo");
	request.timeout_ms = 200;
	begin = se_http_now_us();
	result = run(&request);
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "resolving") &&
		   se_http_now_us() - begin < 1000000,
	   "a slow name server does not hold the loop past the deadline: %s", result->error);
	se_http_result_free(result);

	request.timeout_ms = 5000;
	se_http_submit(loop, &request, &error);
	se_http_drive(loop);
	request = request_to("http", "127.0.0.1", "/echo");
	begin = se_http_now_us();
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && se_http_now_us() - begin < 500000,
	   "others flow on meanwhile");
	se_http_result_free(result);
	begin = se_http_now_us();
	se_http_destroy(loop);
	ok(se_http_now_us() - begin < 500000, "nor does destroying the loop wait for it");
	loop = outer;
}

static void
test_idle_close(void)
{
	SeHttpRequest request = request_to("http", "127.0.0.1", "/last");
	SeHttpResult *result;

	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED, "an answer before the connection closes");
	se_http_result_free(result);
	driven = 0;
	ok(wait_result(300) == NULL && driven < 5,
	   "a connection that closes while idle does not keep us awake (%d)", driven);
	request.method = "POST";
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED, "the next request takes a new one");
	se_http_result_free(result);
}

/* A port that takes no more connections: to connect is to wait. */
static int
deaf_port(int *listener, int *fill, int n)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	int at;

	*listener = listen_somewhere(1, &at);
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	addr.sin_port = htons(at);
	for (int i = 0; i < n; i++)
	{
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(fill[i], (struct sockaddr *) &addr, sizeof(addr)) != 0 && errno != EINPROGRESS)
			ok(0, "filling a backlog");
	}
	return at;
}

/*
 * libcurl 7.88 closes a socket that never got connected without telling us.
 * Its number is the next socket's: a resolver's, or that for another address.
 */
static void
test_silent_close(void)
{
	const char *entries[] = {listed[0], listed[1], listed[2], listed[3]};
	int fill[4];
	int listener;
	int hearing;
	int at = deaf_port(&listener, fill, 4);
	char deaf[100];
	char half[100];
	const char *error;
	SeHttpRequest request = request_for("GET", "/");
	SeHttpResult *result;
	SeHttpLoop *outer = loop;
	pthread_t thread;

	snprintf(listed[1], sizeof(listed[1]), "http://127.0.0.1:%d", at);
	snprintf(listed[2], sizeof(listed[2]), "http://127.0.0.2:%d", at);
	snprintf(listed[3], sizeof(listed[3]), "http://none.test:%d", port);
	snprintf(listed[0], sizeof(listed[0]), "http://half.test:%d", at);
	use_policy(entries, 4);
	snprintf(deaf, sizeof(deaf), "http://127.0.0.1:%d/", at);
	snprintf(half, sizeof(half), "http://half.test:%d/echo", at);
	request.egress = egress;
	loop = se_http_create(10, 5, &error);

	for (int i = 0; i < 3; i++)
	{
		result = get_from("none.test");
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "could not resolve"),
		   "the resolver is heard: %s", result->error);
		se_http_result_free(result);
		request.url = deaf;
		request.connect_timeout_ms = 100;
		result = run(&request);
		ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "timed out"),
		   "a server that takes no connection: %s", result->error);
		se_http_result_free(result);
	}

	hearing = listen_at("127.0.0.2", at, 5);
	pthread_create(&thread, NULL, server, (void *) (intptr_t) hearing);
	pthread_detach(thread);
	request.url = half;
	request.connect_timeout_ms = 1000;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && strcmp(result->remote_ip, "127.0.0.2") == 0,
	   "the second address answers when the first does not: %s", result->error);
	se_http_result_free(result);

	se_http_destroy(loop);
	loop = outer;
	for (int i = 0; i < 4; i++)
		close(fill[i]);
	close(listener);
}

static void
test_proxy(void)
{
	const char *entries[] = {listed[0], "http://far.example", "far.example"};
	SeHttpRequest request = request_for("GET", "/");
	SeHttpResult *result;
	char proxy[100];

	snprintf(listed[0], sizeof(listed[0]), "127.0.0.1:%d", port);
	use_policy(entries, 3);
	request.egress = egress;
	snprintf(proxy, sizeof(proxy), "http://me:hunter2@127.0.0.1:%d", port);
	request.url = "http://far.example/echo";
	request.proxy = proxy;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 200, "plain http by proxy: %s",
	   result->error);
	se_http_result_free(result);
	request.url = "https://far.example/x";
	result = run(&request);
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "status 407") &&
		   !strstr(result->error, "hunter2"),
	   "a proxy that refuses: %s", result->error);
	se_http_result_free(result);
	request.url = "https://near.example/";
	refused(&request, "not in the list");
	request.proxy = "http://127.0.0.1";
	request.url = "http://far.example/echo";
	refused(&request, "no port");
}

/* Whatever happens to them, all requests end, once, and nothing is left. */
static void
test_storm(void)
{
	static const char *const paths[] = {"/echo",   "/cut",	"/reset", "/garbage",
										"/effect", "/bomb", "/429",	  "/endless",
										"/last",   "/nap",	"/echo",  "/silent"};
	const int n = 3000;
	char *seen = calloc(n, 1);
	int ended = 0;
	int twice = 0;
	int answered = 0;
	const char *entries[] = {listed[0]};
	const char *error;
	SeHttpResult *result;
	SeHttpLoop *outer = loop;

	snprintf(listed[0], sizeof(listed[0]), "http://127.0.0.1:%d", port);
	use_policy(entries, 1);
	loop = se_http_create(150, 40, &error);
	for (int i = 0; i < n; i++)
	{
		SeHttpRequest request = request_to("http", "127.0.0.1", paths[i % 12]);

		request.method = i % 3 ? "POST" : "GET";
		request.connection_group = i % 7;
		request.timeout_ms = i % 12 == 11 ? 50 + i % 100 : 20000;
		request.owner = seen + i;
		se_http_submit(loop, &request, &error);
		if (i % 500 == 0)
			se_http_drive(loop);
	}
	while (ended < n && (result = wait_result(20000)) != NULL)
	{
		twice += (*(char *) result->owner)++ != 0;
		answered += result->phase == SE_HTTP_ANSWERED;
		ended++;
		se_http_result_free(result);
	}
	ok(ended == n && twice == 0 && se_http_in_flight(loop) == 0 && loop->nactive == 0,
	   "%d requests of all kinds end once each (%d answered)", ended, answered);
	ok(answered > n / 3, "and those that could be answered were");
	se_http_destroy(loop);
	loop = outer;
	free(seen);
}

/* ---- TLS, with the openssl program as server ---- */

static char tls_dir[100];

static pid_t
start_tls(int at)
{
	char command[600];
	pid_t pid;

	strcpy(tls_dir, "/tmp/se_tls_XXXXXX");
	if (mkdtemp(tls_dir) == NULL)
		return -1;
	snprintf(command, sizeof(command),
			 "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem"
			 " -out cert.pem -subj /CN=good.test -addext subjectAltName=DNS:good.test"
			 " >/dev/null 2>&1",
			 tls_dir);
	if (system(command) != 0)
		return -1;
	pid = fork();
	if (pid == 0)
	{
		char text[20];

		snprintf(text, sizeof(text), "%d", at);
		if (chdir(tls_dir) != 0 || freopen("/dev/null", "w", stdout) == NULL ||
			freopen("/dev/null", "w", stderr) == NULL)
			_exit(1);
		execlp("openssl", "openssl", "s_server", "-accept", text, "-key", "key.pem", "-cert",
			   "cert.pem", "-www", (char *) NULL);
		_exit(1);
	}
	nap(500);
	return pid;
}

static void
test_tls(void)
{
	const char *entries[] = {listed[0], "good.test", "other.test"};
	char ca[150];
	char at_good[100];
	char at_other[100];
	int tls_port;
	pid_t server_pid;
	SeHttpRequest request = request_for("GET", "/");
	SeHttpResult *result;

	close(listen_somewhere(0, &tls_port));
	server_pid = start_tls(tls_port);
	if (server_pid <= 0)
	{
		ok(1, "TLS # SKIP no openssl program");
		return;
	}
	snprintf(listed[0], sizeof(listed[0]), "127.0.0.1:%d", tls_port);
	use_policy(entries, 3);
	request.egress = egress;
	snprintf(ca, sizeof(ca), "%s/cert.pem", tls_dir);
	snprintf(at_good, sizeof(at_good), "https://good.test:%d/", tls_port);
	snprintf(at_other, sizeof(at_other), "https://other.test:%d/", tls_port);

	request.url = at_good;
	result = run(&request);
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "certificate"),
	   "a certificate nobody signed: %s", result->error);
	se_http_result_free(result);
	request.ca_file = ca;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED && result->status == 200, "trusted by our CA file: %s",
	   result->error);
	se_http_result_free(result);
	request.http2 = true;
	result = run(&request);
	ok(result->phase == SE_HTTP_ANSWERED, "HTTP/2 asked of a server that has none: %s",
	   result->error);
	se_http_result_free(result);
	request.url = at_other;
	result = run(&request);
	ok(result->phase == SE_HTTP_NOT_SENT && strstr(result->error, "TLS with host"),
	   "a certificate of another name: %s", result->error);
	se_http_result_free(result);

	kill(server_pid, SIGTERM);
	waitpid(server_pid, NULL, 0);
	unlink(ca);
	snprintf(ca, sizeof(ca), "%s/key.pem", tls_dir);
	unlink(ca);
	rmdir(tls_dir);
}

int
main(void)
{
	const char *error;

	/* The environment of the server must not send our requests elsewhere. */
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("https_proxy", "http://127.0.0.1:1", 1);
	setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
	port = start_server();
	loop = se_http_create(100, 50, &error);
	ok(loop != NULL, "loop");
	test_names();
	test_slow_names();
	test_idle_close();
	test_silent_close();
	test_proxy();
	test_tls();
	test_storm();
	se_http_destroy(loop);
	se_egress_free(egress);
	nap(2100); /* the slow resolver threads end and free what they hold */
	return tap_done();
}
