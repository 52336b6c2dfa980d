/*
 * guc.c: settings of sync_ext, in alphabetical order.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "core/guc.h"

char *se_actor = NULL;
char *se_allowed_hosts = NULL;
char *se_audit_anchor_dir = NULL;
int se_audit_retention = -1;
char *se_ca_file = NULL;
char *se_causation_id = NULL;
int se_checkpoint_interval = 1000;
int se_correction_limit = 3;
int se_correction_window = 600;
char *se_correlation_id = NULL;
bool se_enabled = true;
int se_max_attempts = 12;
bool se_notify_outcomes = true;
int se_history_body_limit = 2048;
int se_history_retention = 90 * 24 * 3600;
int se_max_databases = 16;
int se_max_in_flight = 256;
int se_max_queue = 5000;
int se_max_response = 16384;
int se_merge_retention = 30 * 24 * 60;
int se_mirror_change_retention = 7 * 24 * 3600;
int se_mirror_history_retention = 3653 * 24 * 3600;
int se_outbox_retention = 7 * 24 * 3600;
int se_poll_interval = 5000;
char *se_reason = NULL;
char *se_secrets_dir = NULL;
int se_upkeep_days = 3;

static void
define_string(const char *name, const char *shortdesc, const char *longdesc, char **var,
			  const char *boot, GucContext context, int flags)
{
	DefineCustomStringVariable(name, shortdesc, longdesc, var, boot, context, flags, NULL, NULL,
							   NULL);
}

static void
define_int(const char *name, const char *shortdesc, const char *longdesc, int *var, int boot,
		   int min, int max, GucContext context, int flags)
{
	DefineCustomIntVariable(name, shortdesc, longdesc, var, boot, min, max, context, flags, NULL,
							NULL, NULL);
}

void
se_guc_init(bool preloading)
{
	define_string("sync_ext.actor", "Who an application acts for; recorded with each event.", NULL,
				  &se_actor, "", PGC_USERSET, 0);
	define_string("sync_ext.allowed_hosts",
				  "Hosts that may be spoken to beside those of the connectors.",
				  "Comma-separated: host, *.domain, host:port, http://host:port, address or CIDR. "
				  "Loopback and private addresses must be listed here.",
				  &se_allowed_hosts, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY);
	define_string("sync_ext.audit_anchor_dir",
				  "Directory of the file that holds the heads of the audit chain.",
				  "Outside the data directory. Empty: they go to the server log only.",
				  &se_audit_anchor_dir, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY);
	define_int("sync_ext.audit_retention", "How long audit rows are kept.",
			   "Older ones are cut, with a record of the cut. -1 keeps them for ever.",
			   &se_audit_retention, -1, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_string("sync_ext.ca_file", "CA certificates that servers are checked against.",
				  "Empty uses the bundle that libcurl was built with.", &se_ca_file, "", PGC_SIGHUP,
				  GUC_SUPERUSER_ONLY);
	define_string("sync_ext.causation_id", "Id of what caused this transaction's changes.", NULL,
				  &se_causation_id, "", PGC_USERSET, 0);
	define_int("sync_ext.checkpoint_interval", "Time between cursor checkpoints of a busy route.",
			   "A crash re-reads at most this much of the outbox; nothing is sent again for it.",
			   &se_checkpoint_interval, 1000, 10, 60000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("sync_ext.correction_limit",
			   "Corrections of a field within correction_window before a person is asked.", NULL,
			   &se_correction_limit, 3, 1, 100, PGC_SIGHUP, 0);
	define_int("sync_ext.correction_window", "Time in which corrections of a field count.", NULL,
			   &se_correction_window, 600, 1, 7 * 24 * 3600, PGC_SIGHUP, GUC_UNIT_S);
	define_string("sync_ext.correlation_id", "Business id that follows this transaction's changes.",
				  NULL, &se_correlation_id, "", PGC_USERSET, 0);
	DefineCustomBoolVariable("sync_ext.enabled", "Whether workers serve this database.",
							 "ALTER DATABASE … SET sync_ext.enabled = off keeps the hub away.",
							 &se_enabled, true, PGC_SUSET, 0, NULL, NULL, NULL);
	define_int("sync_ext.history_body_limit", "Bytes of each request and response kept in history.",
			   NULL, &se_history_body_limit, 2048, 0, 1024 * 1024, PGC_SIGHUP, GUC_UNIT_BYTE);
	define_int("sync_ext.history_retention", "How long claims and outcomes are kept.",
			   "What is unfinished is never dropped.", &se_history_retention, 90 * 24 * 3600, 3600,
			   INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("sync_ext.max_attempts", "Tries of a delivery before it is dead.",
			   "Throttled answers and requests that never left do not count.", &se_max_attempts, 12,
			   1, 1000, PGC_SIGHUP, 0);
	if (preloading)
		define_int("sync_ext.max_databases", "Databases that workers can serve.", NULL,
				   &se_max_databases, 16, 1, 1024, PGC_POSTMASTER, 0);
	define_int("sync_ext.max_in_flight", "Requests in flight of one hub process.", NULL,
			   &se_max_in_flight, 256, 1, 10000, PGC_SIGHUP, 0);
	define_int("sync_ext.max_queue", "Deliveries of one system held in memory.",
			   "Bounds the worker's memory; the rest waits in the outbox.", &se_max_queue, 5000, 10,
			   1000000, PGC_SIGHUP, 0);
	define_int("sync_ext.max_response", "Largest response that is read.", NULL, &se_max_response,
			   16384, 1, 1024 * 1024, PGC_SIGHUP, GUC_UNIT_KB);
	define_int("sync_ext.merge_retention", "How long a merge of records can be undone.",
			   "Counts from the merge; what was merged before a change keeps its own limit.",
			   &se_merge_retention, 30 * 24 * 60, 60, INT_MAX, PGC_SIGHUP, GUC_UNIT_MIN);
	define_int("sync_ext.mirror_change_retention",
			   "How long it is kept that pulls have changed records that are not financial.",
			   "A reconciliation of what changed looks at everything when the one before is older.",
			   &se_mirror_change_retention, 7 * 24 * 3600, 3600, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("sync_ext.mirror_history_retention",
			   "How long past states of financial records are kept.", NULL,
			   &se_mirror_history_retention, 3653 * 24 * 3600, 24 * 3600, INT_MAX, PGC_SIGHUP,
			   GUC_UNIT_S);
	DefineCustomBoolVariable("sync_ext.notify_outcomes",
							 "Whether final outcomes are sent to the channel sync_outcome.", NULL,
							 &se_notify_outcomes, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	define_int("sync_ext.outbox_retention", "How long delivered events are kept.",
			   "Events that a route has not finished stay, up to the route's max_lag.",
			   &se_outbox_retention, 7 * 24 * 3600, 3600, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("sync_ext.poll_interval", "Longest time between looks at the outbox.",
			   "Commits wake the hub at once; this is the fallback.", &se_poll_interval, 5000, 100,
			   600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_string("sync_ext.reason", "Why this transaction changes what it changes.", NULL,
				  &se_reason, "", PGC_USERSET, 0);
	define_string("sync_ext.secrets_dir", "Directory of secrets and of the permit hub_id.",
				  "Outside the data directory, readable by the server's user only. Secrets are "
				  "<secrets_dir>/<system>/<name>.",
				  &se_secrets_dir, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY);
	define_int("sync_ext.upkeep_days", "Days that partitions are made ahead.", NULL,
			   &se_upkeep_days, 3, 1, 60, PGC_SIGHUP, 0);

	MarkGUCPrefixReserved("sync_ext");
}
