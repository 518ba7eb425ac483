import type { FastifyInstance } from 'fastify'

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

  app.post<Action>('/api/operator/:action', async (request, reply) => {
    const url = new URL(`${controlUrl}/${encodeURIComponent(request.params.action)}`)
    if (request.query.instance !== undefined) url.searchParams.set('instance', request.query.instance)
    const response = await fetch(url, { method: 'POST' })
    return reply.code(response.status).send(await response.json())
  })
}
