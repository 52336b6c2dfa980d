/*
 * sums.h: numbers as they are stored, and exact sums of a million of them.
 */
#ifndef SE_RECONCILE_SUMS_H
#define SE_RECONCILE_SUMS_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/numeric.h"

#define SE_MOST_DIGITS 60

/* A finite number: digits to base 10000, the first of which counts 10000 ^ weight. */
typedef struct SeNumber
{
	bool negative;
	int scale; /* that it is shown with */
	int weight;
	int n;
	int16 digits[SE_MOST_DIGITS];
} SeNumber;

/* Reads what stands behind the length of a numeric, at any address; false: it is not finite, or longer. */
extern bool se_number_read(SeNumber *number, const char *data, int len);

typedef struct SeSum
{
	int64 n;	/* numbers in it */
	int128 sum; /* of those of common size, in units of SE_SUM_UNIT */
	int scale;	/* the largest of these */
	Numeric rest;
} SeSum;

extern void se_sum_add(SeSum *sum, Datum value);
extern void se_sum_merge(SeSum *sum, const SeSum *other);
/* In the current context; only if there is a number in it. */
extern Numeric se_sum_result(const SeSum *sum);
extern void se_sum_write(const SeSum *sum, StringInfo out);
/* Reads on from *data. */
extern void se_sum_read(SeSum *sum, const char **data);

#endif
