/*
 * anchor.c: see anchor.h.
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/string.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "core/anchor.h"
#include "core/guc.h"

#define SEAL_KEY " seal="

bool
se_anchor_wanted(void)
{
	return se_audit_anchor_dir != NULL && se_audit_anchor_dir[0] != '\0';
}

/* Within the data directory, who takes the database takes its anchors, too. */
static void
anchor_path(const char *hub_id, char *path, size_t size)
{
	char real[PATH_MAX];
	char data[PATH_MAX];
	size_t length;

	if (realpath(se_audit_anchor_dir, real) == NULL)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("the directory sync_ext.audit_anchor_dir cannot be opened: %m")));
	if (realpath(DataDir, data) == NULL)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("the data directory cannot be resolved: %m")));
	length = strlen(data);
	if (strncmp(real, data, length) == 0 && (real[length] == '\0' || real[length] == '/'))
		ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
						errmsg("sync_ext.audit_anchor_dir lies in the data directory"),
						errhint("Name a directory that who restores or changes the database "
								"does not change with it.")));
	if (snprintf(path, size, "%s/%s.anchors", real, hub_id) >= (int) size)
		ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
						errmsg("the path of sync_ext.audit_anchor_dir is too long")));
}

/* A line that was cut off by a full disk must not run into the next one. */
static bool
ends_within_line(int fd, off_t size)
{
	char last = '\n';

	return size > 0 && pread(fd, &last, 1, size - 1) == 1 && last != '\n';
}

static void
append_all(int fd, const char *path, const char *text)
{
	size_t left = strlen(text);

	while (left > 0)
	{
		ssize_t written = write(fd, text, left);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (written == 0)
				errno = ENOSPC;
			ereport(ERROR, (errcode_for_file_access(),
							errmsg("could not write the audit anchor \"%s\": %m", path)));
		}
		text += written;
		left -= written;
	}
}

void
se_anchor_append(const char *hub_id, const char *lines)
{
	char path[MAXPGPATH];
	struct stat st;
	int fd;

	anchor_path(hub_id, path, sizeof(path));
	/* Closed at the end of the transaction at the latest, also after an error. */
	fd = OpenTransientFilePerm(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0640);
	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not open the audit anchor \"%s\": %m", path)));
	if (ends_within_line(fd, st.st_size))
		append_all(fd, path, "\n");
	append_all(fd, path, lines);
	if (pg_fsync(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not flush the audit anchor \"%s\": %m", path)));
	CloseTransientFile(fd);
	if (st.st_size == 0)
		fsync_fname(se_audit_anchor_dir, true);
}

int64
se_anchor_last_seal(const char *hub_id)
{
	char path[MAXPGPATH];
	StringInfoData line;
	FILE *file;
	int64 last = 0;

	anchor_path(hub_id, path, sizeof(path));
	file = AllocateFile(path, "r");
	if (file == NULL)
		return 0;
	initStringInfo(&line);
	while (pg_get_line_buf(file, &line))
	{
		char *seal = strstr(line.data, SEAL_KEY);

		if (seal != NULL && line.data[line.len - 1] == '\n')
			last = strtoll(seal + strlen(SEAL_KEY), NULL, 10);
	}
	FreeFile(file);
	pfree(line.data);
	return last;
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(se_anchor_lines);

static char *
own_hub_id(void)
{
	char *hub_id = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute("SELECT h.hub_id::pg_catalog.text FROM sync.hub h", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.hub");
	if (SPI_processed == 1)
	{
		char *text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		hub_id = SPI_palloc(strlen(text) + 1);
		strcpy(hub_id, text);
	}
	SPI_finish();
	return hub_id;
}

/* sync._anchor_lines(): what the file says, when there is one. */
PGDLLEXPORT Datum
se_anchor_lines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char path[MAXPGPATH];
	StringInfoData line;
	char *hub_id;
	FILE *file;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	hub_id = se_anchor_wanted() ? own_hub_id() : NULL;
	if (hub_id == NULL)
		return (Datum) 0;
	anchor_path(hub_id, path, sizeof(path));
	file = AllocateFile(path, "r");
	if (file == NULL)
		return (Datum) 0;
	initStringInfo(&line);
	while (pg_get_line_buf(file, &line))
	{
		bool isnull = false;
		Datum value;

		CHECK_FOR_INTERRUPTS();
		(void) pg_strip_crlf(line.data);
		value = CStringGetTextDatum(line.data);
		tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
		pfree(DatumGetPointer(value));
	}
	FreeFile(file);
	return (Datum) 0;
}
