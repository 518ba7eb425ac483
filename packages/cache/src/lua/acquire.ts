import { variadic } from './variadic.js'

/**
 * Reads an entry, or takes the lease to compute it.
 *
 * KEYS 1 entry, 2 lease, 3… marks of generations and tags (none on Cluster: they lie in other slots)
 * ARGV 1 token, 2 lease in ms, 3 the version known to be of no use (the first bytes of the entry), '*' for any, or ''
 * Reply { state, payload, seconds, microseconds, marks… }
 *   'value' payload is the entry; 'token' the lease is ours, payload is the useless entry or false;
 *   'wait' another computes it, payload is how many ms its lease lasts; 'cool' it failed lately, payload as for 'token'
 * A lease ends in '!' once somebody waits for it, so that a fill nobody waits for is not announced.
 */
export const acquire = variadic<AcquireReply>({
  name: 'flotilla_cache_acquire',
  lua: `
local entry = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local reply = { '', false, time[1], time[2] }
for i = 3, #KEYS do reply[i + 2] = redis.call('GET', KEYS[i]) or '0' end
if entry and ARGV[3] ~= '*' and (ARGV[3] == '' or string.sub(entry, 1, #ARGV[3]) ~= ARGV[3]) then
  reply[1], reply[2] = 'value', entry
  return reply
end
local lease = redis.call('GET', KEYS[2])
if not lease then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  reply[1], reply[2] = 'token', entry
  return reply
end
if lease == '-' then
  reply[1], reply[2] = 'cool', entry
  return reply
end
local left = redis.call('PTTL', KEYS[2])
if string.sub(lease, -1) ~= '!' then redis.call('SET', KEYS[2], lease .. '!', 'PX', math.max(left, 1)) end
reply[1], reply[2] = 'wait', tostring(left)
return reply
`
})

export type AcquireReply = [
  state: Buffer,
  payload: Buffer | null,
  seconds: Buffer,
  micros: Buffer,
  ...marks: Buffer[]
]
