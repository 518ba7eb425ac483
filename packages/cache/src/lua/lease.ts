import { defineScript } from '@flotilla/redis'

/**
 * Prolongs a lease that is still ours: the sign of life of a long factory.
 *
 * KEYS 1 lease; ARGV 1 token, 2 lease in ms; reply 1 prolonged, 0 no longer ours
 */
export const extendLease = defineScript<number>({
  name: 'flotilla_cache_extend',
  keys: 1,
  lua: `
local lease = redis.call('GET', KEYS[1])
if lease ~= ARGV[1] and lease ~= ARGV[1] .. '!' then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`
})

/**
 * Gives a lease back without a value, and wakes those who wait.
 *
 * KEYS 1 lease; ARGV 1 token, 2 ms for which nobody shall try again (0: at once), 3 channel, 4 message
 * Reply 1 released, 0 no longer ours
 */
export const releaseLease = defineScript<number>({
  name: 'flotilla_cache_release',
  keys: 1,
  lua: `
local lease = redis.call('GET', KEYS[1])
local waited = lease == ARGV[1] .. '!'
if lease ~= ARGV[1] and not waited then return 0 end
if tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[1], '-', 'PX', ARGV[2]) else redis.call('DEL', KEYS[1]) end
if waited then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return 1
`
})
