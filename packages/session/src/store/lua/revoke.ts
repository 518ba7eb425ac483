import type { RedisClient } from '@flotilla/redis'
import { defineScript } from '@flotilla/redis'
import { UNLIST } from './fragments.js'

/**
 * Ends some of a user's sessions. A session is ended only if its own meta names this user: the tag that
 * users share (it has 16 bits) proves nothing.
 *
 * KEYS  index, devices, session …
 * ARGV  user hash
 * Reply [ref …] ended
 */
const LUA = `
${UNLIST}
repair(KEYS[1], KEYS[2])
local ended = {}
for i = 3, #KEYS do
  local ref = string.sub(KEYS[i], -43)
  local meta = redis.call('HGET', KEYS[i], '@')
  if meta and string.match(meta, '(%S+)$') == ARGV[1] then
    redis.call('DEL', KEYS[i])
    ended[#ended + 1] = ref
  end
  unlist(KEYS[1], KEYS[2], ref)
end
return ended
`

export interface RevokeScript {
  run(client: RedisClient, keys: string[], args: string[]): Promise<string[]>
}

// A script declares how many keys it takes: one definition for each number, made as it is needed.
const scripts = new Map<number, RevokeScript>()

/** @param sessions how many sessions one call ends */
export function revokeScript(sessions: number): RevokeScript {
  let script = scripts.get(sessions)
  if (!script) {
    script = defineScript<string[]>({ name: 'session-revoke', keys: 2 + sessions, lua: LUA })
    scripts.set(sessions, script)
  }
  return script
}
