import { defineScript } from '@flotilla/redis'
import { OPEN } from './fragments.js'

/**
 * Ends a session and hands back what it held, in one step: no write of a parallel request is lost between
 * the reading and the ending.
 *
 * KEYS  session [, index, devices]
 * Reply {1, [field, value, …]}; {0} gone already; {2, alias} renewed meanwhile
 */
const LUA = `
${OPEN}
local fields = redis.call('HGETALL', KEYS[1])
redis.call('DEL', KEYS[1])
if KEYS[2] then
  redis.call('ZREM', KEYS[2], ref)
  redis.call('HDEL', KEYS[3], ref, ref .. ':t')
end
return {1, fields}
`

export type TakeReply = [1, string[]] | [0] | [2, string]

const script = { name: 'session-take', lua: LUA } as const

export const takeAnonymous = defineScript<TakeReply>({ ...script, keys: 1 })
export const takeOwned = defineScript<TakeReply>({ ...script, keys: 3 })
