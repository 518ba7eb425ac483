import type { FastifyReply, FastifyRequest } from 'fastify'
import type { WebSocket } from 'ws'
import type { Connections } from './connections.js'
import type { Drain } from './drain.js'
import {
  FLOTILLA_WS_ERR_DRAINING,
  FLOTILLA_WS_ERR_FULL,
  FLOTILLA_WS_ERR_ORIGIN,
  FLOTILLA_WS_ERR_UNAUTHENTICATED
} from './errors.js'
import { readIdentity, sessionIdentity, type Identity } from './identity.js'
import type { BroadcastConfig } from './options.js'
import { isOriginAllowed } from './origin.js'
import { CLOSE } from './protocol.js'
import { hasGone } from './transport.js'
import { WsTransport } from './ws-transport.js'

/** Sockets that are being closed with 4401 at once; one more gets 401. */
const MAX_REFUSALS = 1000
/** How long a refused socket may take to say goodbye, in milliseconds. */
const REFUSAL_GRACE_MS = 2000
const LOG_IN = 'log in first'
const NOT_LOGGED_IN = 'FLOTILLA_WS_ERR_UNAUTHENTICATED'

/**
 * Decides about a connection while it is still an HTTP request, so that a refusal is an HTTP status. One refusal is not: a
 * browser's script cannot see that an upgrade was answered with 401, and would try again forever. So a WebSocket without a login
 * is let in and closed with 4401.
 */
export class UpgradeGate {
  readonly #identities = new WeakMap<FastifyRequest, Identity>()
  /** WebSockets to close with 4401, by the reason. */
  readonly #refused = new WeakMap<FastifyRequest, string>()
  #refusals = 0
  /** Let in and not among the connections yet. */
  readonly #entering = new Set<FastifyRequest>()

  constructor(
    private readonly config: BroadcastConfig,
    private readonly connections: Connections,
    private readonly drain: Drain
  ) {}

  /** preValidation: what needs no identity. */
  readonly admit = async (request: FastifyRequest): Promise<void> => {
    if (!isOriginAllowed(request, this.config.origins)) {
      throw new FLOTILLA_WS_ERR_ORIGIN(`'${String(request.headers.origin).slice(0, 100)}'`)
    }
    this.assertRoom()
  }

  /** preHandler of the WebSocket route. */
  readonly authenticateSocket = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    try {
      await this.authenticate(request, reply)
    } catch (error) {
      const { statusCode, message, code } = Object(error) as Record<string, unknown>
      if (!request.ws || statusCode !== 401 || this.#refusals >= MAX_REFUSALS) throw error
      this.#refused.set(request, code === NOT_LOGGED_IN ? LOG_IN : String(message))
    }
  }

  /** Closes the socket of a WebSocket that has no login. False if it has one. */
  refuse(socket: WebSocket, request: FastifyRequest): boolean {
    const reason = this.#refused.get(request)
    if (reason === undefined) return false
    this.#refusals += 1
    const timer = setTimeout(() => socket.terminate(), REFUSAL_GRACE_MS)
    timer.unref()
    socket.on('error', () => undefined)
    socket.once('close', () => {
      clearTimeout(timer)
      this.#refusals -= 1
    })
    new WsTransport(socket).close(CLOSE.UNAUTHORIZED, reason)
    return true
  }

  /** preHandler: after every hook that reads a session. */
  readonly authenticate = async (request: FastifyRequest, { raw }: FastifyReply): Promise<void> => {
    const identity = await this.identify(request)
    if (identity === null) throw new FLOTILLA_WS_ERR_UNAUTHENTICATED()
    // Others may have come, or the drain begun, while this was found out.
    this.assertRoom()
    this.#identities.set(request, identity)
    // Who has gone meanwhile would never give the place back.
    if (hasGone(raw)) return
    this.#entering.add(request)
    // Also once a later hook of the app, or the route, has answered. (Over HTTP/2 the socket is many requests'.)
    raw.once('close', () => this.#entering.delete(request))
  }

  /** @throws FLOTILLA_WS_ERR_DRAINING */
  assertOpen(): void {
    if (this.drain.draining) throw new FLOTILLA_WS_ERR_DRAINING()
  }

  /** @throws FLOTILLA_WS_ERR_DRAINING, FLOTILLA_WS_ERR_FULL */
  assertRoom(): void {
    this.assertOpen()
    if (this.connections.size + this.#entering.size >= this.config.maxConnections) {
      throw new FLOTILLA_WS_ERR_FULL(this.config.maxConnections)
    }
  }

  /** False where a route of the app's own has attached a socket: whom it lets in is its own to check. */
  hasLetIn(request: FastifyRequest): boolean {
    return this.#identities.has(request)
  }

  /** Asks again, for a connection that is open already; null when it is no longer good. */
  async identify(request: FastifyRequest): Promise<Identity | null> {
    const { authenticate } = this.config
    return authenticate ? readIdentity(await authenticate(request)) : sessionIdentity(request)
  }

  /** Whose the connection of this request is. It is added at once, so that its place is not kept any longer. */
  identityOf(request: FastifyRequest): Identity {
    this.#entering.delete(request)
    return this.#identities.get(request) ?? sessionIdentity(request)
  }
}
