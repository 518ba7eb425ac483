import type { FastifyInstance } from 'fastify'

/** What the page draws: the fleet, the databases, who is there. It needs no session, so that it answers while Redis is away. */
export async function overview(app: FastifyInstance): Promise<void> {
  app.get('/api/fleet', { config: { session: false } }, async () => ({
    answeredBy: app.health.instance,
    ...(await fleetOf(app)),
    databases: app.db.status().servers.map(({ name, role, state, lag, inFlight }) => ({
      name,
      role,
      state: state === 'up' ? 'ready' : state,
      lagMs: lag ?? null,
      inFlight
    })),
    redis: { connected: app.bus.status().connected }
  }))
}

async function fleetOf(app: FastifyInstance) {
  const [fleet, present] = await Promise.all([
    app.health.fleet(),
    // Redis may be away: the rest of the picture is still worth showing.
    app.broadcast.presence('guest-book').catch(() => [])
  ])
  return {
    instances: fleet.instances.map(({ instance, state, version, uptime, load }) => ({
      name: instance,
      state,
      version,
      uptime,
      load: load.utilization,
      connections: load.connections
    })),
    present: present.map(({ info }) => (info as { name: string }).name)
  }
}
