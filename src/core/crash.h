/*
 * crash.h: places where a test can make the process die, wait or fail.
 *
 * Compiled in with `make SYNC_EXT_TEST=1` only. A point is armed by a file named after it in the
 * directory that the environment variable SYNC_EXT_CRASH_DIR of the server names; the file's first
 * word says what happens: `kill` (SIGKILL to itself), `error` (ereport), `wait` (until the file is
 * gone; <point>.reached tells that it has begun). The file of `kill` and `error` is removed first,
 * so that each fires once.
 */
#ifndef SE_CRASH_H
#define SE_CRASH_H

#ifdef SYNC_EXT_TEST_HOOKS
extern void se_crash_point(const char *name);
#define SE_CRASH_POINT(name) se_crash_point(name)
#else
#define SE_CRASH_POINT(name) ((void) 0)
#endif

#endif
