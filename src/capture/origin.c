/*
 * origin.c: who causes the changes of this process.
 */
#include "postgres.h"

#include "fmgr.h"

#include "capture/origin.h"

int se_origin_system = 0;

PG_FUNCTION_INFO_V1(se_is_applying);

/* sync.is_applying(): whether this process is writing what it pulled from a system. */
PGDLLEXPORT Datum
se_is_applying(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(se_origin_system != 0);
}
