/*
 * map.h
 *		Hash map from strings to pointers; keys are copied.
 */
#ifndef SANDBOX_MAP_H
#define SANDBOX_MAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct MapSlot
{
	char *key; /* NULL: free */
	uint64_t hash;
	void *value; /* NULL with a key: removed, still on the probe path */
} MapSlot;

typedef struct Map
{
	MapSlot *slots;
	size_t size; /* zero or a power of two */
	size_t used; /* slots with a key, removed ones too */
} Map;

extern void *map_get(const Map *map, const char *key);
extern void map_put(Map *map, const char *key, void *value);
extern void map_remove(Map *map, const char *key);
extern void map_clear(Map *map, void (*free_value)(void *));

#endif
