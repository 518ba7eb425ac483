import type { FastifyInstance, FastifyReply, FastifySchema } from 'fastify'
import type { Answer } from './answers.js'
import type { Endpoint } from './endpoints.js'
import { PROBE_ROUTE } from './request-gate.js'

const HIDDEN: FastifySchema & { hide: true } = { hide: true }

/**
 * The endpoints as routes of the app: HEAD too, never cached, no line in the access log, not in an OpenAPI
 * document (`schema.hide`, which @fastify/swagger honours).
 */
export function addRoutes(fastify: FastifyInstance, endpoints: ReadonlyMap<string, Endpoint>): void {
  for (const [url, endpoint] of endpoints) {
    fastify.route({
      method: ['GET', 'HEAD'],
      url,
      exposeHeadRoute: false,
      logLevel: 'silent',
      schema: HIDDEN,
      config: { [PROBE_ROUTE]: true },
      handler: (request, reply) => {
        const answer = endpoint(request.raw, false)
        if (!(answer instanceof Promise)) return send(reply, answer)
        return answer.then((late) => send(reply, late))
      }
    })
  }
}

function send(reply: FastifyReply, answer: Answer): FastifyReply {
  reply.statusCode = answer.status
  reply.header('content-type', answer.type)
  reply.header('cache-control', 'no-store')
  if (answer.status === 401) reply.header('www-authenticate', 'Bearer')
  return reply.send(answer.body)
}
