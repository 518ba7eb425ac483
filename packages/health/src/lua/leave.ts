import { defineScript } from '@flotilla/redis'
import type { Integer } from './integer.js'

/**
 * Takes an instance out of the registry.
 *
 * - KEYS 1: leases; 2: reports; 3: evicted. One hash tag.
 * - ARGV 1: id.
 * - Reply: 1 where it was there, so that one caller announces it.
 */
export const leave = defineScript<Integer>({
  name: 'flotillaHealthLeave',
  keys: 3,
  lua: `
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
`
})
