/*
 * test_owner.c
 *		Who may change a field, and what becomes of a change by somebody else.
 */
#include "tap.h"

#include "../../src/govern/owner.c"

#include <stdio.h>

#define CRM 1
#define ERP 2

static const char *const policies[] = {"reject", "ignore", "correct", "quarantine"};

static void
test_parse(void)
{
	static const char *const bad[] = {"", "Reject", "reject ", "refuse", "quarantined"};
	SeOnViolation policy = SE_ON_VIOLATION_CORRECT;

	for (size_t i = 0; i < 4; i++)
		ok(se_on_violation_parse(policies[i], &policy) && policy == (SeOnViolation) i, policies[i]);
	policy = SE_ON_VIOLATION_CORRECT;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!se_on_violation_parse(bad[i], &policy) && policy == SE_ON_VIOLATION_CORRECT, bad[i]);
}

/* Every owner × every writer: only somebody else's field is a violation. */
static void
test_binds(void)
{
	static const struct
	{
		int owner;
		int writer;
		bool binds;
	} cases[] = {
		{SE_OWNER_NOBODY, SE_OWNER_HUB, false},
		{SE_OWNER_NOBODY, CRM, false},
		{SE_OWNER_HUB, SE_OWNER_HUB, false},
		{SE_OWNER_HUB, CRM, true},
		{CRM, SE_OWNER_HUB, true},
		{CRM, CRM, false},
		{CRM, ERP, true},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		for (int p = 0; p < 4; p++)
		{
			SeOwner owner = {.owner = cases[i].owner, .on_violation = (SeOnViolation) p};
			char name[64];

			snprintf(name, sizeof(name), "owner %d, writer %d, %s", cases[i].owner, cases[i].writer,
					 policies[p]);
			ok(se_owner_binds(owner, cases[i].writer) == cases[i].binds, name);
			ok((se_owner_verdict(owner, cases[i].writer, true) == SE_VERDICT_PASS) !=
				   cases[i].binds,
			   "and passes only if it does not bind");
		}
	}
}

static void
test_verdict(void)
{
	static const SeVerdict undoable[] = {SE_VERDICT_REFUSE, SE_VERDICT_UNDO, SE_VERDICT_CORRECT,
										 SE_VERDICT_HOLD};
	static const SeVerdict final[] = {SE_VERDICT_REFUSE, SE_VERDICT_REFUSE, SE_VERDICT_CORRECT,
									  SE_VERDICT_REFUSE};

	for (int p = 0; p < 4; p++)
	{
		SeOwner owner = {.owner = CRM, .on_violation = (SeOnViolation) p};

		is_int(se_owner_verdict(owner, SE_OWNER_HUB, true), undoable[p], policies[p]);
		is_int(se_owner_verdict(owner, SE_OWNER_HUB, false), final[p],
			   "what cannot be undone fails, and is never changed in silence");
	}
}

int
main(void)
{
	test_parse();
	test_binds();
	test_verdict();
	return done_testing();
}
