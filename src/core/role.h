/*
 * role.h: doing something with another role's rights.
 */
#ifndef SE_ROLE_H
#define SE_ROLE_H

#include "postgres.h"

typedef struct SeRole
{
	Oid user;
	int context;
	int guc_level;
} SeRole;

/*
 * Becomes `user`, security-restricted, with search_path pinned, until se_role_restore(). An error
 * in between restores by itself when the (sub)transaction aborts.
 */
extern void se_role_become(Oid user, SeRole *saved);
extern void se_role_restore(const SeRole *saved);

/*
 * How long code of others may run between the two before it is cancelled; 0, for sessions, is no
 * limit of ours. Set by workers: one loop in somebody's trigger must not stop all systems.
 */
extern void se_role_set_deadline(int ms);

/* Owner of a function: whose rights a SECURITY DEFINER one runs with. */
extern Oid se_function_owner(Oid function);

/* Owner of a relation. */
extern Oid se_relation_owner(Oid relation);

/*
 * Fires what the session has put off until its commit, with the rights of whoever acts in it, and checks
 * constraints at once from then on. A SECURITY DEFINER function that is going to do the latter calls
 * this first: else triggers of the caller's own tables would run with the definer's rights.
 */
extern void se_role_fire_deferred(void);

#endif
