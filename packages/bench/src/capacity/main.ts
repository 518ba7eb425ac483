/*
 * What one of each thing costs, as measured: `node dist/capacity/main.js [--json FILE] [--count N]`; with
 * `--users N,N,…` nothing is measured and what such fleets need is reckoned from the costs of the capacity page.
 */
import { writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startApp, startPostgres, startRedis, type AppInstance, type RedisServer } from '@flotilla/testbed'
import { connect } from '@flotilla/ws-broadcast/client'
import { WebSocket } from 'ws'
import { sizes } from './page.js'

const CPU = 'µs of CPU'

type RedisClient = ReturnType<RedisServer['client']>

interface Cost {
  readonly what: string
  readonly figure: number
  readonly unit: 'bytes of Redis' | 'bytes of the process' | typeof CPU
}

const STORED = ['session', 'cached key', 'history message']
const WORK = ['history message', 'routed query', 'pg query']
const NAMES: Record<string, string> = { 'history message': 'publish' }

/** What Redis holds more after `count` of them, for each; what is made before the first is not counted. */
async function stored(redis: RedisClient, app: AppInstance, what: string, count: number): Promise<Cost> {
  const used = async (): Promise<number> =>
    Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1])
  await app.call({ what, count: 1 })
  const before = await used()
  await app.call({ what, count }, 120_000)
  return { what, figure: ((await used()) - before) / count, unit: 'bytes of Redis' }
}

/** What the process grows by for each socket that is open, subscribed and silent. */
async function sockets(app: AppInstance, count: number): Promise<Cost[]> {
  const clients: ReturnType<typeof connect>[] = []
  let heard = 0
  const open = async (many: number): Promise<void> => {
    for (let left = many; left > 0; left -= 50) {
      const some = Array.from({ length: Math.min(50, left) }, () => connect(`${app.url}/ws`, { WebSocket }))
      clients.push(...some)
      await Promise.all(some.map((client) => client.subscribe('idle', () => heard++).ready))
    }
  }
  const used = (): Promise<number> => app.call<number>({ what: 'memory', count: 0 })
  try {
    await open(500)
    const before = await used()
    await open(count)
    const bytes = ((await used()) - before) / count
    return [
      { what: 'idle socket', figure: bytes, unit: 'bytes of the process' },
      { what: 'delivered message', figure: await deliveries(app, clients.length, () => heard), unit: CPU }
    ]
  } finally {
    for (const client of clients) client.close()
  }
}

/** CPU of the app's process for each message that reaches one socket. */
async function deliveries(app: AppInstance, many: number, heard: () => number): Promise<number> {
  const publish = async (count: number): Promise<void> => {
    const due = heard() + count * many
    await app.call({ what: 'delivered message', count }, 60_000)
    const deadline = Date.now() + 60_000
    while (heard() < due) {
      if (Date.now() > deadline)
        throw new Error(`${due - heard()} of ${count * many} messages did not arrive`)
      await sleep(20)
    }
  }
  await publish(5)
  const before = await app.call<number>({ what: 'cpu', count: 0 })
  await publish(25)
  return ((await app.call<number>({ what: 'cpu', count: 0 })) - before) / (25 * many)
}

/** CPU of the app's process for each HTTP request, on kept connections, that reads the session of its visitor. */
async function requests(app: AppInstance, count: number): Promise<Cost> {
  const login = await fetch(`${app.url}/login?user=reader`)
  const headers = { cookie: login.headers.getSetCookie()[0]!.split(';')[0]! }
  const ask = async (many: number): Promise<void> => {
    let left = many
    const one = async (): Promise<void> => {
      while (left-- > 0) {
        const body = await (await fetch(`${app.url}/read`, { headers })).text()
        if (body !== '{"user":"reader"}') throw new Error(`/read answered ${body}`)
      }
    }
    await Promise.all(Array.from({ length: 32 }, one))
  }
  await ask(1_000)
  const before = await app.call<number>({ what: 'cpu', count: 0 })
  await ask(count)
  const figure = ((await app.call<number>({ what: 'cpu', count: 0 })) - before) / count
  return { what: 'request', figure, unit: CPU }
}

/** CPU of the app's process for each of what it does by itself. */
async function worked(app: AppInstance, what: string, count: number): Promise<Cost> {
  await app.call({ what, count: 1_000 }, 60_000)
  return { what: NAMES[what] ?? what, figure: await app.call<number>({ what, count }, 120_000), unit: CPU }
}

async function measure(count: number): Promise<Cost[]> {
  const stops: (() => Promise<unknown>)[] = []
  try {
    const redis = await startRedis()
    stops.push(() => redis.stop())
    // One connection for all of it, opened while nothing else goes on.
    const client = redis.client()
    await client.ping()
    const postgres = await startPostgres({ replicas: 1 })
    stops.push(() => postgres.stop())
    const fleet = await startApp({
      script: new URL('./app.js', import.meta.url),
      nodeArgs: ['--expose-gc'],
      env: {
        NODE_ENV: 'production',
        REDIS_URL: redis.url,
        DATABASE_URL: postgres.primary.url,
        DATABASE_REPLICA_URL: postgres.replicas[0]!.url
      }
    })
    stops.push(() => fleet.stop())
    const [app] = fleet.instances
    // First: what other work has left free in the process would hide what sockets need.
    const costs: Cost[] = await sockets(app!, Math.min(count, 4_000))
    for (const what of STORED) costs.push(await stored(client, app!, what, count))
    costs.push(await requests(app!, count))
    for (const what of WORK) costs.push(await worked(app!, what, count))
    return costs
  } finally {
    for (const stop of stops.toReversed()) await stop()
  }
}

const { values } = parseArgs({
  args: process.argv.slice(2).filter((argument) => argument !== '--'),
  options: {
    json: { type: 'string' },
    count: { type: 'string', default: '10000' },
    users: { type: 'string' }
  }
})
if (values.users !== undefined) {
  const users = values.users.split(',').map(Number)
  if (!users.every((one) => Number.isSafeInteger(one) && one > 0)) {
    console.error('--users must be whole numbers above 0, separated by commas')
    process.exit(2)
  }
  console.log(sizes(users))
  process.exit(0)
}
const count = Number(values.count)
if (!Number.isInteger(count) || count < 100) {
  console.error('--count must be a whole number from 100 up')
  process.exit(2)
}
const machine = `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, Node.js ${process.version}`
const costs = await measure(count)
console.log(`One of each, from ${count.toLocaleString('en-US')}; payloads of 100 characters; ${machine}\n`)
for (const { what, figure, unit } of costs) {
  console.log(`  ${what.padEnd(18)} ${figure.toFixed(figure < 10 ? 1 : 0).padStart(8)} ${unit}`)
}
if (values.json !== undefined) {
  const file = resolve(process.env['INIT_CWD'] ?? '.', values.json)
  await writeFile(file, `${JSON.stringify({ machine, count, costs }, null, 2)}\n`)
}
