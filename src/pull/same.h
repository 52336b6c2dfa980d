/*
 * same.h: comparing values of both sides, where no column is at hand.
 */
#ifndef SE_SAME_H
#define SE_SAME_H

#include "postgres.h"

#include "utils/jsonb.h"

/* Scalars that are equal as JSON, as numbers or as instants; others as JSON. */
extern bool se_jsonb_same(Jsonb *a, Jsonb *b);

#endif
