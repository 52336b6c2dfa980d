/*
 * identity.c: deliveries that depend on what people decided about records: whether one may be created
 * at the other side, and what a delete of ours means there.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/rows.h"
#include "core/spi.h"
#include "push/internal.h"

/* Asked once for all deliveries that are claimed together: as a rule there is nothing. */
static bool asked = false;
static bool anything = false;

void
se_identity_begin(void)
{
	asked = false;
}

static bool
anything_to_decide(void)
{
	static SPIPlanPtr plan = NULL;

	if (asked)
		return anything;
	anything = !se_rows_none("match_candidate") || !se_rows_none("merge") ||
			   se_spi_execute(&plan,
							  "SELECT FROM sync.stream WHERE state = 'active'"
							  " AND deciding_since IS NOT NULL LIMIT 1",
							  0, NULL, NULL, NULL, true, 1) > 0;
	asked = true;
	return anything;
}

typedef enum Hold
{
	HOLD_NOT,
	HOLD_UNDECIDED, /* a remote record may be it: nothing is created yet */
	HOLD_MERGED		/* it was merged into another record of ours */
} Hold;

/* Whether a record that is not bound in the route's system may be created there. */
static Hold
identity_hold(SeDelivery *d)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTOID};
	Datum values[] = {Int32GetDatum(d->route->system->id), Int32GetDatum(d->event.object_id), 0};
	char *hold;

	if (!anything_to_decide())
		return HOLD_NOT;
	values[2] = CStringGetTextDatum(d->event.record_id);
	se_spi_execute(&plan, "SELECT sync._identity_hold($1, $2, $3)", 3, types, values, NULL, true,
				   0);
	hold = se_spi_text(0, 1);
	SPI_freetuptable(SPI_tuptable);
	if (hold == NULL)
		return HOLD_NOT;
	return strcmp(hold, "merged") == 0 ? HOLD_MERGED : HOLD_UNDECIDED;
}

SeDeletePolicy
se_delete_policy(SeDelivery *d, Jsonb **fields)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(d->route->system->id), Int32GetDatum(d->event.object_id)};
	char *policy = NULL;
	bool isnull;

	*fields = NULL;
	if (d->event.op != 'D' || se_rows_none("record_policy"))
		return SE_PUSH_DELETE;
	if (se_spi_execute(&plan,
					   "SELECT p.on_delete, p.deactivate FROM sync.record_policy p"
					   " WHERE p.object_id = $2 AND (p.system_id = $1 OR p.system_id IS NULL)"
					   " AND p.on_delete IS NOT NULL ORDER BY p.system_id NULLS LAST LIMIT 1",
					   2, types, values, NULL, true, 1) > 0)
	{
		Datum value = se_spi_datum(0, 2, &isnull);

		policy = se_spi_text(0, 1);
		if (strcmp(policy, "deactivate") == 0 && !isnull)
			*fields = DatumGetJsonbPCopy(value);
	}
	SPI_freetuptable(SPI_tuptable);
	if (policy != NULL && strcmp(policy, "ignore") == 0)
		return SE_PUSH_IGNORE;
	return *fields != NULL ? SE_PUSH_DEACTIVATE : SE_PUSH_DELETE;
}

static bool
may_create(SeDelivery *d)
{
	switch (identity_hold(d))
	{
		case HOLD_NOT:
			return true;
		case HOLD_MERGED:
			se_end_unsent(d, SE_END_IGNORED, "ignored", "merged",
						  "the record was merged into another, which is sent in its place");
			return false;
		case HOLD_UNDECIDED:
			break;
	}
	/* It is let go when it becomes bound, or when people have decided that it is not one of those. */
	d->wait_object_id = d->event.object_id;
	d->wait_key = MemoryContextStrdup(d->cxt, d->event.record_id);
	d->wait_state = NULL;
	se_end_unsent(d, SE_END_WAITING, "waiting", "identity_undecided",
				  "a record of the system may be this one; that is decided first");
	return false;
}

bool
se_identity_allows(SeDelivery *d)
{
	Jsonb *fields;

	/* What has begun is brought to its end. */
	if (d->step != NULL)
		return true;
	if (d->change == SE_CREATE && d->frozen == NULL)
		return may_create(d);
	if (d->change == SE_DELETE && se_delete_policy(d, &fields) == SE_PUSH_IGNORE)
	{
		se_end_unsent(d, SE_END_IGNORED, "ignored", "delete_ignored",
					  "by policy the system keeps what is deleted here");
		return false;
	}
	return true;
}
