/*
 * compat.h: everything that depends on the PostgreSQL major version, in one place.
 *
 * PostgreSQL 15 is the version that is tested; 16 to 18 are kept in mind.
 */
#ifndef SE_COMPAT_H
#define SE_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "sync_ext needs PostgreSQL 15 or newer"
#endif

/* Wait events: extensions name their own from 17 on; before, all share PG_WAIT_EXTENSION. */
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#define SE_WAIT_EVENT(name) WaitEventExtensionNew(name)
#else
#include "utils/wait_event.h"
#define SE_WAIT_EVENT(name) PG_WAIT_EXTENSION
#endif

#endif
