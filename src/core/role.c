/*
 * role.c: see role.h.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "core/role.h"

static int deadline_ms = 0;

static void
disarm(void)
{
	if (deadline_ms == 0 || !get_timeout_active(STATEMENT_TIMEOUT))
		return;
	disable_timeout(STATEMENT_TIMEOUT, false);
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		disarm();
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		disarm();
}

void
se_role_set_deadline(int ms)
{
	if (deadline_ms == 0)
	{
		RegisterSubXactCallback(at_subxact_end, NULL);
		RegisterXactCallback(at_xact_end, NULL);
	}
	deadline_ms = ms;
}

void
se_role_become(Oid user, SeRole *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(user, saved->context | SECURITY_LOCAL_USERID_CHANGE |
									 SECURITY_RESTRICTED_OPERATION);
	saved->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (deadline_ms > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, deadline_ms);
}

void
se_role_restore(const SeRole *saved)
{
	disarm();
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->context);
}

void
se_role_fire_deferred(void)
{
	ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);
	SeRole saved;

	GetUserIdAndSecContext(&saved.user, &saved.context);
	SetUserIdAndSecContext(GetOuterUserId(), saved.context);
	AfterTriggerSetState(immediate);
	SetUserIdAndSecContext(saved.user, saved.context);
}

Oid
se_relation_owner(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relation)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

Oid
se_function_owner(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}
