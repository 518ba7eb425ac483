/** Redis's own time in milliseconds, as `now`: the only clock that decides when a session ends. */
export const NOW = `
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
`

/**
 * Reads the meta field of KEYS[1], or returns `{0}` if there is no session: nothing is ever written then, so no session is resurrected.
 */
export const OPEN = `
local meta = redis.call('HGET', KEYS[1], '@')
if not meta then return {0} end
local created, absolute, touched, renewed, authenticated, revision, version, own, persistent, user =
  string.match(meta, '^2 (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+)$')
if not created then return {0} end
absolute = tonumber(absolute)
local ref = string.sub(KEYS[1], -43)
`

/** Reads the verifier field of KEYS[1]; `over` is when the previous verifier ends, nil until its successor has been presented. */
export const VERIFIER = `
local generation, current, previous, over =
  string.match(redis.call('HGET', KEYS[1], '@v') or '', '^(%d+) (%S+) (%S+) (%S+)$')
if not generation then return {0} end
generation, over = tonumber(generation), tonumber(over)
`

/**
 * Defines `repair(index, devices)`: another type in the place of a user's list is removed, as an unreadable session is. Otherwise that user
 * could not log in any more.
 */
const REPAIR = `
local function repair(index, devices)
  for key, type in pairs({[index] = 'zset', [devices] = 'hash'}) do
    local found = redis.call('TYPE', key).ok
    if found ~= type and found ~= 'none' then redis.call('DEL', key) end
  end
end
`

/** Defines `unlist(index, devices, ref)`: takes a session out of its user's index. */
export const UNLIST = `
${REPAIR}
local function unlist(index, devices, ref)
  redis.call('ZREM', index, ref)
  redis.call('HDEL', devices, ref, ref .. ':t')
end
`

/** Defines `close(idle)`: writes meta and deadline, and the user's index if KEYS name it. */
export const CLOSE = `
${UNLIST}
local function close(idle)
  if tonumber(own) > 0 then idle = tonumber(own) end
  local expiry = string.format('%.0f', math.min(now + idle, absolute))
  redis.call('HSET', KEYS[1], '@', string.format('2 %s %.0f %.0f %s %s %.0f %s %s %s %s',
    created, absolute, now, renewed, authenticated, revision + 1, version, own, persistent, user))
  redis.call('PEXPIREAT', KEYS[1], expiry)
  if not KEYS[2] then return end
  repair(KEYS[2], KEYS[3])
  redis.call('ZADD', KEYS[2], expiry, ref)
  redis.call('HSET', KEYS[3], ref .. ':t', string.format('%s %.0f', created, now))
  for i = 2, 3 do
    if redis.call('PTTL', KEYS[i]) < absolute - now then
      redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', absolute))
    end
  end
end
`
