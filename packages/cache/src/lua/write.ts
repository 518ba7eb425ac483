import { defineScript } from '@flotilla/redis'
import { readAll } from './read-all.js'
import { variadic } from './variadic.js'

/**
 * Stores a value given by hand, if its stamps are what its marks say. It breaks the lease of a factory that is computing an
 * older one. The marks then live as long as the entry may.
 *
 * KEYS 1 entry, 2 lease, 3… marks of generations and tags (none on Cluster).
 * ARGV 1 entry, 2 its life in ms, 3 channel, 4 message, 5 the life of a mark in ms, 6… the stamp of each of KEYS 3….
 * Reply 1 stored, 0 a mark has moved or was missing and has been created: nothing was stored. Sent again, it stores again.
 */
export const setEntry = variadic<number>({
  name: 'flotilla_cache_set',
  lua: `
${readAll}
local moved = false
for i = 3, #KEYS do
  if not got[i] then
    local time = redis.call('TIME')
    got[i] = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
    redis.call('SET', KEYS[i], got[i], 'PX', ARGV[5])
  end
  moved = moved or tonumber(string.match(got[i], '^%d+')) > tonumber(ARGV[i + 3])
end
if moved then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 3, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
local lease = got[2]
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
