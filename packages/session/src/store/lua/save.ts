import { defineScript } from '@flotilla/redis'
import { CLOSE, NOW, OPEN } from './fragments.js'

/**
 * Writes changed fields and moves the idle deadline; with no fields it is a touch. Refused where the
 * session is gone.
 *
 * KEYS  session [, index, devices]
 * ARGV  idle ms, version, number n of fields to set, n × (field, value), then fields to delete
 * Reply {1, now} written; {0} gone; {2, alias} renewed meanwhile
 */
const LUA = `
${OPEN}
${NOW}
${CLOSE}
local count = tonumber(ARGV[3])
for i = 4, 3 + 2 * count, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = 4 + 2 * count, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
close(KEYS[1], tonumber(ARGV[1]), renewed, math.max(tonumber(version), tonumber(ARGV[2])), KEYS[2], KEYS[3])
return {1, now}
`

export type SaveReply = [1, number] | [0] | [2, string]

const script = { name: 'session-save', lua: LUA } as const

export const saveAnonymous = defineScript<SaveReply>({ ...script, keys: 1 })
export const saveOwned = defineScript<SaveReply>({ ...script, keys: 3 })
