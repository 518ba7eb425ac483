import { defineScript } from '@flotilla/redis'
import { NOW, OPEN, UNLIST, VERIFIER } from './fragments.js'

/**
 * Decides what a token is worth that is not plainly the present one. The first time that a present one is presented, the grace of the
 * previous one begins.
 *
 * KEYS  session [, index, devices]
 * ARGV  generation, verifier hash, grace ms, `1` to end the session if the token is reused, `1` to adopt a later generation
 * Reply {0} no session; {1, now, fields} the present one; {2, now, fields} the previous one, still valid; {3, now} void;
 *       {4, now} reused. A call that is sent again finds the same
 */
const LUA = `
${OPEN}
${NOW}
${UNLIST}
${VERIFIER}
local presented, hash = tonumber(ARGV[1]), ARGV[2]
if presented > generation and ARGV[5] == '1' then
  redis.call('HSET', KEYS[1], '@v', string.format('%.0f %s %s %.0f', presented, hash, current, now + tonumber(ARGV[3])))
  redis.call('HDEL', KEYS[1], '@s')
  return {1, now, redis.call('HGETALL', KEYS[1])}
end
if presented == generation and hash == current then
  if not over then
    redis.call('HSET', KEYS[1], '@v', string.format('%.0f %s %s %.0f', generation, current, previous, now + tonumber(ARGV[3])))
  end
  return {1, now, redis.call('HGETALL', KEYS[1])}
end
if presented >= generation then return {3, now} end
if presented == generation - 1 then
  if hash ~= previous then return {3, now} end
  if not over or now < over then return {2, now, redis.call('HGETALL', KEYS[1])} end
end
if ARGV[4] == '1' then
  redis.call('DEL', KEYS[1])
  if KEYS[2] then
    repair(KEYS[2], KEYS[3])
    unlist(KEYS[2], KEYS[3], ref)
  end
end
return {4, now}
`

export type PresentReply = [0] | [1 | 2, number, string[]] | [3 | 4, number]

const script = { name: 'session-present', lua: LUA } as const

export const presentAnonymous = defineScript<PresentReply>({ ...script, keys: 1 })
export const presentOwned = defineScript<PresentReply>({ ...script, keys: 3 })
