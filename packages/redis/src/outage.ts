import type { Cluster, Command, Redis } from 'ioredis'
import { RedisUnavailableError } from './errors.js'

/** Commands by which ioredis makes a connection usable. */
const HANDSHAKE = new Set(['hello', 'auth', 'select', 'client', 'readonly', 'info', 'cluster', 'quit'])

/**
 * Notes since when a client has been without a connection. Commands issued at the start of an outage wait, as ioredis has
 * it, within their timeout; once an outage has lasted that long, further ones are refused at once. So the offline
 * queue never holds more than one timeout's worth, and no caller waits for what will not come.
 */
export class Outage {
  #since: number | undefined

  constructor(client: Redis | Cluster) {
    client.on('close', () => {
      this.#since ??= performance.now()
    })
    client.on('ready', () => {
      this.#since = undefined
    })
  }

  refuse(command: Command, limit: number): boolean {
    if (this.#since === undefined || HANDSHAKE.has(command.name)) return false
    const away = performance.now() - this.#since
    if (away < limit) return false
    command.reject(
      new RedisUnavailableError(
        `@flotilla/redis: Redis has been unreachable for ${Math.round(away / 1_000)} s; '${command.name}' was not tried`
      )
    )
    return true
  }
}
