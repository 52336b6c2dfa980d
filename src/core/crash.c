/*
 * crash.c: see crash.h.
 */
#include "postgres.h"

#ifdef SYNC_EXT_TEST_HOOKS

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "core/crash.h"

/* Reads the first word of the point's file; false when the point is not armed. */
static bool
read_action(const char *path, char *action, int size)
{
	FILE *file = fopen(path, "r");
	bool found;

	if (file == NULL)
		return false;
	found = fgets(action, size, file) != NULL;
	fclose(file);
	if (!found)
		return false;
	action[strcspn(action, " \n")] = '\0';
	return true;
}

/* A test that armed `wait` sees by this file that somebody waits. */
static void
tell_reached(const char *path)
{
	char reached[MAXPGPATH + 16];
	FILE *file;

	snprintf(reached, sizeof(reached), "%s.reached", path);
	file = fopen(reached, "w");
	if (file != NULL)
		fclose(file);
}

void
se_crash_point(const char *name)
{
	static const char *dir = NULL;
	char path[MAXPGPATH];
	char action[16];

	if (dir == NULL)
	{
		dir = getenv("SYNC_EXT_CRASH_DIR");
		if (dir == NULL)
			dir = "";
	}
	if (dir[0] == '\0')
		return;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (!read_action(path, action, sizeof(action)))
		return;

	if (strcmp(action, "kill") == 0)
	{
		unlink(path);
		kill(MyProcPid, SIGKILL);
	}
	else if (strcmp(action, "error") == 0)
	{
		unlink(path);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("crash point \"%s\" reached", name)));
	}
	else
	{
		tell_reached(path);
		while (access(path, F_OK) == 0)
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(5000L);
		}
	}
}

#else
/* ISO C forbids an empty translation unit. */
extern int se_crash_unused;
int se_crash_unused = 0;
#endif
