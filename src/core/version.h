/*
 * version.h: version of the library; that of the SQL objects must be the same for workers to run.
 */
#ifndef SE_VERSION_H
#define SE_VERSION_H

/* Set by the Makefile from sync_ext.control. */
#ifndef SE_VERSION
#define SE_VERSION "0.1.0"
#endif

#endif
