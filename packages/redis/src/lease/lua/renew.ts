/**
 * Extends a lease of the caller's. One that is missing is lost, even if it is free: it may have been another's meanwhile.
 *
 * KEYS[1] the lease: its holder  KEYS[2] the last token.
 * ARGV[1] holder  ARGV[2] time to live, ms  ARGV[3] time for which the last token is kept, ms
 * Replies 1, or 0 if it is not the caller's. Sent twice, it extends twice.
 */
export const renewLua = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1`
