/*
 * util.c
 *		Memory that never fails, a growing buffer, identifiers, randomness.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util.h"

static uint64_t seed_value = 1;
static atomic_uint_fast64_t id_counter;
static atomic_uint_fast64_t random_counter;

/* A test server that runs out of memory has nothing better to do than stop. */
static void *
checked(void *p)
{
	if (p == NULL)
	{
		fprintf(stderr, "sandbox: out of memory\n");
		abort();
	}
	return p;
}

void *
xmalloc(size_t size)
{
	return checked(malloc(size ? size : 1));
}

void *
xcalloc(size_t count, size_t size)
{
	return checked(calloc(count ? count : 1, size ? size : 1));
}

void *
xrealloc(void *old, size_t size)
{
	return checked(realloc(old, size ? size : 1));
}

char *
xstrdup(const char *s)
{
	return checked(strdup(s));
}

char *
xstrndup(const char *s, size_t len)
{
	return checked(strndup(s, len));
}

static void
buf_reserve(Buf *buf, size_t more)
{
	size_t need = buf->len + more + 1;

	if (need <= buf->cap)
		return;
	if (need < buf->cap * 2)
		need = buf->cap * 2;
	if (need < 128)
		need = 128;
	buf->data = xrealloc(buf->data, need);
	buf->cap = need;
}

void
buf_append(Buf *buf, const void *data, size_t len)
{
	buf_reserve(buf, len);
	if (len > 0)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

void
buf_puts(Buf *buf, const char *s)
{
	buf_append(buf, s, strlen(s));
}

void
buf_printf(Buf *buf, const char *fmt, ...)
{
	va_list ap;
	char *text = NULL;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		checked(NULL);
	buf_append(buf, text, (size_t) len);
	free(text);
}

void
buf_insert(Buf *buf, size_t at, const void *data, size_t len)
{
	buf_reserve(buf, len);
	memmove(buf->data + at + len, buf->data + at, buf->len - at);
	memcpy(buf->data + at, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

void
buf_free(Buf *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

/* A bijection on 64 bits (splitmix64), so distinct counters stay distinct. */
static uint64_t
mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

void
random_seed(uint64_t seed)
{
	seed_value = mix64(seed);
	atomic_store(&id_counter, 0);
	atomic_store(&random_counter, 0);
}

double
random_unit(void)
{
	uint64_t n = atomic_fetch_add(&random_counter, 1);

	return (double) (mix64(seed_value ^ mix64(n)) >> 11) / 9007199254740992.0;
}

uint64_t
hash_bytes(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3u;
	return mix64(h);
}

/*
 * Identifiers look like a vendor's, never repeat within one run, and are the
 * same in every run with the same seed and the same order of requests. The
 * first eleven digits carry the whole mixed counter, hence uniqueness.
 */
void
make_id(char *out, size_t size, const char *prefix, int digits)
{
	static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	uint64_t n = mix64(seed_value + atomic_fetch_add(&id_counter, 1));
	size_t at = (size_t) snprintf(out, size, "%s", prefix);
	uint64_t rest = n;

	for (int i = 0; i < digits && at + 1 < size; i++)
	{
		if (i == 11)
			rest = mix64(n);
		else if (i == 22)
			rest = mix64(~n);
		out[at++] = alphabet[rest % 62];
		rest /= 62;
	}
	out[at] = '\0';
}

bool
starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

void
sleep_ms(int64_t ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};

	if (ms <= 0)
		return;
	while (nanosleep(&ts, &ts) != 0)
		;
}

int64_t
monotonic_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Lenient: stops at the first character outside the alphabet. */
void
base64_decode(const char *in, char *out, size_t size)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	int have = 0;
	size_t len = 0;

	for (; *in && len + 1 < size; in++)
	{
		const char *p = strchr(alphabet, *in);

		if (p == NULL)
			break;
		bits = (bits << 6) | (uint32_t) (p - alphabet);
		have += 6;
		if (have >= 8)
		{
			have -= 8;
			out[len++] = (char) (bits >> have);
		}
	}
	out[len] = '\0';
}
