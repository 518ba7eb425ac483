import type { IncomingMessage } from 'node:http'
import type { Access } from './access.js'
import { JSON_TYPE, type Answer, type ProbeName } from './answers.js'
import type { Parts } from './parts.js'

/** Answers one request; only the fleet and metrics need to wait for anything. */
export type Endpoint = (request: IncomingMessage, trusted: boolean) => Answer | Promise<Answer>

/**
 * The endpoints by path, apart from any server, so that Fastify's routes and the admin port answer alike.
 * `trusted` stands for a caller who needs no token.
 */
export function createEndpoints(parts: Parts, access: Access): Map<string, Endpoint> {
  const { settings, answers, metrics } = parts
  const { path } = settings

  const probe =
    (name: ProbeName): Endpoint =>
    (request, trusted) => {
      const draft = request.headers.accept?.includes('application/health+json') === true
      const withDetails = trusted || access.permits(request)
      if (draft) return answers.draft(name, withDetails)
      return withDetails ? answers.detailed(name) : answers.plain(name)
    }

  const fleet: Endpoint = async (request, trusted) => {
    if (!trusted && !access.permits(request)) return denied(access)
    if (parts.fleet === undefined) return json(404, { status: 'no fleet registry' })
    return json(200, await parts.fleet.view())
  }

  const endpoints = new Map<string, Endpoint>([
    [path, probe('health')],
    [`${path}/live`, probe('live')],
    [`${path}/ready`, probe('ready')],
    [`${path}/startup`, probe('startup')],
    [`${path}/fleet`, fleet]
  ])
  if (metrics !== undefined && settings.metrics !== false) {
    const open = settings.metrics.public
    endpoints.set(settings.metrics.path, async (request, trusted) => {
      if (!open && !trusted && !access.permits(request)) return denied(access)
      return { status: 200, ...(await metrics.render()) }
    })
  }
  return endpoints
}

function denied({ byToken }: Access): Answer {
  return json(byToken ? 401 : 403, { status: byToken ? 'token required' : 'not allowed from here' })
}

function json(status: number, body: object): Answer {
  return { status, type: JSON_TYPE, body: JSON.stringify(body) }
}
