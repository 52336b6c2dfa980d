/*
 * errors.h: SQLSTATEs of sync_ext, class SE.
 *
 * A class of our own lets an application tell our refusals from those of the server. Each code is
 * listed in doc/errors.md.
 */
#ifndef SE_ERRORS_H
#define SE_ERRORS_H

#include "postgres.h"

#define SE_ERRCODE_NOT_PRELOADED	 MAKE_SQLSTATE('S', 'E', '0', '0', '1')
#define SE_ERRCODE_NOT_ADOPTED		 MAKE_SQLSTATE('S', 'E', '0', '0', '2')
#define SE_ERRCODE_UNKNOWN_SYSTEM	 MAKE_SQLSTATE('S', 'E', '0', '1', '0')
#define SE_ERRCODE_UNKNOWN_OBJECT	 MAKE_SQLSTATE('S', 'E', '0', '1', '1')
#define SE_ERRCODE_UNKNOWN_CONNECTOR MAKE_SQLSTATE('S', 'E', '0', '1', '2')
#define SE_ERRCODE_IN_USE			 MAKE_SQLSTATE('S', 'E', '0', '1', '3')
#define SE_ERRCODE_BAD_MANIFEST		 MAKE_SQLSTATE('S', 'E', '0', '2', '0')
#define SE_ERRCODE_BAD_SECRET		 MAKE_SQLSTATE('S', 'E', '0', '3', '0')
#define SE_ERRCODE_EGRESS_REFUSED	 MAKE_SQLSTATE('S', 'E', '0', '3', '1')
#define SE_ERRCODE_TRUNCATE_REFUSED	 MAKE_SQLSTATE('S', 'E', '0', '4', '0')
#define SE_ERRCODE_DELIVERY_FAILED	 MAKE_SQLSTATE('S', 'E', '0', '5', '0')
#define SE_ERRCODE_TIMEOUT			 MAKE_SQLSTATE('S', 'E', '0', '5', '1')
#define SE_ERRCODE_SAME_PERSON		 MAKE_SQLSTATE('S', 'E', '0', '6', '5')
#define SE_ERRCODE_GUARDED			 MAKE_SQLSTATE('S', 'E', '0', '6', '6')
#define SE_ERRCODE_DECIDED			 MAKE_SQLSTATE('S', 'E', '0', '6', '7')
#define SE_ERRCODE_NOT_OWNER		 MAKE_SQLSTATE('S', 'E', '0', '6', '0')
#define SE_ERRCODE_CONFLICT			 MAKE_SQLSTATE('S', 'E', '0', '6', '2')
#define SE_ERRCODE_RULE				 MAKE_SQLSTATE('S', 'E', '0', '8', '2')

/*
 * Errors of the moment: the same thing may work a second later, so they are nobody's fault.
 * Deadlocks and serialization failures, lack of resources, a lock that was not to be had.
 */
static inline bool
se_error_is_transient(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		   ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
		   sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

#endif
