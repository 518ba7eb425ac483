/**
 * Announces a message of a channel without history, once per idempotency key.
 *
 * KEYS[1] idempotency key
 * ARGV[1] pub/sub channel  ARGV[2] PUBLISH or SPUBLISH  ARGV[3] message  ARGV[4] ttl of the key, ms
 * Reply: 1 where the key had been used already, else 0
 */
export const publishOnceLua = `
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[4]) then return 1 end
redis.call(ARGV[2], ARGV[1], ARGV[3])
return 0
`
