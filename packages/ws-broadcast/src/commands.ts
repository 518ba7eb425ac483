import type { FastifyBaseLogger } from 'fastify'
import type { Calls } from './call/calls.js'
import { isChannelName, type ChannelRule, type ChannelRules } from './channel-rules.js'
import type { Connection } from './connection.js'
import type { Hubs } from './hubs.js'
import { MAX_DEPTH, readJsonObject } from './json-input.js'
import type { BroadcastConfig, ChannelAction } from './options.js'
import { Authorization } from './authorization.js'
import { isPosition, START } from './position.js'
import type { Presence } from './presence.js'
import { CLOSE, type ErrorCode, type Member, type Position } from './protocol.js'
import type { InternalPublishOptions, Publishing, PublishResult } from './publishing.js'
import type { Move } from './membership.js'
import { Refusal, toRefusal } from './refusal.js'
import { Subscriptions, type Introduction } from './subscriptions.js'
import { CLIENT_GONE, Turns } from './turns.js'

/** Frames that are no commands before a client is sent away. */
const MAX_BAD_FRAMES = 10
/** `retryAfter` of a client that sent too many commands. */
const RATE_LIMIT_PAUSE_MS = 1000
/** Between two log lines about commands that failed. */
const REPORT_PAUSE_MS = 60_000

/** Why a text was not taken for a command. */
const NO_COMMAND = {
  bad_frame: 'Send one JSON object a frame',
  too_deep: `Nest objects and lists at most ${MAX_DEPTH} levels deep`
}

export interface CommandParts {
  readonly config: BroadcastConfig
  readonly rules: ChannelRules
  readonly hubs: Hubs
  readonly presence: Presence
  readonly publishing: Publishing
  readonly calls: Calls
  readonly log: FastifyBaseLogger
}

/** Answers what clients send. Nothing a client sends makes it throw. */
export class Commands {
  readonly #parts: CommandParts
  readonly #subscriptions: Subscriptions
  readonly #authorization: Authorization
  readonly #turns = new Turns()
  /** Commands that failed since the last log line. */
  #failures = 0
  #quietUntil = 0
  /** The last presence list that each client has asked for. */
  readonly #lists = new WeakMap<Connection, Promise<unknown>>()

  constructor(parts: CommandParts) {
    this.#parts = parts
    this.#subscriptions = new Subscriptions(parts)
    this.#authorization = new Authorization(parts.config.authorize)
  }

  /** A frame of a client. */
  receive(connection: Connection, data: Buffer, isBinary: boolean): void {
    connection.heard = true
    if (!connection.open) return
    if (isBinary) {
      connection.close(CLOSE.BINARY, 'text frames only')
      return
    }
    if (data.length > this.#parts.config.maxPayload) {
      connection.close(CLOSE.TOO_LARGE, 'message too large')
      return
    }
    if (connection.command(data)) return
    connection.send({
      type: 'error',
      code: 'rate_limited',
      message: 'Too many commands; slow down',
      retryAfter: RATE_LIMIT_PAUSE_MS
    })
    connection.close(CLOSE.RATE_LIMITED, 'too many commands')
  }

  /** Carries out a command of a client. Never rejects. */
  async execute(connection: Connection, data: Buffer): Promise<void> {
    const frame = readJsonObject(data.toString())
    if (typeof frame === 'string') this.#bad(connection, frame, undefined, NO_COMMAND[frame])
    else await this.#run(connection, frame)
  }

  /** Subscribes on the server's behalf: the channel's rule decides, `authorize` only whether it sees who is there. */
  async subscribe(connection: Connection, channel: string, since?: Position): Promise<void> {
    const rule = this.#parts.rules.get(channel)
    const introduction = await this.#subscriptions.introduction(connection, channel, rule)?.()
    await this.#subscriptions.add(connection, channel, rule, { since, introduction })
  }

  /** The server moves a connection, in turn with what its client asks of the channel. Never rejects. */
  async move(move: Move, connection: Connection, channel: string): Promise<void> {
    try {
      if (move === 'enter') await this.#enter(connection, channel)
      else await this.#turns.take(connection, channel, undefined, () => this.#leave(connection, channel))
    } catch (error) {
      if (error !== CLIENT_GONE && connection.open) this.#report(error, channel)
    }
  }

  /** The connection is gone. */
  ended(connection: Connection): void {
    this.#turns.end(connection)
    this.#parts.calls.end(connection)
    this.#subscriptions.endAll(connection)
  }

  async #enter(connection: Connection, channel: string): Promise<void> {
    const rule = this.#parts.rules.get(channel)
    const introduce = this.#subscriptions.introduction(connection, channel, rule)
    let introduction: Introduction | undefined
    const ask = introduce && (async () => void (introduction = await introduce()))
    await this.#turns.take(connection, channel, ask, async () => {
      await this.#subscriptions.settled(connection, channel)
      // What its client has subscribed to stays where it stands.
      if (connection.subscriptions.has(channel)) return
      await this.#subscriptions.add(connection, channel, rule, { since: undefined, introduction })
    })
  }

  #leave(connection: Connection, channel: string): void {
    if (!this.#subscriptions.end(connection, channel)) return
    connection.send({ type: 'unsubscribed', channel, byServer: true })
  }

  async #run(connection: Connection, frame: Record<string, unknown>): Promise<void> {
    const { id, channel } = frame
    const answer = typeof id === 'string' || typeof id === 'number' ? { id: shorten(id) } : {}
    try {
      await this.#dispatch(connection, frame, answer)
    } catch (error) {
      if (error === CLIENT_GONE) return
      const refusal = toRefusal(error)
      if (refusal.code === 'unavailable') this.#report(error, channel)
      if (refusal.code === 'bad_frame' || refusal.code === 'unknown_command') {
        this.#bad(connection, refusal.code, answer.id, refusal.message)
        return
      }
      connection.send({
        type: 'error',
        ...answer,
        ...(isChannelName(channel) && { channel }),
        code: refusal.code,
        message: refusal.message,
        ...(refusal.code === 'unavailable' && { retryAfter: this.#subscriptions.retryAfterMs })
      })
    }
  }

  /** While Redis is away, every command of every client fails: one log line a minute. */
  #report(err: unknown, channel: unknown): void {
    this.#failures += 1
    const now = performance.now()
    if (now < this.#quietUntil) return
    this.#quietUntil = now + REPORT_PAUSE_MS
    this.#parts.log.warn({ err, channel, failures: this.#failures }, 'commands of clients failed')
    this.#failures = 0
  }

  async #dispatch(
    connection: Connection,
    frame: Record<string, unknown>,
    answer: { id?: number | string }
  ): Promise<void> {
    switch (frame['type']) {
      case 'ping':
        connection.send({ type: 'pong', ...answer })
        return
      // Answers to our ping count as a sign of life, as anything does.
      case 'pong':
        return
      case 'subscribe':
        await this.#subscribe(connection, frame, answer)
        return
      case 'unsubscribe': {
        const { channel } = this.#find(frame)
        await this.#inTurn(connection, channel, undefined, () => {
          this.#subscriptions.end(connection, channel)
          connection.send({ type: 'unsubscribed', ...answer, channel })
        })
        return
      }
      case 'publish':
        await this.#publish(connection, frame, answer)
        return
      case 'presence': {
        const { channel, rule } = this.#find(frame)
        const members = await this.#inTurn(connection, channel, 'presence', () => {
          if (!rule.presence) throw new Refusal('no_presence', 'This channel keeps no presence')
          return this.#list(connection, channel)
        })
        connection.send({ type: 'presence', ...answer, channel, members })
        return
      }
      case 'call': {
        const { name, data } = frame
        await this.#parts.calls.answer(connection, { name, data, id: answer.id })
        return
      }
      case 'cancel':
        this.#parts.calls.cancel(connection, answer.id)
        return
      default:
        throw new Refusal(
          'unknown_command',
          'Known types: subscribe, unsubscribe, publish, presence, call, cancel, ping'
        )
    }
  }

  async #subscribe(
    connection: Connection,
    frame: Record<string, unknown>,
    answer: { id?: number | string }
  ): Promise<void> {
    const { channel, rule } = this.#find(frame)
    const since = readSince(frame['since'])
    const { allow, introduction } = this.#permissionToSubscribe(connection, channel, rule)
    await this.#turns.take(connection, channel, allow, () =>
      this.#subscriptions.add(connection, channel, rule, {
        since,
        id: answer.id,
        introduction: introduction()
      })
    )
  }

  /** What the app is asked before a subscribe. Apart from it: what waits for the app must not keep the command alive. */
  #permissionToSubscribe(
    connection: Connection,
    channel: string,
    rule: ChannelRule
  ): { allow: (() => Promise<void>) | undefined; introduction: () => Introduction | undefined } {
    const allow = this.#authorization.toDo(connection, channel, 'subscribe')
    const introduce = this.#subscriptions.introduction(connection, channel, rule)
    let introduction: Introduction | undefined
    const ask = async (): Promise<void> => {
      await allow?.()
      introduction = await introduce?.()
    }
    return { allow: allow || introduce ? ask : undefined, introduction: () => introduction }
  }

  async #publish(
    connection: Connection,
    frame: Record<string, unknown>,
    answer: { id?: number | string }
  ): Promise<void> {
    const { channel, rule } = this.#find(frame)
    const { ask, message } = this.#authorization.toPublish(connection, channel, rule, frame)
    const { offset, epoch } = await this.#turns.take(connection, channel, ask, () => {
      const { data, key } = message()
      const { userId } = connection.identity
      const options: InternalPublishOptions = {
        from: { ...(userId !== undefined && { userId }), connection: connection.id },
        // Keys are the user's own: no other user, whatever its name, can suppress messages by guessing them.
        ...(key !== undefined && { idempotencyKey: JSON.stringify([userId ?? '', key]) })
      }
      const publish = (): Promise<PublishResult> => this.#parts.publishing.publish(channel, data, options)
      // A client that has asked to subscribe before gets its own message.
      const joining = this.#subscriptions.joining(connection, channel)
      return joining ? joining.then(publish, publish) : publish()
    })
    // Without an id no answer is expected.
    if (answer.id === undefined) return
    connection.send({ type: 'published', ...answer, channel, ...(offset && epoch && { offset, epoch }) })
  }

  #find(frame: Record<string, unknown>): { channel: string; rule: ChannelRule } {
    const { channel } = frame
    if (!isChannelName(channel)) {
      throw new Refusal('bad_channel', 'A channel is a name of 1 to 200 characters without spaces or braces')
    }
    const rule = this.#parts.rules.find(channel)
    if (!rule) throw new Refusal('unknown_channel', 'There is no such channel')
    return { channel, rule }
  }

  /** One list at a time for each client, and none while it has not taken the last: they may be long. */
  #list(connection: Connection, channel: string): Promise<Member[]> {
    const before = this.#lists.get(connection)
    const list = async (): Promise<Member[]> => {
      await before
      // Who has asked to subscribe finds itself in it.
      await this.#subscriptions.settled(connection, channel)
      await connection.drained()
      return connection.open ? this.#parts.presence.list(channel) : []
    }
    const members = list()
    this.#lists.set(
      connection,
      members.catch(() => undefined)
    )
    return members
  }

  /** Does what a command asks, once `authorize` agrees (leaving needs no leave) and after earlier commands to the channel. */
  #inTurn<Result>(
    connection: Connection,
    channel: string,
    action: ChannelAction | undefined,
    act: () => Result | Promise<Result>
  ): Result | Promise<Result> {
    const allow = action && this.#authorization.toDo(connection, channel, action)
    return this.#turns.take(connection, channel, allow, act)
  }

  #bad(
    connection: Connection,
    code: ErrorCode | (string & {}),
    id: number | string | undefined,
    message: string
  ): void {
    connection.send({ type: 'error', ...(id !== undefined && { id }), code, message })
    connection.badFrames += 1
    if (connection.badFrames >= MAX_BAD_FRAMES) connection.close(CLOSE.BAD_FRAMES, 'not this protocol')
  }
}

function readSince(since: unknown): Position | undefined {
  if (since === undefined || since === null) return undefined
  if (!isPosition(since))
    throw new Refusal('bad_position', 'since is { epoch, offset } as a message carries them')
  return since.epoch === '' ? START : { epoch: since.epoch, offset: since.offset }
}

function shorten(id: string | number): string | number {
  return typeof id === 'string' ? id.slice(0, 64) : id
}
