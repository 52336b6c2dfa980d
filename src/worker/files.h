/*
 * files.h
 *		Descriptors for connections, beside those of the server's own files.
 */
#ifndef SE_WORKER_FILES_H
#define SE_WORKER_FILES_H

/*
 * Makes room for n descriptors that the server does not know of: the process's limit is raised as far
 * as it may be, and what it still lacks is taken from the files that the server keeps open, at most a
 * quarter of them. Says so in the log if that is not enough. The next call replaces the last; 0 gives
 * back what was taken.
 */
extern void se_files_reserve(int n);

#endif /* SE_WORKER_FILES_H */
