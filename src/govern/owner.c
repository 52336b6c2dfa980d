/*
 * owner.c: see owner.h. No server calls: unit tests include this file.
 */
#include "govern/owner.h"

#include <stddef.h>
#include <string.h>

bool
se_on_violation_parse(const char *text, SeOnViolation *policy)
{
	static const struct
	{
		const char *name;
		SeOnViolation policy;
	} known[] = {{"reject", SE_ON_VIOLATION_REJECT},
				 {"ignore", SE_ON_VIOLATION_IGNORE},
				 {"correct", SE_ON_VIOLATION_CORRECT},
				 {"quarantine", SE_ON_VIOLATION_QUARANTINE}};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (strcmp(known[i].name, text) == 0)
		{
			*policy = known[i].policy;
			return true;
		}
	}
	return false;
}

bool
se_owner_binds(SeOwner owner, int writer)
{
	return owner.owner != SE_OWNER_NOBODY && owner.owner != writer;
}

SeVerdict
se_owner_verdict(SeOwner owner, int writer, bool can_undo)
{
	if (!se_owner_binds(owner, writer))
		return SE_VERDICT_PASS;
	switch (owner.on_violation)
	{
		case SE_ON_VIOLATION_CORRECT:
			return SE_VERDICT_CORRECT;
		case SE_ON_VIOLATION_IGNORE:
			return can_undo ? SE_VERDICT_UNDO : SE_VERDICT_REFUSE;
		case SE_ON_VIOLATION_QUARANTINE:
			return can_undo ? SE_VERDICT_HOLD : SE_VERDICT_REFUSE;
		case SE_ON_VIOLATION_REJECT:
			break;
	}
	return SE_VERDICT_REFUSE;
}
