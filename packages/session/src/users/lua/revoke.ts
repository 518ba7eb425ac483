import type { RedisClient } from '@flotilla/redis'
import { defineScript } from '@flotilla/redis'
import { MEND } from '../../store/lua/fragments.js'

/**
 * Ends some of a user's sessions. A session is ended only if its own meta names this user: the tag that
 * user shares with others (it has 16 bits) proves nothing.
 *
 * KEYS  index, devices, session …
 * ARGV  user hash, then for each session: ref, the hash in its key
 * Reply {[ref …] ended, [ref, hash, …] renewed meanwhile and now under another hash}
 */
const LUA = `
${MEND}
mend(KEYS[1], KEYS[2])
local ended, moved = {}, {}
for i = 3, #KEYS do
  local ref, hash = ARGV[2 * i - 4], ARGV[2 * i - 3]
  local device = redis.call('HGET', KEYS[2], ref)
  local current = device and string.match(device, '^%S+')
  if current and current ~= hash then
    moved[#moved + 1] = ref
    moved[#moved + 1] = current
  else
    local meta = redis.call('HGET', KEYS[i], '@')
    local at, user = nil, nil
    if meta then at, user = string.match(meta, '(%S+) (%S+)$') end
    if at == ref and user == ARGV[1] then
      redis.call('DEL', KEYS[i])
      ended[#ended + 1] = ref
    end
    redis.call('ZREM', KEYS[1], ref)
    redis.call('HDEL', KEYS[2], ref, ref .. ':t')
  end
end
return {ended, moved}
`

export type RevokeReply = [ended: string[], moved: string[]]

export interface RevokeScript {
  run(client: RedisClient, keys: string[], args: string[]): Promise<RevokeReply>
}

// A script declares how many keys it takes: one definition for each number, made as it is needed.
const scripts = new Map<number, RevokeScript>()

/** @param sessions how many sessions one call ends */
export function revokeScript(sessions: number): RevokeScript {
  let script = scripts.get(sessions)
  if (!script) {
    script = defineScript<RevokeReply>({ name: 'session-revoke', keys: 2 + sessions, lua: LUA })
    scripts.set(sessions, script)
  }
  return script
}
