import { defineScript } from '@flotilla/redis'
import type { Integer } from './integer.js'

/**
 * Reads the fleet without changing it.
 *
 * - KEYS 1: leases; 2: reports. One hash tag.
 * - Reply: [now, id, end of lease in ms, report, id, …], lapsed leases included.
 */
export const roster = defineScript<[now: Integer, ...members: string[]]>({
  name: 'flotillaHealthRoster',
  keys: 2,
  lua: `
local time = redis.call('TIME')
local reply = { time[1] * 1000 + math.floor(time[2] / 1000) }
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  reply[#reply + 1] = members[i]
  reply[#reply + 1] = string.format('%.0f', members[i + 1])
  reply[#reply + 1] = redis.call('HGET', KEYS[2], members[i]) or ''
end
return reply
`
})
