import type { FastifyInstance, FastifyRequest } from 'fastify'

export interface OperatorOptions {
  /** Where the fleet runner listens; empty where there is none. */
  controlUrl: string
}

interface Action {
  Params: { action: string }
  Querystring: { instance?: string }
}

/** The operator's buttons, handed on to whoever runs the fleet. Outside of the demo they do not exist. */
export async function operator(app: FastifyInstance, { controlUrl }: OperatorOptions): Promise<void> {
  app.get('/api/operator', async () => {
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
