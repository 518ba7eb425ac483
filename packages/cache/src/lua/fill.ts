import { readAll } from './read-all.js'
import { variadic } from './variadic.js'

/**
 * Stores what a factory computed, if its lease still stands and none of its marks has moved since it began. Each mark
 * stood when it was asked for: one that is missing now may have moved before it was lost. The marks then live as long
 * as the entry may.
 *
 * KEYS 1 entry, 2 lease, 3… marks.
 * ARGV 1 token, 2 entry, 3 its life in ms, 4 channel, 5 message, 6 the life of a mark in ms,
 *   7… the mark that each of KEYS 3… may reach.
 * Reply 1 stored, 0 the lease is no longer ours, -1 a tag or generation was marked, or its mark is missing
 */
export const fill = variadic<number>({
  name: 'flotilla_cache_fill',
  lua: `
${readAll}
local lease = got[2]
local waited = lease == ARGV[1] .. '!'
if lease ~= ARGV[1] and not waited then return 0 end
redis.call('DEL', KEYS[2])
local result = 1
for i = 3, #KEYS do
  if not got[i] or tonumber(string.match(got[i], '^%d+')) > tonumber(ARGV[i + 4]) then result = -1 end
end
if result == 1 then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  for i = 3, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[6]) end
end
if waited then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return result
`
})
