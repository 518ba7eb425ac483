import { Server } from 'node:net'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { HealthOverloadedError } from './errors.js'

/** Marks the plugin's own routes in their `config`. */
export const PROBE_ROUTE = 'flotillaHealth'

export interface RequestGateOptions {
  /** Name of the response header that tells the instance. */
  header: string | undefined
  instance: string
  /** Told to clients that are refused, in milliseconds. */
  retryAfter: number
  /** Hears of each request, also of those that are refused. */
  onArrival: ((request: FastifyRequest, reply: FastifyReply) => void) | undefined
}

/**
 * What the plugin does when a request arrives, in one hook: it is noted for the metrics, its response gets the instance
 * header, and, while draining or overloaded, the connection ends or the request is refused.
 */
export class RequestGate {
  /** `performance.now()` of the last request that was no probe; kept only while draining. */
  lastRequestAt = 0
  private retiring = false
  private refusing = false

  constructor(
    private readonly fastify: FastifyInstance,
    { header, instance, retryAfter, onArrival }: RequestGateOptions
  ) {
    const seconds = String(Math.max(1, Math.ceil(retryAfter / 1000)))
    const slow = (request: FastifyRequest, reply: FastifyReply): boolean => {
      if (this.retiring && request.raw.httpVersionMajor === 1) reply.raw.shouldKeepAlive = false
      const { config } = request.routeOptions
      if ((config as { [PROBE_ROUTE]?: boolean } | undefined)?.[PROBE_ROUTE] === true) return true
      this.lastRequestAt = performance.now()
      if (!this.refusing) return true
      reply.header('retry-after', seconds)
      return false
    }
    fastify.addHook('onRequest', (request, reply, done) => {
      if (onArrival !== undefined) onArrival(request, reply)
      if (header !== undefined) reply.header(header, instance)
      if ((this.retiring || this.refusing) && !slow(request, reply)) done(new HealthOverloadedError())
      else done()
    })
  }

  /** From now on each response is its connection's last. */
  retire(): void {
    this.retiring = true
  }

  refuse(on: boolean): void {
    this.refusing = on
  }

  /**
   * Closes the listening socket only. `http.Server.close` would also close idle connections at once, and a
   * request may be on its way on one of them.
   */
  stopAccepting(): void {
    const { server } = this.fastify
    if (server.listening) Server.prototype.close.call(server)
  }
}
