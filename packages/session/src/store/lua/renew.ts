import { defineScript } from '@flotilla/redis'
import { CLOSE, NOW, OPEN, VERIFIER } from './fragments.js'

/**
 * Swaps the verifier of a session. The previous one stays valid until the new one has been presented and the grace after that is over. While
 * there is a valid previous one, no further one is made: so there are never more than two, and no request under way loses its session.
 *
 * KEYS  session [, index, devices].
 * ARGV  idle ms, generation to be replaced, new verifier hash, successor text or `-` to void the previous one at once. Then
 *       data key or `-`
 * Reply {1, now} renewed, also if this very call was carried out before and its reply was lost; {0} ended;
 *       {2, generation, successor text or ''}: another one was faster;
 *       {3} renewed so recently that the one before is still valid
 */
const LUA = `
${OPEN}
${NOW}
${CLOSE}
${VERIFIER}
local from = tonumber(ARGV[2])
if generation == from + 1 and current == ARGV[3] then return {1, now} end
if generation ~= from then return {2, generation, redis.call('HGET', KEYS[1], '@s') or ''} end
if ARGV[4] ~= '-' and previous ~= '-' and (not over or now < over) then return {3} end
if ARGV[4] == '-' then
  redis.call('HDEL', KEYS[1], '@s')
  redis.call('HSET', KEYS[1], '@v', string.format('%.0f %s - 0', from + 1, ARGV[3]))
else
  redis.call('HSET', KEYS[1], '@v', string.format('%.0f %s %s -', from + 1, ARGV[3], current), '@s', ARGV[4])
end
if ARGV[5] ~= '-' then redis.call('HSET', KEYS[1], '@k', ARGV[5]) end
renewed = string.format('%.0f', now)
close(tonumber(ARGV[1]))
return {1, now}
`

export type RenewReply = [1, number] | [0] | [2, number, string] | [3]

const script = { name: 'session-renew', lua: LUA } as const

export const renewAnonymous = defineScript<RenewReply>({ ...script, keys: 1 })
export const renewOwned = defineScript<RenewReply>({ ...script, keys: 3 })
