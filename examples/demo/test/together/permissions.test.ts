import cache from '@flotilla/cache'
import health from '@flotilla/health'
import redis, { waitForReplicas } from '@flotilla/redis'
import session from '@flotilla/session'
import { onEachTopology, startRedis, until, type RedisServer, type Topology } from '@flotilla/testbed'
import broadcast from '@flotilla/ws-broadcast'
import { connect } from '@flotilla/ws-broadcast/client'
import Fastify, { type FastifyInstance } from 'fastify'
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { test, type Test } from 'tap'
import { WebSocket } from 'ws'

declare module '@flotilla/session' {
  interface SessionData {
    theme: string
  }
}

const secret = randomBytes(32).toString('base64url')

/** The rules that the README of a package gives for its Redis user. */
async function rulesOf(name: string): Promise<string[]> {
  const readme = await readFile(new URL(`../../../../packages/${name}/README.md`, import.meta.url), 'utf8')
  const rules = /^ACL SETUSER app (.+)$/m.exec(readme)?.[1]
  if (rules === undefined) throw new Error(`the README of ${name} has no ACL`)
  return rules.split(' ')
}

type Plugin = (app: FastifyInstance) => PromiseLike<unknown>

/** Every server that keeps data. */
function nodesOf(topology: Topology): RedisServer[] {
  if (topology.topology === 'single') return [topology.redis]
  return topology.topology === 'sentinel' ? topology.redis.servers : topology.redis.nodes
}

/** The operations of each package that reach Redis. */
const paths: Record<string, (app: FastifyInstance, topology: string) => Promise<void>> = {
  async redis(app, topology) {
    await app.bus.ready()
    const heard: unknown[] = []
    app.bus.subscribe('t', (payload) => heard.push(payload))
    await app.bus.publish('t', 1)
    await until(() => heard.length === 1)
    await app.withLease('job', () => 1)
    if (topology !== 'single') {
      await app.withLease('job', () =>
        waitForReplicas(app.redis, { key: '{flotilla:lease:x}', replicas: 1, timeout: '5s' })
      )
    }
  },
  async session(app) {
    await app.register(session, { secret, local: {} })
    app.get('/login', async (request) => {
      await request.session.login('ada')
      request.session.set('theme', 'dark')
      return 'in'
    })
    app.get('/read', async (request) => request.session.data)
    await app.ready()
    const cookie = String((await app.inject('/login')).headers['set-cookie']).split(';')[0]!
    const read = await app.inject({ url: '/read', headers: { cookie } })
    if (read.body !== '{"theme":"dark"}') throw new Error(`read ${read.body}`)
    await app.sessions.list('ada')
    await app.sessions.revokeAll('ada')
  },
  async cache(app) {
    await app.register(cache, { ttl: '5m' })
    await app.ready()
    await app.cache.getOrSet('a', async () => 1, { tags: ['t'] })
    await app.cache.setMany([{ key: 'b', value: 1 }])
    await app.cache.getMany(['a', 'b', 'c'])
    await app.cache.invalidateTags(['t'])
    await app.cache.delete('b')
    await app.cache.namespace('n').clear()
    await app.cache.explain('a')
  },
  async 'ws-broadcast'(app) {
    await app.register(broadcast, {
      channels: { news: { history: {} }, 'room:*': { presence: true, publish: 'client' } }
    })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const client = connect(`${url.replace('http', 'ws')}/ws`, { WebSocket })
    const heard: unknown[] = []
    await client.subscribe('news', ({ data }) => heard.push(data)).ready
    await client.subscribe('room:1').ready
    await client.publish('room:1', 'hello')
    await client.presence('room:1')
    await app.broadcast.publish('news', 1, { idempotencyKey: 'k' })
    await until(() => heard.length === 1)
    await app.broadcast.disconnect({ userId: 'x' })
    client.close()
  },
  async health(app) {
    await app.register(health, { fleet: { lease: 1_000 } })
    await app.ready()
    await until(async () => (await app.health.fleet())?.instances.length === 1)
  }
}

void test('the permissions in the READMEs are enough for what each package does', async (suite) => {
  await onEachTopology<Test>(suite, async (t, on) => {
    const nodes = nodesOf(on)
    for (const name of Object.keys(paths)) {
      await t.test(name, async (t: Test) => {
        const rules = [...(await rulesOf('redis')), ...(name === 'redis' ? [] : await rulesOf(name))]
        for (const node of nodes) {
          await node.command('ACL', 'SETUSER', 'app', 'reset', ...rules)
          await node.command('ACL', 'LOG', 'RESET')
        }
        const app = Fastify({ forceCloseConnections: true })
        t.teardown(() => app.close())
        await app.register(redis, { url: on.url.replace(/:\/\/[^@]*@/, '://app:password@') })
        await paths[name]!(app, on.topology)
        await app.close()
        const refused = (await Promise.all(nodes.map((node) => node.command('ACL', 'LOG')))).flat()
        t.same(refused, [], 'no command was refused')
      })
    }
  })
})

/** Commands that are needed only for what not every app does, or that Redis grants with another. */
const LATER: Record<string, RegExp> = {
  redis:
    /^\+(@connection|multi|discard|cluster.*|time|get|set|del|pttl|pexpire|exists|wait|spublish|unsubscribe|s(un)?subscribe)$/
}

void test('register fails by the name of what the Redis user may not do', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const plugins: Record<string, Plugin | undefined> = {
    redis: undefined,
    session: (app) => app.register(session, { secret }),
    cache: (app) => app.register(cache, { ttl: '5m' }),
    'ws-broadcast': (app) => app.register(broadcast, { channels: { news: {} } })
  }
  /** What `register` says to a user with these rules. */
  const refusal = async (rules: string[], plugin: Plugin | undefined): Promise<unknown> => {
    await server.command('ACL', 'SETUSER', 'app', 'reset', ...rules)
    const app = Fastify()
    try {
      await app.register(redis, { url: server.url.replace(/:\/\/[^@]*@/, '://app:password@') })
      await plugin?.(app)
      return undefined
    } catch (error) {
      return error
    } finally {
      await app.close()
    }
  }
  for (const [name, plugin] of Object.entries(plugins)) {
    const shared = await rulesOf('redis')
    const own = name === 'redis' ? shared : await rulesOf(name)
    const all = name === 'redis' ? own : [...shared, ...own]
    t.equal(await refusal(all, plugin), undefined, `${name}: all that it needs`)
    const code = 'FLOTILLA_REDIS_ERR_PERMISSION'
    for (const rule of own.filter((one) => one.startsWith('+') && !LATER[name]?.test(one))) {
      const without = all.filter((one) => one !== rule)
      const command = rule.slice(1).toUpperCase()
      const message = new RegExp(`^@flotilla/${name}: the Redis user may not run .*\\b${command}\\b`)
      t.match(await refusal(without, plugin), { code, message }, `${name} without ${command}`)
    }
    for (const rule of own.filter((one) => one.startsWith('~flotilla:') && !one.includes('durable'))) {
      const without = all.filter((one) => one !== rule)
      t.match(await refusal(without, plugin), { code, message: /on these keys/ }, `${name} without ${rule}`)
    }
  }
  const silent = (await rulesOf('redis')).map((one) => (one === '&flotilla:*' ? '&other:*' : one))
  t.match(await refusal(silent, undefined), { message: /may not run PUBLISH, SUBSCRIBE flotilla:bus\./ })
})
