/*
 * secret_file.c
 *		Resolves references to secrets; caches files; wipes what is stale.
 *
 * The checks are those that the server makes on its own TLS key: whoever else
 * could read or replace the file could act as us towards that system.
 */
#include "http/secrets.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SE_SECRET_MAX_BYTES	 (64 * 1024)
#define SE_SECRET_MAX_NAME	 64
#define SE_SECRET_ENV_PREFIX "SYNC_EXT_"

typedef struct SeSecret
{
	struct SeSecret *next;
	char *path;
	char *value;
	size_t size;	  /* bytes allocated for value */
	struct stat seen; /* of the file that value was read from */
} SeSecret;

static SeSecret *secrets_read;
static char secret_error[400];

__attribute__((format(gnu_printf, 4, 5))) static void *
refuse(char **err, const char *system, const char *ref, const char *fmt, ...)
{
	char reason[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	snprintf(secret_error, sizeof(secret_error), "secret \"%.80s\" of system \"%.64s\": %s", ref,
			 system, reason);
	*err = secret_error;
	return NULL;
}

static bool
is_plain_name(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > SE_SECRET_MAX_NAME || name[0] == '.')
		return false;
	for (; *name; name++)
	{
		unsigned char c = (unsigned char) *name;

		if (c > 127 || !(isalnum(c) || c == '.' || c == '_' || c == '-'))
			return false;
	}
	return true;
}

static bool
is_our_variable(const char *name)
{
	return is_plain_name(name) &&
		   strncmp(name, SE_SECRET_ENV_PREFIX, strlen(SE_SECRET_ENV_PREFIX)) == 0 &&
		   strpbrk(name, ".-") == NULL;
}

bool
se_secret_valid_reference(const char *ref)
{
	if (strncmp(ref, "file:", 5) == 0)
		return is_plain_name(ref + 5);
	if (strncmp(ref, "env:", 4) == 0)
		return is_our_variable(ref + 4);
	return false;
}

static bool
same_file(const struct stat *a, const struct stat *b)
{
	/* The change time too: chmod and chown must make us look again. */
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
		   a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
		   a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void
wipe(SeSecret *secret)
{
	if (secret->value != NULL)
		explicit_bzero(secret->value, secret->size);
	free(secret->value);
	secret->value = NULL;
	secret->size = 0;
}

void
se_secret_forget(void)
{
	while (secrets_read != NULL)
	{
		SeSecret *secret = secrets_read;

		secrets_read = secret->next;
		wipe(secret);
		free(secret->path);
		free(secret);
	}
}

static SeSecret *
cache_entry(const char *path)
{
	SeSecret *secret;

	for (secret = secrets_read; secret != NULL; secret = secret->next)
	{
		if (strcmp(secret->path, path) == 0)
			return secret;
	}
	secret = calloc(1, sizeof(SeSecret));
	if (secret == NULL || (secret->path = strdup(path)) == NULL)
	{
		free(secret);
		return NULL;
	}
	secret->next = secrets_read;
	secrets_read = secret;
	return secret;
}

/* Everything in the data directory gets into base backups. */
static bool
inside(const char *dir, const char *outer)
{
	char inner_real[PATH_MAX];
	char outer_real[PATH_MAX];
	size_t len;

	if (outer == NULL || realpath(dir, inner_real) == NULL || realpath(outer, outer_real) == NULL)
		return false;
	len = strlen(outer_real);
	return strncmp(inner_real, outer_real, len) == 0 &&
		   (inner_real[len] == '/' || inner_real[len] == '\0');
}

static const char *
check_directory(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return "its directory cannot be examined";
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return "its directory belongs neither to the server's user nor to root";
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return "its directory can be written by others (use chmod 700)";
	return NULL;
}

/*
 * As for the server's TLS key: 0600 if the server's user owns it; root may
 * also give it to the server through the group, 0640.
 */
static const char *
check_file(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "it is not a regular file";
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "the file belongs neither to the server's user nor to root";
	if (st->st_uid == geteuid() && (st->st_mode & 077) != 0)
		return "the file can be read by others (use chmod 600)";
	if (st->st_uid != geteuid() && (st->st_mode & 037) != 0)
		return "the file can be read by others (use chmod 640 at most)";
	if (st->st_size > SE_SECRET_MAX_BYTES)
		return "the file is larger than 64 kB";
	return NULL;
}

/* Read the whole file into the entry; returns what is wrong with it. */
static const char *
read_value(int fd, SeSecret *secret)
{
	struct stat st;
	struct stat after;
	const char *problem;
	size_t len = 0;
	ssize_t n;

	if (fstat(fd, &st) != 0)
		return "the file cannot be examined";
	if ((problem = check_file(&st)) != NULL)
		return problem;
	secret->size = (size_t) st.st_size + 2;
	secret->value = malloc(secret->size);
	if (secret->value == NULL)
		return "out of memory";
	while (len < secret->size - 1 &&
		   (n = read(fd, secret->value + len, secret->size - 1 - len)) != 0)
	{
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return "the file cannot be read";
		len += (size_t) n;
	}
	if (fstat(fd, &after) != 0 || !same_file(&st, &after) || len != (size_t) st.st_size)
		return "the file changed while it was read";
	if (len > 0 && secret->value[len - 1] == '\n')
		len--;
	if (len > 0 && secret->value[len - 1] == '\r')
		len--;
	secret->value[len] = '\0';
	if (len == 0)
		return "the file is empty";
	if (memchr(secret->value, '\0', len) != NULL)
		return "the file contains a zero byte";
	secret->seen = st;
	return NULL;
}

static const char *
load_at(int base_fd, const char *system, const char *name, SeSecret *secret)
{
	const char *problem = check_directory(base_fd);
	int dir_fd;
	int fd;

	if (problem != NULL)
		return problem;
	dir_fd = openat(base_fd, system, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir_fd < 0)
		return errno == ENOENT ? "the secrets directory has no folder for this system"
							   : "the folder of this system cannot be opened";
	problem = check_directory(dir_fd);
	if (problem == NULL)
	{
		/* O_NONBLOCK: a named pipe must not stop the worker. */
		fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			problem = errno == ENOENT	? "the file does not exist"
					  : errno == ELOOP	? "the file is a symbolic link"
					  : errno == EACCES ? "the server's user may not read the file"
										: "the file cannot be opened";
		else
		{
			problem = read_value(fd, secret);
			close(fd);
		}
	}
	close(dir_fd);
	return problem;
}

static const char *
read_file_secret(const char *secrets_dir, const char *data_dir, const char *system, const char *ref,
				 char **err)
{
	const char *name = ref + 5;
	char path[PATH_MAX];
	SeSecret *secret;
	struct stat st;
	const char *problem;
	int base_fd;

	if (secrets_dir == NULL || secrets_dir[0] != '/')
		return refuse(err, system, ref, "sync_ext.secrets_dir is not set to an absolute path");
	if (!is_plain_name(system))
		return refuse(
			err, system, ref,
			"a system with secrets in files must have a plain name (letters, digits, \"_\", \"-\", \".\")");
	if (snprintf(path, sizeof(path), "%s/%s/%s", secrets_dir, system, name) >= (int) sizeof(path))
		return refuse(err, system, ref, "the path is too long");
	secret = cache_entry(path);
	if (secret == NULL)
		return refuse(err, system, ref, "out of memory");

	if (secret->value != NULL && lstat(path, &st) == 0 && same_file(&st, &secret->seen))
		return secret->value;

	wipe(secret);
	if (inside(secrets_dir, data_dir))
		return refuse(
			err, system, ref,
			"sync_ext.secrets_dir lies inside the data directory, so that backups would contain it");
	base_fd = open(secrets_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (base_fd < 0)
		return refuse(err, system, ref, "sync_ext.secrets_dir cannot be opened");
	problem = load_at(base_fd, system, name, secret);
	close(base_fd);
	if (problem != NULL)
	{
		wipe(secret);
		return refuse(err, system, ref, "%s", problem);
	}
	return secret->value;
}

const char *
se_secret_read(const char *secrets_dir, const char *data_dir, const char *system, const char *ref,
			   char **err)
{
	const char *value;

	*err = NULL;
	if (!se_secret_valid_reference(ref))
	{
		/* It may be the secret itself, written where its name belongs. */
		snprintf(
			secret_error, sizeof(secret_error),
			"a secret of system \"%.64s\" is not a reference of the form file:NAME or env:" SE_SECRET_ENV_PREFIX
			"NAME",
			system);
		*err = secret_error;
		return NULL;
	}
	if (strncmp(ref, "file:", 5) == 0)
		return read_file_secret(secrets_dir, data_dir, system, ref, err);
	value = getenv(ref + 4);
	if (value == NULL || value[0] == '\0')
		return refuse(err, system, ref, "the variable is not set in the server's environment");
	return value;
}
