/*
 * merge.c: see merge.h. doc/ownership.md has the same as a table.
 */
#include "govern/merge.h"

static SeMerge
correct(const SeFieldState *f, SeMerge how)
{
	/* Two that insist would correct each other for ever. */
	return f->corrections >= f->correction_limit ? SE_MERGE_REPEATED : how;
}

static SeMerge
violation(const SeFieldState *f)
{
	switch (f->on_violation)
	{
		case SE_VIOLATION_REJECT:
			return SE_MERGE_REJECT;
		case SE_VIOLATION_IGNORE:
			return SE_MERGE_IGNORE;
		case SE_VIOLATION_CORRECT:
			/* What cannot be sent back cannot be corrected, and must not be forgotten either. */
			return f->can_push ? correct(f, SE_MERGE_CORRECT) : SE_MERGE_CONFLICT;
		case SE_VIOLATION_QUARANTINE:
			break;
	}
	return SE_MERGE_CONFLICT;
}

/*
 * A system that tells seconds changed the record at some instant of that second. When ours lies in
 * it as well, the record is read again, so that at least theirs is their newest; what then still
 * cannot be put in order, or has no time, is theirs: ours is kept in the outbox, theirs nowhere else.
 */
static SeMerge
newest(const SeFieldState *f)
{
	int64_t resolution = f->resolution > 0 ? f->resolution : 1;

	if (f->remote_at == 0 || f->hub_at == 0)
		return SE_MERGE_TAKE;
	if (f->hub_at / resolution == f->remote_at / resolution)
		return f->can_read && !f->was_read ? SE_MERGE_READ_AGAIN : SE_MERGE_TAKE;
	return f->hub_at > f->remote_at ? SE_MERGE_KEEP : SE_MERGE_TAKE;
}

SeMerge
se_merge_field(const SeFieldState *f)
{
	if (f->in_conflict)
	{
		if (f->equal)
			return SE_MERGE_SETTLED;
		return f->remote_changed ? SE_MERGE_NEWS : SE_MERGE_NOTHING;
	}
	if (f->overridden && f->owner == SE_OWNED_BY_THEM)
		return f->equal ? SE_MERGE_AGREE : correct(f, SE_MERGE_TAKE);
	if (!f->remote_changed)
		return SE_MERGE_NOTHING;
	if (f->equal)
		return SE_MERGE_AGREE;
	if (f->owner == SE_OWNED_BY_THEM)
		return SE_MERGE_TAKE;
	if (f->owner == SE_OWNED_BY_OTHER)
		return violation(f);
	if (!f->hub_changed)
		return SE_MERGE_TAKE;
	return f->policy == SE_POLICY_NEWEST ? newest(f) : SE_MERGE_CONFLICT;
}

SeMerge
se_merge_delete(const SeDeleteState *d)
{
	if (d->no_effect || d->owner == SE_OWNED_BY_THEM)
		return SE_MERGE_TAKE;
	if (d->owner == SE_OWNED_BY_NOBODY)
		return d->hub_changed ? SE_MERGE_CONFLICT : SE_MERGE_TAKE;
	switch (d->on_violation)
	{
		case SE_VIOLATION_REJECT:
			return SE_MERGE_REJECT;
		case SE_VIOLATION_IGNORE:
			return SE_MERGE_IGNORE;
		case SE_VIOLATION_CORRECT: /* would make the record anew, which a person should want */
		case SE_VIOLATION_QUARANTINE:
			break;
	}
	return SE_MERGE_CONFLICT;
}
