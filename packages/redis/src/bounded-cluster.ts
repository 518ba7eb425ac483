import { Cluster, type ChainableCommander, type ClusterOptions, type Command } from 'ioredis'
import { Admission } from './admission.js'
import { endWhenSilent } from './end-when-silent.js'
import { boundCommand } from './internals.js'

type SendArguments = Parameters<Cluster['sendCommand']>
type Results = [error: Error | null, result: unknown][]

/**
 * The same for a Cluster, whose commands also wait for redirections and for the slot map, and whose automatic
 * pipelines break where the slot map changes under them.
 */
export class BoundedCluster extends Cluster {
  readonly #admission: Admission
  readonly #limit: number
  /** What has been put in the place of a command's own: repeated by ioredis, a command gets a new one. */
  readonly #followers = new WeakSet<Command['reject']>()
  readonly #deadlines = new WeakMap<Command, number>()

  constructor(nodes: { host: string; port: number }[], options: ClusterOptions, commandTimeout: number) {
    super(nodes, options as ClusterOptions & { redisOptions: { replyMapping: 'legacy' } })
    this.#limit = commandTimeout
    this.#admission = new Admission(this, commandTimeout)
    this.on('+node', endWhenSilent)
  }

  override sendCommand(...args: SendArguments): unknown {
    const [command, stream, node] = args
    const left = this.#timeLeft(command)
    if (!this.#admission.admits(command, stream, left)) return command.promise
    // One that was settled goes along with its pipeline, and nothing more is done for it.
    if (!command.isSettled) {
      boundCommand(command, left)
      if (stream && node && !command.inTransaction) this.#followRedirection(command)
    }
    return super.sendCommand(...args)
  }

  /** One limit for all attempts: ioredis starts anew with each time that it repeats a pipeline. */
  #timeLeft(command: Command): number {
    const now = performance.now()
    const deadline = this.#deadlines.get(command)
    if (deadline !== undefined) return deadline - now
    this.#deadlines.set(command, now + this.#limit)
    return this.#limit
  }

  /**
   * A pipeline goes to one node. While a slot moves, some of its commands are redirected and others are not; ioredis repeats a
   * pipeline only if all failed alike, and hands the redirections to the caller otherwise, of automatic pipelines
   * too. Each redirected command is sent again by itself instead.
   */
  #followRedirection(command: Command): void {
    const { reject } = command
    if (this.#followers.has(reject)) return
    command.reject = (error: Error) => {
      command.reject = reject
      if (!/^(MOVED|ASK|TRYAGAIN) /.test(error.message)) return reject.call(command, error)
      // It no longer has a place in a pipeline, by which a lost connection would abort it.
      delete command.pipelineIndex
      void super.sendCommand(command)
    }
    this.#followers.add(command.reject)
  }

  /**
   * ioredis refuses a pipeline, before it sends anything, if its keys are not all on one node. An automatic pipeline may come
   * to that through no fault of its callers: the slot map was refreshed while it was collected, or one of them
   * used keys of several slots. Then each command is sent by itself.
   */
  override pipeline(commands?: unknown[][]): ChainableCommander {
    const pipeline = super.pipeline(commands)
    const exec = pipeline.exec.bind(pipeline)
    pipeline.exec = (callback) => {
      // ioredis itself executes a pipeline again when it tries again.
      pipeline.exec = exec
      const results = exec().catch((error: Error) => {
        if (!error.message.includes('belong to the same slot')) throw error
        return this.#sendSingly(pipeline, error)
      })
      if (callback) void report(results, callback)
      return results
    }
    return pipeline
  }

  #sendSingly(pipeline: ChainableCommander, refusal: Error): Promise<Results> {
    const queue = (pipeline as unknown as { _queue: Command[] })._queue
    if (queue.some(({ inTransaction }) => inTransaction)) throw refusal
    return Promise.all(
      queue.map(async (command): Promise<Results[number]> => {
        delete command.pipelineIndex
        void this.sendCommand(command)
        try {
          return [null, await command.promise]
        } catch (error) {
          return [error as Error, undefined]
        }
      })
    )
  }
}

async function report(
  results: Promise<Results | null>,
  callback: (error: Error | null, results?: Results | null) => unknown
): Promise<void> {
  let done: Results | null
  try {
    done = await results
  } catch (error) {
    callback(error as Error)
    return
  }
  callback(null, done)
}
