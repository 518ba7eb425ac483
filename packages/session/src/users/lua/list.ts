import { defineScript } from '@flotilla/redis'
import { MEND, NOW } from '../../store/lua/fragments.js'

/**
 * A user's sessions; forgets those that have expired.
 *
 * KEYS  index, devices
 * Reply {now, [ref, expiry, …], [ref or ref:t, text, …]}
 */
export const listSessions = defineScript<[number, string[], string[]]>({
  name: 'session-list',
  keys: 2,
  lua: `
${NOW}
${MEND}
mend(KEYS[1], KEYS[2])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[2], gone, gone .. ':t')
end
return {now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[2])}
`
})
