/*
 * rules.c: who owns what of an object, and what decides where nobody does.
 *
 * Read when the first item of a page needs it, in the page's transaction: a declaration that commits
 * meanwhile is of the next page.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/spi.h"
#include "pull/internal.h"

static SeOwnerRule *rules = NULL;
static int nrules = 0;
static SeConflictPolicy policy;
static bool pushes[2]; /* updates, creates */
static bool known = false;

void
se_rules_forget(void)
{
	known = false;
	rules = NULL;
	nrules = 0;
}

static SeViolation
on_violation_of(const char *word)
{
	if (strcmp(word, "ignore") == 0)
		return SE_VIOLATION_IGNORE;
	if (strcmp(word, "correct") == 0)
		return SE_VIOLATION_CORRECT;
	return strcmp(word, "quarantine") == 0 ? SE_VIOLATION_QUARANTINE : SE_VIOLATION_REJECT;
}

static void
read_rules(const SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID};
	Datum values[] = {Int32GetDatum(target->object_id)};

	nrules = (int)
		se_spi_execute(&plan,
					   "SELECT w.field, w.system_id, coalesce(y.name, 'the hub'), w.on_violation"
					   " FROM sync.owner w LEFT JOIN sync.system y ON y.id = w.system_id"
					   " WHERE w.object_id = $1",
					   1, types, values, NULL, true, 0);
	rules = palloc(sizeof(SeOwnerRule) * Max(nrules, 1));
	for (int i = 0; i < nrules; i++)
	{
		bool is_hub;
		int system_id = DatumGetInt32(se_spi_datum(i, 2, &is_hub));

		rules[i].field = se_spi_text(i, 1);
		rules[i].owner =
			!is_hub && system_id == target->system_id ? SE_OWNED_BY_THEM : SE_OWNED_BY_OTHER;
		rules[i].owner_name = se_spi_text(i, 3);
		rules[i].on_violation = on_violation_of(se_spi_text(i, 4));
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
read_policy(const SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(target->object_id), Int32GetDatum(target->system_id)};
	bool isnull;
	char *word;

	se_spi_execute(
		&plan,
		"SELECT (SELECT p.policy FROM sync.conflict_policy p WHERE p.object_id = $1),"
		" coalesce(bool_or('update' = ANY (r.operations)), false),"
		" coalesce(bool_or('insert' = ANY (r.operations)), false)"
		" FROM sync.route r WHERE r.object_id = $1 AND r.system_id = $2 AND r.state = 'active'",
		2, types, values, NULL, true, 0);
	word = se_spi_text(0, 1);
	policy = word == NULL || strcmp(word, "newest") == 0 ? SE_POLICY_NEWEST
			 : strcmp(word, "owner") == 0				 ? SE_POLICY_OWNER
														 : SE_POLICY_QUARANTINE;
	pushes[0] = DatumGetBool(se_spi_datum(0, 2, &isnull));
	pushes[1] = DatumGetBool(se_spi_datum(0, 3, &isnull));
	SPI_freetuptable(SPI_tuptable);
}

static void
ensure(const SeTarget *target)
{
	if (known)
		return;
	read_rules(target);
	read_policy(target);
	known = true;
}

/* The field's own rule, else the object's. */
const SeOwnerRule *
se_rule_of(const SeTarget *target, const char *field)
{
	static const SeOwnerRule none = {.field = "*", .owner = SE_OWNED_BY_NOBODY};
	const SeOwnerRule *found = &none;

	ensure(target);
	for (int i = 0; i < nrules; i++)
	{
		if (strcmp(rules[i].field, field) == 0)
			return &rules[i];
		if (strcmp(rules[i].field, "*") == 0)
			found = &rules[i];
	}
	return found;
}

SeConflictPolicy
se_rules_policy(const SeTarget *target)
{
	ensure(target);
	return policy;
}

bool
se_rules_can_push(const SeTarget *target, bool create)
{
	ensure(target);
	return pushes[create];
}
