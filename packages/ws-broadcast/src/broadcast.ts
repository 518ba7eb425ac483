import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { RawData, WebSocket } from 'ws'
import type { CallHandler, CallOptions, Calls } from './call/calls.js'
import { isSchema } from './schema.js'
import type { Commands } from './commands.js'
import { Connection, type ConnectionContext } from './connection.js'
import { readFilter, type ConnectionFilter, type Connections } from './connections.js'
import type { ChannelRules } from './channel-rules.js'
import type { Drain } from './drain.js'
import {
  FLOTILLA_WS_ERR_ATTACHED,
  FLOTILLA_WS_ERR_CALL_LATE,
  FLOTILLA_WS_ERR_CLOSE_CODE,
  FLOTILLA_WS_ERR_NO_HISTORY,
  FLOTILLA_WS_ERR_NO_PRESENCE,
  FLOTILLA_WS_ERR_OPTION
} from './errors.js'
import type { Hubs } from './hubs.js'
import { readIdentity, type Identity } from './identity.js'
import type { Membership } from './membership.js'
import type { Presence } from './presence.js'
import { CLOSE, type ClientLimits, type Member, type Position } from './protocol.js'
import type { Publishing, PublishOptions, PublishResult } from './publishing.js'
import { isCloseCode, type Revocation } from './revocation.js'
import type { HistoryOptions, StoredMessage, StoredMessages } from './stored-messages.js'
import type { Transport } from './transport.js'
import type { UpgradeGate } from './upgrade.js'
import { limitPayload, releaseUpgrade, WsTransport } from './ws-transport.js'

/** How a socket of the app's own joins. */
export interface AttachOptions {
  /**
   * Subscribe to these at once, for an other end that only listens (that of `./client` subscribes itself); `authorize` is not
   * asked whether it may, only whether it sees who is there.
   */
  channels?: readonly string[]
  /** Whose connection it is. Default: the request's session. */
  identity?: Identity
}

/** The close frame of the connections. */
export interface DisconnectOptions {
  /**
   * 1000 or 3000 to 4999: the others are the protocol's own (RFC 6455 §7.4). Default 4403. The client comes back by itself after
   * any but 4400, 4401 and 4403.
   */
  code?: number
  /** What is over 123 bytes is cut off. Default `'disconnected'`. */
  reason?: string
}

/** Figures of this instance. */
export interface BroadcastStats {
  /** Connections of this instance. */
  readonly connections: number
  /** Channels that this instance listens to in Redis. */
  readonly channels: number
  /** Memberships of this instance's connections. */
  readonly subscriptions: number
  /** Connections over their high-water mark. */
  readonly slow: number
  /** Bytes that wait for sockets. */
  readonly bufferedBytes: number
}

export interface BroadcastParts {
  readonly rules: ChannelRules
  readonly connections: Connections
  readonly hubs: Hubs
  readonly commands: Commands
  readonly calls: Calls
  readonly publishing: Publishing
  readonly presence: Presence
  readonly stored: StoredMessages
  readonly membership: Membership
  readonly revocation: Revocation
  readonly gate: UpgradeGate
  readonly drain: Drain
  readonly context: ConnectionContext
  readonly ping: number
  readonly idempotencyTtl: number
  readonly limits: ClientLimits
  readonly log: FastifyBaseLogger
  /** Whether an option reads a connection's request after the upgrade. */
  readonly keepRequests: boolean
}

/** Characters of the name of a call. */
const MAX_CALL_NAME = 200

const kConnection = Symbol('flotilla.ws.connection')

interface Attached extends WebSocket {
  [kConnection]?: Connection
}

/** `fastify.broadcast`. */
export class Broadcast {
  readonly #parts: BroadcastParts
  /** A connection was opened without its request: it cannot be asked about calls. */
  #dropsRequests = false

  constructor(parts: BroadcastParts) {
    this.#parts = parts
  }

  /**
   * Sends data to every subscriber of a channel, on all instances. With history it resolves with the message's
   * position once Redis has stored it; without, once Redis has taken it.
   *
   * @throws FLOTILLA_WS_ERR_UNKNOWN_CHANNEL, _CHANNEL_NAME, _NO_HISTORY, _OPTION, _UNSERIALISABLE, _TOO_LARGE,
   * _PUBLISH, _NOT_DURABLE, _CLOSED
   */
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<PublishResult> {
    return this.#parts.publishing.publish(channel, data, options)
  }

  /**
   * Answers `client.call(name, data)`: what the handler returns reaches the client. Throw a {@link CallRefusedError} to refuse
   * with a code of your own; any other error becomes `internal` for the client and one log line a minute here. `authorize` is not
   * asked: the handler decides by `identity`. On every instance, before the first connection.
   *
   * @throws FLOTILLA_WS_ERR_OPTION, FLOTILLA_WS_ERR_CALL_LATE
   */
  onCall(name: string, handler: CallHandler): void
  onCall<Data>(name: string, options: CallOptions<Data>, handler: CallHandler<Data>): void
  onCall<Data>(
    name: string,
    options: CallOptions<Data> | CallHandler,
    handler: CallHandler<Data> | undefined = typeof options === 'function' ? options : undefined
  ): void {
    const { calls } = this.#parts
    if (typeof name !== 'string' || name === '' || name.length > MAX_CALL_NAME) {
      throw badCall(`takes a name of 1 to ${MAX_CALL_NAME} characters`)
    }
    if (typeof handler !== 'function') throw badCall(`of '${name}' takes a handler, got ${typeof handler}`)
    const schema = typeof options === 'function' ? undefined : options.schema
    if (schema !== undefined && !isSchema(schema)) {
      throw badCall(`of '${name}' takes 'schema' of Zod, Valibot or another library with Standard Schema`)
    }
    if (calls.has(name)) throw badCall(`of '${name}' was called before; answer each call once`)
    if (this.#dropsRequests) throw new FLOTILLA_WS_ERR_CALL_LATE(name)
    calls.register(name, schema, handler)
  }

  /**
   * Makes a socket of one's own `@fastify/websocket` route a client. It speaks the protocol from then on; what
   * the route checks about its request (origin, login) is the route's to check.
   *
   * @returns the connection's id
   * @throws FLOTILLA_WS_ERR_ATTACHED, FLOTILLA_WS_ERR_OPTION
   */
  attach(socket: WebSocket, request: FastifyRequest, options: AttachOptions = {}): string {
    if ((socket as Attached)[kConnection]) throw new FLOTILLA_WS_ERR_ATTACHED()
    // One that is no identity must not make the connection somebody else's: the session's.
    const identity =
      options.identity === undefined ? this.#parts.gate.identityOf(request) : readIdentity(options.identity)
    if (!identity) {
      throw new FLOTILLA_WS_ERR_OPTION("@flotilla/ws-broadcast: attach() takes 'identity' as an object")
    }
    releaseUpgrade(socket)
    limitPayload(socket, this.#parts.limits.maxPayload)
    const connection = this.open(new WsTransport(socket), request, identity)
    ;(socket as Attached)[kConnection] = connection
    socket.on('message', onMessage)
    socket.on('pong', onPong)
    socket.on('close', onClose)
    // ws closes by itself after an error; without a listener it would take the process down.
    socket.on('error', ignore)
    if (socket.readyState === socket.CLOSED) {
      // It closed before it came here, and will not say so again.
      connection.ended(1006)
      return connection.id
    }
    for (const channel of options.channels ?? []) void this.enter(connection, channel)
    return connection.id
  }

  /**
   * Who is in a channel, on all instances.
   *
   * @throws FLOTILLA_WS_ERR_NO_PRESENCE, FLOTILLA_WS_ERR_UNKNOWN_CHANNEL; the client's error when Redis is away
   */
  async presence(channel: string): Promise<Member[]> {
    if (!this.#parts.rules.get(channel).presence) throw new FLOTILLA_WS_ERR_NO_PRESENCE(channel)
    return this.#parts.presence.list(channel)
  }

  /**
   * Closes the connections that match, on all instances; here at once, elsewhere when the bus has told them.
   *
   * @throws FLOTILLA_WS_ERR_CLOSE_CODE; TypeError for a filter that names no connection, or not by strings; the client's error when
   * Redis is away
   */
  async disconnect(filter: ConnectionFilter, options: DisconnectOptions = {}): Promise<void> {
    assertFilter('disconnect', filter)
    const { code = CLOSE.DISCONNECTED, reason = 'disconnected' } = options
    if (!isCloseCode(code)) throw new FLOTILLA_WS_ERR_CLOSE_CODE(String(code))
    await this.#parts.revocation.disconnect(filter, code, reason)
  }

  /**
   * Puts the connections that match into a channel, on all instances, for as long as each connection lasts. `authorize` is not
   * asked. One that is in the channel already stays as it is. Resolves when it is done here and the other instances have been
   * notified.
   *
   * @throws FLOTILLA_WS_ERR_UNKNOWN_CHANNEL, FLOTILLA_WS_ERR_CHANNEL_NAME; TypeError as `disconnect`; the client's error when
   * Redis is away
   */
  async subscribe(filter: ConnectionFilter, channel: string): Promise<void> {
    assertFilter('subscribe', filter)
    this.#parts.rules.get(channel)
    await this.#parts.membership.move('enter', filter, channel)
  }

  /**
   * Takes the connections that match out of a channel, also if they subscribed themselves; their clients get an `unsubscribed` error. It does
   * not keep them out: `authorize` does. Resolves and throws as `subscribe`.
   */
  async unsubscribe(filter: ConnectionFilter, channel: string): Promise<void> {
    assertFilter('unsubscribe', filter)
    this.#parts.rules.get(channel)
    await this.#parts.membership.move('leave', filter, channel)
  }

  /**
   * What a channel's history keeps, oldest first: the last `limit` messages, those before a position, or the first after one.
   *
   * @throws FLOTILLA_WS_ERR_NO_HISTORY, FLOTILLA_WS_ERR_UNKNOWN_CHANNEL, FLOTILLA_WS_ERR_OPTION; the client's error when Redis is
   * away
   */
  async history(channel: string, options: HistoryOptions = {}): Promise<StoredMessage[]> {
    if (!this.#parts.rules.get(channel).history) throw new FLOTILLA_WS_ERR_NO_HISTORY(channel)
    return this.#parts.stored.read(channel, options)
  }

  /** Figures of this instance, from its own memory. */
  stats(): BroadcastStats {
    let subscriptions = 0
    let slow = 0
    let bufferedBytes = 0
    for (const connection of this.#parts.connections) {
      subscriptions += connection.subscriptions.size
      if (connection.slow) slow += 1
      bufferedBytes += connection.transport.buffered
    }
    const { connections, hubs } = this.#parts
    return { connections: connections.size, channels: hubs.size, subscriptions, slow, bufferedBytes }
  }

  /** @internal A connection over any transport. */
  open(transport: Transport, request: FastifyRequest, identity: Identity): Connection {
    const { connections, context, revocation, drain, ping, idempotencyTtl, limits, calls } = this.#parts
    const keepRequests = this.#parts.keepRequests || calls.size > 0
    this.#dropsRequests ||= !keepRequests
    const connection = new Connection(context, transport, keepRequests ? request : undefined, identity)
    connections.add(connection)
    connection.send({ type: 'welcome', connection: connection.id, ping, idempotencyTtl, limits })
    if (revocation.isRevoked(identity)) connection.close(CLOSE.UNAUTHORIZED, 'session ended')
    else if (drain.draining) drain.sendAway(connection)
    return connection
  }

  /** @internal Subscribes on the server's behalf; where that fails it tells the client and is false. */
  async enter(connection: Connection, channel: string, since?: Position): Promise<boolean> {
    try {
      await this.#parts.commands.subscribe(connection, channel, since)
      return true
    } catch (err) {
      this.#parts.log.warn({ err, channel }, 'a connection could not be subscribed')
      connection.send({
        type: 'error',
        channel,
        code: 'unavailable',
        message: 'This did not work just now; try again'
      })
      return false
    }
  }
}

// Shared by all sockets: a closure each would be most of what an idle connection costs here.
function onMessage(this: Attached, data: RawData, isBinary: boolean): void {
  this[kConnection]!.received(toBuffer(data), isBinary)
}

function onPong(this: Attached): void {
  this[kConnection]!.heard = true
}

function onClose(this: Attached, code: number): void {
  this[kConnection]!.ended(code)
}

/** A filter that names no connection must not mean all of them. */
function assertFilter(method: string, filter: unknown): void {
  if (readFilter(filter)) return
  throw new TypeError(`${method}() takes { userId }, { ref } or { connection }, each a string`)
}

function badCall(problem: string): Error {
  return new FLOTILLA_WS_ERR_OPTION(`@flotilla/ws-broadcast: onCall() ${problem}`)
}

function ignore(): void {}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data)
}
