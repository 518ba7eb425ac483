import { RETURN_ALLOWANCE } from '@flotilla/redis'

/**
 * Adds members of one instance to a channel and tells the others.
 *
 * KEYS[1] set of instances with members in the channel  KEYS[2] hash of this instance's members
 * ARGV[1] instance  ARGV[2] pub/sub channel  ARGV[3] PUBLISH or SPUBLISH  ARGV[4] 1: replace what the hash holds
 * ARGV[5..] connection, member JSON, announcement; an empty announcement tells nobody
 * Reply: members of this instance now
 */
export const presenceJoinLua = `
if ARGV[4] == '1' then redis.call('DEL', KEYS[2]) end
for i = 5, #ARGV, 3 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] ~= '' then redis.call(ARGV[3], ARGV[2], ARGV[i + 2]) end
end
local members = redis.call('HLEN', KEYS[2])
if members > 0 then redis.call('SADD', KEYS[1], ARGV[1]) else redis.call('SREM', KEYS[1], ARGV[1]) end
return members
`

/**
 * Removes members of one instance from a channel and tells the others.
 *
 * KEYS[1] set of instances  KEYS[2] hash of the instance's members
 * ARGV[1] instance  ARGV[2] pub/sub channel  ARGV[3] PUBLISH or SPUBLISH
 * ARGV[4] the announcement up to the member's JSON  ARGV[5] what follows it
 * ARGV[6..] connections; none: all of the instance
 * Reply: members removed
 */
export const presenceLeaveLua = `
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
if #fields == 0 then fields = redis.call('HKEYS', KEYS[2]) end
local removed = 0
for _, field in ipairs(fields) do
  local member = redis.call('HGET', KEYS[2], field)
  if member then
    redis.call('HDEL', KEYS[2], field)
    redis.call(ARGV[3], ARGV[2], ARGV[4] .. member .. ARGV[5])
    removed = removed + 1
  end
end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[1], ARGV[1]) end
return removed
`

/**
 * Renews an instance's lease and hands out lapsed ones to clean up after.
 *
 * KEYS[1] sorted set of instances by the end of their lease, in the server's milliseconds
 * ARGV[1] instance  ARGV[2] lease, ms
 * Reply: { 1 where the instance has been a member all the time, lapsed instances now this one's to clean }
 *
 * A lapsed instance becomes `gone <name>` with a lease for its cleaner, so that another takes over if that one dies
 * too. Where nobody holds a lease Redis was away: then all become `away <name>` and have a lease and the time that a
 * client needs to come back, before they lapse.
 */
export const heartbeatLua = `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function ms(value) return string.format('%.0f', value) end
local function base(name) return (string.gsub(string.gsub(name, '^gone ', ''), '^away ', '')) end
local me, lease = ARGV[1], tonumber(ARGV[2])
local silence = true
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ms(now), '+inf')) do
  if base(name) == name then silence = false end
end
local held = redis.call('ZREM', KEYS[1], 'away ' .. me)
local score = redis.call('ZSCORE', KEYS[1], me)
if score and (silence or tonumber(score) > now) then held = 1 end
redis.call('ZADD', KEYS[1], ms(now + lease), me)
local lapsed = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms(now))) do
  redis.call('ZREM', KEYS[1], name)
  if silence and base(name) == name then
    redis.call('ZADD', KEYS[1], ms(now + lease + ${RETURN_ALLOWANCE}), 'away ' .. name)
  else
    redis.call('ZADD', KEYS[1], ms(now + lease), 'gone ' .. base(name))
    lapsed[#lapsed + 1] = base(name)
  end
end
return { held, lapsed }
`

/**
 * KEYS[1] sorted set of instances by the end of their lease
 * Reply: the instances that hold a lease by the server's clock
 */
export const liveInstancesLua = `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now), '+inf')
`
