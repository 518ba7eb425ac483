import calculateSlot from 'cluster-key-slot'
import { RedisKeysError } from './errors.js'

/**
 * A key whose slot is that of `tag` alone: `hashTag('42', 'cart', 'items')` is `'{42}:cart:items'`. Keys with the same
 * tag live on the same node of a Cluster and may be used in one script.
 *
 * @throws FLOTILLA_REDIS_ERR_KEYS for an empty tag or one with a brace, which would not be read as a tag
 *   (Redis Cluster specification, "Hash tags").
 */
export function hashTag(tag: string, ...parts: (string | number)[]): string {
  if (tag === '' || tag.includes('{') || tag.includes('}')) {
    throw new RedisKeysError(
      `@flotilla/redis: '${tag}' cannot be a hash tag: it must not be empty nor hold a brace`
    )
  }
  return [`{${tag}}`, ...parts].join(':')
}

/** The slot of a key as Redis sees it, 0 to 16383. With a `keyPrefix`, pass the key with its prefix. */
export function slotOf(key: string | Buffer): number {
  return calculateSlot(key)
}

/** Items by the slot of their key, in the order in which each slot first appears. */
export function groupBySlot<T>(items: Iterable<T>, keyOf: (item: T) => string): Map<number, T[]> {
  const groups = new Map<number, T[]>()
  for (const item of items) {
    const slot = slotOf(keyOf(item))
    const group = groups.get(slot)
    if (group) group.push(item)
    else groups.set(slot, [item])
  }
  return groups
}
