import { withTimeout } from '@flotilla/core'
import type { Redis } from 'ioredis'
import { ANY_NODE, dedicatedConnection, drop } from './dedicated-connection.js'
import { RedisPermissionError } from './errors.js'
import { commandTimeoutOf, keyPrefixOf, type RedisClient } from './redis-client.js'

/** What a plugin does in Redis. */
export interface RequiredPermissions {
  /** Name of the plugin, for the error. */
  readonly plugin: string
  /** Keys as the plugin names them, one of each kind. */
  readonly keys: readonly string[]
  /** Commands as they are sent, each with its arguments, where {@link KEY} stands for one of the keys. None is executed. */
  readonly commands: readonly (readonly [name: string, ...args: string[]])[]
  /** Channels that the plugin subscribes to, as they are sent. */
  readonly channels?: readonly string[]
}

/** Stands for one of the keys. */
export const KEY = '\0key'

/**
 * Checks what the user of a client may do, without doing it: Redis refuses a command of a transaction when it is queued, and this
 * transaction is discarded. On a Cluster any node can answer, since Redis checks permissions before it redirects.
 *
 * Checks nothing while the client is not connected, nor for a user who may not use MULTI.
 *
 * @throws FLOTILLA_REDIS_ERR_PERMISSION naming the commands that the user may not run, or not on these keys or channels.
 */
export async function requirePermissions(client: RedisClient, required: RequiredPermissions): Promise<void> {
  if (client.status !== 'ready') return
  const connection = dedicatedConnection(client, ANY_NODE, { connectionName: 'flotilla-permissions' })
  const refusals = new Set<string>()
  try {
    const asked = ask(connection, keyPrefixOf(client), required, refusals)
    await withTimeout(asked, commandTimeoutOf(client), { timeoutError: () => new Error('no answer') })
  } catch {
    // Redis went away, or MULTI is not allowed: what is missing shows when it is used.
  } finally {
    drop(connection)
  }
  if (refusals.size > 0) throw new RedisPermissionError(required.plugin, [...refusals].join(', '))
}

async function ask(
  connection: Redis,
  prefix: string,
  { keys, commands, channels = [] }: RequiredPermissions,
  refusals: Set<string>
): Promise<void> {
  const check = async (name: string, reply: Promise<unknown>): Promise<void> => {
    try {
      await reply
    } catch (error) {
      if (!isReply(error)) throw error
      if (!error.message.startsWith('NOPERM')) return
      refusals.add(/\bkeys?\b/.test(error.message) ? `${name} on these keys` : name)
    }
  }
  connection.on('error', () => {})
  await connection.connect()
  await connection.call('MULTI')
  await Promise.all(
    commands.flatMap(([name, ...args]) => {
      const places = args.includes(KEY) ? keys : ['']
      return places.map((key) => {
        const sent = args.map((arg) => (arg === KEY ? prefix + key : arg))
        return check(name, connection.call(name, ...sent))
      })
    })
  )
  await connection.call('DISCARD')
  for (const channel of channels) {
    await check(`SUBSCRIBE ${channel}`, connection.subscribe(channel))
  }
}

function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === 'ReplyError'
}
