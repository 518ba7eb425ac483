import { KEY, type RequiredPermissions } from '@flotilla/redis'

/** What the store's scripts and commands do, for the check at `register`. The README names the same. */
export function permissionsFor(prefix: string): RequiredPermissions {
  return {
    plugin: '@flotilla/session',
    keys: ['s', 'u2', 'd2'].map((kind) => `${prefix}${kind}:{0000}:`),
    commands: [
      ['HGET', KEY, ''],
      ['HSET', KEY, '', ''],
      ['HSETNX', KEY, '', ''],
      ['HDEL', KEY, ''],
      ['HEXISTS', KEY, ''],
      ['HGETALL', KEY],
      ['DEL', KEY],
      ['PTTL', KEY],
      ['PEXPIRE', KEY, '1'],
      ['PEXPIREAT', KEY, '1'],
      ['TYPE', KEY],
      ['ZADD', KEY, '1', ''],
      ['ZREM', KEY, ''],
      ['ZRANGE', KEY, '0', '0'],
      ['ZRANGEBYSCORE', KEY, '0', '0'],
      ['TIME']
    ]
  }
}
