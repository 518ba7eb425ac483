import { Redis, type RedisOptions } from 'ioredis'
import { Admission } from './admission.js'

type SendArguments = Parameters<Redis['sendCommand']>
/**
 * ioredis for one server or Sentinel, that never carries out a command after it has told the caller that it timed out, and fails
 * fast in a long outage.
 */
export class BoundedRedis extends Redis {
  readonly #admission: Admission
  readonly #limit: number

  constructor(options: RedisOptions & { commandTimeout: number }) {
    super(options as RedisOptions & { replyMapping?: 'legacy' })
    this.#limit = options.commandTimeout
    this.#admission = new Admission(this, options.commandTimeout)
  }

  override sendCommand(...args: SendArguments): unknown {
    const [command, stream] = args
    return this.#admission.admits(command, stream, this.#limit) ? super.sendCommand(...args) : command.promise
  }
}
