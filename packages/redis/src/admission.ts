import type { Cluster, Command, Redis } from 'ioredis'
import { explain } from './causes.js'
import { RedisUnavailableError } from './errors.js'
import { usesTls } from './redis-client.js'
import { withoutArguments } from './reply-error.js'

/** Commands by which ioredis makes a connection usable. It sends them one by one, never in a pipeline. */
const HANDSHAKE = new Set(['hello', 'auth', 'select', 'client', 'readonly', 'info', 'cluster', 'quit'])

type Verdict = 'admitted' | 'late' | 'away'

/**
 * Which commands a client hands on to ioredis. Not those that have timed out, since their caller has been told. And not in a
 * long outage: commands issued at its start wait, as ioredis has it, within their timeout; once it has lasted
 * that long, further ones are refused at once. So the offline queue never holds more than one timeout's worth, and no
 * caller waits for what will not come.
 *
 * ioredis writes a pipeline when the last of its commands has come, and counts the replies by the commands that it was
 * given: one that is missing holds the others back, and each reply that follows on the connection goes to the
 * command before the right one. So what is said of the first command of a pipeline holds for all.
 */
export class Admission {
  readonly #client: Redis | Cluster
  /** Milliseconds. */
  readonly #limit: number
  #since: number | undefined
  /** Why the last attempt to connect failed. */
  #cause: unknown
  /** What a person has to mend. */
  #reason = ''
  /** On the pipeline whose commands are coming, which they do without a break. */
  #verdict: Verdict = 'admitted'

  constructor(client: Redis | Cluster, limit: number) {
    this.#client = client
    this.#limit = limit
    client.on('close', () => {
      this.#since ??= performance.now()
    })
    client.on('ready', () => {
      this.#since = undefined
      this.#cause = undefined
      this.#reason = ''
    })
    client.on('error', (error: unknown) => {
      this.#cause = withoutArguments(error)
      const { fatal, reason } = explain(error, usesTls(client))
      this.#reason = fatal ? `; ${reason}` : ''
    })
  }

  /**
   * Whether a command goes on; otherwise it has been rejected.
   *
   * @param stream as ioredis gives it: of a pipeline, each time that it hands one over, sends one again, or sends what has waited
   * @param left milliseconds until the command times out
   */
  admits(command: Command, stream: unknown, left: number): boolean {
    let verdict: Verdict
    if (!stream) verdict = this.#judge(command, HANDSHAKE.has(command.name), left)
    else if (command.pipelineIndex) verdict = this.#verdict
    else verdict = this.#verdict = this.#judge(command, false, left)
    if (verdict === 'admitted') return true
    if (!command.isSettled) {
      command.reject(verdict === 'late' ? new Error('Command timed out') : this.#unavailable(command))
    }
    return false
  }

  #judge(command: Command, always: boolean, left: number): Verdict {
    if (command.isSettled || left <= 0) return 'late'
    // What has waited is sent before ioredis tells of `ready`.
    if (this.#since === undefined || always || this.#client.status === 'ready') return 'admitted'
    return performance.now() - this.#since < this.#limit ? 'admitted' : 'away'
  }

  #unavailable(command: Command): Error {
    const away = Math.round((performance.now() - (this.#since ?? 0)) / 1_000)
    return new RedisUnavailableError(
      `@flotilla/redis: Redis has been unreachable for ${away} s; '${command.name}' was not tried${this.#reason}`,
      this.#cause === undefined ? undefined : { cause: this.#cause }
    )
  }
}
