import { readAll } from './read-all.js'
import { variadic } from './variadic.js'

/** First in the reply of {@link acquire}. */
export const VALUE = 1
export const TOKEN = 2
export const WAIT = 3
export const COOL = 4

/**
 * Reads an entry, or takes the lease to compute it. A mark that is missing was never there or has been evicted, has
 * expired or was lost in a failover. It is created now, so that everything older is dead.
 *
 * KEYS 1 entry, 2 lease, 3… marks of generations and tags (none on Cluster: they lie in other slots)
 * ARGV 1 token, 2 lease in ms, 3 the version known to be of no use (the first bytes of the entry), '*' for any, or '',
 *   4 '1' to get the time in any case, 5 the life of a mark in ms
 * Reply { state, payload, seconds, microseconds, marks… }; the time is there with TOKEN, too
 *   VALUE payload is the entry; TOKEN the lease is ours, payload is the useless entry or nil;
 *   WAIT another computes it, payload is how many ms its lease lasts; COOL it failed lately, payload as for TOKEN
 * Asked again with the same token, as by a client whose connection broke before the reply, it answers the same: nobody
 * waits for a lease of its own. A lease ends in '!' once somebody waits for it, so that a fill nobody waits for is not
 * announced. An entry of another type counts as none.
 */
export const acquire = variadic<AcquireReply>({
  name: 'flotilla_cache_acquire',
  lua: `
${readAll}
local entry, lease = got[1], got[2]
local reply = { ${VALUE}, entry, false, false }
local time
local function tell()
  time = time or redis.call('TIME')
  reply[3], reply[4] = time[1], time[2]
end
if ARGV[4] == '1' then tell() end
for i = 3, #KEYS do
  reply[i + 2] = got[i]
  if not got[i] then
    time = time or redis.call('TIME')
    reply[i + 2] = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
    -- A server without memory refuses this: the next reader finds the mark missing again.
    redis.pcall('SET', KEYS[i], reply[i + 2], 'PX', ARGV[5])
  end
end
if entry and ARGV[3] ~= '*' and (ARGV[3] == '' or string.sub(entry, 1, #ARGV[3]) ~= ARGV[3]) then return reply end
if not lease or lease == ARGV[1] or lease == ARGV[1] .. '!' then
  redis.call('SET', KEYS[2], lease or ARGV[1], 'PX', ARGV[2])
  reply[1] = ${TOKEN}
  tell()
  return reply
end
if lease == '-' then
  reply[1] = ${COOL}
  return reply
end
local left = redis.call('PTTL', KEYS[2])
if string.sub(lease, -1) ~= '!' then redis.call('SET', KEYS[2], lease .. '!', 'PX', math.max(left, 1)) end
reply[1], reply[2] = ${WAIT}, tostring(left)
return reply
`
})

export type AcquireReply = [
  state: number,
  payload: Buffer | null,
  seconds: Buffer | null,
  micros: Buffer | null,
  ...marks: (Buffer | null)[]
]
