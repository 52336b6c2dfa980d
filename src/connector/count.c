/*
 * count.c
 *		How many records a system says that it has, and what they add up to by currency.
 *
 * Asked before everything is listed: it says how long that will take, and, once everything is listed,
 * whether the list was complete.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

void
se_count_request(const SeManifest *m, const SePull *pull, Jsonb *vars, SeRendered *out)
{
	SeEval ev;

	se_eval_init(&ev, m, vars, se_make_vars(vars, NULL, NULL, NULL));
	se_render_request(&ev, pull->count->request, false, out);
}

/* A number that is exact whatever way it was written; NULL and a failure for what is none. */
static Numeric
number_of(SeEval *ev, const SeExpr *x, const char *what)
{
	char *text = se_eval_text(ev, x);

	if (ev->status != SE_RENDER_OK)
		return NULL;
	if (text == NULL)
	{
		se_eval_fail(ev, "bad_answer", "the answer tells no %s", what);
		return NULL;
	}
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

typedef struct Amount
{
	char *currency;
	Numeric sum;
} Amount;

static void
add_amount(List **amounts, char *currency, Numeric value)
{
	ListCell *lc;
	Amount *amount;

	foreach (lc, *amounts)
	{
		amount = lfirst(lc);
		if (strcmp(amount->currency, currency) != 0)
			continue;
		amount->sum = DatumGetNumeric(
			DirectFunctionCall2(numeric_add, NumericGetDatum(amount->sum), NumericGetDatum(value)));
		return;
	}
	amount = palloc(sizeof(Amount));
	amount->currency = currency;
	amount->sum = value;
	*amounts = lappend(*amounts, amount);
}

static Jsonb *
amounts_json(List *amounts)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, amounts)
	{
		Amount *amount = lfirst(lc);
		JsonbValue value = {.type = jbvNumeric};

		value.val.numeric = amount->sum;
		jv_push_member(&state, amount->currency, &value);
	}
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
read_group(SeEval *ev, const SeCountSpec *spec, SeCount *out, List **amounts)
{
	Numeric count = number_of(ev, spec->count, "number of records");
	Numeric amount;
	char *currency;

	if (count == NULL)
		return;
	out->count += DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(count)));
	if (spec->amount == NULL)
		return;
	amount = number_of(ev, spec->amount, "amount");
	currency = se_eval_text(ev, spec->currency);
	if (amount == NULL || ev->status != SE_RENDER_OK)
		return;
	if (currency == NULL)
		se_eval_fail(ev, "bad_answer", "the answer tells an amount without its currency");
	else
		add_amount(amounts, currency, amount);
}

static void
read_answer(SeEval *ev, const SePull *pull, SeCount *out)
{
	const SeCountSpec *spec = pull->count_spec;
	JsonbValue *groups;
	List *amounts = NIL;
	JvIter i;

	if (spec->items == NULL)
		read_group(ev, spec, out, &amounts);
	else if ((groups = se_eval_list(ev, spec->items)) != NULL)
	{
		jv_iter_init(&i, groups);
		while (ev->status == SE_RENDER_OK && jv_iter_next(&i))
		{
			ev->root = jv_to_jsonb(&i.value);
			read_group(ev, spec, out, &amounts);
		}
	}
	if (ev->status == SE_RENDER_OK && out->count < 0)
		se_eval_fail(ev, "bad_answer", "the answer tells a negative number of records");
	if (spec->amount != NULL)
		out->amounts = amounts_json(amounts);
}

void
se_count_read(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *vars, SeCount *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	se_eval_init(&ev, m, a->json, se_make_vars(vars, NULL, NULL, a));
	ev.inbound = true;
	ev.at = pull->count->request->at;
	PG_TRY();
	{
		if (a->json == NULL)
			se_eval_fail(&ev, "bad_answer", "the answer is not JSON");
		else
			read_answer(&ev, pull, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	if (ev.status != SE_RENDER_OK)
	{
		out->error = ev.message;
		out->amounts = NULL;
	}
}
