/*
 * test_secrets.c
 *		References, files of secrets and the rules they must keep.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>

#include "http/secret_file.c"

#include <ftw.h>

#include "http_tap.h"

static char base[200];

static const char *
path_of(const char *name)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	return path;
}

static void
put(const char *name, const char *content, size_t len, mode_t mode)
{
	FILE *file = fopen(path_of(name), "w");

	fwrite(content, 1, len, file);
	fclose(file);
	chmod(path_of(name), mode);
}

static void
gives(const char *ref, const char *expected)
{
	char *err;
	const char *value = se_secret_read(base, NULL, "erp", ref, &err);

	ok(value && strcmp(value, expected) == 0, "%s gives its value %s", ref, err ? err : "");
}

static void
fails_in(const char *dir, const char *data_dir, const char *system, const char *ref,
		 const char *reason)
{
	char *err;
	const char *value = se_secret_read(dir, data_dir, system, ref, &err);

	ok(value == NULL && err && strstr(err, reason) && !strstr(err, "hunter2"), "%s fails: %s", ref,
	   err);
}

static void
fails(const char *ref, const char *reason)
{
	fails_in(base, NULL, "erp", ref, reason);
}

static void
test_references(void)
{
	static const char *const good[] = {"file:password", "file:a.b-c_9", "env:SYNC_EXT_KEY"};
	static const char *const bad[] = {
		"",
		"hunter2",
		"file:",
		"file:.hidden",
		"file:../x",
		"file:a/b",
		"file:a b",
		"env:PATH",
		"env:SYNC_EXT_A.B",
		"env:",
		"FILE:a",
		"file:p\xc3\xa4ss",
		" file:a",
		"file:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		ok(se_secret_valid_reference(good[i]), "%s is a reference", good[i]);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!se_secret_valid_reference(bad[i]), "\"%s\" is none", bad[i]);
	fails("hunter2", "not a reference");
}

static void
test_content(void)
{
	char big[70000];

	put("erp/key", "hunter2\n", 8, 0600);
	gives("file:key", "hunter2");
	put("erp/key", "hunter2!\r\n", 10, 0400);
	gives("file:key", "hunter2!");
	put("erp/next", "new value\n\n", 11, 0600);
	gives("file:next", "new value\n");
	put("erp/other", "replaced", 8, 0600);
	{
		char from[300];

		strcpy(from, path_of("erp/other"));
		rename(from, path_of("erp/key"));
	}
	gives("file:key", "replaced");
	put("erp/empty", "\n", 1, 0600);
	fails("file:empty", "empty");
	put("erp/zero", "hunt\0er2", 8, 0600);
	fails("file:zero", "zero byte");
	memset(big, 'x', sizeof(big));
	put("erp/big", big, sizeof(big), 0600);
	fails("file:big", "64 kB");
}

static void
test_rules(void)
{
	char *err;
	const char *first;
	char parent[200];

	strcpy(parent, base);
	*strrchr(parent, '/') = '\0';
	put("erp/key", "hunter2", 7, 0600);
	gives("file:key", "hunter2");
	first = se_secret_read(base, NULL, "erp", "file:key", &err);
	ok(first == se_secret_read(base, NULL, "erp", "file:key", &err),
	   "an unchanged file is not read again");
	chmod(path_of("erp/key"), 0640);
	fails("file:key", "chmod 600");
	chmod(path_of("erp/key"), 0604);
	fails("file:key", "chmod 600");
	chmod(path_of("erp/key"), 0600);
	gives("file:key", "hunter2");
	unlink(path_of("erp/key"));
	fails("file:key", "does not exist");
	if (symlink("/etc/passwd", path_of("erp/link")) == 0)
		fails("file:link", "symbolic link");
	mkdir(path_of("erp/dir"), 0700);
	fails("file:dir", "not a regular file");
	mkfifo(path_of("erp/pipe"), 0600);
	fails("file:pipe", "not a regular file");
	if (geteuid() == 0)
	{
		put("erp/foreign", "hunter2", 7, 0600);
		if (chown(path_of("erp/foreign"), 65534, 65534) == 0)
			fails("file:foreign", "belongs neither");
	}

	put("erp/key", "hunter2", 7, 0600);
	fails_in(base, NULL, "crm", "file:key", "no folder");
	fails_in(base, NULL, "../erp", "file:key", "plain name");
	fails_in(base, NULL, "My ERP", "file:key", "plain name");
	fails_in("", NULL, "erp", "file:key", "secrets_dir");
	fails_in(NULL, NULL, "erp", "file:key", "secrets_dir");
	fails_in("/nonexistent", NULL, "erp", "file:key", "cannot be opened");
	se_secret_forget();
	fails_in(base, base, "erp", "file:key", "inside the data directory");
	fails_in(base, parent, "erp", "file:key", "inside the data directory");
	ok(se_secret_read(base, "/usr", "erp", "file:key", &err) != NULL,
	   "another data directory is fine");

	se_secret_forget();
	chmod(path_of("erp"), 0770);
	fails("file:key", "written by others");
	chmod(path_of("erp"), 0700);
	gives("file:key", "hunter2");
	if (symlink("erp", path_of("alias")) == 0)
		fails_in(base, NULL, "alias", "file:key", "cannot be opened");
}

static void
test_environment(void)
{
	setenv("SYNC_EXT_TEST_KEY", "hunter2", 1);
	gives("env:SYNC_EXT_TEST_KEY", "hunter2");
	fails("env:SYNC_EXT_NOT_SET", "not set");
	fails("env:PATH", "not a reference");
}

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	return remove(path);
}

int
main(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(base, sizeof(base), "%s/se_secrets_XXXXXX", tmp ? tmp : "/tmp");
	if (mkdtemp(base) == NULL)
		return 1;
	mkdir(path_of("erp"), 0700);
	test_references();
	test_content();
	test_rules();
	test_environment();
	se_secret_forget();
	nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return tap_done();
}
