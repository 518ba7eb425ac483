/**
 * Takes a lease that is free, or already the caller's: ioredis sends a command again whose reply was lost.
 *
 * The token grows with each holder. It is at least the server's time in microseconds, so it grows too after Redis has lost the
 * last one. That happens in a restart without persistence, a failover, or FLUSHALL. The clocks of the servers must agree.
 *
 * KEYS[1] the lease: its holder  KEYS[2] the last token
 * ARGV[1] holder  ARGV[2] time to live, ms  ARGV[3] time for which the last token is kept, ms
 * Replies { token or '', milliseconds left, holder }.
 */
export const acquireLua = `
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return { '', redis.call('PTTL', KEYS[1]), holder }
end
local token = redis.call('GET', KEYS[2])
if not holder or not token then
  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  token = string.format('%.0f', math.max(tonumber(token or '0') + 1, micros))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
return { token, tonumber(ARGV[2]), ARGV[1] }`
