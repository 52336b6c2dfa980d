/*
 * identity.c: see identity.h.
 */
#include "postgres.h"

#include <limits.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "core/errors.h"
#include "core/guc.h"
#include "core/identity.h"
#include "core/wake.h"

PG_FUNCTION_INFO_V1(se_identity);
PG_FUNCTION_INFO_V1(se_permit_write);
PG_FUNCTION_INFO_V1(se_library_version);
PG_FUNCTION_INFO_V1(se_preloaded);

#ifndef SYNC_EXT_VERSION
#define SYNC_EXT_VERSION "0"
#endif

#define PERMIT_HINT                                                                                \
	"sync_ext.secrets_dir must name a directory outside the data directory that only "             \
	"the server's user can read."

static const char *
state_name(SeIdentityState state)
{
	switch (state)
	{
		case SE_ID_OK:
			return "ok";
		case SE_ID_PROMOTED:
			return "promoted";
		case SE_ID_NOT_ADOPTED:
			return "not_adopted";
		case SE_ID_OTHER_CLUSTER:
			return "other_cluster";
		case SE_ID_OTHER_DATABASE:
			return "other_database";
		case SE_ID_RECOVERED:
			return "recovered";
		case SE_ID_NO_PERMIT:
			return "no_permit";
		case SE_ID_STANDBY:
			return "standby";
	}
	return "unknown";
}

/* ---- the permit ---- */

/*
 * Puts the permit's path into `path`. False, with a reason, when secrets_dir is unset, is no
 * directory, or lies in the data directory, where every copy would bring it along.
 */
static bool
permit_path(char *path, size_t size, char *reason, size_t reason_size)
{
	char real[PATH_MAX];
	char data[PATH_MAX];
	struct stat st;
	size_t length;

	if (se_secrets_dir == NULL || se_secrets_dir[0] == '\0')
	{
		snprintf(reason, reason_size, "sync_ext.secrets_dir is not set");
		return false;
	}
	if (realpath(se_secrets_dir, real) == NULL || stat(real, &st) != 0 || !S_ISDIR(st.st_mode))
	{
		snprintf(reason, reason_size, "the directory sync_ext.secrets_dir cannot be opened: %s",
				 strerror(errno != 0 ? errno : ENOTDIR));
		return false;
	}
	if ((st.st_mode & (S_IWGRP | S_IRWXO)) != 0)
	{
		snprintf(reason, reason_size,
				 "the directory sync_ext.secrets_dir is open to other users (mode %04o)",
				 (unsigned int) (st.st_mode & 07777));
		return false;
	}
	if (realpath(DataDir, data) == NULL)
	{
		snprintf(reason, reason_size, "the data directory cannot be resolved");
		return false;
	}
	length = strlen(data);
	if (strncmp(real, data, length) == 0 && (real[length] == '\0' || real[length] == '/'))
	{
		snprintf(reason, reason_size, "sync_ext.secrets_dir lies in the data directory");
		return false;
	}
	if (snprintf(path, size, "%s/hub_id", real) >= (int) size)
	{
		snprintf(reason, reason_size, "the path of sync_ext.secrets_dir is too long");
		return false;
	}
	return true;
}

/* Whether the open file is ours and nobody else's, like a private key. */
static bool
permit_is_private(int fd, char *reason, size_t reason_size)
{
	struct stat st;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
	{
		snprintf(reason, reason_size, "secrets_dir/hub_id is not a regular file");
		return false;
	}
	if (st.st_uid != geteuid() || (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
	{
		snprintf(reason, reason_size,
				 "secrets_dir/hub_id must belong to the server's user and have mode 0600");
		return false;
	}
	return true;
}

/* Whether one line of the open file is `hub_id`. Blanks around it and other lines are ignored. */
static bool
permit_lists(int fd, const char *hub_id)
{
	FILE *file = fdopen(dup(fd), "r");
	char line[256];
	bool found = false;

	if (file == NULL)
		return false;
	rewind(file);
	while (!found && fgets(line, sizeof(line), file) != NULL)
	{
		char *begin = line + strspn(line, " \t");

		begin[strcspn(begin, " \t\r\n")] = '\0';
		found = pg_strcasecmp(begin, hub_id) == 0;
	}
	fclose(file);
	return found;
}

static bool
permit_given(const char *hub_id, char *reason, size_t reason_size)
{
	char path[MAXPGPATH];
	int fd;
	bool given = false;

	if (!permit_path(path, sizeof(path), reason, reason_size))
		return false;
	fd = BasicOpenFile(path, O_RDONLY | O_NOFOLLOW);
	if (fd < 0)
	{
		snprintf(reason, reason_size, "secrets_dir/hub_id cannot be read: %s", strerror(errno));
		return false;
	}
	if (permit_is_private(fd, reason, reason_size))
	{
		given = permit_lists(fd, hub_id);
		if (!given)
			snprintf(reason, reason_size, "secrets_dir/hub_id does not list this hub");
	}
	close(fd);
	return given;
}

/*
 * Adds hub_id to the permit, making the file when there is none. Several databases of a cluster, and
 * several clusters of a host, may share the file: the lock keeps their lines apart.
 */
static void
permit_add(const char *hub_id)
{
	char path[MAXPGPATH];
	char reason[256] = "";
	char line[64];
	int fd;
	bool ok;

	/* The empty line before it: a file edited by hand may lack its last line feed. */
	int length = snprintf(line, sizeof(line), "\n%s\n", hub_id);

	/* Somebody may have written it by hand, where the server itself may not write. */
	if (permit_given(hub_id, reason, sizeof(reason)))
		return;
	ok = permit_path(path, sizeof(path), reason, sizeof(reason));
	if (ok)
	{
		fd = BasicOpenFilePerm(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW, S_IRUSR | S_IWUSR);
		ok = fd >= 0;
		if (!ok)
			snprintf(reason, sizeof(reason), "secrets_dir/hub_id cannot be written: %s",
					 strerror(errno));
	}
	if (ok)
	{
		ok = permit_is_private(fd, reason, sizeof(reason));
		if (ok &&
			(flock(fd, LOCK_EX) != 0 ||
			 (!permit_lists(fd, hub_id) && (write(fd, line, length) != length || fsync(fd) != 0))))
		{
			ok = false;
			snprintf(reason, sizeof(reason), "secrets_dir/hub_id cannot be written: %s",
					 strerror(errno));
		}
		close(fd);
	}
	if (!ok)
		ereport(
			ERROR,
			(errcode(SE_ERRCODE_NOT_ADOPTED), errmsg("could not write the permit of this hub"),
			 errdetail("%s.", reason),
			 errhint("%s Or write the line %s into its file hub_id yourself, as the server's user "
					 "with mode 0600, and run SELECT sync.adopt_cluster(hub_id => '%s').",
					 PERMIT_HINT, hub_id, hub_id)));
}

/* ---- the timeline ---- */

/*
 * Whether every switch from timeline `from` to the current one was the end of recovery without a
 * target, which is what a promotion (or a crash of a standby's primary) is. A recovery to a target
 * leaves the target in the history file.
 */
static bool
only_promotions(TimeLineID from, TimeLineID to, char *reason, size_t reason_size)
{
	char path[MAXPGPATH];
	char line[1024];
	FILE *file;
	bool found = false;
	bool ok = true;

	TLHistoryFilePath(path, to);
	file = AllocateFile(path, "r");
	if (file == NULL)
	{
		snprintf(reason, reason_size,
				 "how timeline %u began is unknown: its history file is missing", to);
		return false;
	}
	while (ok && fgets(line, sizeof(line), file) != NULL)
	{
		unsigned int parent;
		unsigned int hi;
		unsigned int lo;
		int offset = 0;

		if (sscanf(line, "%u %X/%X %n", &parent, &hi, &lo, &offset) < 3 || parent < from)
			continue;
		if (parent == from)
			found = true;
		line[strcspn(line, "\r\n")] = '\0';
		if (strcmp(line + offset, "no recovery target specified") != 0)
		{
			ok = false;
			snprintf(reason, reason_size, "the cluster was recovered to a point in time (%.100s)",
					 line + offset);
		}
	}
	FreeFile(file);
	if (ok && !found)
	{
		ok = false;
		snprintf(reason, reason_size, "timeline %u does not descend from timeline %u", to, from);
	}
	return ok;
}

/* ---- status ---- */

/* Copies the row of sync.hub; adopted stays false when there is none. */
static void
read_hub(SeIdentity *identity)
{
	bool isnull;
	HeapTuple row;
	TupleDesc desc;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(
			"SELECT h.hub_id, h.incarnation, h.system_identifier, h.database_oid, h.timeline"
			"  FROM sync.hub h",
			true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.hub");
	if (SPI_processed == 1)
	{
		row = SPI_tuptable->vals[0];
		desc = SPI_tuptable->tupdesc;
		identity->adopted = true;
		strlcpy(identity->hub_id, SPI_getvalue(row, desc, 1), sizeof(identity->hub_id));
		identity->incarnation = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		identity->hub_system = (uint64) DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
		identity->hub_database = DatumGetObjectId(SPI_getbinval(row, desc, 4, &isnull));
		identity->hub_timeline = DatumGetInt32(SPI_getbinval(row, desc, 5, &isnull));
	}
	SPI_finish();
}

static void
refuse(SeIdentity *identity, SeIdentityState state, const char *reason, const char *hint)
{
	identity->state = state;
	if (reason != identity->reason)
		strlcpy(identity->reason, reason, sizeof(identity->reason));
	strlcpy(identity->hint, hint, sizeof(identity->hint));
}

void
se_identity_status(SeIdentity *identity)
{
	static const char *const copy_hint =
		"If this is a copy, leave it silent. If it replaces the original, stop that one and run "
		"SELECT sync.adopt_cluster(); after pg_upgrade, sync.adopt_cluster(same => true).";
	char permit_reason[256] = "";

	memset(identity, 0, sizeof(*identity));
	identity->system = GetSystemIdentifier();
	identity->database = MyDatabaseId;
	read_hub(identity);
	if (identity->adopted)
		identity->permit = permit_given(identity->hub_id, permit_reason, sizeof(permit_reason));

	if (RecoveryInProgress())
	{
		refuse(identity, SE_ID_STANDBY, "the server is a standby", "Its primary speaks.");
		return;
	}
	identity->timeline = (int) GetWALInsertionTimeLine();

	if (!identity->adopted)
		refuse(identity, SE_ID_NOT_ADOPTED, "this database was not adopted as a hub yet",
			   "Run SELECT sync.adopt_cluster() once.");
	else if (identity->hub_system != identity->system)
		refuse(identity, SE_ID_OTHER_CLUSTER,
			   "the hub was adopted in another cluster: this is a restored or upgraded copy",
			   copy_hint);
	else if (identity->hub_database != identity->database)
		refuse(identity, SE_ID_OTHER_DATABASE,
			   "the hub was adopted in another database: this is a copy of it", copy_hint);
	else if (!identity->permit)
		refuse(identity, SE_ID_NO_PERMIT, permit_reason,
			   "A copy of the data directory has no permit. " PERMIT_HINT
			   " sync.adopt_cluster() writes it.");
	else if (identity->hub_timeline == identity->timeline)
		identity->state = SE_ID_OK;
	else if (identity->timeline > identity->hub_timeline &&
			 only_promotions((TimeLineID) identity->hub_timeline, (TimeLineID) identity->timeline,
							 identity->reason, sizeof(identity->reason)))
		identity->state = SE_ID_PROMOTED;
	else
	{
		if (identity->reason[0] == '\0')
			snprintf(identity->reason, sizeof(identity->reason),
					 "timeline %d is older than timeline %d, which the hub last spoke on",
					 identity->timeline, identity->hub_timeline);
		refuse(identity, SE_ID_RECOVERED, identity->reason,
			   "What was delivered after that point is no longer known here. "
			   "Run SELECT sync.adopt_cluster() when this cluster is to go on.");
	}
}

bool
se_identity_may_speak(char *reason, size_t size)
{
	SeIdentity identity;

	se_identity_status(&identity);
	strlcpy(reason, identity.reason, size);
	if (identity.state == SE_ID_PROMOTED)
	{
		Oid types[1] = {INT4OID};
		Datum values[1] = {Int32GetDatum(identity.timeline)};

		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		if (SPI_execute_with_args("UPDATE sync.hub SET timeline = $1,"
								  " suspect_before = pg_catalog.clock_timestamp()",
								  1, types, values, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not update sync.hub");
		SPI_finish();
	}
	return identity.state == SE_ID_OK || identity.state == SE_ID_PROMOTED;
}

/* ---- SQL ---- */

/*
 * sync._identity(): state, reason, hint, hub_id, incarnation, system_identifier, database_oid,
 * timeline, permit; the last four describe this cluster and not the row of sync.hub.
 */
PGDLLEXPORT Datum
se_identity(PG_FUNCTION_ARGS)
{
	SeIdentity identity;
	TupleDesc desc;
	Datum values[9];
	bool nulls[9] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != 9)
		elog(ERROR, "se_identity must return a row of nine columns");
	se_identity_status(&identity);

	values[0] = CStringGetTextDatum(state_name(identity.state));
	values[1] = CStringGetTextDatum(identity.reason);
	nulls[1] = identity.reason[0] == '\0';
	values[2] = CStringGetTextDatum(identity.hint);
	nulls[2] = identity.hint[0] == '\0';
	nulls[3] = nulls[4] = !identity.adopted;
	values[3] = identity.adopted ? DirectFunctionCall1(uuid_in, CStringGetDatum(identity.hub_id))
								 : (Datum) 0;
	values[4] = Int32GetDatum(identity.incarnation);
	values[5] = Int64GetDatum((int64) identity.system);
	values[6] = ObjectIdGetDatum(identity.database);
	values[7] = Int32GetDatum(identity.timeline);
	nulls[7] = identity.timeline == 0;
	values[8] = BoolGetDatum(identity.permit);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* sync._permit_write(hub_id uuid) */
PGDLLEXPORT Datum
se_permit_write(PG_FUNCTION_ARGS)
{
	permit_add(DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0))));
	PG_RETURN_VOID();
}

/* sync._library_version() */
PGDLLEXPORT Datum
se_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(SYNC_EXT_VERSION));
}

/* sync._preloaded() */
PGDLLEXPORT Datum
se_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(se_shared != NULL);
}
