/*
 * util.h
 *		Memory that never fails, a growing buffer, identifiers, randomness.
 */
#ifndef SANDBOX_UTIL_H
#define SANDBOX_UTIL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Buf
{
	char *data; /* always NUL-terminated once something is in */
	size_t len;
	size_t cap;
} Buf;

extern void *xmalloc(size_t size);
extern void *xcalloc(size_t count, size_t size);
extern void *xrealloc(void *old, size_t size);
extern char *xstrdup(const char *s);
extern char *xstrndup(const char *s, size_t len);

extern void buf_append(Buf *buf, const void *data, size_t len);
extern void buf_puts(Buf *buf, const char *s);
extern void buf_printf(Buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
extern void buf_insert(Buf *buf, size_t at, const void *data, size_t len);
extern void buf_free(Buf *buf);

extern void random_seed(uint64_t seed);
extern double random_unit(void);
extern uint64_t hash_bytes(const void *data, size_t len);
extern void make_id(char *out, size_t size, const char *prefix, int digits);

extern bool starts_with(const char *s, const char *prefix);
extern void sleep_ms(int64_t ms);
extern int64_t monotonic_ms(void);
extern void base64_decode(const char *in, char *out, size_t size);

#endif
