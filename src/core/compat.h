/*
 * compat.h: everything that depends on the PostgreSQL major version, in one place.
 *
 * PostgreSQL 15 is the version that is tested; 16 to 18 are kept in mind. No other file asks for
 * PG_VERSION_NUM.
 */
#ifndef SE_COMPAT_H
#define SE_COMPAT_H

#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "utils/acl.h"

#if PG_VERSION_NUM < 150000
#error "sync_ext needs PostgreSQL 15 or newer"
#endif

/* Ownership: 16 made one function of the many. */
#if PG_VERSION_NUM >= 160000
#define SE_OWNS_RELATION(relid, role)	 object_ownercheck(RelationRelationId, relid, role)
#define SE_OWNS_DATABASE(database, role) object_ownercheck(DatabaseRelationId, database, role)
#define SE_OWNS_SERVER(server, role)	 object_ownercheck(ForeignServerRelationId, server, role)
#else
#define SE_OWNS_RELATION(relid, role)	 pg_class_ownercheck(relid, role)
#define SE_OWNS_DATABASE(database, role) pg_database_ownercheck(database, role)
#define SE_OWNS_SERVER(server, role)	 pg_foreign_server_ownercheck(server, role)
#endif

/* What capture needs of the sequence's WAL record, indexes and attribute maps. */
#if PG_VERSION_NUM >= 160000
#define SE_SET_SEQ_REC_LOCATOR(record, rel) ((record).locator = (rel)->rd_locator)
#define SE_INSERT_INDEX_TUPLES(info, slot, estate)                                                 \
	ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL, false)
#define SE_ATTRMAP_MISSING_OK , true
#else
#define SE_SET_SEQ_REC_LOCATOR(record, rel) ((record).node = (rel)->rd_node)
#define SE_INSERT_INDEX_TUPLES(info, slot, estate)                                                 \
	ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL)
#define SE_ATTRMAP_MISSING_OK
#endif

#endif
