/*
 * form.h
 *		application/x-www-form-urlencoded with nested names.
 */
#ifndef SANDBOX_FORM_H
#define SANDBOX_FORM_H

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>

/*
 * Decodes "a[b][0][c]=v&x=1" into {"a":{"b":{"0":{"c":"v"}}},"x":"1"}. Whether
 * numeric names mean a list is the reader's decision (metadata may have them
 * too); see form_list(). Returns false when the text is malformed.
 */
extern bool form_decode(json_t *into, const char *text, size_t len);

/* The members of {"0":…,"1":…} in numeric order; NULL if it is no such thing. */
extern json_t *form_list(const json_t *object);

/* In a form a '+' is a space, in a path it is a plus sign. */
extern char *url_decode(const char *text, size_t len, bool plus_is_space, size_t *out_len);

#endif
