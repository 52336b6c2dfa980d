/*
 * map.c
 *		Hash map from strings to pointers, open addressing, linear probing.
 */
#include <stdlib.h>
#include <string.h>

#include "map.h"
#include "util.h"

static MapSlot *
find_slot(const Map *map, const char *key, uint64_t hash)
{
	size_t mask = map->size - 1;
	size_t i = hash & mask;

	while (map->slots[i].key != NULL)
	{
		if (map->slots[i].hash == hash && strcmp(map->slots[i].key, key) == 0)
			break;
		i = (i + 1) & mask;
	}
	return &map->slots[i];
}

static void
grow(Map *map)
{
	Map bigger = {.size = map->size ? map->size * 2 : 64};

	bigger.slots = xcalloc(bigger.size, sizeof(MapSlot));
	for (size_t i = 0; i < map->size; i++)
	{
		MapSlot *old = &map->slots[i];

		if (old->key == NULL)
			continue;
		if (old->value == NULL)
		{
			free(old->key);
			continue;
		}
		*find_slot(&bigger, old->key, old->hash) = *old;
		bigger.used++;
	}
	free(map->slots);
	*map = bigger;
}

void *
map_get(const Map *map, const char *key)
{
	if (map->size == 0)
		return NULL;
	return find_slot(map, key, hash_bytes(key, strlen(key)))->value;
}

void
map_put(Map *map, const char *key, void *value)
{
	uint64_t hash = hash_bytes(key, strlen(key));
	MapSlot *slot;

	if ((map->used + 1) * 4 > map->size * 3)
		grow(map);
	slot = find_slot(map, key, hash);
	if (slot->key == NULL)
	{
		slot->key = xstrdup(key);
		slot->hash = hash;
		map->used++;
	}
	slot->value = value;
}

void
map_remove(Map *map, const char *key)
{
	if (map->size != 0)
		find_slot(map, key, hash_bytes(key, strlen(key)))->value = NULL;
}

void
map_clear(Map *map, void (*free_value)(void *))
{
	for (size_t i = 0; i < map->size; i++)
	{
		if (map->slots[i].key == NULL)
			continue;
		free(map->slots[i].key);
		if (free_value != NULL && map->slots[i].value != NULL)
			free_value(map->slots[i].value);
	}
	free(map->slots);
	memset(map, 0, sizeof(*map));
}
