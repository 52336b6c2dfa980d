/*
 * render.h: rows as canonical jsonb.
 *
 * The same row gives the same bytes whatever the session has SET: instants in UTC, ISO dates, hex
 * bytea, shortest round-trip floats, numbers as JSON numbers and never through a binary float.
 */
#ifndef SE_CAPTURE_RENDER_H
#define SE_CAPTURE_RENDER_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/jsonb.h"

#include "core/jsonb_write.h"

struct SeColumn;

typedef uint32 (*SeEmit)(SeJsonWriter *w, struct SeColumn *column, Datum value);

typedef struct SeColumn
{
	AttrNumber attnum; /* 0: the lines of a document */
	char *name;
	int name_len;
	Oid type; /* domains are looked through */
	int16 typlen;
	bool typbyval;
	char typalign;
	bool is_volatile;
	SeEmit emit;
	FmgrInfo output;		  /* for the types that have no emitter of their own */
	struct SeColumn *element; /* of an array */
} SeColumn;

/* The columns of a row type in the order of jsonb keys. */
typedef struct SeShape
{
	int count;
	SeColumn *columns;
	bool pinned; /* some output function depends on settings */
	char *keys;	 /* header, entries of the keys and key bytes of a whole row */
	int keys_len;
	SeJsonContainer keys_end; /* state of the container behind them */
	Size size_hint;
} SeShape;

/* The type of a column, and what writes its values; pins the shape where those depend on settings. */
extern void se_column_type(SeShape *shape, SeColumn *column, Oid type);

/* Columns from attribute `first` on; with_lines adds a place for the lines of a document. */
extern SeShape *se_shape_build(TupleDesc desc, AttrNumber first, bool with_lines);
extern SeColumn *se_shape_column(SeShape *shape, const char *name);

/* Writes a row as a JSON object; `lines` is an array put under "lines" where the shape has it. */
extern void se_render_object(SeJsonWriter *w, SeShape *shape, const Datum *values,
							 const bool *nulls, Jsonb *lines);

/* The whole row, or NULL when it is too large. */
extern Jsonb *se_render_row(SeShape *shape, const Datum *values, const bool *nulls, Jsonb *lines);

/* The columns for which chosen[i] is set, i counting shape->columns; NULL when too large. */
extern Jsonb *se_render_some(SeShape *shape, const Datum *values, const bool *nulls,
							 const bool *chosen);

/* Text of one value: what its JSON form holds, without quotes. */
extern char *se_render_text(SeColumn *column, Datum value);

/* False when the row cannot make an event that fits, found without fetching toasted values. */
extern bool se_row_fits(SeShape *shape, const Datum *values, const bool *nulls);

/* Settings that output functions look at, pinned until se_unpin(). */
extern int se_pin_settings(SeShape *shape);
extern void se_unpin_settings(int nest_level);

#endif
