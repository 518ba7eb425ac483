import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Series, SECONDS, type Family } from './metric.js'

/** Durations of one route by method and status. */
interface Route {
  url: string
  byMethod: Map<string, Map<number, Series>>
}

/** The durations of an app's requests. */
export interface HttpMetrics {
  family: Family
  close(): void
}

const FINISHED = 'http.server.response.finish'
const NAME = 'http_request_duration_seconds'

/**
 * Measures every request of the app by method, route pattern and status. A request that matched no route
 * counts under `unmatched`, so that nobody can invent label values.
 */
export function measureHttp(fastify: FastifyInstance, instance: string): HttpMetrics {
  const routes = new Map<object, Route>()

  const seriesOf = (request: FastifyRequest, status: number): Series => {
    const { config, url } = request.routeOptions
    let route = routes.get(config)
    if (route === undefined) routes.set(config, (route = { url: url ?? 'unmatched', byMethod: new Map() }))
    let byStatus = route.byMethod.get(request.method)
    if (byStatus === undefined) route.byMethod.set(request.method, (byStatus = new Map()))
    let series = byStatus.get(status)
    if (series === undefined) {
      const labels = { method: request.method, route: route.url, status_code: status, instance }
      byStatus.set(status, (series = new Series(labels, SECONDS)))
    }
    return series
  }
  const family: Family = {
    name: NAME,
    help: 'Time from the arrival of a request to the end of its response',
    type: 'histogram',
    *values() {
      for (const { byMethod } of routes.values()) {
        for (const byStatus of byMethod.values())
          for (const series of byStatus.values()) yield* series.values(NAME)
      }
    }
  }
  const close = watchResponses(fastify, (request, status, seconds) =>
    seriesOf(request, status).observe(seconds)
  )
  return { family, close }
}

type OnResponse = (request: FastifyRequest, status: number, seconds: number) => void

/**
 * Hears the end of each response from Node's own channel, which costs half of what Fastify's `onResponse` does: that one
 * makes Fastify listen to two events of every response. HTTP/2 has no such channel.
 */
function watchResponses(fastify: FastifyInstance, onResponse: OnResponse): () => void {
  if ((fastify.initialConfig as { http2?: boolean }).http2 === true) {
    fastify.addHook('onResponse', (request, reply, done) => {
      onResponse(request, reply.statusCode, reply.elapsedTime / 1000)
      done()
    })
    return () => undefined
  }
  const kRequest = Symbol('request')
  const kBegan = Symbol('began')
  type Measured = ServerResponse & { [kRequest]?: FastifyRequest; [kBegan]?: number }
  fastify.addHook('onRequest', (request: FastifyRequest, reply: FastifyReply, done) => {
    const raw = reply.raw as Measured
    raw[kRequest] = request
    raw[kBegan] = performance.now()
    done()
  })
  const hear = (message: unknown): void => {
    const { response } = message as { response: Measured }
    const request = response[kRequest]
    if (request === undefined) return
    onResponse(request, response.statusCode, (performance.now() - response[kBegan]!) / 1000)
  }
  subscribe(FINISHED, hear)
  return () => unsubscribe(FINISHED, hear)
}
