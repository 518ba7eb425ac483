import { defineScript } from '@flotilla/redis'
import { OPEN, UNLIST } from './fragments.js'

/**
 * Ends a session, however often it was renewed meanwhile: its key never moves.
 *
 * KEYS  session [, index, devices]
 * Reply {1} ended; {0} ended before, also if this very call did it and is sent again
 */
const LUA = `
${OPEN}
${UNLIST}
redis.call('DEL', KEYS[1])
if KEYS[2] then
  repair(KEYS[2], KEYS[3])
  unlist(KEYS[2], KEYS[3], ref)
end
return {1}
`

const script = { name: 'session-end', lua: LUA } as const

export const endAnonymous = defineScript<[0 | 1]>({ ...script, keys: 1 })
export const endOwned = defineScript<[0 | 1]>({ ...script, keys: 3 })
