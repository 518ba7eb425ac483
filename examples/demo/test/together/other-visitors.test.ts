import { randomBytes } from 'node:crypto'
import {
  sendSteadily,
  startApp,
  startHAProxy,
  startNginx,
  startPostgres,
  startProxy,
  startRedis,
  until,
  type AppFleet,
  type Balancer,
  type PostgresGroup,
  type SteadyRequests,
  type TcpProxy
} from '@flotilla/testbed'
import { t as tap, test } from 'tap'
import { Visitor } from '../../src/check/visitor.js'

/* A part fails that most visitors do not need. Measured is what they see, through both balancers at the same time. */

/** Answers to requests for the page, through each balancer and at least, while the fault lasts. */
const VISITS = 100

/** The requests through one balancer. Of a hundred visitors one or two are logged in. */
interface Visits {
  readonly page: SteadyRequests
  readonly book: SteadyRequests
  readonly pageWithCookie: SteadyRequests
  readonly bookWithCookie: SteadyRequests
  readonly mapWithCookie: SteadyRequests
  readonly session: SteadyRequests
}

interface Stage {
  readonly fleet: AppFleet
  readonly postgres: PostgresGroup
  readonly redis: TcpProxy
  readonly balancers: readonly Balancer[]
  /** Of a visitor who is logged in. */
  readonly cookie: string
}

interface Fault {
  readonly name: string
  readonly unaffected: readonly (keyof Visits)[]
  begin(stage: Stage): unknown
  /** True once the visitors who need the failing part have seen the fault. */
  noticed?(visits: readonly Visits[]): boolean
  end?(stage: Stage): unknown
}

const sessionless = ['page', 'book', 'pageWithCookie', 'bookWithCookie', 'mapWithCookie'] as const
const all = [...sessionless, 'session'] as const
const sessionsFail = (visits: readonly Visits[]): boolean =>
  visits.every(({ session }) => (session.outcomes['503'] ?? 0) > 0)

/** The last two leave a smaller fleet behind. */
const faults: readonly Fault[] = [
  {
    name: 'Redis refuses connections',
    unaffected: sessionless,
    begin: ({ redis }) => redis.refuse(),
    noticed: sessionsFail,
    end: restoreRedis
  },
  {
    name: 'Redis does not answer',
    unaffected: sessionless,
    begin: ({ redis }) => redis.blackhole(),
    noticed: sessionsFail,
    end: restoreRedis
  },
  {
    // What it has been sent it answers once it goes on.
    name: 'an instance is paused for a while',
    unaffected: all,
    begin: ({ fleet }) => fleet.instances[0]!.pause(),
    end: ({ fleet }) => fleet.instances[0]!.resume()
  },
  {
    name: 'the replica dies',
    unaffected: all,
    begin: ({ postgres }) => postgres.replicas[0]!.kill(),
    end: ({ postgres }) => postgres.replicas[0]!.restart()
  },
  {
    name: 'the primary dies and the replica is promoted',
    unaffected: all,
    async begin({ postgres }) {
      await postgres.primary.kill()
      await postgres.replicas[0]!.promote()
    }
  },
  {
    name: 'an instance drains',
    unaffected: all,
    begin: ({ fleet }) => fleet.instances.pop()!.kill('SIGTERM')
  }
]

let stage: Stage
const stops: (() => Promise<unknown>)[] = []

tap.before(async () => {
  const [server, postgres] = await Promise.all([startRedis().then(own), startPostgres().then(own)])
  const redis = own(await startProxy({ host: server.host, port: server.port }))
  const fleet = own(await startInstances(redis.through(server.url), postgres))
  const servers = await Promise.all(
    fleet.instances.map(async (one) => ({
      host: one.host,
      port: one.port,
      agentPort: await one.call<number>('agentPort')
    }))
  )
  const balancers = await Promise.all([
    startNginx({ servers }).then(own),
    startHAProxy({ servers }).then(own)
  ])
  for (const { url } of balancers) await until(async () => (await fetch(url)).ok)
  const user = new Visitor()
  await user.login(balancers[0].url, 'Ada')
  stage = { fleet, postgres, redis, balancers, cookie: user.cookie }
  user.close()
})
tap.teardown(async () => {
  for (const stop of stops.toReversed()) await stop()
})

function own<T extends { stop(): Promise<unknown> }>(started: T): T {
  stops.push(() => started.stop())
  return started
}

function startInstances(redisUrl: string, { primary, replicas }: PostgresGroup): Promise<AppFleet> {
  const secret = randomBytes(32).toString('base64url')
  return startApp({
    script: new URL('../fixtures/counting-instance.js', import.meta.url),
    instances: 3,
    env: (index) => ({
      HOSTNAME: `app-${index + 1}`,
      NODE_ENV: 'production',
      REDIS_URL: redisUrl,
      DATABASE_URL: primary.url,
      DATABASE_REPLICA_URL: replicas.map(({ url }) => url).join(','),
      SESSION_SECRET: secret,
      AGENT_PORT: '0'
    })
  })
}

async function restoreRedis({ redis, fleet }: Stage): Promise<void> {
  await redis.restore()
  const connected = async (): Promise<boolean> =>
    (await Promise.all(fleet.instances.map((one) => one.call<boolean>('hasRedis')))).every(Boolean)
  await until(connected, { timeout: 30_000, message: 'each instance has Redis again' })
}

for (const fault of faults) {
  test(`${fault.name}: the other visitors do not notice`, async (t) => {
    const before = await arrivals()
    const visits = stage.balancers.map(visit)
    t.teardown(() => {
      for (const requests of each(visits)) requests.stop()
    })
    await visitDuring(fault, visits)

    for (const [index, balancer] of ['nginx', 'HAProxy'].entries()) {
      for (const kind of fault.unaffected) {
        const { outcomes } = visits[index]![kind]
        t.strictSame(Object.keys(outcomes), ['200'], `${balancer}, ${kind}: ${JSON.stringify(outcomes)}`)
      }
    }
    const after = await arrivals()
    for (const [path, kinds] of Object.entries({
      '/': ['page', 'pageWithCookie'],
      '/api/posts': ['book', 'bookWithCookie']
    } as const)) {
      const sent = sum(visits.flatMap((one) => kinds.map((kind) => one[kind].sent)))
      const ran = sum(after.map((counts, index) => (counts[path] ?? 0) - (before[index]?.[path] ?? 0)))
      t.ok(ran > 0 && ran <= sent * 1.05, `${path}: ${sent} requests, the handler ran ${ran} times`)
    }
  })
}

function visit({ url }: Balancer): Visits {
  const headers = { cookie: stage.cookie }
  return {
    page: sendSteadily({ url, perSecond: 80 }),
    book: sendSteadily({ url: `${url}/api/posts`, perSecond: 10 }),
    pageWithCookie: sendSteadily({ url, perSecond: 2, headers }),
    bookWithCookie: sendSteadily({ url: `${url}/api/posts`, perSecond: 1, headers }),
    mapWithCookie: sendSteadily({ url: `${url}/api/fleet`, perSecond: 1, headers }),
    session: sendSteadily({ url: `${url}/api/me`, perSecond: 2, headers })
  }
}

/** Sends visits before, during and after the fault, and waits for every answer. */
async function visitDuring({ begin, noticed, end }: Fault, visits: readonly Visits[]): Promise<void> {
  const answered = (): number[] => visits.map(({ page }) => page.sent - page.pending)
  const go = async (wanted: number, broken: boolean): Promise<void> => {
    const before = answered()
    const enough = (): boolean => answered().every((count, index) => count - before[index]! >= wanted)
    await until(() => enough() && (!broken || (noticed?.(visits) ?? true)), {
      timeout: 60_000,
      message: 'the visits go on, and visitors with a session see the fault'
    })
  }
  await go(20, false)
  try {
    await begin(stage)
    await go(VISITS, true)
  } finally {
    await end?.(stage)
  }
  await Promise.all(each(visits).map((requests) => requests.finish()))
}

const each = (visits: readonly Visits[]): SteadyRequests[] =>
  visits.flatMap((one) => all.map((kind) => one[kind]))

const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0)

/** Of each instance that runs, how often each path was asked for. */
function arrivals(): Promise<Record<string, number>[]> {
  const { instances } = stage.fleet
  return Promise.all(instances.map((one) => one.call<Record<string, number>>('arrivals', 60_000)))
}
