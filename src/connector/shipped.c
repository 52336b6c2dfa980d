/*
 * shipped.c
 *		Manifests that were installed with the extension.
 */
#include "postgres.h"

#include "core/errors.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define MAX_MANIFEST (4 * 1024 * 1024)

extern PGDLLEXPORT Datum se_shipped_manifest(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_shipped_manifest);

static char *
read_file(const char *path)
{
	FILE *file = AllocateFile(path, PG_BINARY_R);
	StringInfoData buf;
	char chunk[8192];
	size_t n;

	if (file == NULL)
	{
		if (errno == ENOENT || errno == ENOTDIR)
			return NULL;
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	}
	initStringInfo(&buf);
	while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
	{
		if (buf.len + n > MAX_MANIFEST)
			ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							errmsg("file \"%s\" is too large", path)));
		appendBinaryStringInfo(&buf, chunk, n);
	}
	if (ferror(file))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
	FreeFile(file);
	return buf.data;
}

/* sync._shipped_manifest(name): the file that was installed with the extension */
Datum
se_shipped_manifest(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *destdir = GetConfigOption("extension_destdir", true, false); /* Debian's */
	char share[MAXPGPATH];
	char *text = NULL;
	char *p;

	/* The name becomes part of a path. */
	for (p = name; *p; p++)
		if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9') && *p != '_')
			break;
	if (*p || name[0] == '\0' || strlen(name) > 63)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_NAME),
			 errmsg("\"%s\" is no name of a shipped connector", name),
			 errhint(
				 "A manifest of your own is passed as jsonb: sync.register_connector('{…}'::jsonb).")));
	get_share_path(my_exec_path, share);
	if (destdir && destdir[0])
		text =
			read_file(psprintf("%s%s/extension/sync_ext/connectors/%s.json", destdir, share, name));
	if (text == NULL)
		text = read_file(psprintf("%s/extension/sync_ext/connectors/%s.json", share, name));
	if (text == NULL)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_CONNECTOR),
						errmsg("no connector \"%s\" was installed with sync_ext", name)));
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}
