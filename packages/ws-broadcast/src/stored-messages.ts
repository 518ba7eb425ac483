import type { ConsistencyToken } from '@flotilla/core'
import type { RedisClient } from '@flotilla/redis'
import type { ChannelKeys } from './channel-keys.js'
import { FLOTILLA_WS_ERR_OPTION } from './errors.js'
import { isPosition } from './position.js'
import type { Position, Sender } from './protocol.js'

/** Which part of a channel's history to read. */
export interface HistoryOptions {
  /** At most so many messages, 1 to 1000. Default 100. */
  limit?: number
  /** Only messages before this position: for pages further back, that of the oldest message so far. */
  before?: Position
  /** Only messages after this position. Without `before`, the first ones after it. */
  after?: Position
}

/** A message that a channel's history keeps. */
export interface StoredMessage {
  /** What was published. */
  readonly data: unknown
  /** Where it stands. */
  readonly position: Position
  /** The client that published it, if one did. */
  readonly from?: Sender
  /** Of `publish({ consistency })`. */
  readonly token?: ConsistencyToken
}

const MAX_LIMIT = 1000

/** Reads what channels keep, for the app. */
export class StoredMessages {
  readonly #client: RedisClient
  readonly #keys: ChannelKeys

  constructor(client: RedisClient, keys: ChannelKeys) {
    this.#client = client
    this.#keys = keys
  }

  /**
   * Oldest first. Without `after`, the last ones.
   *
   * @throws FLOTILLA_WS_ERR_OPTION; the client's error when Redis is away
   */
  async read(channel: string, { limit = 100, before, after }: HistoryOptions): Promise<StoredMessage[]> {
    if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
      throw badOption('limit', `a whole number from 1 to ${MAX_LIMIT}`, limit)
    }
    const key = this.#keys.history(channel)
    const from = after === undefined ? '-' : `(${readOffset('after', after)}`
    const to = before === undefined ? '+' : `(${readOffset('before', before)}`
    if (after !== undefined && before === undefined) {
      return toMessages(await this.#client.xrange(key, from, to, 'COUNT', limit))
    }
    return toMessages((await this.#client.xrevrange(key, to, from, 'COUNT', limit)).toReversed())
  }
}

function readOffset(name: string, position: unknown): string {
  if (isPosition(position)) return position.offset
  throw badOption(name, 'a position { epoch, offset } as messages carry them', position)
}

function badOption(name: string, expected: string, got: unknown): Error {
  const shown = (JSON.stringify(got) as string | undefined)?.slice(0, 60) ?? typeof got
  return new FLOTILLA_WS_ERR_OPTION(
    `@flotilla/ws-broadcast: history() takes '${name}' as ${expected}, got ${shown}`
  )
}

function toMessages(entries: readonly [id: string, fields: string[]][]): StoredMessage[] {
  return entries.map(([offset, fields]) => {
    const field = (name: string): string => {
      // Names and values take turns.
      const at = fields.findIndex((value, index) => index % 2 === 0 && value === name)
      return at === -1 ? '' : fields[at + 1]!
    }
    const { data, from, token } = JSON.parse(`${field('b')}}`) as Omit<StoredMessage, 'position'>
    return {
      data,
      position: { epoch: field('e'), offset },
      ...(from && { from }),
      ...(token !== undefined && { token })
    }
  })
}
