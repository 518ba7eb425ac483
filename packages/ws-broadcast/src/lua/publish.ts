/**
 * Appends a message to a channel's history and announces it, once per idempotency key.
 *
 * KEYS[1] meta hash  KEYS[2] history stream  KEYS[3] idempotency key
 * ARGV[1] pub/sub channel  ARGV[2] PUBLISH or SPUBLISH  ARGV[3] the frame's JSON without its closing part
 * ARGV[4] history size  ARGV[5] history ttl, ms  ARGV[6] meta ttl, ms  ARGV[7] epoch to use where a new one is due
 * ARGV[8] conflate key or ''  ARGV[9] ttl of the idempotency key, ms; 0 without
 * Reply: { offset, epoch, 1 where the key had been used already }
 *
 * Offsets are stream ids from the server's clock, never a counter: a promoted replica that lost the end of
 * the log cannot hand the lost offsets out again. The replication id tells that this server's log is another
 * one than the last writer's; the epoch changes with it, and `forks` keeps where the old epoch ended, so that
 * a reader from before knows exactly which messages of the new log it has not seen.
 */
export const publishLua = `
if ARGV[9] ~= '0' then
  local done = redis.call('GET', KEYS[3])
  if done then
    -- A write, so that a WAIT after it on a new connection confirms the first attempt's as well.
    redis.call('PEXPIRE', KEYS[3], ARGV[9])
    local sep = string.find(done, ' ', 1, true)
    return { string.sub(done, 1, sep - 1), string.sub(done, sep + 1), 1 }
  end
end
local fence = ''
local info = redis.pcall('INFO', 'replication')
if type(info) == 'string' then fence = string.match(info, 'master_replid:(%w+)') or '' end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'last', 'fence', 'forks', 'kept')
local epoch, last, kept = meta[1], meta[2] or '0-0', meta[5] or '0'
if not epoch then
  epoch = ARGV[7]
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'fence', fence)
elseif fence ~= '' and meta[3] ~= fence then
  local forks, count = epoch .. '=' .. last, 1
  for fork in string.gmatch(meta[4] or '', '%S+') do
    if count < 10 then forks = forks .. ' ' .. fork end
    count = count + 1
  end
  epoch = ARGV[7]
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'fence', fence, 'forks', forks)
end
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'b', ARGV[3], 'p', last, 'e', epoch, 'k', ARGV[8])
local ms, seq = string.match(id, '^(%d+)-(%d+)$')
local lastMs, lastSeq = string.match(last, '^(%d+)-(%d+)$')
ms, lastMs = tonumber(ms), tonumber(lastMs)
if ms < lastMs or (ms == lastMs and tonumber(seq) <= tonumber(lastSeq)) then
  -- The history had expired and this server's clock is behind that of the last writer's.
  redis.call('XDEL', KEYS[2], id)
  ms = lastMs
  id = string.format('%.0f-%.0f', ms, tonumber(lastSeq) + 1)
  redis.call('XADD', KEYS[2], id, 'b', ARGV[3], 'p', last, 'e', epoch, 'k', ARGV[8])
end
if ms >= tonumber(kept) then
  -- A tenth more than asked for, so that a busy channel is not given a new time to live with each message.
  local slack = math.floor(tonumber(ARGV[5]) / 10)
  redis.call('HSET', KEYS[1], 'last', id, 'kept', string.format('%.0f', ms + slack))
  redis.call('PEXPIRE', KEYS[2], tonumber(ARGV[5]) + slack)
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
else
  redis.call('HSET', KEYS[1], 'last', id)
end
if ARGV[9] ~= '0' then redis.call('SET', KEYS[3], id .. ' ' .. epoch, 'PX', ARGV[9]) end
redis.call(ARGV[2], ARGV[1], 'm ' .. id .. ' ' .. last .. ' ' .. epoch .. ' ' .. ARGV[8] .. '\\n'
  .. ARGV[3] .. ',"offset":"' .. id .. '","epoch":"' .. epoch .. '"}')
return { id, epoch, 0 }
`
