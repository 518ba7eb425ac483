/**
 * Gives a lease back, at once or after a time for which it shall still count as held.
 *
 * KEYS[1] the lease: its holder
 * ARGV[1] holder  ARGV[2] milliseconds for which it stays, 0 for none
 * Replies 1, or 0 if it was not the caller's. Sent twice, the second does nothing.
 */
export const releaseLua = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  redis.call('DEL', KEYS[1])
end
return 1`
