import { defineScript } from '@flotilla/redis'
import { MEND, NOW } from './fragments.js'

/**
 * Opens a session and lists it under its user.
 *
 * KEYS  session [, index, devices]
 * ARGV  idle ms, absolute ms, version, ref, user hash or `-`, device text, then field, value, …
 * Reply {1, now}. Running it twice for one id is harmless: ids are 192 random bits, so whoever is there is
 * this very call, sent again by the client after a lost connection.
 */
const LUA = `
${NOW}
${MEND}
local idle, life, version, ref, user = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local absolute = now + life
local expiry = string.format('%.0f', math.min(now + idle, absolute))
redis.call('HSET', KEYS[1], '@', string.format('1 %.0f %.0f %.0f %.0f 1 %s %s %s', now, absolute, now, now, version, ref, user))
for i = 7, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIREAT', KEYS[1], expiry)
if KEYS[2] then
  mend(KEYS[2], KEYS[3])
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', KEYS[2], gone)
    redis.call('HDEL', KEYS[3], gone, gone .. ':t')
  end
  redis.call('ZADD', KEYS[2], expiry, ref)
  redis.call('HSET', KEYS[3], ref, ARGV[6], ref .. ':t', string.format('%.0f', now))
  for i = 2, 3 do
    if redis.call('PTTL', KEYS[i]) < life then redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', absolute)) end
  end
end
return {1, now}
`

const script = { name: 'session-create', lua: LUA } as const

export const createAnonymous = defineScript<[1, number]>({ ...script, keys: 1 })
export const createOwned = defineScript<[1, number]>({ ...script, keys: 3 })
