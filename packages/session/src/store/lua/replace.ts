import { defineScript } from '@flotilla/redis'
import { NOW, OPEN, UNLIST } from './fragments.js'

/**
 * Ends a session that another one replaces, and hands back what it held in the same step: no write of a parallel request is lost between
 * the reading and the ending.
 *
 * KEYS  session [, index, devices]
 * ARGV  expected revision or `-`; latest time: a call that the server executes only after its caller has given up must not end a
 *       session; mark; ms for which the mark stays in the session's place
 * Reply {1, [field, value, …]}; {0} ended before; {3, [field, value, …]} written to meanwhile, and left as it is;
 *       {4, now} too late, and left as it is; {5} ended by this very call, sent again by the client after its reply was lost
 */
const LUA = `
if redis.call('HGET', KEYS[1], '@t') == ARGV[3] then return {5} end
${OPEN}
${NOW}
${UNLIST}
if now > tonumber(ARGV[2]) then return {4, now} end
local fields = redis.call('HGETALL', KEYS[1])
if ARGV[1] ~= '-' and ARGV[1] ~= revision then return {3, fields} end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '@t', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if KEYS[2] then
  repair(KEYS[2], KEYS[3])
  unlist(KEYS[2], KEYS[3], ref)
end
return {1, fields}
`

export type ReplaceReply = [1 | 3, string[]] | [0] | [4, number] | [5]

const script = { name: 'session-replace', lua: LUA } as const

export const replaceAnonymous = defineScript<ReplaceReply>({ ...script, keys: 1 })
export const replaceOwned = defineScript<ReplaceReply>({ ...script, keys: 3 })
