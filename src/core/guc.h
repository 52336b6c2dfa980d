/*
 * guc.h: settings of sync_ext.
 */
#ifndef SE_GUC_H
#define SE_GUC_H

#include "postgres.h"

/* cluster-wide, sighup */
extern char *se_allowed_hosts; /* comma-separated egress allow list beside the connectors' hosts */
extern char *se_audit_anchor_dir; /* where the anchors of the audit chain go; empty: the log only */
extern int se_audit_retention;	  /* s that audit rows are kept; -1: for ever */
extern char *se_ca_file;		  /* CA bundle for TLS; empty: libcurl's default */
extern int se_checkpoint_interval; /* ms between cursor checkpoints of a busy route */
extern int se_correction_limit;	   /* corrections of a field within … */
extern int se_correction_window;   /* … so many seconds before a person is asked */
extern int se_history_body_limit;  /* bytes of request or response kept in history */
extern int se_history_retention;   /* s that claims and outcomes are kept */
extern int se_max_attempts;		   /* tries of a delivery before it is dead */
extern int se_max_databases;	   /* slots for databases in shared memory (postmaster) */
extern int se_max_in_flight;	   /* requests in flight of one hub process */
extern int se_max_queue;		   /* deliveries one system may hold in memory */
extern int se_max_response;		   /* kB of a response that are read */
extern int se_merge_retention;	   /* min that a merge of records can be undone */
extern bool se_notify_outcomes;	   /* NOTIFY sync_outcome on final outcomes */
extern int se_outbox_retention;	   /* s that delivered events are kept */
extern int se_poll_interval;	   /* ms between polls when no commit wakes the hub */
extern char *se_secrets_dir;	   /* directory with the permit and the secrets */
extern int se_upkeep_days;		   /* partitions made ahead */

/* per session */
extern char *se_actor;
extern char *se_reason;
extern char *se_correlation_id;
extern char *se_causation_id;
extern bool se_enabled; /* off: no hub in this database */

/* Defines every setting; called once from _PG_init. What only the postmaster can set is left out when not preloading. */
extern void se_guc_init(bool preloading);

#endif
