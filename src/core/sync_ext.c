/*
 * sync_ext.c: entry of the library, and the utility hook.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "capture/capture.h"
#include "core/check.h"
#include "core/compat.h"
#include "core/guc.h"
#include "core/wake.h"
#include "worker/launcher.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static ProcessUtility_hook_type previous_utility = NULL;

/* How long a database command may keep the hub away, should its session die without releasing it. */
#define HOLD_MS 60000

/*
 * The database that a command wants to be alone in, or NULL: DROP and RENAME, SET TABLESPACE, and
 * the template of CREATE DATABASE. These fail while anybody is connected, and would wait five
 * seconds for our hub first.
 */
static const char *
lonely_database(Node *statement)
{
	ListCell *cell;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) statement)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			foreach (cell, ((AlterDatabaseStmt *) statement)->options)
			{
				if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
					return ((AlterDatabaseStmt *) statement)->dbname;
			}
			return NULL;
		case T_CreatedbStmt:
			foreach (cell, ((CreatedbStmt *) statement)->options)
			{
				DefElem *option = (DefElem *) lfirst(cell);

				if (strcmp(option->defname, "template") == 0 && option->arg != NULL &&
					IsA(option->arg, String))
					return strVal(option->arg);
			}
			return NULL;
		default:
			return NULL;
	}
}

/* Commands after whose commit a hub has something to look at. */
static void
note_change(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreateForeignServerStmt:
		case T_AlterForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
		case T_AlterOwnerStmt:
		case T_AlterExtensionStmt:
			se_change_at_commit();
			break;
		case T_DropStmt:
			if (((DropStmt *) statement)->removeType == OBJECT_FOREIGN_SERVER ||
				((DropStmt *) statement)->removeType == OBJECT_EXTENSION)
				se_change_at_commit();
			break;
		case T_RenameStmt:
			se_change_at_commit();
			break;
		case T_TransactionStmt:
			/* It has committed already, in this session's hands but not in its transaction. */
			if (((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED)
				se_wake_hub(MyDatabaseId);
			break;
		case T_CreatedbStmt:
		case T_DropdbStmt:
			se_rescan_at_commit();
			break;
		default:
			break;
	}
}

/*
 * The hub is held before the server checks who asks, so it is asked here too: whoever may not run
 * the command must not stop the hub by trying.
 */
static bool
may_be_alone_in(Oid database)
{
	return SE_OWNS_DATABASE(database, GetUserId());
}

static void
run_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
			DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_utility)
		previous_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest,
								qc);
}

static void
utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
		DestReceiver *dest, QueryCompletion *qc)
{
	Node *statement = pstmt->utilityStmt;
	const char *name = lonely_database(statement);
	Oid database = InvalidOid;

	if (name != NULL && se_shared != NULL && IsTransactionState())
		database = get_database_oid(name, true);
	if (!OidIsValid(database) || !may_be_alone_in(database))
	{
		run_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		note_change(statement);
		return;
	}

	se_hold_database(database, HOLD_MS);
	run_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	note_change(statement);
}

/*
 * Preloaded, the library brings workers, hooks and shared memory. Loaded by a session it brings the
 * SQL functions only.
 */
void
_PG_init(void)
{
	bool preloading = process_shared_preload_libraries_in_progress;

	se_guc_init(preloading);
	se_wake_init(preloading && !IsBinaryUpgrade);
	se_capture_init();
	se_check_init();
	if (!preloading || IsBinaryUpgrade)
		return;

	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
	se_launcher_register();
}
