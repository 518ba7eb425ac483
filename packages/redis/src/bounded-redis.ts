import { Redis, type RedisOptions } from 'ioredis'
import { Outage } from './outage.js'

type SendArguments = Parameters<Redis['sendCommand']>
/**
 * ioredis for one server or Sentinel, that never carries out a command after it has told the caller that it timed out, and fails
 * fast in a long outage.
 */
export class BoundedRedis extends Redis {
  readonly #outage: Outage
  readonly #limit: number

  constructor(options: RedisOptions & { commandTimeout: number }) {
    super(options as RedisOptions & { replyMapping?: 'legacy' })
    this.#limit = options.commandTimeout
    this.#outage = new Outage(this)
  }

  override sendCommand(...args: SendArguments): unknown {
    const [command] = args
    // Timed out in the queue: its caller has been told.
    if (command.isSettled || this.#outage.refuse(command, this.#limit)) return command.promise
    return super.sendCommand(...args)
  }
}
