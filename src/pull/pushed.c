/*
 * pushed.c: what a successful push makes known of a remote record.
 *
 * Called inside the transaction that records the outcomes of the pushes, so that the binding is
 * there exactly when the delivery is done.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "connector/expr.h"
#include "core/json.h"
#include "pull/internal.h"
#include "pull/pull.h"

static bool
names_field(List *fields, const JsonbValue *key)
{
	ListCell *lc;

	foreach (lc, fields)
	{
		const char *name = ((SeNamedExpr *) lfirst(lc))->name;

		if (strncmp(name, key->val.string.val, key->val.string.len) == 0 &&
			name[key->val.string.len] == '\0')
			return true;
	}
	return false;
}

/* Pushes the members of an object that a pull would read back; '*lines' is its member of that name. */
static void
push_known(JsonbParseState **state, List *fields, JsonbContainer *object, JsonbValue *lines)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue v;
	bool wanted = false;

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			bool is_lines = v.val.string.len == 5 && memcmp(v.val.string.val, "lines", 5) == 0;

			wanted = names_field(fields, &v);
			if (wanted)
				pushJsonbValue(state, WJB_KEY, &v);
			else if (is_lines && lines != NULL)
				token = JsonbIteratorNext(&it, lines, true);
		}
		else if (token == WJB_VALUE && wanted)
			pushJsonbValue(state, WJB_VALUE, &v);
	}
}

static Jsonb *
known_lines(const SePull *pull, const JsonbValue *lines)
{
	JsonbParseState *state = NULL;
	int n = JsonContainerSize(lines->val.binary.data);

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		JsonbValue *line = getIthJsonbValueFromContainer(lines->val.binary.data, i);

		if (line->type != jbvBinary || !JsonContainerIsObject(line->val.binary.data))
			continue;
		push_known(&state, pull->record->line_fields, line->val.binary.data, NULL);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

/* The answer told nothing: take it that the remote record now says what we sent. */
static void
take_sent(const SePull *pull, Jsonb *sent, SeMapped *map)
{
	JsonbParseState *state = NULL;
	JsonbValue lines = {.type = jbvNull};

	if (pull == NULL || sent == NULL)
		return;
	push_known(&state, pull->record->fields, &sent->root, &lines);
	map->fields = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	if (pull->has_lines && lines.type == jbvBinary && JsonContainerIsArray(lines.val.binary.data))
		map->lines = known_lines(pull, &lines);
}

/*
 * The fields in which both sides agree. What differs is the system's own doing: if the mirror said
 * that we know it, no pull would ever bring it in. What we said of it is kept in *said (NULL: they
 * agree in all), so that the pull which brings it in can tell whether we have changed our mind since.
 */
static Jsonb *
agreed_fields(Jsonb *fields, Jsonb *ours, Jsonb **said)
{
	JsonbParseState *state = NULL;
	JsonbParseState *differing = NULL;
	JsonbIterator *it = JsonbIteratorInit(&fields->root);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue theirs;
	JsonbValue own;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &theirs, true);
		if (getKeyJsonValueFromContainer(&ours->root, key.val.string.val, key.val.string.len,
										 &own) != NULL &&
			!se_json_same(&own, &theirs))
		{
			if (differing == NULL)
				pushJsonbValue(&differing, WJB_BEGIN_OBJECT, NULL);
			pushJsonbValue(&differing, WJB_KEY, &key);
			pushJsonbValue(&differing, WJB_VALUE, &own);
			continue;
		}
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &theirs);
	}
	*said = NULL;
	if (differing != NULL)
		*said = JsonbValueToJsonb(pushJsonbValue(&differing, WJB_END_OBJECT, NULL));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * A correction that the system has answered with its own value again will not help when it is repeated.
 * For its own sake it is no news to a pull either, so a person is asked now.
 */
static void
note_uncorrected(SeItem *item, Jsonb *corrects, Jsonb *theirs)
{
	JsonbIterator *it = JsonbIteratorInit(&item->agreed->root);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue ours;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		char *field;
		SeFinding *f;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &ours, true);
		field = pnstrdup(key.val.string.val, key.val.string.len);
		if (se_obj_get(corrects, field) == NULL)
			continue;
		f = palloc0(sizeof(SeFinding));
		f->what = SE_MERGE_REPEATED;
		f->kind = "repeated";
		f->field = field;
		f->ours = JsonbValueToJsonb(&ours);
		f->theirs = se_obj_get(theirs, field);
		f->hub_origin = -1;
		f->policy = "correct";
		f->message = "the system took the correction and kept its value";
		item->findings = lappend(item->findings, f);
		item->fate = SE_FATE_MIRROR;
	}
}

static int
compare_remote(const void *a, const void *b)
{
	const SePushed *x = *(SePushed *const *) a;
	const SePushed *y = *(SePushed *const *) b;
	int order;

	if (x->system != y->system)
		return x->system->id < y->system->id ? -1 : 1;
	if (x->object_id != y->object_id)
		return x->object_id < y->object_id ? -1 : 1;
	order = strcmp(x->remote_id, y->remote_id);
	if (order != 0)
		return order;
	return x < y ? -1 : x > y ? 1 : 0;
}

/*
 * What is to be recorded, grouped by system and object. The last of several pushes of a record in
 * one call says how it ended.
 */
static SePushed **
sort_pushed(SePushed *items, int n, int *nsorted)
{
	SePushed **sorted = palloc(sizeof(SePushed *) * Max(n, 1));
	int size = 0;
	int kept = 0;

	for (int i = 0; i < n; i++)
		if (items[i].remote_id != NULL)
			sorted[size++] = &items[i];
	qsort(sorted, size, sizeof(SePushed *), compare_remote);
	for (int i = 0; i < size; i++)
	{
		if (i + 1 < size && sorted[i + 1]->system == sorted[i]->system &&
			sorted[i + 1]->object_id == sorted[i]->object_id &&
			strcmp(sorted[i + 1]->remote_id, sorted[i]->remote_id) == 0)
			continue;
		sorted[kept++] = sorted[i];
	}
	*nsorted = kept;
	return sorted;
}

static char *
text_copy(const char *text)
{
	return text != NULL ? pstrdup(text) : NULL;
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/*
 * New bindings are inserted; of known ones only number and version can change. A single one takes the
 * way that can tell what stands against it: that is how a batch that failed is gone through.
 */
static void
keep_bindings(const SeTarget *target, SeItem **items, int n)
{
	SeItem **fresh = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **known = palloc(sizeof(SeItem *) * Max(n, 1));
	int nfresh = 0;
	int nknown = 0;

	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		if (item->bound == NULL && n > 1)
			fresh[nfresh++] = item;
		else if (item->bound == NULL || strcmp(item->bound, item->record_id) != 0 ||
				 !same_text(item->bound_version, item->map.version) ||
				 (item->map.remote_number != NULL &&
				  !same_text(item->bound_number, item->map.remote_number)))
			known[nknown++] = item;
	}
	se_state_bind_new(target, fresh, nfresh);
	se_state_bind(target, known, nknown);
}

/* What the mirror knows from now on; 'whole' ones replace its fields, others are merged into them. */
static void
keep_mirror(const SeTarget *target, SeItem **items, int n, TimestampTz now, bool whole)
{
	SeItem **fresh = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **known = palloc(sizeof(SeItem *) * Max(n, 1));
	int nfresh = 0;
	int nknown = 0;

	for (int i = 0; i < n; i++)
	{
		if (items[i]->in_mirror)
			known[nknown++] = items[i];
		else
			fresh[nfresh++] = items[i];
	}
	se_state_pushed_new(target, fresh, nfresh, now);
	se_state_pushed(target, known, nknown, now, whole);
}

static void
record_group(const SeTarget *target, SePushed **pushed, int n, TimestampTz now)
{
	SeItem *items = palloc0(sizeof(SeItem) * n);
	SeItem **all = palloc(sizeof(SeItem *) * n);
	SeItem **bound = palloc(sizeof(SeItem *) * n);
	SeItem **whole = palloc(sizeof(SeItem *) * n);
	SeItem **merged = palloc(sizeof(SeItem *) * n);
	char **ids = palloc(sizeof(char *) * n);
	SeItem **looked_up = palloc(sizeof(SeItem *) * n);
	int nlooked_up = 0;
	int nbound = 0;
	int nwhole = 0;
	int nmerged = 0;

	for (int i = 0; i < n; i++)
	{
		items[i].remote_id = pstrdup(pushed[i]->remote_id);
		items[i].record_id = pstrdup(pushed[i]->record_id);
		items[i].record = pushed[i]->deleted ? NULL : pushed[i]->record;
		items[i].deleted = pushed[i]->deleted;
		items[i].rebinds = pushed[i]->rebinds;
		items[i].cause = text_copy(pushed[i]->cause);
		items[i].correlation_id = text_copy(pushed[i]->correlation_id);
		all[i] = &items[i];
	}
	if (target->pull != NULL)
		se_map_all(target, se_ref_cache(target->system_id), all, n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = &items[i];
		bool read =
			item->record != NULL && item->map.fields != NULL && item->map.status == SE_MAP_OK;

		if (read && pushed[i]->ours != NULL)
		{
			Jsonb *theirs = item->map.fields;

			item->map.fields = agreed_fields(theirs, pushed[i]->ours, &item->agreed);
			if (pushed[i]->corrects != NULL && item->agreed != NULL)
				note_uncorrected(item, pushed[i]->corrects, theirs);
			read = false;
		}
		else if (!read && !item->deleted && pushed[i]->sent)
			take_sent(target->pull, pushed[i]->ours, &item->map);
		if (pushed[i]->remote_number != NULL)
			item->map.remote_number = pstrdup(pushed[i]->remote_number);
		if (pushed[i]->version != NULL)
			item->map.version = pstrdup(pushed[i]->version);
		if (pushed[i]->has_version_at)
		{
			item->map.has_version_at = true;
			item->map.version_at = pushed[i]->version_at;
		}
		if (read)
			whole[nwhole++] = item;
		else
			merged[nmerged++] = item;
		if (!item->deleted)
		{
			ids[nbound] = item->remote_id;
			bound[nbound++] = item;
		}
	}
	/*
	 * What was made just now is taken for new without a look: the unique indexes tell when it is
	 * not, and then each is recorded by itself.
	 */
	for (int i = 0; i < n; i++)
	{
		if (n == 1 || !pushed[i]->fresh)
			looked_up[nlooked_up++] = &items[i];
	}
	se_state_read_bound(target, looked_up, nlooked_up);
	keep_bindings(target, bound, nbound);
	keep_mirror(target, whole, nwhole, now, true);
	keep_mirror(target, merged, nmerged, now, false);
	se_findings_write(target, all, n);
	if (se_state_release(target->system_id, target->object_id, ids, nbound) > 0)
		se_inbox_wake();
}

void
se_mirror_pushed(SePushed *items, int n, TimestampTz now)
{
	SePushed **sorted = sort_pushed(items, n, &n);
	int ngroup;

	for (int i = 0; i < n; i += ngroup)
	{
		SeSystem *system = sorted[i]->system;
		const SeManifestObject *object;
		SeTarget target = {0};

		ngroup = 1;
		while (i + ngroup < n && sorted[i + ngroup]->system == system &&
			   sorted[i + ngroup]->object_id == sorted[i]->object_id)
			ngroup++;
		target.system_id = system->id;
		target.object_id = sorted[i]->object_id;
		target.object = sorted[i]->object;
		target.manifest = system->manifest;
		target.vars = system->vars;
		target.financial = sorted[i]->financial;
		object =
			target.manifest != NULL ? se_manifest_object(target.manifest, target.object) : NULL;
		target.pull = object != NULL ? object->pull : NULL;
		record_group(&target, sorted + i, ngroup, now);
	}
}
