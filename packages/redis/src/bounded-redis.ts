import { Redis, type RedisOptions } from 'ioredis'
import { Admission } from './admission.js'
import { endWhenSilent } from './end-when-silent.js'
import { boundCommand } from './internals.js'

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
    endWhenSilent(this)
  }

  override sendCommand(...args: SendArguments): unknown {
    const [command, stream] = args
    if (!this.#admission.admits(command, stream, this.#limit)) return command.promise
    if (!command.isSettled) boundCommand(command, this.#limit)
    return super.sendCommand(...args)
  }
}
