import { KEY, type RequiredPermissions } from '@flotilla/redis'

/**
 * What channels need in Redis, for the check at `register`. The README names the same.
 *
 * @param channel one of the channels, as it is sent
 * @param publish the command that publishes in them
 */
export function permissionsFor(keyPrefix: string, channel: string, publish: string): RequiredPermissions {
  return {
    plugin: '@flotilla/ws-broadcast',
    keys: [`${keyPrefix}permissions`],
    commands: [
      [publish, channel, ''],
      ['GET', KEY],
      ['SET', KEY, ''],
      ['DEL', KEY],
      ['EXISTS', KEY],
      ['PEXPIRE', KEY, '1'],
      ['HGET', KEY, ''],
      ['HSET', KEY, '', ''],
      ['HDEL', KEY, ''],
      ['HMGET', KEY, ''],
      ['HKEYS', KEY],
      ['HLEN', KEY],
      ['SADD', KEY, ''],
      ['SREM', KEY, ''],
      ['SMEMBERS', KEY],
      ['XADD', KEY, '*', '', ''],
      ['XDEL', KEY, '0-1'],
      ['XRANGE', KEY, '-', '+'],
      ['XREVRANGE', KEY, '+', '-'],
      ['ZADD', KEY, '1', ''],
      ['ZREM', KEY, ''],
      ['ZSCORE', KEY, ''],
      ['ZRANGEBYSCORE', KEY, '0', '0'],
      ['INFO', 'replication'],
      ['TIME']
    ]
  }
}
