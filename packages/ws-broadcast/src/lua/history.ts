/**
 * Reads what a reader at a position has not seen, together with where the log stands. A log that nothing was written to gets its
 * epoch here, so that a reader of it can know later whether what came first has been lost.
 *
 * KEYS[1] meta hash  KEYS[2] history stream
 * ARGV[1] the reader's epoch  ARGV[2] its offset  ARGV[3] most entries to return; 0 for the position alone
 * ARGV[4] bytes of messages that end the page
 * ARGV[5] epoch to use if there is none  ARGV[6] how long it is kept while nothing is written, ms
 * Reply: { epoch, last offset, offset read from or '' where the epoch is unknown, entries as XRANGE gives them, 1 where more may follow }
 *
 * A reader of an earlier epoch reads from where that epoch ended in this log, if it had read further: all
 * that follows was written after the fork, so it has seen none of it. Run twice it gives the same.
 */
export const historyLua = `
-- Read at a time: of messages that are long not many more than the page has room for.
local STEP = 10
local function after(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  ams, bms = tonumber(ams), tonumber(bms)
  if ams ~= bms then return ams > bms end
  return tonumber(aseq) > tonumber(bseq)
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'last', 'forks')
local epoch, last = meta[1], meta[2] or '0-0'
if not epoch then
  local fence = ''
  local info = redis.pcall('INFO', 'replication')
  if type(info) == 'string' then fence = string.match(info, 'master_replid:(%w+)') or '' end
  -- A server that takes no writes (a replica, or out of memory) can still be read.
  local written = redis.pcall('HSET', KEYS[1], 'epoch', ARGV[5], 'fence', fence)
  epoch = type(written) == 'number' and ARGV[5] or ''
end
if epoch ~= '' and not meta[2] then redis.pcall('PEXPIRE', KEYS[1], ARGV[6]) end
local from = ARGV[2]
if ARGV[1] == '' then
  from = '0-0'
elseif ARGV[1] ~= epoch then
  local found
  for name, offset in string.gmatch(meta[3] or '', '(%S+)=(%S+)') do
    if name == ARGV[1] then found = offset end
  end
  if not found then from = '' elseif after(from, found) then from = found end
end
if ARGV[3] == '0' then return { epoch, last, from, {}, 0 } end
local start = from == '' and '-' or '(' .. from
local entries, most, bytes, room = {}, tonumber(ARGV[3]), 0, tonumber(ARGV[4])
while #entries < most do
  local part = redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', STEP)
  for _, entry in ipairs(part) do
    entries[#entries + 1] = entry
    bytes = bytes + string.len(entry[2][2])
    if bytes >= room then return { epoch, last, from, entries, 1 } end
  end
  if #part < STEP then return { epoch, last, from, entries, 0 } end
  start = '(' .. part[#part][1]
end
return { epoch, last, from, entries, 1 }
`
