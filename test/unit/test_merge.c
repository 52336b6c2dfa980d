/*
 * test_merge.c
 *		What becomes of a value that a system has changed: every cell of who changed × who owns ×
 *		what a violation gets × policy, written out as a table.
 */
#include "tap.h"

#include "../../src/govern/merge.c"

#define N		 SE_MERGE_NOTHING
#define TAKE	 SE_MERGE_TAKE
#define CONFLICT SE_MERGE_CONFLICT

static const SeFieldState unchanged = {.can_push = true,
									   .can_read = true,
									   .correction_limit = 3,
									   .resolution = 1000000};

static const char *const owners[] = {"nobody", "them", "other"};
static const char *const violations[] = {"reject", "ignore", "correct", "quarantine"};
static const char *const policies[] = {"newest", "owner", "quarantine"};

static SeMerge
merged(SeFieldState f)
{
	return se_merge_field(&f);
}

static void
cell(SeFieldState f, SeMerge expected, const char *what)
{
	char name[200];

	snprintf(name, sizeof(name), "%s, owner %s, violation %s, policy %s", what, owners[f.owner],
			 violations[f.on_violation], policies[f.policy]);
	is_int(se_merge_field(&f), expected, name);
}

/* Rows: who changed the field. Columns: owner nobody; them; other with each on_violation. */
static void
test_cells(void)
{
	static const struct
	{
		const char *what;
		bool remote;
		bool hub;
		bool equal;
		SeMerge nobody[3]; /* by policy; the hub's change is the older one */
		SeMerge them;
		SeMerge other[4]; /* by on_violation */
	} rows[] = {
		{"nobody changed it", false, false, true, {N, N, N}, N, {N, N, N, N}},
		{"the hub changed it", false, true, false, {N, N, N}, N, {N, N, N, N}},
		{"they changed it",
		 true,
		 false,
		 false,
		 {TAKE, TAKE, TAKE},
		 TAKE,
		 {SE_MERGE_REJECT, SE_MERGE_IGNORE, SE_MERGE_CORRECT, CONFLICT}},
		{"both changed it",
		 true,
		 true,
		 false,
		 {TAKE, CONFLICT, CONFLICT},
		 TAKE,
		 {SE_MERGE_REJECT, SE_MERGE_IGNORE, SE_MERGE_CORRECT, CONFLICT}},
		{"both changed it alike",
		 true,
		 true,
		 true,
		 {SE_MERGE_AGREE, SE_MERGE_AGREE, SE_MERGE_AGREE},
		 SE_MERGE_AGREE,
		 {SE_MERGE_AGREE, SE_MERGE_AGREE, SE_MERGE_AGREE, SE_MERGE_AGREE}},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
	{
		SeFieldState f = unchanged;

		f.remote_changed = rows[i].remote;
		f.hub_changed = rows[i].hub;
		f.equal = rows[i].equal;
		f.remote_at = 20000000;
		f.hub_at = rows[i].hub ? 10000000 : 0;
		for (int policy = 0; policy < 3; policy++)
		{
			f.policy = (SeConflictPolicy) policy;
			f.owner = SE_OWNED_BY_NOBODY;
			f.on_violation = SE_VIOLATION_REJECT;
			cell(f, rows[i].nobody[policy], rows[i].what);
			for (int violation = 0; violation < 4; violation++)
			{
				f.on_violation = (SeViolation) violation;
				f.owner = SE_OWNED_BY_THEM;
				cell(f, rows[i].them, rows[i].what);
				f.owner = SE_OWNED_BY_OTHER;
				cell(f, rows[i].other[violation], rows[i].what);
			}
		}
	}
}

static void
test_newest(void)
{
	SeFieldState f = unchanged;

	f.remote_changed = f.hub_changed = true;
	f.remote_at = 12 * 1000000;
	f.hub_at = 14 * 1000000;
	is_int(merged(f), SE_MERGE_KEEP, "ours is later: it stays");
	f.hub_at = 12 * 1000000 + 999999;
	is_int(merged(f), SE_MERGE_READ_AGAIN, "within their second: read again");
	f.hub_at = 12 * 1000000;
	is_int(merged(f), SE_MERGE_READ_AGAIN, "at its beginning, too");
	f.hub_at = 12 * 1000000 - 1;
	is_int(merged(f), TAKE, "a microsecond before it: theirs is later");
	f.hub_at = 13 * 1000000;
	is_int(merged(f), SE_MERGE_KEEP, "in the second behind it: ours is later");
	f.hub_at = 12 * 1000000 + 400000;
	f.was_read = true;
	is_int(merged(f), TAKE, "still a tie after the read: theirs");
	f.was_read = false;
	f.can_read = false;
	is_int(merged(f), TAKE, "a tie that nobody can read again: theirs");
	f.can_read = true;
	f.resolution = 1;
	is_int(merged(f), SE_MERGE_KEEP, "with a finer clock there is no tie");
	f.resolution = 0;
	is_int(merged(f), SE_MERGE_KEEP, "no resolution is a microsecond");
	f.remote_at = 0;
	is_int(merged(f), TAKE, "without their time: theirs");
	f.remote_at = 12 * 1000000;
	f.hub_at = 0;
	is_int(merged(f), TAKE, "without ours: theirs");
}

static void
test_corrections(void)
{
	SeFieldState f = unchanged;

	f.remote_changed = true;
	f.owner = SE_OWNED_BY_OTHER;
	f.on_violation = SE_VIOLATION_CORRECT;
	for (f.corrections = 0; f.corrections < 3; f.corrections++)
		is_int(merged(f), SE_MERGE_CORRECT, "corrected");
	is_int(merged(f), SE_MERGE_REPEATED, "a fourth time in the window a person is asked");
	f.corrections = 0;
	f.can_push = false;
	is_int(merged(f), CONFLICT, "what cannot be sent back is a conflict");

	f = unchanged;
	f.owner = SE_OWNED_BY_THEM;
	f.overridden = true;
	is_int(merged(f), TAKE,
		   "an app's change of what they own is undone though they say nothing new");
	f.equal = true;
	is_int(merged(f), SE_MERGE_AGREE, "it was undone already");
	f.equal = false;
	f.corrections = 3;
	is_int(merged(f), SE_MERGE_REPEATED, "the app insists: a person is asked");
	f.corrections = 0;
	f.owner = SE_OWNED_BY_OTHER;
	is_int(merged(f), N, "the owner is another one by now");
}

static void
test_open_conflict(void)
{
	for (int owner = 0; owner < 3; owner++)
	{
		SeFieldState f = unchanged;

		f.owner = (SeOwnedBy) owner;
		f.in_conflict = true;
		cell(f, N, "in conflict, nothing new");
		f.hub_changed = true;
		cell(f, N, "in conflict, ours is new");
		f.remote_changed = true;
		cell(f, SE_MERGE_NEWS, "in conflict, theirs is new");
		f.overridden = true;
		cell(f, SE_MERGE_NEWS, "in conflict, an app's change waits to be undone");
		f.equal = true;
		cell(f, SE_MERGE_SETTLED, "in conflict no more");
	}
}

static void
test_deletes(void)
{
	static const SeMerge other[] = {SE_MERGE_REJECT, SE_MERGE_IGNORE, CONFLICT, CONFLICT};

	for (int changed = 0; changed < 2; changed++)
	{
		SeDeleteState d = {.hub_changed = changed};
		char name[100];

		snprintf(name, sizeof(name), "delete, %s: nobody's",
				 changed ? "changed here" : "as agreed");
		is_int(se_merge_delete(&d), changed ? CONFLICT : TAKE, name);
		d.owner = SE_OWNED_BY_THEM;
		is_int(se_merge_delete(&d), TAKE, "delete of what is theirs");
		for (int violation = 0; violation < 4; violation++)
		{
			d.owner = SE_OWNED_BY_OTHER;
			d.on_violation = (SeViolation) violation;
			d.no_effect = false;
			snprintf(name, sizeof(name), "delete of what is another's, %s", violations[violation]);
			is_int(se_merge_delete(&d), other[violation], name);
			d.no_effect = true;
			is_int(se_merge_delete(&d), TAKE, "a delete that has no effect here meets nobody");
		}
	}
}

int
main(void)
{
	test_cells();
	test_newest();
	test_corrections();
	test_open_conflict();
	test_deletes();
	return done_testing();
}
