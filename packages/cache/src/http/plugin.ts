import { hasRoutes } from '@flotilla/core'
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  RouteHandlerMethod,
  RouteOptions
} from 'fastify'
import type { Cache } from '../cache.js'
import { OptionsError } from '../errors.js'
import type { HttpSettings } from './options.js'
import { ResponseCache } from './response-cache.js'
import { IDENTITY_PLUGINS, watchIdentity } from './personal-reads.js'
import { readRoute } from './route.js'
import { UrlIdentity } from './url-identity.js'
import { isUnsafe, Writes } from './writes.js'

/**
 * Puts the response cache around the handlers of routes with `config.cache`. It takes the handler's place, so that
 * every hook that may refuse a request has run, and it is their last `onSend` hook, so that it stores what is sent.
 */
export function responseCache(
  fastify: FastifyInstance,
  cache: Cache,
  settings: HttpSettings,
  log: FastifyBaseLogger
): void {
  const identity = new UrlIdentity(fastify)
  const responses = new ResponseCache(fastify, cache, identity)
  const writes = new Writes(cache, identity, log)
  fastify.decorateRequest('cacheFill', {
    getter(this: FastifyRequest) {
      return responses.contextOf(this)
    }
  })
  /**
   * Routes that are there already get no handler around theirs: each request has to look whether it is for one of them. They
   * are told of, and still invalidate.
   */
  const early = hasRoutes(fastify)
  /** By method and URL: all others, where there are such. */
  const heard = new Set<string>()
  const ours = new WeakSet<object>()
  // A hook of the app may have made the route from another: it comes with what was put there.
  const own = ({ handler, onSend }: RouteOptions): boolean =>
    ours.has(handler) || [onSend ?? []].flat().some((hook) => ours.has(hook))

  /** Cached routes, and where they were declared, in whose responses nothing about the visitor may be. */
  const watched: [FastifyInstance, string][] = []
  const captured: Captured[] = []
  fastify.addHook('onReady', async () => {
    refuseLateEncoding(captured)
    warnOfIdentity(watched, log)
  })

  fastify.addHook('onRoute', function (this: FastifyInstance, route: RouteOptions & { websocket?: boolean }) {
    const methods = [route.method].flat().map((method) => method.toUpperCase())
    const input = route.config?.cache
    const refuse = (why: string): never => {
      throw new OptionsError(
        `@flotilla/cache: config.cache of '${route.url}': ${why}; give GET a route of its own`
      )
    }
    if (input) {
      const other = methods.find((method) => method !== 'GET' && method !== 'HEAD')
      if (other !== undefined) refuse(`responses to ${other} are not stored`)
      if (route.websocket) refuse('a WebSocket is no response')
    }
    if (input && !own(route)) {
      const options = readRoute(route, settings)
      writes.addCachedRoute(route.url)
      const { handler } = route
      const visit: RouteHandlerMethod = function (request, reply) {
        return responses.visit(request, reply, options, () => handler.call(this, request, reply))
      }
      const capture = (
        request: FastifyRequest,
        reply: FastifyReply,
        payload: unknown,
        done: (error: null, payload: unknown) => void
      ): void => done(null, responses.capture(request, reply, payload))
      // What these have set before is not of a hook that runs for every request: none runs for a stored body.
      const sending = (
        request: FastifyRequest,
        reply: FastifyReply,
        payload: unknown,
        done: (error: null, payload: unknown) => void
      ): void => {
        responses.sending(request, reply)
        done(null, payload)
      }
      const watch = (request: FastifyRequest, _reply: FastifyReply, done: () => void): void => {
        watchIdentity(request, settings.identity)
        done()
      }
      if (!options.shared) {
        route.onRequest = [...[route.onRequest ?? []].flat(), watch]
        watched.push([this, route.url])
      }
      ours.add(visit).add(capture)
      route.handler = visit
      route.preSerialization = [...[route.preSerialization ?? []].flat(), sending]
      route.onSend = [...[route.onSend ?? []].flat(), capture]
      captured.push({ scope: this, route, capture })
    }
    if (methods.some(isUnsafe)) {
      if (!input) route.handler = writes.wrap(route.handler)
      route.onSend = [...[route.onSend ?? []].flat(), purge]
      route.onError = [...[route.onError ?? []].flat(), failed]
    }
    if (early) for (const method of methods) heard.add(`${method} ${route.url}`)
  })
  if (early) {
    const told = new Set<string>()
    fastify.addHook('preHandler', async (request, reply) => {
      if (isUnsafe(request.method) && !heard.has(`${request.method} ${request.routeOptions.url}`)) {
        writes.begin(request, reply)
      }
    })
    fastify.addHook('onError', failed)
    fastify.addHook('onSend', async (request, reply, payload) => {
      const { url = '', config } = request.routeOptions
      if (heard.has(`${request.method} ${url}`)) return payload
      if (config?.cache && !told.has(url)) {
        told.add(url)
        log.warn(
          `config.cache of '${url}' has no effect: the route was declared before @flotilla/cache was loaded; ` +
            `write 'await app.register(…)' before the routes, or declare them in a plugin that is registered later`
        )
      }
      return purge(request, reply, payload)
    })
  }

  async function failed(request: FastifyRequest): Promise<void> {
    writes.failed(request)
  }

  async function purge(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
    await writes.sending(request, reply)
    return payload
  }
}

/** A cached route and the hook that stores what it sends. */
interface Captured {
  readonly scope: FastifyInstance
  readonly route: RouteOptions
  readonly capture: object
}

/** What is encoded after it was stored would have the strong `ETag` of what is stored. */
function refuseLateEncoding(routes: readonly Captured[]): void {
  for (const { scope, route, capture } of routes) {
    if (!scope.hasPlugin('@fastify/compress') || [route.onSend ?? []].flat().at(-1) === capture) continue
    throw new OptionsError(
      `@flotilla/cache: '${route.url}' is compressed after its response was stored; register @fastify/compress before ` +
        `@flotilla/cache, or set 'compress: false' on the route`
    )
  }
}

/** Says which routes may turn out not to be cached, beside plugins that know the visitor. */
function warnOfIdentity(routes: readonly [FastifyInstance, string][], log: FastifyBaseLogger): void {
  for (const plugin of IDENTITY_PLUGINS) {
    const urls = routes.filter(([scope]) => scope.hasPlugin(plugin)).map(([, url]) => url)
    if (urls.length === 0) continue
    log.warn(
      { routes: urls },
      `cached routes beside ${plugin}: a response is not stored if the session, the user or a cookie was read while it was made. ` +
        `Set 'shared: true' in config.cache if what was read is not in the response, and cache: false where it always is`
    )
  }
}
