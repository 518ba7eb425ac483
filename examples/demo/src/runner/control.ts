import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { until } from '@flotilla/testbed'
import type { Fleet } from './fleet.js'
import { DemoError } from './errors.js'

export interface Control {
  /** Carries a secret: a caller who knows it may break things. */
  readonly url: string
  /** Hands over the fleet once it runs. */
  operate(fleet: Fleet): void
  stop(): Promise<void>
}

interface Action {
  /** For an action that another one takes back: whether it is in force. */
  inForce?(fleet: Fleet): boolean | Promise<boolean>
  offered(fleet: Fleet): boolean
  run(fleet: Fleet, query: URLSearchParams): Promise<void>
  /** Why it is refused while it is under way; actions without this may overlap. */
  readonly busy?: string
}

/** By which an instance is known to its visitors, in `x-instance`. */
export const nameOf = (index: number): string => `app-${index + 1}`

/** Milliseconds after which a killed instance is started again, as any orchestrator would. */
const RESPAWN = 4_000

const actions: Record<string, Action> = {
  kill: {
    offered: () => true,
    async run(fleet, query) {
      const name = query.get('instance') ?? ''
      const instance = fleet.apps.instances.find((_instance, index) => nameOf(index) === name)
      if (!instance) throw new DemoError('DEMO_ERR_CONTROL', `there is no instance "${name}"`)
      await instance.kill()
      const respawn = (): void => {
        // A second press, or a roll, may have started it by then.
        if (!instance.running) void instance.restart().catch(report)
      }
      setTimeout(respawn, RESPAWN).unref()
    }
  },
  roll: {
    offered: () => true,
    run: (fleet) => rollFleet(fleet),
    busy: 'the fleet is rolling already'
  },
  'pause-replica': {
    offered: ({ postgres }) => postgres.replicas.length > 0,
    run: async ({ postgres }) => postgres.replicas[0]?.pauseReplay(),
    inForce: async ({ postgres }) => (await postgres.replicas[0]?.isReplayPaused()) ?? false
  },
  'resume-replica': {
    offered: ({ postgres }) => postgres.replicas.length > 0,
    run: async ({ postgres }) => postgres.replicas[0]?.resumeReplay()
  },
  'cut-redis': {
    offered: ({ redisProxy }) => redisProxy !== undefined,
    run: async ({ redisProxy }) => redisProxy?.refuse(),
    inForce: ({ redisProxy }) => redisProxy?.refusing ?? false
  },
  'restore-redis': {
    offered: ({ redisProxy }) => redisProxy !== undefined,
    run: async ({ redisProxy }) => redisProxy?.restore()
  },
  'fail-over': {
    offered: ({ sentinel }) => sentinel !== undefined,
    async run({ sentinel }) {
      if (!sentinel) return
      const old = await sentinel.master()
      await old.kill()
      try {
        await sentinel.waitForFailover(old)
      } finally {
        // Sentinel makes a replica of it, so that the next press finds as many as this one.
        await old.restart()
      }
    },
    busy: 'Redis is failing over already'
  }
}

/**
 * Drains, ends and starts each instance in turn, as a deploy does. The next one goes when the balancer sends requests to the
 * new one: a busy balancer may learn of it later than the next would have stopped to serve.
 */
export async function rollFleet({ apps, url }: Pick<Fleet, 'apps' | 'url'>): Promise<void> {
  for (const [index, instance] of apps.instances.entries()) {
    await instance.stop()
    await instance.restart()
    await until(async () => (await answeredBy(url)) === nameOf(index), {
      timeout: 30_000,
      message: `the balancer sends requests to ${nameOf(index)} again`
    })
  }
}

async function answeredBy(url: string): Promise<string | null> {
  const response = await fetch(`${url}/api/me`)
  await response.body?.cancel()
  return response.headers.get('x-instance')
}

/**
 * A loopback endpoint through which the page's buttons reach the fleet: `GET <url>/<action>` says whether it would be
 * done (200, 404, 409), `POST` does it. An action may end the very instance that asks, so it answers its visitor between.
 */
export async function startControl(): Promise<Control> {
  const secret = randomBytes(16).toString('hex')
  let fleet: Fleet | undefined
  const underWay = new Set<string>()

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const answer = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    const url = new URL(request.url ?? '/', 'http://localhost')
    const [, given, name = ''] = url.pathname.split('/')
    if (given !== secret || fleet === undefined) return answer(404, { error: 'nothing here' })
    if (request.method === 'GET' && name === '') {
      const running = fleet
      const offered = Object.keys(actions).filter((one) => actions[one]!.offered(running))
      const inForce = await actionsInForce(running, offered)
      return answer(200, { actions: offered, inForce, balancer: running.balancer })
    }
    const action = actions[name]
    if (!action?.offered(fleet)) {
      return answer(404, { error: `there is no action "${name}" in this fleet` })
    }
    if (action.busy !== undefined && underWay.has(name)) return answer(409, { error: action.busy })
    if (request.method !== 'POST') return answer(200, { started: name })
    answer(202, { started: name })
    underWay.add(name)
    try {
      await action.run(fleet, url.searchParams)
    } catch (error) {
      report(error)
    } finally {
      underWay.delete(name)
    }
  }

  const server = createServer((request, response) => void handle(request, response).catch(report))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/${secret}`,
    operate(started) {
      fleet = started
    },
    async stop() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    }
  }
}

async function actionsInForce(fleet: Fleet, names: readonly string[]): Promise<string[]> {
  const states = await Promise.all(names.map(async (name) => actions[name]!.inForce?.(fleet) ?? false))
  return names.filter((_name, index) => states[index])
}

function report(error: unknown): void {
  console.error(`operator: ${(error as Error).message}`)
}
