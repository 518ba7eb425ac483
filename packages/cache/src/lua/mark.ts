import { variadic } from './variadic.js'

/**
 * Marks tags or generations as invalidated now: every entry that began before is dead. Marks only rise,
 * also when the clock of the server was set back.
 *
 * KEYS 1… marks; ARGV 1 how long they are kept in ms, 2 consistency token or ''
 * Reply the marks: microseconds of Redis TIME, as text
 */
export const raiseMarks = variadic<string[]>({
  name: 'flotilla_cache_mark',
  lua: `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local marks = {}
for i = 1, #KEYS do
  local old = redis.call('GET', KEYS[i]) or '0'
  local text = string.format('%.0f', math.max(now, tonumber(string.match(old, '^%d+')) + 1))
  marks[i] = text
  if ARGV[2] ~= '' then text = text .. ' ' .. ARGV[2] end
  redis.call('SET', KEYS[i], text, 'PX', ARGV[1])
end
return marks
`
})
