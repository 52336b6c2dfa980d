/*
 * files.c: descriptors for connections, beside those of the server's own files.
 *
 * Most systems let a process have 1024 of them unless it asks for more, and the server keeps about
 * as many files open as that. Where a socket gets no descriptor, libcurl says that the other side
 * cannot be reached, and a healthy system would be called dead.
 */
#include "postgres.h"

#include <sys/resource.h>

#include "storage/fd.h"

#include "worker/files.h"

/* Standard streams, epoll, libraries, what PostgreSQL does not count. */
#define OTHERS 50

/* The server gives out a third of its own to such as us and to its wait sets, which cannot do without. */
#define SHARE 4

static int reserved = 0; /* of the server's, by us */

void
se_files_reserve(int n)
{
	struct rlimit limit;
	rlim_t wanted = (rlim_t) max_safe_fds + n + OTHERS;
	int missing;

	for (; reserved > 0; reserved--)
		ReleaseExternalFD();
	if (n == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	if (limit.rlim_cur < wanted)
	{
		/* This process's alone; RLIM_INFINITY is the largest number. */
		limit.rlim_cur = Min(wanted, limit.rlim_max);
		if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
			return;
	}
	missing = limit.rlim_cur < wanted ? (int) (wanted - limit.rlim_cur) : 0;
	for (; reserved < Min(missing, max_safe_fds / SHARE); reserved++)
		ReserveExternalFD();
	if (missing > reserved)
		ereport(LOG, (errmsg("sync_ext: %ld open files are too few for %d connections",
							 (long) limit.rlim_cur, n),
					  errdetail("%d more would do.", missing - reserved),
					  errhint("Raise the service's limit of open files (LimitNOFILE, ulimit -Hn), "
							  "or lower sync_ext.max_in_flight.")));
}
