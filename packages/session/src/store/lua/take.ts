import { defineScript } from '@flotilla/redis'
import { MEND, NOW, OPEN } from './fragments.js'

/**
 * Ends a session and hands back what it held, in one step: no write of a parallel request is lost between
 * the reading and the ending.
 *
 * KEYS  session [, index, devices]
 * ARGV  expected revision or `-`, latest time or `-`: a call that the server got round to only after its caller
 *       had given up must not end a session; mark or `-`, ms for which it stays in the session's place
 * Reply {1, [field, value, …]}; {0} gone already; {2, alias} renewed meanwhile; {3, [field, value, …]} written to
 *       meanwhile, and left as it is; {4, now} too late, and left as it is; {5} ended by this very call, sent again by
 *       the client after its reply was lost
 */
const LUA = `
if ARGV[3] ~= '-' and redis.call('HGET', KEYS[1], '@t') == ARGV[3] then return {5} end
${OPEN}
${NOW}
${MEND}
if ARGV[2] ~= '-' and now > tonumber(ARGV[2]) then return {4, now} end
local fields = redis.call('HGETALL', KEYS[1])
if ARGV[1] ~= '-' and ARGV[1] ~= revision then return {3, fields} end
redis.call('DEL', KEYS[1])
if ARGV[3] ~= '-' then
  redis.call('HSET', KEYS[1], '@t', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
if KEYS[2] then
  mend(KEYS[2], KEYS[3])
  redis.call('ZREM', KEYS[2], ref)
  redis.call('HDEL', KEYS[3], ref, ref .. ':t')
end
return {1, fields}
`

export type TakeReply = [1 | 3, string[]] | [0] | [2, string] | [4, number] | [5]

const script = { name: 'session-take', lua: LUA } as const

export const takeAnonymous = defineScript<TakeReply>({ ...script, keys: 1 })
export const takeOwned = defineScript<TakeReply>({ ...script, keys: 3 })
