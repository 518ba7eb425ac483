import { defineScript } from '@flotilla/redis'
import { CLOSE, NOW, OPEN } from './fragments.js'

/**
 * Writes changed fields and moves the idle deadline; with no fields it is a touch. Refused if the session has ended.
 *
 * KEYS  session [, index, devices].
 * ARGV  idle ms, version, `1` if the user has just proved who it is. Then number n of fields to set, n × (field, value), then fields to delete
 * Reply {1, now} written; {0} ended. Sent again it writes the same once more
 */
const LUA = `
${OPEN}
${NOW}
${CLOSE}
local count = tonumber(ARGV[4])
for i = 5, 4 + 2 * count, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = 5 + 2 * count, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
if ARGV[3] == '1' then authenticated = string.format('%.0f', now) end
version = string.format('%.0f', math.max(tonumber(version), tonumber(ARGV[2])))
close(tonumber(ARGV[1]))
return {1, now}
`

export type SaveReply = [1, number] | [0]

const script = { name: 'session-save', lua: LUA } as const

export const saveAnonymous = defineScript<SaveReply>({ ...script, keys: 1 })
export const saveOwned = defineScript<SaveReply>({ ...script, keys: 3 })
