import { defineScript } from '@flotilla/redis'
import { MEND, NOW, OPEN } from './fragments.js'

/**
 * Ends a session and hands back what it held, in one step: no write of a parallel request is lost between
 * the reading and the ending.
 *
 * KEYS  session [, index, devices]
 * ARGV  expected revision or `-`, latest time or `-`: a call that the server got round to only after its caller
 *       had given up must not end a session
 * Reply {1, [field, value, …]}; {0} gone already; {2, alias} renewed meanwhile; {3, [field, value, …]} written to
 *       meanwhile, and left as it is; {4, now} too late, and left as it is
 */
const LUA = `
${OPEN}
${NOW}
${MEND}
if ARGV[2] ~= '-' and now > tonumber(ARGV[2]) then return {4, now} end
local fields = redis.call('HGETALL', KEYS[1])
if ARGV[1] ~= '-' and ARGV[1] ~= revision then return {3, fields} end
redis.call('DEL', KEYS[1])
if KEYS[2] then
  mend(KEYS[2], KEYS[3])
  redis.call('ZREM', KEYS[2], ref)
  redis.call('HDEL', KEYS[3], ref, ref .. ':t')
end
return {1, fields}
`

export type TakeReply = [1 | 3, string[]] | [0] | [2, string] | [4, number]

const script = { name: 'session-take', lua: LUA } as const

export const takeAnonymous = defineScript<TakeReply>({ ...script, keys: 1 })
export const takeOwned = defineScript<TakeReply>({ ...script, keys: 3 })
