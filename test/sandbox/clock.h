/*
 * clock.h
 *		The sandbox's own time: it can be set, advanced and frozen.
 */
#ifndef SANDBOX_CLOCK_H
#define SANDBOX_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern int64_t clock_ms(void);
extern int64_t clock_seconds(void);
extern void clock_set(int64_t ms);
extern void clock_freeze(bool freeze);
extern bool clock_is_frozen(void);

/* For the calling thread only, until ended; 0 ends it. */
extern void clock_override(int64_t ms);

extern void clock_format(int64_t ms, char *out, size_t size);
extern bool clock_parse(const char *text, int64_t *ms);

#endif
