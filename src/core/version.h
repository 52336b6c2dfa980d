/*
 * version.h: version of the library; that of the SQL objects must be the same for workers to run.
 */
#ifndef SE_VERSION_H
#define SE_VERSION_H

/* The Makefile defines SYNC_EXT_VERSION from sync_ext.control. */
#define SE_VERSION SYNC_EXT_VERSION

#endif
