/*
 * guard.h: holds applications to the owners of fields.
 *
 * What an application wrote is judged after the row was written, by the trigger that captures it,
 * whatever other triggers made of it. Only what is to be undone is judged before, by a trigger of its
 * own (sync.guard), and so are rows on their way to another partition.
 */
#ifndef SE_CAPTURE_GUARD_H
#define SE_CAPTURE_GUARD_H

#include "postgres.h"

#include "fmgr.h"

#include "capture/table.h"
#include "govern/owner.h"

/* A column that a system owns; of a table of lines: any column of theirs. */
typedef struct SeGuardField
{
	SeColumn *column;
	int index; /* in the shape */
	SeOwner owner;
	bool is_key;
	FmgrInfo equal; /* fn_oid is invalid for a type without equality: then images are compared */
	bool computed;	/* its default is no constant: whether a value was given cannot be told */
	bool must_stay; /* without the value given, no row could be inserted */
	bool has_default;
	Datum preset; /* the constant default */
} SeGuardField;

typedef struct SeGuard
{
	SeOwner record; /* who creates and deletes rows: the owner of *, or of lines */
	int count;
	SeGuardField *fields;
} SeGuard;

/* In the table's context; NULL when no system owns anything of it. *relid: see se_registry_scan(). */
extern SeGuard *se_guard_build(SeTable *table, Relation rel, Oid *relid);

/*
 * Judge what became of a row. An error, unless it is no violation or a policy lets it pass.
 * `changed` says for each column of the shape whether its image did.
 */
extern void se_guard_inserted(SeTable *table, const Datum *values, const bool *nulls,
							  bool is_partition);
extern void se_guard_updated(SeTable *table, const Datum *old_values, const bool *old_nulls,
							 const Datum *values, const bool *nulls, const bool *changed);
extern void se_guard_deleted(SeTable *table, const Datum *values, const bool *nulls, bool moved);

/* Whether what this process writes to the table now is to be judged. */
extern bool se_guard_binds(const SeTable *table);

/*
 * Acts of the hub itself that write a record, such as the resolution of a conflict: its own
 * statements on the object's tables are not judged until this is called with 0 or the
 * (sub)transaction ends; those of triggers that they fire are.
 */
extern void se_owner_bypass(int object_id);
extern void se_owner_bypass_table(
	Oid relid); /* the same, by one of its tables; InvalidOid ends it */
extern void se_guard_end_sub(SubTransactionId subid, SubTransactionId parent, bool commit);
extern void se_guard_forget(void);

/* guard_act.c: what a violation gets. `field` is NULL for the record as a whole. */
extern void se_guard_refuse(const SeTable *table, const SeGuardField *field, SeOwner owner,
							const char *done);
extern void se_guard_correct(const SeTable *table, const char *field, int owner,
							 const Datum *values, const bool *nulls);
extern void se_guard_hold(const SeTable *table, const SeGuardField *field, int owner,
						  const Datum *hub_values, const bool *hub_nulls, const Datum *values,
						  const bool *nulls);

/* Whether the document of a line is gone, so that its line goes with it. */
extern bool se_guard_document_gone(SeTable *table, const Datum *values, const bool *nulls);

/* Whether a row with the key of the new one is there, which ON CONFLICT would turn to. */
extern bool se_guard_collides(Relation rel, TupleTableSlot *slot);

#endif
