import { defineScript } from '@flotilla/redis'
import { NOW, UNLIST } from './fragments.js'

/**
 * Opens a session and lists it under its user.
 *
 * KEYS  session [, index, devices].
 * ARGV  idle ms, absolute ms, version, own idle ms or 0. Then persistent `0`, `1` or `-`, user hash or `-`, verifier hash, device text,
 *       most sessions of the user or 0. Then `1` to end the oldest ones beyond that, ref of the one that is about to be
 *       replaced or `-`, then field, value, …
 * Reply {1, now, [ref …] ended}; {2, now}: the user has as many as are allowed. Running it twice for one id is harmless: ids are
 *       random, so a session that is there was made by this very call, sent again by the client after a lost connection
 */
const LUA = `
${NOW}
${UNLIST}
local idle, life, version, own, persistent, user = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local absolute = now + life
local ref = string.sub(KEYS[1], -43)
if tonumber(own) > 0 then idle = tonumber(own) end
local expiry = string.format('%.0f', math.min(now + idle, absolute))
local ended = {}
if KEYS[2] then
  repair(KEYS[2], KEYS[3])
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
    unlist(KEYS[2], KEYS[3], gone)
  end
  local max = tonumber(ARGV[9])
  if max > 0 and redis.call('HEXISTS', KEYS[1], '@') == 0 then
    local prefix = string.sub(KEYS[1], 1, -44)
    local living = {}
    for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now, '+inf')) do
      local meta = redis.call('HGET', prefix .. one, '@')
      if meta then
        local created, holder = string.match(meta, '^2 (%d+) .* (%S+)$')
        if holder == user and one ~= ARGV[11] then living[#living + 1] = {ref = one, created = tonumber(created)} end
      else
        unlist(KEYS[2], KEYS[3], one)
      end
    end
    if #living >= max then
      if ARGV[10] ~= '1' then return {2, now} end
      table.sort(living, function (a, b)
        if a.created == b.created then return a.ref < b.ref end
        return a.created < b.created
      end)
      for i = 1, #living - max + 1 do
        redis.call('DEL', prefix .. living[i].ref)
        unlist(KEYS[2], KEYS[3], living[i].ref)
        ended[i] = living[i].ref
      end
    end
  end
end
redis.call('HSET', KEYS[1], '@', string.format('2 %.0f %.0f %.0f %.0f %s 1 %s %s %s %s', now, absolute, now, now,
  user == '-' and '0' or string.format('%.0f', now), version, own, persistent, user),
  '@v', '1 ' .. ARGV[7] .. ' - 0')
for i = 12, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIREAT', KEYS[1], expiry)
if KEYS[2] then
  redis.call('ZADD', KEYS[2], expiry, ref)
  redis.call('HSET', KEYS[3], ref, ARGV[8], ref .. ':t', string.format('%.0f %.0f', now, now))
  for i = 2, 3 do
    if redis.call('PTTL', KEYS[i]) < life then redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', absolute)) end
  end
end
return {1, now, ended}
`

export type CreateReply = [1, number, string[]] | [2, number]

const script = { name: 'session-create', lua: LUA } as const

export const createAnonymous = defineScript<CreateReply>({ ...script, keys: 1 })
export const createOwned = defineScript<CreateReply>({ ...script, keys: 3 })
