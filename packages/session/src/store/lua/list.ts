import { defineScript } from '@flotilla/redis'
import { NOW, UNLIST } from './fragments.js'

/**
 * A user's sessions; forgets those that have expired.
 *
 * KEYS  index, devices
 * Reply {now, [ref, expiry, …], [ref, device text or ref:t, times, …]}
 */
export const listSessions = defineScript<[number, string[], string[]]>({
  name: 'session-list',
  keys: 2,
  lua: `
${NOW}
${UNLIST}
repair(KEYS[1], KEYS[2])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do unlist(KEYS[1], KEYS[2], gone) end
return {now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[2])}
`
})
