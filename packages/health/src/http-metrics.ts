import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestHookHandler } from 'fastify'
import { Series, SECONDS, type Family, type Labels } from './metric.js'

const FINISHED = 'http.server.response.finish'
const NAME = 'http_request_duration_seconds'
const UNMATCHED = 'unmatched'

/** What a response carries until it ends. */
class Timing {
  readonly began = performance.now()
  route: RouteDurations | undefined
  constructor(readonly request: FastifyRequest) {}
}

/**
 * Measures every request of the app by method, route pattern and status. A request that matched no route
 * counts under `unmatched`, so that nobody can invent label values.
 */
export class HttpMetrics {
  readonly family: Family = {
    name: NAME,
    help: 'Time from the arrival of a request to the end of its response',
    type: 'histogram',
    values: () => this.values()
  }
  readonly close: () => void
  private readonly routes = new Map<string, RouteDurations>()
  /** Of this app: Node tells every app in a process of the responses of them all. */
  private readonly timing = Symbol('flotilla.health.timing')

  constructor(
    fastify: FastifyInstance,
    private readonly instance: string
  ) {
    this.nameRoutes(fastify)
    this.close = this.hearEnds(fastify)
  }

  /**
   * To be called when a request arrives, before anything may answer it. Adds one property to the response and no more,
   * since each changes the shape that Node's own code has learnt.
   */
  begin(request: FastifyRequest, reply: FastifyReply): void {
    ;(reply.raw as Timed)[this.timing] = new Timing(request)
  }

  /** Each route names itself by a hook of its own, since `request.routeOptions` builds an object whenever it is read. */
  private nameRoutes(fastify: FastifyInstance): void {
    fastify.addHook('onRoute', (options) => {
      const route = this.durations(options.url)
      const nameRoute: onRequestHookHandler = (_request, reply, done) => {
        const timing = (reply.raw as Timed)[this.timing]
        if (timing !== undefined) timing.route = route
        done()
      }
      const others = options.onRequest ?? []
      options.onRequest = [nameRoute, ...(Array.isArray(others) ? others : [others])]
    })
  }

  /**
   * Hears the end of each response from Node's own channel, which costs half of what Fastify's `onResponse` does: that one
   * makes Fastify listen to two events of every response. HTTP/2 has no such channel.
   */
  private hearEnds(fastify: FastifyInstance): () => void {
    if ((fastify.initialConfig as { http2?: boolean }).http2 === true) {
      fastify.addHook('onResponse', (_request, reply, done) => {
        this.end(reply.raw, reply.statusCode)
        done()
      })
      return () => undefined
    }
    const hear = (message: unknown): void => {
      const { response } = message as { response: ServerResponse }
      this.end(response, response.statusCode)
    }
    subscribe(FINISHED, hear)
    return () => unsubscribe(FINISHED, hear)
  }

  private end(response: ServerResponse, status: number): void {
    const timing = (response as Timed)[this.timing]
    if (timing === undefined) return
    const { request, began } = timing
    // Answered before its route's own hooks, or by no route, or by one that is older than this plugin.
    const route = timing.route ?? this.durations(request.routeOptions.url ?? UNMATCHED)
    route.observe(request.method, status, (performance.now() - began) / 1000)
  }

  private durations(url: string): RouteDurations {
    let route = this.routes.get(url)
    if (route === undefined) this.routes.set(url, (route = new RouteDurations(url, this.instance)))
    return route
  }

  private *values(): ReturnType<Family['values']> {
    for (const route of this.routes.values()) yield* route.values()
  }
}

type Timed = ServerResponse & Record<symbol, Timing | undefined>

/** Durations of one route by method and status. */
class RouteDurations {
  private readonly byMethod = new Map<string, Map<number, Series>>()
  // Most requests of a route are like the one before.
  private lastMethod = ''
  private lastStatus = 0
  private last: Series | undefined

  constructor(
    private readonly url: string,
    private readonly instance: string
  ) {}

  observe(method: string, status: number, seconds: number): void {
    if (this.last === undefined || status !== this.lastStatus || method !== this.lastMethod) {
      this.last = this.series(method, status)
      this.lastMethod = method
      this.lastStatus = status
    }
    this.last.observe(seconds)
  }

  *values(): ReturnType<Family['values']> {
    for (const byStatus of this.byMethod.values())
      for (const series of byStatus.values()) yield* series.values(NAME)
  }

  private series(method: string, status: number): Series {
    let byStatus = this.byMethod.get(method)
    if (byStatus === undefined) this.byMethod.set(method, (byStatus = new Map()))
    let series = byStatus.get(status)
    if (series === undefined) {
      const labels: Labels = { method, route: this.url, status_code: status, instance: this.instance }
      byStatus.set(status, (series = new Series(labels, SECONDS)))
    }
    return series
  }
}
