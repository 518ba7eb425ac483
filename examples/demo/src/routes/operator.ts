import type { FastifyInstance, FastifyRequest } from 'fastify'

export interface OperatorOptions {
  /** Where the fleet runner listens; empty if there is none. */
  controlUrl: string
}

/** The buttons work while Redis is away, for a visitor who is logged in too. */
const config = { session: false } as const

interface Action {
  Params: { action: string }
  Querystring: { instance?: string }
}

/** The operator's buttons, handed on to the fleet runner. Outside of the demo they do not exist. */
export async function operator(app: FastifyInstance, { controlUrl }: OperatorOptions): Promise<void> {
  app.get('/api/operator', { config }, async () => {
    if (controlUrl === '') return { available: false }
    const response = await fetch(`${controlUrl}/`)
    return { available: true, ...((await response.json()) as object) }
  })
  if (controlUrl === '') return

  const urlOf = ({ params, query }: FastifyRequest<Action>): URL => {
    const url = new URL(`${controlUrl}/${encodeURIComponent(params.action)}`)
    if (query.instance !== undefined) url.searchParams.set('instance', query.instance)
    return url
  }
  app.post<Action>(
    '/api/operator/:action',
    {
      config,
      // Only now, with the answer sent: the instance to be killed may be this one, and its visitor is owed an answer.
      async onResponse(request, reply) {
        if (reply.statusCode === 202) await fetch(urlOf(request), { method: 'POST' })
      }
    },
    async (request, reply) => {
      const response = await fetch(urlOf(request))
      return reply.code(response.ok ? 202 : response.status).send(await response.json())
    }
  )
}
