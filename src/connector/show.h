/*
 * show.h
 *		Building the jsonb that SQL is shown of a connector's work.
 */
#ifndef SE_SHOW_H
#define SE_SHOW_H

#include "connector/expr.h"

/* An object, member by member; those without a value are left out. */
extern JsonbParseState *se_show_begin(void);
extern void se_show_text(JsonbParseState **state, const char *key, const char *text);
extern void se_show_jsonb(JsonbParseState **state, const char *key, Jsonb *jb);
extern void se_show_time(JsonbParseState **state, const char *key, bool has, TimestampTz at);
extern Jsonb *se_show_end(JsonbParseState **state);

/* Members of an object that was begun. */
extern void se_show_verdict(JsonbParseState **state, const SeVerdict *v);
extern void se_show_extract(JsonbParseState **state, const SeExtract *x);

extern Jsonb *se_headers_json(List *headers);
extern Jsonb *se_rendered_json(const SeRendered *r);
extern Jsonb *se_page_item_json(const SePageItem *item);

#endif
