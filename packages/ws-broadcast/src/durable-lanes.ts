import { isCluster, isMasterReplaced, slotOf, type RedisClient } from '@flotilla/redis'
import { FLOTILLA_WS_ERR_CLOSED, FLOTILLA_WS_ERR_NOT_DURABLE, FLOTILLA_WS_ERR_PUBLISH } from './errors.js'
import { publishScript, type PublishReply } from './publish-script.js'

interface Waiting {
  readonly channel: string
  readonly keys: readonly string[]
  readonly args: readonly (string | number)[]
  readonly resolve: (reply: PublishReply) => void
  readonly reject: (error: Error) => void
}

/** What ioredis limits of every command, in milliseconds. */
interface Limits {
  commandTimeout?: number | undefined
  socketTimeout?: number | undefined
}

/** Most publishes that one WAIT confirms. */
const BATCH = 256
const REPLICAS = 1

/**
 * Publishes that are acknowledged only when a replica has them. WAIT holds up its whole connection, so these
 * run on one of their own; and it confirms every earlier write of that connection, so that publishes which
 * arrive while one WAIT is under way share the next (group commit).
 *
 * The writes and their WAIT go out in one pipeline: a WAIT on a connection that was re-opened in between
 * would know of no write and confirm anything.
 */
export class DurableLanes {
  #connection: RedisClient | undefined
  readonly #lanes = new Map<number, { busy: boolean; queue: Waiting[] }>()
  #closed = false

  constructor(
    private readonly client: RedisClient,
    private readonly timeout: number
  ) {}

  publish(
    channel: string,
    keys: readonly string[],
    args: readonly (string | number)[]
  ): Promise<PublishReply> {
    if (this.#closed) return Promise.reject(new FLOTILLA_WS_ERR_CLOSED())
    // A pipeline on Cluster goes to one node, which is known for certain only within a slot.
    const id = isCluster(this.client) ? slotOf(keys[0]!) : 0
    const lane = this.#lanes.get(id) ?? { busy: false, queue: [] }
    this.#lanes.set(id, lane)
    return new Promise((resolve, reject) => {
      lane.queue.push({ channel, keys, args, resolve, reject })
      if (!lane.busy) {
        lane.busy = true
        // What is published in the same tick goes along.
        queueMicrotask(() => void this.#work(id, lane))
      }
    })
  }

  async #work(id: number, lane: { busy: boolean; queue: Waiting[] }): Promise<void> {
    while (lane.queue.length > 0) {
      const batch = lane.queue.splice(0, BATCH)
      try {
        await this.#commit(batch)
      } catch (cause) {
        for (const one of batch) {
          one.reject(Object.assign(new FLOTILLA_WS_ERR_PUBLISH(one.channel), { cause }))
        }
      }
    }
    lane.busy = false
    this.#lanes.delete(id)
  }

  async #commit(batch: Waiting[]): Promise<void> {
    if (this.#closed) throw new FLOTILLA_WS_ERR_CLOSED()
    const connection = this.#open()
    const pipeline = connection.pipeline()
    for (const [index, { keys, args }] of batch.entries()) {
      // The first carries the script's text; after it the server knows the script.
      if (index === 0) publishScript.queue(pipeline, keys, args)
      else pipeline.evalsha(publishScript.sha, keys.length, ...keys, ...args)
    }
    pipeline.call('WAIT', REPLICAS, this.timeout)
    const results = (await pipeline.exec()) ?? []
    // ioredis itself looks again only where all of a pipeline was redirected, and a WAIT never is.
    if (isCluster(connection) && results.some(([error]) => error?.message.startsWith('MOVED '))) {
      connection.refreshSlotsCache()
    }
    const [waitError, count] = results[batch.length] ?? [new Error('no reply')]
    // What confirms a master that is being replaced will follow another, without these.
    const counts = Number(count) >= REPLICAS && !(await isMasterReplaced(this.client, connection))
    const confirmed = counts ? Number(count) : 0
    for (const [index, { channel, resolve, reject }] of batch.entries()) {
      const [error, reply] = results[index] ?? [new Error('no reply')]
      const cause = error ?? waitError
      if (cause) reject(Object.assign(new FLOTILLA_WS_ERR_PUBLISH(channel), { cause }))
      else if (confirmed < REPLICAS) {
        reject(new FLOTILLA_WS_ERR_NOT_DURABLE(channel, confirmed, REPLICAS))
      } else resolve(reply as PublishReply)
    }
  }

  #open(): RedisClient {
    if (!this.#connection) {
      const { client } = this
      const connection: RedisClient = isCluster(client)
        ? client.duplicate([], {
            redisOptions: { ...client.options.redisOptions, ...this.#limits(client.options.redisOptions) }
          } as Parameters<typeof client.duplicate>[1])
        : client.duplicate(this.#limits(client.options))
      // Each failure reaches its publish; without a listener ioredis would write them to the console as well.
      connection.on('error', () => undefined)
      this.#connection = connection
    }
    return this.#connection
  }

  /** A WAIT may take its own time beside that of any command, where that is limited. */
  #limits({ commandTimeout, socketTimeout }: Limits = {}): { [Name in keyof Limits]?: number } {
    return {
      ...(commandTimeout !== undefined && { commandTimeout: commandTimeout + this.timeout }),
      ...(socketTimeout !== undefined && { socketTimeout: socketTimeout + this.timeout })
    }
  }

  close(): void {
    this.#closed = true
    this.#connection?.disconnect()
  }
}
