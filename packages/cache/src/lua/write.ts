import { defineScript } from '@flotilla/redis'

/**
 * Stores a value given by hand. It breaks the lease of a factory that is computing an older one.
 *
 * KEYS 1 entry, 2 lease; ARGV 1 entry, 2 its life in ms, 3 channel, 4 message; reply 1
 */
export const setEntry = defineScript<number>({
  name: 'flotilla_cache_set',
  keys: 2,
  lua: `
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local lease = redis.call('GET', KEYS[2])
if lease then
  redis.call('DEL', KEYS[2])
  if string.sub(lease, -1) == '!' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
end
return 1
`
})

/**
 * Removes an entry and breaks the lease of a factory under way, whose fill is then refused.
 *
 * KEYS 1 entry, 2 lease; ARGV 1 channel, 2 message, 3 remove only this version, or ''
 * Reply 1 there was an entry, 0 there was none
 */
export const deleteEntry = defineScript<number>({
  name: 'flotilla_cache_delete',
  keys: 2,
  lua: `
if ARGV[3] ~= '' then
  if redis.call('GETRANGE', KEYS[1], 0, #ARGV[3] - 1) ~= ARGV[3] then return 0 end
  return redis.call('UNLINK', KEYS[1])
end
local lease = redis.call('GET', KEYS[2])
if lease then
  redis.call('DEL', KEYS[2])
  if string.sub(lease, -1) == '!' then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
end
return redis.call('UNLINK', KEYS[1])
`
})
