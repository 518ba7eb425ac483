import { createHash } from 'node:crypto'
import type { ChainableCommander } from 'ioredis'
import { RedisKeysError } from './errors.js'
import type { RedisClient } from './redis-client.js'
import { withoutArguments } from './reply-error.js'
import { isNoScript, queueScript } from './script-pipeline.js'

/** What a script takes besides its keys. */
export type ScriptArgument = string | number | Buffer

/** What {@link defineScript} needs. */
export interface ScriptDefinition {
  /** For error messages. */
  readonly name: string
  /** How many keys each call declares; on a Cluster they must share a slot. */
  readonly keys: number
  /** The source; it reads `KEYS` and `ARGV`. */
  readonly lua: string
}

/** A Lua script with a known number of keys and a typed reply. */
export interface RedisScript<Reply> {
  /** For error messages. */
  readonly name: string
  /** SHA-1 of the source, as EVALSHA wants it. */
  readonly sha: string
  /** The source. */
  readonly lua: string
  /**
   * Runs on the node that owns the keys. Strings in the reply are UTF-8.
   *
   * @throws FLOTILLA_REDIS_ERR_KEYS when the number of keys is not the declared one; else what Redis answers, without
   * the arguments that ioredis keeps with it.
   */
  run(client: RedisClient, keys: readonly string[], args?: readonly ScriptArgument[]): Promise<Reply>
  /** As `run`, with every string of the reply as a `Buffer`. */
  runBuffer<BufferReply = unknown>(
    client: RedisClient,
    keys: readonly string[],
    args?: readonly ScriptArgument[]
  ): Promise<BufferReply>
  /**
   * Adds one call to a pipeline of ioredis; its reply stands at its place in what `exec()` resolves with.
   * Within MULTI it is sent with its text, since a transaction cannot be repaired.
   */
  queue(
    pipeline: ChainableCommander,
    keys: readonly string[],
    args?: readonly ScriptArgument[]
  ): ChainableCommander
}

/**
 * Defines a script once, at module level. Calls use EVALSHA; a server that does not know the script (new,
 * restarted, flushed, another node) is sent its text.
 */
export function defineScript<Reply>({ name, keys: count, lua }: ScriptDefinition): RedisScript<Reply> {
  const sha = createHash('sha1').update(lua).digest('hex')
  const join = (keys: readonly string[], args: readonly ScriptArgument[] = []): ScriptArgument[] => {
    if (keys.length === count) return [...keys, ...args]
    throw new RedisKeysError(`@flotilla/redis: script '${name}' takes ${count} keys, got ${keys.length}`)
  }
  return {
    name,
    sha,
    lua,
    async run(client, keys, args) {
      const rest = join(keys, args)
      try {
        return (await client.evalsha(sha, count, ...rest)) as Reply
      } catch (error) {
        // NOSCRIPT means that nothing was executed.
        if (!isNoScript(error)) throw withoutArguments(error)
        return (await client.eval(lua, count, ...rest).catch(rethrow)) as Reply
      }
    },
    async runBuffer<BufferReply>(
      client: RedisClient,
      keys: readonly string[],
      args?: readonly ScriptArgument[]
    ): Promise<BufferReply> {
      const rest = join(keys, args)
      const buffers = client as unknown as BufferScripts
      try {
        return (await buffers.evalshaBuffer(sha, count, ...rest)) as BufferReply
      } catch (error) {
        if (!isNoScript(error)) throw withoutArguments(error)
        return (await buffers.evalBuffer(lua, count, ...rest).catch(rethrow)) as BufferReply
      }
    },
    queue(pipeline, keys, args) {
      return queueScript(pipeline, { sha, lua, count, rest: join(keys, args) })
    }
  }
}

function rethrow(error: unknown): never {
  throw withoutArguments(error)
}

/** Every command of ioredis has a form that replies with Buffers; its types leave out those of scripts. */
interface BufferScripts {
  evalshaBuffer(sha: string, keys: number, ...args: ScriptArgument[]): Promise<unknown>
  evalBuffer(lua: string, keys: number, ...args: ScriptArgument[]): Promise<unknown>
}
