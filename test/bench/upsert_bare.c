/*
 * upsert_bare.c: a typed upsert of pages of JSON, and nothing else: the peer of pulling.
 *
 *	 upsert_bare CONNECTION STATEMENT PAGES
 *
 * PAGES is a file with one page a line. Each is sent as the parameter of the prepared STATEMENT, in
 * a transaction of its own, one after the other on one connection. Prints rows a second.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static void
check(PGconn *conn, PGresult *result)
{
	if (PQresultStatus(result) == PGRES_COMMAND_OK)
		return;
	fprintf(stderr, "%s", PQerrorMessage(conn));
	exit(1);
}

int
main(int argc, char **argv)
{
	PGconn *conn;
	PGresult *result;
	FILE *pages;
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	long rows = 0;
	double began;

	if (argc != 4 || (pages = fopen(argv[3], "r")) == NULL)
	{
		fprintf(stderr, "usage: upsert_bare CONNECTION STATEMENT PAGES\n");
		return 2;
	}
	conn = PQconnectdb(argv[1]);
	result = PQprepare(conn, "upsert", argv[2], 1, NULL);
	check(conn, result);
	PQclear(result);
	began = seconds();
	while ((len = getline(&line, &size, pages)) > 0)
	{
		const char *const values[] = {line};

		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		result = PQexecPrepared(conn, "upsert", 1, values, NULL, NULL, 0);
		check(conn, result);
		rows += atol(PQcmdTuples(result));
		PQclear(result);
	}
	printf("%.0f\n", (double) rows / (seconds() - began));
	free(line);
	fclose(pages);
	PQfinish(conn);
	return 0;
}
