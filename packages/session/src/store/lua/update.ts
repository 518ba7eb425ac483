import { defineScript } from '@flotilla/redis'
import { CLOSE, NOW, OPEN } from './fragments.js'

/**
 * Compare-and-set of one field. The last few writers' marks are kept in the session, so that a call which
 * the client sends again after a lost connection is recognised and not applied twice.
 *
 * KEYS  session [, index, devices]
 * ARGV  idle ms, field, mark, `1` or `0` whether the field is expected to exist, expected text, new text
 * Reply {1, now} written; {0} ended; {3, now, text} or {3, now} the field's present text
 */
const LUA = `
${OPEN}
${NOW}
${CLOSE}
local present = redis.call('HGET', KEYS[1], ARGV[2])
local marks = redis.call('HGET', KEYS[1], '@n') or ''
local expected = ARGV[4] == '1' and ARGV[5]
if present ~= expected then
  if string.find(marks, ARGV[3], 1, true) then return {1, now} end
  if present then return {3, now, present} end
  return {3, now}
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[6], '@n', string.sub(ARGV[3] .. marks, 1, 64))
close(tonumber(ARGV[1]))
return {1, now}
`

export type UpdateReply = [1, number] | [0] | [3, number, string?]

const script = { name: 'session-update', lua: LUA } as const

export const updateAnonymous = defineScript<UpdateReply>({ ...script, keys: 1 })
export const updateOwned = defineScript<UpdateReply>({ ...script, keys: 3 })
