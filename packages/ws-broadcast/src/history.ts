import { randomBytes } from 'node:crypto'
import { defineScript, isCluster, type RedisClient } from '@flotilla/redis'
import type { ChannelKeys } from './channel-keys.js'
import { readAddress } from './envelope.js'
import { historyLua } from './lua/history.js'
import { MessageFrame } from './message-frame.js'
import { compareOffsets, START } from './position.js'
import type { GapReason, Position } from './protocol.js'

type HistoryReply = [
  epoch: Buffer,
  last: Buffer,
  from: Buffer,
  entries: [id: Buffer, fields: Buffer[]][],
  more: number
]

const historyScript = defineScript<HistoryReply>({ name: 'ws-history', keys: 2, lua: historyLua })

/** What a reader at one position has not seen. */
export interface HistoryPage {
  /** Where the log ends. */
  readonly end: Position
  /** Where the messages of this page continue from: the position asked for, unless there is a gap. */
  readonly from: Position
  /** Set where messages between the position asked for and `from` may be missing. */
  readonly gap: GapReason | undefined
  readonly messages: readonly MessageFrame[]
  /** False where more follows. */
  readonly complete: boolean
}

/** Names a log that begins. */
export function newEpoch(): string {
  return randomBytes(6).toString('hex')
}

/**
 * One page: about as much as a socket takes at once. Counted in bytes as well, since many long messages would take Redis and the
 * network longer than a command may, each time anew.
 */
const PAGE = { messages: 200, bytes: 262_144 }

/**
 * How long the epoch of a channel that nothing was published to is kept, in milliseconds; an instance with members renews it.
 * Short, since any client that may subscribe can name channels.
 */
const EMPTY_TTL = 3_600_000

/** Channels asked about in one pipeline. */
const PIPELINE = 256

interface Asked {
  readonly channel: string
  readonly resolve: (end: Position) => void
  readonly reject: (error: unknown) => void
}

/** Reads channel histories; readers of the same position share one read. */
export class HistoryReader {
  readonly #reads = new Map<string, Promise<HistoryPage>>()
  #asked: Asked[] = []

  constructor(
    private readonly client: RedisClient,
    private readonly keys: ChannelKeys
  ) {}

  /** Where a channel's log ends now. */
  async end(channel: string): Promise<Position> {
    // A pipeline on Cluster stays with one node.
    if (isCluster(this.client)) {
      const [epoch, last] = await this.#run(channel, START, 0)
      return { epoch: epoch.toString(), offset: last.toString() }
    }
    return new Promise((resolve, reject) => {
      // All that are asked about in one turn of the event loop go out together: many channels are often joined at once.
      if (this.#asked.length === 0) setImmediate(() => this.#readEnds())
      this.#asked.push({ channel, resolve, reject })
    })
  }

  /** The messages after `since`, oldest first. */
  read(channel: string, since: Position): Promise<HistoryPage> {
    const id = `${channel} ${since.epoch} ${since.offset}`
    const running = this.#reads.get(id)
    if (running) return running
    const read = this.#run(channel, since, PAGE.messages)
      .then((reply) => toPage(since, reply))
      .finally(() => this.#reads.delete(id))
    this.#reads.set(id, read)
    return read
  }

  #readEnds(): void {
    const asked = this.#asked
    this.#asked = []
    for (let index = 0; index < asked.length; index += PIPELINE) {
      const part = asked.slice(index, index + PIPELINE)
      this.#readEndsOf(part).catch((error: unknown) => {
        for (const { reject } of part) reject(error)
      })
    }
  }

  async #readEndsOf(asked: readonly Asked[]): Promise<void> {
    const pipeline = this.client.pipeline()
    for (const { channel } of asked) {
      historyScript.queue(pipeline, this.#keysOf(channel), [
        START.epoch,
        START.offset,
        0,
        0,
        newEpoch(),
        EMPTY_TTL
      ])
    }
    const results = (await pipeline.exec()) ?? []
    for (const [index, { resolve, reject }] of asked.entries()) {
      const [error, reply] = results[index] ?? [new Error('no reply')]
      if (error) {
        reject(error)
        continue
      }
      const [epoch, offset] = reply as [epoch: string, last: string]
      resolve({ epoch, offset })
    }
  }

  #keysOf(channel: string): string[] {
    return [this.keys.meta(channel), this.keys.history(channel)]
  }

  #run(channel: string, since: Position, count: number): Promise<HistoryReply> {
    return historyScript.runBuffer<HistoryReply>(this.client, this.#keysOf(channel), [
      since.epoch,
      since.offset,
      count,
      PAGE.bytes,
      newEpoch(),
      EMPTY_TTL
    ])
  }
}

function toPage(since: Position, [epoch, last, read, entries, more]: HistoryReply): HistoryPage {
  const end = { epoch: epoch.toString(), offset: last.toString() }
  const readFrom = read.toString()
  const messages = entries.map(([id, fields]) => toMessage(id, fields))
  const first = messages[0]
  const complete = more === 0
  const page = (from: Position, gap?: GapReason): HistoryPage => ({ end, from, gap, messages, complete })

  // The position just before the first message that is left; with none left, the end.
  const remaining = first?.before ?? end
  if (readFrom === '') return page(remaining, 'epoch')
  if (compareOffsets(remaining.offset, readFrom) > 0) return page(remaining, 'trimmed')
  if (since.epoch === end.epoch && compareOffsets(since.offset, end.offset) > 0) return page(end, 'ahead')
  // A reader of all that is kept stands in the epoch in which it begins.
  return page({ epoch: since.epoch || remaining.epoch, offset: readFrom })
}

function toMessage(id: Buffer, fields: Buffer[]): MessageFrame {
  const offset = id.toString()
  let head: Buffer = Buffer.alloc(0)
  let previous = '0-0'
  let epoch = ''
  let address = ''
  for (let index = 0; index + 1 < fields.length; index += 2) {
    const value = fields[index + 1]!
    const name = fields[index]!.toString()
    if (name === 'b') head = value
    else if (name === 'p') previous = value.toString()
    else if (name === 'e') epoch = value.toString()
    else if (name === 'k') address = value.toString()
  }
  const body = Buffer.concat([head, Buffer.from(`,"offset":"${offset}","epoch":"${epoch}"}`)])
  return new MessageFrame({ kind: 'm', offset, previous, epoch, ...readAddress(address), body })
}
