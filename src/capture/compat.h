/*
 * compat.h: what capture uses that changed between major versions.
 */
#ifndef SE_CAPTURE_COMPAT_H
#define SE_CAPTURE_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM >= 160000
#define SE_SET_SEQ_REC_LOCATOR(record, rel) ((record).locator = (rel)->rd_locator)
#define SE_INSERT_INDEX_TUPLES(info, slot, estate)                                                 \
	ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL, false)
#define SE_ATTRMAP_MISSING_OK		  , true
#define SE_OWNS_RELATION(relid, role) object_ownercheck(RelationRelationId, relid, role)
#else
#define SE_SET_SEQ_REC_LOCATOR(record, rel) ((record).node = (rel)->rd_node)
#define SE_INSERT_INDEX_TUPLES(info, slot, estate)                                                 \
	ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL)
#define SE_ATTRMAP_MISSING_OK
#define SE_OWNS_RELATION(relid, role) pg_class_ownercheck(relid, role)
#endif

#endif
