/*
 * merge.c: what a system has changed, beside what the hub has changed since.
 *
 * Runs between identity and write, in the subtransaction that both are part of: the rows of items
 * that would be written are read and locked, set-wise, and for each field that differs from the base
 * govern/merge.c decides. What it does not take is left out of what is written. New records have
 * nothing that could be overwritten: they are taken whole, whoever owns their fields.
 *
 * What is to be told a person is noted (SeFinding) and written when all of the page is applied,
 * because a page that is halved comes here again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/json.h"
#include "core/spi.h"
#include "pull/change.h"

/* ---- what becomes of the item ---- */

/* Whether the system's value does not become the hub's, so that the two go on differing. */
static bool
differs_on(const SeFieldChange *c)
{
	switch (c->what)
	{
		case SE_MERGE_NOTHING:
			return c->state.in_conflict;
		case SE_MERGE_AGREE:
		case SE_MERGE_TAKE:
		case SE_MERGE_SETTLED:
		case SE_MERGE_READ_AGAIN:
			return false;
		case SE_MERGE_KEEP:
		case SE_MERGE_REJECT:
		case SE_MERGE_IGNORE:
		case SE_MERGE_CORRECT:
		case SE_MERGE_CONFLICT:
		case SE_MERGE_REPEATED:
		case SE_MERGE_NEWS:
			break;
	}
	return true;
}

static Jsonb *
boxed(JsonbValue *value)
{
	return JsonbValueToJsonb(value);
}

static const SeFieldChange *
change_of(const SeFieldChange *changes, int n, const JsonbValue *key)
{
	for (int i = 0; i < n; i++)
	{
		if (strlen(changes[i].field) == key->val.string.len &&
			strncmp(changes[i].field, key->val.string.val, key->val.string.len) == 0)
			return &changes[i];
	}
	return NULL;
}

/* What was agreed, of those fields on which they now differ. */
static Jsonb *
agreed_after(const SeItem *item, const SeFieldChange *changes, int n)
{
	SeObjBuilder b;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;

	se_obj_begin(&b);
	for (int i = 0; i < n; i++)
	{
		JsonbValue agreed = changes[i].has_agreed ? changes[i].agreed : changes[i].ours;

		if (differs_on(&changes[i]))
			se_obj_value(&b, changes[i].field, boxed(&agreed));
	}
	it = item->mirror_agreed != NULL ? JsonbIteratorInit(&item->mirror_agreed->root) : NULL;
	while (it != NULL && (token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		if (change_of(changes, n, &key) == NULL)
			se_obj_value(&b, pnstrdup(key.val.string.val, key.val.string.len), boxed(&value));
	}
	return b.n > 0 ? se_obj_end(&b) : NULL;
}

static Jsonb *
with_instant(Jsonb *corrected, const char *field, TimestampTz now)
{
	JsonbParseState *state = NULL;
	JsonbValue v = {.type = jbvNumeric};
	JsonbValue old;
	SeObjBuilder b;
	Jsonb *addition;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	if (se_change_member(corrected, field, &old) && old.type == jbvBinary)
	{
		int n = JsonContainerSize(old.val.binary.data);

		for (int i = Max(0, n - se_correction_limit); i < n; i++)
			pushJsonbValue(&state, WJB_ELEM, getIthJsonbValueFromContainer(old.val.binary.data, i));
	}
	v.val.numeric = int64_to_numeric(now);
	pushJsonbValue(&state, WJB_ELEM, &v);
	se_obj_begin(&b);
	se_obj_value(&b, field, JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
	addition = se_obj_end(&b);
	if (corrected == NULL)
		return addition;
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(corrected), JsonbPGetDatum(addition)));
}

static const char *
policy_word(const SeFieldChange *c)
{
	if (c->what == SE_MERGE_REPEATED)
		return psprintf("%s owns it; %d corrections within %d s",
						c->state.owner == SE_OWNED_BY_THEM ? "it" : c->rule->owner_name,
						c->state.corrections, se_correction_window);
	if (c->state.owner == SE_OWNED_BY_OTHER)
		return psprintf("%s owns it; %s", c->rule->owner_name,
						c->state.on_violation == SE_VIOLATION_CORRECT
							? "correct, but no route leads to the system"
						: c->state.on_violation == SE_VIOLATION_QUARANTINE ? "quarantine"
						: c->state.on_violation == SE_VIOLATION_REJECT	   ? "reject"
																		   : "ignore");
	return c->state.policy == SE_POLICY_OWNER ? "owner, and there is none" : "quarantine";
}

static void
note_finding(SeItem *item, SeFieldChange *c)
{
	SeFinding *v;

	if (c->what < SE_MERGE_REJECT || c->what == SE_MERGE_IGNORE)
		return;
	v = palloc0(sizeof(SeFinding));
	v->what = c->what;
	v->field = c->field;
	v->theirs = boxed(&c->theirs);
	v->ours = boxed(&c->ours);
	v->hub_at = c->time != NULL ? c->time->at : 0;
	v->hub_origin = v->hub_at != 0 ? c->time->origin : -1;
	v->policy = policy_word(c);
	if (c->what == SE_MERGE_REPEATED)
	{
		v->kind = "repeated";
		v->message = "corrections were undone each time: somebody else insists on another value";
	}
	else if (c->state.owner == SE_OWNED_BY_OTHER)
	{
		v->kind = "violation";
		v->message = "the system changed what it does not own";
	}
	else
	{
		v->kind = "field";
		v->message = "changed on both sides since they last agreed";
	}
	item->findings = lappend(item->findings, v);
}

/* Only what is taken is written. */
static void
take_decisions(SeItem *item, SeFieldChange *changes, int n)
{
	SeObjBuilder b;
	TimestampTz now = GetCurrentTimestamp();

	item->set_columns = NIL;
	item->set_lines = false;
	item->merged = true;
	item->corrected = item->mirror_corrected;
	se_obj_begin(&b);
	for (int i = 0; i < n; i++)
	{
		SeFieldChange *c = &changes[i];

		note_finding(item, c);
		if (c->what == SE_MERGE_CORRECT || (c->what == SE_MERGE_TAKE && c->state.overridden))
			item->corrected = with_instant(item->corrected, c->field, now);
		if (c->what != SE_MERGE_TAKE)
			continue;
		if (c->column == NULL)
			item->set_lines = true;
		else
		{
			se_obj_value(&b, c->field, boxed(&c->theirs));
			item->set_columns = lappend(item->set_columns, c->column);
		}
	}
	item->set = se_obj_end(&b);
	item->agreed = agreed_after(item, changes, n);
	/* An unbound one is still to be bound. */
	if (item->set_columns == NIL && !item->set_lines && item->bound != NULL)
		item->fate = SE_FATE_MIRROR;
}

static void
finish(SeItem *item, SeFieldChange *changes, int n)
{
	bool all_taken = item->mirror_agreed == NULL;

	for (int i = 0; i < n; i++)
	{
		changes[i].what = se_merge_field(&changes[i].state);
		if (changes[i].what == SE_MERGE_READ_AGAIN)
		{
			item->fate = SE_FATE_READ_AGAIN;
			item->reason = pstrdup("changed on both sides at one instant; it is read again by id");
			return;
		}
		all_taken = all_taken && changes[i].what == SE_MERGE_TAKE && !changes[i].state.overridden;
	}
	if (!all_taken)
		take_decisions(item, changes, n);
}

/*
 * An app has deleted the row, and its delete may be on its way to them. What they said of the record
 * meanwhile does not bring it back; it is put on record.
 */
static void
lose(SeItem *item)
{
	SeFinding *v = palloc0(sizeof(SeFinding));

	item->set_columns = NIL;
	item->set_lines = false;
	if (item->bound == NULL)
	{
		item->fate = SE_FATE_INBOX;
		item->reason = pstrdup("the row that it matched was deleted meanwhile");
		return;
	}
	item->fate = SE_FATE_MIRROR;
	v->what = SE_MERGE_NOTHING;
	v->kind = "lost";
	v->theirs = item->changed;
	v->hub_origin = -1;
	item->findings = lappend(item->findings, v);
}

/* ---- deletes ---- */

static bool
delete_is_done(const SeTarget *target, const SeItem *item)
{
	ListCell *lc;
	JsonbValue theirs;
	JsonbValue ours;

	if (target->pull->on_delete != SE_DELETE_SET)
		return false;
	foreach (lc, item->changed_columns)
	{
		SeColumn *column = lfirst(lc);

		if (!se_change_member(item->changed, column->name, &theirs) ||
			!se_change_member(item->ours, column->name, &ours) ||
			!se_same_value(target, column, item->mirror_fields, &theirs, &ours))
			return false;
	}
	return true;
}

/* Of the fields that the delete sets, or of the object: the rule that speaks most against it. */
static const SeOwnerRule *
delete_rule(const SeTarget *target, const SeItem *item)
{
	static const int weight[] = {
		[SE_OWNED_BY_THEM] = 0, [SE_OWNED_BY_NOBODY] = 1, [SE_OWNED_BY_OTHER] = 2};
	const SeOwnerRule *worst = NULL;
	ListCell *lc;

	foreach (lc, item->changed_columns)
	{
		const SeOwnerRule *rule = se_rule_of(target, ((SeColumn *) lfirst(lc))->name);

		if (worst == NULL || weight[rule->owner] > weight[worst->owner])
			worst = rule;
	}
	return worst != NULL ? worst : se_rule_of(target, "*");
}

static bool
hub_has_changed(const SeTarget *target, SeTable *table, SeItem *item)
{
	JsonbIterator *it = JsonbIteratorInit(&item->mirror_fields->root);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;

	item->base = item->mirror_fields;
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		SeFieldChange c = {.item = item};

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		c.field = pnstrdup(key.val.string.val, key.val.string.len);
		c.column = se_table_column(table, c.field, strlen(c.field));
		if (!se_change_agreed_on(item, c.field, &c.agreed))
			continue;
		if (c.column != NULL && !se_change_member(item->ours, c.field, &c.ours))
			continue;
		if (c.column == NULL)
		{
			if (table->lines == NULL || strcmp(c.field, "lines") != 0)
				continue;
			se_change_set(item->ours_lines, &c.ours);
		}
		if (!se_change_same(target, table, &c, &c.agreed, &c.ours))
			return true;
	}
	return false;
}

static void
merge_delete(const SeTarget *target, SeTable *table, SeItem *item)
{
	const SeOwnerRule *rule = delete_rule(target, item);
	SeDeleteState state = {.owner = rule->owner, .on_violation = rule->on_violation};
	SeMerge what;
	SeFinding *v;

	if (item->ours == NULL || delete_is_done(target, item))
		return;
	state.hub_changed = item->mirror_fields != NULL && hub_has_changed(target, table, item);
	what = se_merge_delete(&state);
	item->stays = what != SE_MERGE_TAKE;
	if (what == SE_MERGE_TAKE || what == SE_MERGE_IGNORE)
		return;
	v = palloc0(sizeof(SeFinding));
	v->what = what;
	v->kind = "deleted";
	v->ours = item->ours;
	v->hub_origin = -1;
	v->policy = rule->owner == SE_OWNED_BY_NOBODY ? "changed here since"
												  : psprintf("%s owns it", rule->owner_name);
	v->message = "the system deleted the record";
	item->findings = lappend(item->findings, v);
}

/* ---- all items of a page, or of a part of it ---- */

static List *
columns_of(SeTable *table, Bitmapset *named)
{
	List *columns = NIL;
	int i = -1;

	while ((i = bms_next_member(named, i)) >= 0)
		columns = lappend(columns, &table->columns[i]);
	return columns;
}

static void
merge_deletes(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	List *columns = NIL;

	/* Which columns the hub may have changed is in the mirror of each; a delete is rare. */
	for (int i = 0; i < table->ncolumns; i++)
		columns = lappend(columns, &table->columns[i]);
	se_ours_read(table, items, n, columns, table->lines != NULL);
	for (int i = 0; i < n; i++)
		merge_delete(target, table, items[i]);
}

static void
merge_changes(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	Bitmapset *named = NULL;
	bool lines = false;
	SeFieldChanges changes = {0};
	SeConflict *conflicts;
	int nconflicts;
	ListCell *lc;

	for (int i = 0; i < n; i++)
	{
		foreach (lc, items[i]->changed_columns)
			named = bms_add_member(named, (SeColumn *) lfirst(lc) - table->columns);
		lines |= items[i]->changed_lines;
	}
	se_ours_read(table, items, n, columns_of(table, named), lines);
	se_state_read_agreed(target, items, n);
	conflicts = se_conflicts_open(target, items, n, &nconflicts);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		/* An app deleted what is theirs: it is made anew. */
		if (item->ours == NULL && se_change_is_overridden(item, "*") &&
			se_rule_of(target, "*")->owner == SE_OWNED_BY_THEM)
			item->is_new = true;
		/* One that comes back after a delete that had no effect here stands where it stood. */
		if (item->is_new && item->ours == NULL)
			continue;
		if (item->is_new)
			item->base = item->mirror_fields;
		item->is_new = false;
		if (item->ours != NULL)
			se_changes_take(target, table, &changes, item, conflicts, nconflicts);
		else
			lose(item);
	}
	se_changes_find_times(target, &changes);
	for (int from = 0, to; from < changes.n; from = to)
	{
		for (to = from + 1; to < changes.n && changes.list[to].item == changes.list[from].item;)
			to++;
		finish(changes.list[from].item, &changes.list[from], to - from);
	}
}

void
se_merge(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	SeItem **live = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **gone = palloc(sizeof(SeItem *) * Max(n, 1));
	int nlive = 0;
	int ngone = 0;

	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		/* a try in a larger set may have been here before */
		item->set = item->changed;
		item->set_columns = item->changed_columns;
		item->set_lines = item->changed_lines;
		item->merged = item->stays = false;
		item->agreed = item->corrected = NULL;
		item->findings = NIL;
		if (item->record_id == NULL || (item->is_new && item->bound == NULL))
			continue;
		if (item->fate == SE_FATE_APPLY && (item->set_columns != NIL || item->set_lines))
			live[nlive++] = item;
		else if (item->fate == SE_FATE_DELETE && !item->decided &&
				 target->pull->on_delete != SE_DELETE_IGNORE)
			gone[ngone++] = item;
	}
	if (nlive > 0)
		merge_changes(target, table, live, nlive);
	if (ngone > 0)
		merge_deletes(target, table, gone, ngone);
}
