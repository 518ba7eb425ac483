import { defineScript } from '@flotilla/redis'
import { CLOSE, NOW, OPEN } from './fragments.js'

/**
 * Moves a session to a new id. The old one stays an alias for the grace period.
 *
 * KEYS  session, new session [, index, devices]
 * ARGV  idle ms, grace ms, alias text, new hash, expected revision or `-`, then field, value, … to replace
 *       all fields with (encrypted under the new id), or none to keep them
 * Reply {1, now} moved; {0} gone; {2, alias} somebody was faster; {3, [field, value, …]} written to meanwhile, and
 *       left as it is. Where somebody is under the new id already, it is this very call, sent again by the client after
 *       its reply was lost: ids are 192 random bits
 */
const LUA = `
${NOW}
if redis.call('HEXISTS', KEYS[2], '@') == 1 then return {1, now} end
${OPEN}
${CLOSE}
if ARGV[5] ~= '-' and ARGV[5] ~= revision then return {3, redis.call('HGETALL', KEYS[1])} end
if #ARGV > 5 then
  redis.call('DEL', KEYS[1])
  for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
else
  redis.call('RENAME', KEYS[1], KEYS[2])
end
close(KEYS[2], tonumber(ARGV[1]), string.format('%.0f', now), version, KEYS[3], KEYS[4])
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], '@a', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if KEYS[4] then
  local device = redis.call('HGET', KEYS[4], ref)
  redis.call('HSET', KEYS[4], ref, ARGV[4] .. (device and string.match(device, ' .*$') or ' '))
end
return {1, now}
`

export type RenewReply = [1, number] | [0] | [2, string] | [3, string[]]

const script = { name: 'session-renew', lua: LUA } as const

export const renewAnonymous = defineScript<RenewReply>({ ...script, keys: 2 })
export const renewOwned = defineScript<RenewReply>({ ...script, keys: 4 })
