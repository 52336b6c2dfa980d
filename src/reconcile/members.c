/*
 * members.c: the members of a jsonb object, read as they stand.
 *
 * In a jsonb object all keys come first, then all values; of each an entry tells length or end, and kind.
 */
#include "postgres.h"

#include "reconcile/members.h"

static const char *
texts_of(const JsonbContainer *object)
{
	return (const char *) &object->children[JsonContainerSize(object) * 2];
}

void
se_members_learn(SeMembers *members, const JsonbContainer *object)
{
	int n = JsonContainerSize(object);

	members->n = n;
	members->keys = palloc(sizeof(JEntry) * Max(n, 1));
	memcpy(members->keys, object->children, sizeof(JEntry) * n);
	members->text_len = getJsonbOffset(object, n);
	members->text = palloc(members->text_len + 1);
	memcpy(members->text, texts_of(object), members->text_len);
}

bool
se_members_are(const SeMembers *members, const JsonbContainer *object)
{
	return members->n == JsonContainerSize(object) &&
		   memcmp(members->keys, object->children, sizeof(JEntry) * members->n) == 0 &&
		   memcmp(members->text, texts_of(object), members->text_len) == 0;
}

const char *
se_member_key(const SeMembers *members, int i, int *len)
{
	uint32 offset = 0;

	for (int k = 0; k < i; k++)
		JBE_ADVANCE_OFFSET(offset, members->keys[k]);
	*len = JBE_HAS_OFF(members->keys[i]) ? JBE_OFFLENFLD(members->keys[i]) - offset
										 : JBE_OFFLENFLD(members->keys[i]);
	return members->text + offset;
}

/* As fillJsonbValue() of the server has it. */
void
se_member_next(const SeMembers *members, JsonbContainer *object, int i, uint32 *offset,
			   JsonbValue *v)
{
	int index = members->n + i;
	JEntry entry = object->children[index];
	char *text = (char *) texts_of(object);

	if (JBE_ISNULL(entry))
		v->type = jbvNull;
	else if (JBE_ISSTRING(entry))
	{
		v->type = jbvString;
		v->val.string.val = text + *offset;
		v->val.string.len = getJsonbLength(object, index);
	}
	else if (JBE_ISNUMERIC(entry))
	{
		v->type = jbvNumeric;
		v->val.numeric = (Numeric) (text + INTALIGN(*offset));
	}
	else if (JBE_ISBOOL(entry))
	{
		v->type = jbvBool;
		v->val.boolean = JBE_ISBOOL_TRUE(entry);
	}
	else
	{
		v->type = jbvBinary;
		v->val.binary.data = (JsonbContainer *) (text + INTALIGN(*offset));
		v->val.binary.len = getJsonbLength(object, index) - (INTALIGN(*offset) - *offset);
	}
	JBE_ADVANCE_OFFSET(*offset, entry);
}
