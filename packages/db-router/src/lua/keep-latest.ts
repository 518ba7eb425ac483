import { defineScript } from '@flotilla/redis'

/**
 * Keeps the later of the stored position and the given one, so that an answer overtaken by another never moves an
 * author back.
 *
 * KEYS 1  the position of the author: a hash of s (system id), p (timeline and LSN) and t (token)
 * ARGV 1  the system id; 2  timeline and LSN, 24 digits; 3  the token; 4  its time to live in milliseconds
 * Reply   1 where the given one was stored
 *
 * Fixed-width digits compare as text; Lua's numbers could not hold 64 bits.
 */
export const keepLatest = defineScript<number>({
  name: 'db:keep-latest',
  keys: 1,
  lua: `
local stored = redis.call('HMGET', KEYS[1], 's', 'p')
if stored[1] == ARGV[1] and stored[2] and stored[2] >= ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return 0
end
redis.call('HSET', KEYS[1], 's', ARGV[1], 'p', ARGV[2], 't', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
`
})
