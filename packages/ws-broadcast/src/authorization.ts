import type { ChannelRule } from './channel-rules.js'
import type { Connection } from './connection.js'
import type { BroadcastConfig, ChannelAction } from './options.js'
import { Refusal } from './refusal.js'
import { validate } from './schema.js'

/** What an idempotency key of a client may be. */
const MAX_KEY = 128

/** What the app is asked before a publish, and what it made of the message. */
export interface PublishPermission {
  /** Rejects if it may not be published; undefined if the app has nothing to say. */
  readonly ask: (() => Promise<void>) | undefined
  /** @throws Refusal */
  readonly message: () => { data: unknown; key: string | undefined }
}

/** Asks the app what a client may do. */
export class Authorization {
  readonly #authorize: BroadcastConfig['authorize']

  constructor(authorize: BroadcastConfig['authorize']) {
    this.#authorize = authorize
  }

  /** Asks `authorize`, if there is one. */
  toDo(connection: Connection, channel: string, action: ChannelAction): (() => Promise<void>) | undefined {
    const authorize = this.#authorize
    if (!authorize) return undefined
    return async () => {
      if (await authorize(connection.request!, channel, action)) return
      throw new Refusal('forbidden', `You may not ${action === 'presence' ? 'see who is' : action} here`)
    }
  }

  toPublish(
    connection: Connection,
    channel: string,
    { clientPublish, schema, onPublish }: ChannelRule,
    frame: Record<string, unknown>
  ): PublishPermission {
    const allow = this.toDo(connection, channel, 'publish')
    let { data } = frame
    const check = (): string | undefined => {
      if (!clientPublish) throw new Refusal('forbidden', 'Only the server publishes here')
      if (data === undefined) throw new Refusal('bad_frame', 'A publish carries data')
      const { key } = frame
      if (key === undefined) return undefined
      if (typeof key === 'string' && key !== '' && key.length <= MAX_KEY) return key
      throw new Refusal('bad_frame', `A key is a string of 1 to ${MAX_KEY} characters`)
    }
    const ask = async (): Promise<void> => {
      await allow?.()
      check()
      if (schema) data = await validate(schema, data)
      if (!onPublish) return
      const { request, identity, id } = connection
      data = await onPublish({ request: request!, identity, connection: id, channel, data })
      if (data === undefined) throw new Refusal('forbidden', 'The server did not take this message')
    }
    return { ask: schema || onPublish ? ask : allow, message: () => ({ key: check(), data }) }
  }
}
