/** Redis's own time in milliseconds, as `now`: the only clock that decides when a session ends. */
export const NOW = `
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
`

/**
 * Reads the meta field of KEYS[1], or returns early: `{0}` where no session is there (nothing is ever
 * written then: no resurrection), `{2, alias}` where the id was renewed and this one only leads on.
 */
export const OPEN = `
local meta = redis.call('HGET', KEYS[1], '@')
if not meta then
  local alias = redis.call('HGET', KEYS[1], '@a')
  if alias then return {2, alias} end
  return {0}
end
local created, absolute, touched, renewed, revision, version, ref, user =
  string.match(meta, '^1 (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+)$')
if not created then return {0} end
absolute = tonumber(absolute)
`

/**
 * Defines `mend(index, devices)`: what somebody else put in the place of a user's list, another type, is removed, as
 * an unreadable session is; else that user could not log in any more.
 */
export const MEND = `
local function mend(index, devices)
  for key, type in pairs({[index] = 'zset', [devices] = 'hash'}) do
    local found = redis.call('TYPE', key).ok
    if found ~= type and found ~= 'none' then redis.call('DEL', key) end
  end
end
`

/** Defines `close(key, idle, renewed, version)`: writes meta and deadline, and the user's index where KEYS name it. */
export const CLOSE = `
${MEND}
local function close(key, idle, renewed, version, index, devices)
  local expiry = math.min(now + idle, absolute)
  redis.call('HSET', key, '@', string.format('1 %s %.0f %.0f %s %.0f %s %s %s',
    created, absolute, now, renewed, revision + 1, version, ref, user))
  redis.call('PEXPIREAT', key, string.format('%.0f', expiry))
  if index then
    mend(index, devices)
    redis.call('ZADD', index, string.format('%.0f', expiry), ref)
    redis.call('HSET', devices, ref .. ':t', string.format('%.0f', now))
    for _, one in ipairs({index, devices}) do
      local left = redis.call('PTTL', one)
      if left < absolute - now then redis.call('PEXPIREAT', one, string.format('%.0f', absolute)) end
    end
  end
end
`
