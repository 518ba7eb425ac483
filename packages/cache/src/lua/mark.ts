import { variadic } from './variadic.js'

/**
 * Marks tags or generations as invalidated now: every entry that began before is dead. Marks only rise,
 * also when the clock of the server was set back. A server that has no memory left refuses to write a mark but
 * removes it, and entries whose mark is missing are dead as well.
 *
 * KEYS 1… marks; ARGV 1 how long they are kept in ms, 2 consistency token or '', 3… for each of KEYS '1' if a missing mark
 *   stays missing, else ''
 * Reply the marks: microseconds of Redis TIME, as text. Sent again, it marks again: later, so never less.
 */
export const raiseMarks = variadic<string[]>({
  name: 'flotilla_cache_mark',
  lua: `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local marks = {}
for i = 1, #KEYS do
  local found = redis.call('GET', KEYS[i])
  local text = string.format('%.0f', math.max(now, tonumber(string.match(found or '0', '^%d+')) + 1))
  marks[i] = text
  if found or ARGV[i + 2] ~= '1' then
    if ARGV[2] ~= '' then text = text .. ' ' .. ARGV[2] end
    local set = redis.pcall('SET', KEYS[i], text, 'PX', ARGV[1])
    if set.err then redis.call('UNLINK', KEYS[i]) end
  end
end
return marks
`
})

/**
 * Reads marks, and creates those that are missing at the time of the server. A missing mark was never there or has been
 * evicted, has expired or was lost in a failover: what is older than its creation is dead.
 *
 * KEYS 1… marks; ARGV 1 how long they are kept in ms
 * Reply for each its text, then 1 if it was created here, else 0. Sent again, it reads.
 */
export const establishMarks = variadic<(string | number)[]>({
  name: 'flotilla_cache_establish',
  lua: `
local reply = {}
for i = 1, #KEYS do
  local text = redis.call('GET', KEYS[i])
  reply[2 * i] = 0
  if not text then
    local time = redis.call('TIME')
    text = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
    redis.pcall('SET', KEYS[i], text, 'PX', ARGV[1])
    reply[2 * i] = 1
  end
  reply[2 * i - 1] = text
end
return reply
`
})
