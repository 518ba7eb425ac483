import { KEY, type RequiredPermissions } from '@flotilla/redis'

/** What the cache's scripts and commands do, for the check at `register`. The README names the same. */
export function permissionsFor(keyPrefix: string): RequiredPermissions {
  return {
    plugin: '@flotilla/cache',
    keys: ['c', 'l', 'n', 't'].map((kind) => `${keyPrefix}${kind}:{}`),
    commands: [
      ['GET', KEY],
      ['GETEX', KEY],
      ['GETRANGE', KEY, '0', '0'],
      ['MGET', KEY],
      ['SET', KEY, ''],
      ['DEL', KEY],
      ['UNLINK', KEY],
      ['PTTL', KEY],
      ['PEXPIRE', KEY, '1'],
      ['TIME']
    ]
  }
}
