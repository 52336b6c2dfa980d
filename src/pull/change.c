/*
 * change.c: see change.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "pull/change.h"

/* How far back the time of our change is looked for where a person will only read it. */
#define LOOK_BACK_US (60 * 60 * USECS_PER_SEC)

bool
se_change_member(Jsonb *object, const char *key, JsonbValue *value)
{
	return object != NULL &&
		   getKeyJsonValueFromContainer(&object->root, key, strlen(key), value) != NULL;
}

bool
se_change_same(const SeTarget *target, const SeTable *table, const SeFieldChange *c,
			   const JsonbValue *a, const JsonbValue *b)
{
	Jsonb *fields = c->item->map.fields != NULL ? c->item->map.fields : c->item->mirror_fields;

	if (c->column != NULL)
		return se_same_value(target, c->column, fields, a, b);
	if (a->type != jbvBinary || b->type != jbvBinary)
		return false;
	return se_same_lines(target, table->lines, fields, a->val.binary.data, b->val.binary.data);
}

void
se_change_set(Jsonb *json, JsonbValue *value)
{
	value->type = jbvBinary;
	value->val.binary.data = &json->root;
	value->val.binary.len = VARSIZE(json) - VARHDRSZ;
}

/* Corrections of a field within the window, which are kept as instants in microseconds. */
static int
count_corrections(const SeItem *item, const char *field, TimestampTz now)
{
	JsonbValue times;
	int count = 0;

	if (!se_change_member(item->mirror_corrected, field, &times) || times.type != jbvBinary)
		return 0;
	for (int i = 0; i < JsonContainerSize(times.val.binary.data); i++)
	{
		JsonbValue *at = getIthJsonbValueFromContainer(times.val.binary.data, i);

		count +=
			at->type == jbvNumeric &&
			DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(at->val.numeric))) >
				now - se_correction_window * USECS_PER_SEC;
	}
	return count;
}

static bool
is_open(const SeConflict *conflicts, int n, const SeItem *item, const char *field)
{
	for (int i = 0; i < n; i++)
	{
		if (conflicts[i].field != NULL && strcmp(conflicts[i].field, field) == 0 &&
			strcmp(conflicts[i].record_id, item->record_id) == 0)
			return true;
	}
	return false;
}

bool
se_change_is_overridden(const SeItem *item, const char *field)
{
	ListCell *lc;

	foreach (lc, item->overridden)
	{
		if (strcmp(lfirst(lc), field) == 0)
			return true;
	}
	return false;
}

/* The value on which both last agreed; false: nobody knows, as when a record is met for the first time. */
bool
se_change_agreed_on(const SeItem *item, const char *field, JsonbValue *value)
{
	return se_change_member(item->mirror_agreed, field, value) ||
		   se_change_member(item->base, field, value);
}

static void
describe(const SeTarget *target, SeTable *table, SeFieldChange *c, const SeConflict *conflicts,
		 int n)
{
	SeFieldState *s = &c->state;
	const SeItem *item = c->item;
	JsonbValue base;

	c->rule = se_rule_of(target, c->field);
	c->has_agreed = se_change_agreed_on(item, c->field, &c->agreed);
	s->owner = c->rule->owner;
	s->on_violation = c->rule->on_violation;
	s->policy = se_rules_policy(target);
	s->equal = se_change_same(target, table, c, &c->theirs, &c->ours);
	s->in_conflict = is_open(conflicts, n, item, c->field);
	s->overridden = se_change_is_overridden(item, c->field);
	s->remote_changed = !se_change_member(item->base, c->field, &base) ||
						!se_change_same(target, table, c, &c->theirs, &base);
	/* Back to what was agreed is no news; but an open conflict shows what they say now. */
	if (s->remote_changed && !s->in_conflict && c->has_agreed)
		s->remote_changed = !se_change_same(target, table, c, &c->theirs, &c->agreed);
	s->hub_changed = c->has_agreed && !se_change_same(target, table, c, &c->agreed, &c->ours);
	s->can_push = se_rules_can_push(target, false);
	s->can_read = target->pull->fetch != NULL;
	s->was_read = item->fetched;
	s->correction_limit = se_correction_limit;
	s->corrections = count_corrections(item, c->field, GetCurrentTimestamp());
	s->resolution = target->pull->resolution_ms * 1000;
	s->remote_at = item->map.has_version_at ? item->map.version_at : 0;
}

static SeFieldChange *
new_change(SeFieldChanges *changes, SeItem *item, const char *field, SeColumn *column)
{
	SeFieldChange *c;

	if (changes->n == changes->size)
	{
		changes->size = Max(64, changes->size * 2);
		changes->list = changes->list == NULL
							? palloc(sizeof(SeFieldChange) * changes->size)
							: repalloc_huge(changes->list, sizeof(SeFieldChange) * changes->size);
	}
	c = &changes->list[changes->n++];
	memset(c, 0, sizeof(*c));
	c->item = item;
	c->field = field;
	c->column = column;
	return c;
}

/* Each field of the item that differs from its base; the item's row has been read. */
void
se_changes_take(const SeTarget *target, SeTable *table, SeFieldChanges *changes, SeItem *item,
				const SeConflict *conflicts, int nconflicts)
{
	ListCell *lc;
	SeFieldChange *c;

	foreach (lc, item->changed_columns)
	{
		SeColumn *column = lfirst(lc);

		c = new_change(changes, item, column->name, column);
		if (!se_change_member(item->changed, column->name, &c->theirs) ||
			!se_change_member(item->ours, column->name, &c->ours))
			elog(ERROR, "column \"%s\" of a record is missing", column->name);
		describe(target, table, c, conflicts, nconflicts);
	}
	if (!item->changed_lines)
		return;
	c = new_change(changes, item, "lines", NULL);
	se_change_set(item->map.lines, &c->theirs);
	se_change_set(item->ours_lines, &c->ours);
	describe(target, table, c, conflicts, nconflicts);
}

/* ---- when the hub changed it ---- */

static bool
needs_time(const SeFieldChange *c)
{
	const SeFieldState *s = &c->state;

	return s->owner == SE_OWNED_BY_NOBODY && s->remote_changed && s->hub_changed && !s->equal &&
		   !s->in_conflict && (s->policy != SE_POLICY_NEWEST || s->remote_at != 0);
}

void
se_changes_find_times(const SeTarget *target, SeFieldChanges *changes)
{
	SeChangeTime *times = palloc0(sizeof(SeChangeTime) * Max(changes->n, 1));
	TimestampTz since = GetCurrentTimestamp();
	int n = 0;

	for (int i = 0; i < changes->n; i++)
	{
		SeFieldChange *c = &changes->list[i];

		if (!needs_time(c))
			continue;
		times[n].record_id = c->item->record_id;
		times[n].field = c->field;
		c->time = &times[n++];
		if (c->state.remote_at != 0)
			since = Min(since, c->state.remote_at - c->state.resolution);
		if (c->state.policy != SE_POLICY_NEWEST)
			since = Min(since, GetCurrentTimestamp() - LOOK_BACK_US);
	}
	se_ours_times(target, since, times, n);
	for (int i = 0; i < changes->n; i++)
	{
		if (changes->list[i].time != NULL)
			changes->list[i].state.hub_at = changes->list[i].time->at;
	}
}
