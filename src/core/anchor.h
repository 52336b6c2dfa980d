/*
 * anchor.h: the file outside the database that holds the heads of the audit chain.
 *
 * One file for each hub, <sync_ext.audit_anchor_dir>/<hub id>.anchors, that lines are appended to. Who
 * rotates it renames it; the next line makes it again.
 */
#ifndef SE_ANCHOR_H
#define SE_ANCHOR_H

#include "postgres.h"

/* Whether anchors go into a file at all. */
extern bool se_anchor_wanted(void);

/* Appends lines, each of which ends in a line feed, and waits until they are on disk; or an error. */
extern void se_anchor_append(const char *hub_id, const char *lines);

/* The last seal that the file names; 0 when there is no file. */
extern int64 se_anchor_last_seal(const char *hub_id);

#endif
