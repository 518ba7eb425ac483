import { defineScript, RETURN_ALLOWANCE } from '@flotilla/redis'
import type { Integer } from './integer.js'

/**
 * Renews one instance's lease, evicts those that lapsed, and returns the fleet. All time is Redis' own.
 *
 * - KEYS 1: leases, a sorted set of id → end of lease in ms; 2: a hash of id → report; 3: evicted, a sorted
 *   set of id → time; 4: a hash of `beat`, the last heartbeat of anybody, and `grace`, before which nobody
 *   is evicted. One hash tag.
 * - ARGV 1: id; 2: lease in ms; 3: report.
 * - Reply: [1 where the lease holds or 0 where it had been taken away, now, evicted ids, id, end, report, id, …]
 *
 * After a silence of the whole fleet (Redis was away) or a step of the clock (a replica with another clock was
 * promoted) nobody is evicted for a lease and the time that a client needs to come back: the others had no chance
 * to renew. An evicted instance is told so once, by its next heartbeat, which does not renew; the one after does.
 */
export const heartbeat = defineScript<[held: Integer, now: Integer, left: string[], ...members: string[]]>({
  name: 'flotillaHealthHeartbeat',
  keys: 4,
  lua: `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, lease = ARGV[1], tonumber(ARGV[2])
local beat = tonumber(redis.call('HGET', KEYS[4], 'beat') or 0)
local grace = tonumber(redis.call('HGET', KEYS[4], 'grace') or 0)
local stepped = now < beat - 1000
if beat > 0 and (stepped or now - beat > lease) then
  grace = now + lease + ${RETURN_ALLOWANCE}
  redis.call('HSET', KEYS[4], 'grace', grace)
end
if stepped then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], grace, other) end
end
redis.call('HSET', KEYS[4], 'beat', now)
local held, left = 1, {}
if redis.call('ZREM', KEYS[3], id) == 1 then
  held = 0
else
  redis.call('ZADD', KEYS[1], now + lease, id)
  redis.call('HSET', KEYS[2], id, ARGV[3])
  if now >= grace then
    left = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
    for _, other in ipairs(left) do
      redis.call('ZREM', KEYS[1], other)
      redis.call('HDEL', KEYS[2], other)
      redis.call('ZADD', KEYS[3], now, other)
    end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 86400000)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 86400000) end
local reply = { held, now, left }
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  reply[#reply + 1] = members[i]
  reply[#reply + 1] = string.format('%.0f', members[i + 1])
  reply[#reply + 1] = redis.call('HGET', KEYS[2], members[i]) or ''
end
return reply
`
})
