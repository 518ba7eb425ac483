import fastifyRedis from '@fastify/redis'
import type { CheckFunction } from '@flotilla/core'
import {
  createCertificate,
  startCluster,
  startProxy,
  startRedis,
  startSentinel,
  until
} from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type Server as NetServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { inspect, promisify } from 'node:util'
import { test, type Test } from 'tap'
import redis, { resolveBus, resolveRedis, type RedisPluginOptions } from '../src/index.js'
import { record, rejection, startApp, timed } from './fixtures/app.js'

/** The error with which an app fails to start, and that it leaves nothing open. */
async function failure(t: Test, options: unknown): Promise<{ code?: string; message: string; ms: number }> {
  const app = Fastify({ pluginTimeout: 3_000 })
  const { ms, result } = await timed(() =>
    rejection(Promise.resolve(app.register(redis, options as RedisPluginOptions)).then(() => app.ready()))
  )
  await app.close()
  t.notMatch(result.code, /AVV_ERR|FST_ERR/)
  return Object.assign(result, { ms })
}

void test('options that are wrong fail before anything is opened', async (t) => {
  const url = 'redis://127.0.0.1:1'
  const cases: [options: unknown, message: RegExp][] = [
    [undefined, /needs option 'url'.*work without it/],
    [{}, /needs option 'url'/],
    [{ url: 7 }, /'url' must be a non-empty string/],
    [{ url: 'nonsense' }, /'url' is malformed/],
    [{ url, client: new Redis({ lazyConnect: true }) }, /exclude each other/],
    [{ client: {} }, /must be an ioredis/],
    [{ url, connectTimeout: 'soon' }, /'connectTimeout' must be a duration/],
    [{ url, commandTimeout: 0 }, /'commandTimeout'/],
    [{ url, cluster: 'yes' }, /'cluster' must be true or false/],
    [{ url, instance: '' }, /'instance'/],
    [{ url, bus: { probe: 1 } }, /unknown option 'bus.probe'/],
    [{ url, sentinels: [] }, /'sentinels' is refused.*redis\+sentinel/],
    [{ url, namespace: 'x' }, /'namespace' is refused/],
    [{ url, host: 'other' }, /'host' is refused.*belongs into the url/],
    [{ url, port: 6380 }, /'port' is refused/],
    [{ url, path: '/run/redis.sock' }, /'path' is refused/],
    [{ url, commandTimout: 100 }, /unknown option 'commandTimout', .*; did you mean 'commandTimeout'\?/],
    [{ url, keyprefix: 'x' }, /did you mean 'keyPrefix'\?/],
    [{ url, wholly: 'unheard of' }, /unknown option 'wholly', which neither the plugin nor ioredis has$/],
    [{ url, redisOptions: { pasword: 'x' } }, /'redisOptions\.pasword', .*did you mean 'password'\?/],
    [{ url, redisOptions: 7 }, /'redisOptions' must be an object/],
    [{ url, bus: { probeIntervall: 1 } }, /'bus\.probeIntervall'; did you mean 'probeInterval'\?/],
    [{ url, closeClient: true }, /'closeClient' is refused/],
    [{ client: new Redis({ lazyConnect: true }), keyPrefix: 'x' }, /'keyPrefix' has no effect/]
  ]
  for (const [options, message] of cases) {
    const error = await failure(t, options)
    t.match(error, { code: 'FLOTILLA_REDIS_ERR_OPTIONS', message })
  }
})

void test('Redis that cannot be used: one coded error with address and cause, in time', async (t) => {
  const plain = await startRedis({ password: false })
  const locked = await startRedis({ password: 'open sesame' })
  const secure = await startRedis({ tls: true, password: false })
  const lone = await startRedis({ cluster: true, password: false })
  t.teardown(() => Promise.all([plain.stop(), locked.stop(), secure.stop(), lone.stop()]))
  const proxy = await startProxy(plain)
  t.teardown(() => proxy.stop())
  proxy.blackhole()
  const hangUp = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1')
  await once(hangUp, 'listening')
  t.teardown(() => hangUp.close())
  const hangUpPort = (hangUp.address() as { port: number }).port
  const web = createHttpServer((_request, response) => response.end('hello'))
  const folder = t.testdir({})
  const cert = await createCertificate(folder)
  const tls = createTlsServer({ cert, key: await readFile(join(folder, 'server.key')) })
  for (const server of [web, tls]) {
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.teardown(() => server.close())
  }
  const portOf = (server: NetServer): number => (server.address() as AddressInfo).port
  const at = (server: { host: string; port: number }): string => `${server.host}:${server.port}`
  const connectTimeout = 700

  const cases: [name: string, options: RedisPluginOptions, message: RegExp][] = [
    ['refused', { url: 'redis://127.0.0.1:1' }, /127\.0\.0\.1:1: connection refused/],
    [
      'DNS',
      { url: 'redis://no-such-host.invalid' },
      /no-such-host\.invalid:6379: the host name cannot be resolved/
    ],
    ['silent', { url: `redis://${at(proxy)}` }, new RegExp(`${at(proxy)}: no answer in time`)],
    ['hangs up', { url: `redis://127.0.0.1:${hangUpPort}` }, /closes the connection/],
    [
      'NOAUTH',
      { url: `redis://${at(locked)}` },
      new RegExp(`${at(locked)}: it asks for a password \\(NOAUTH\\)`)
    ],
    ['WRONGPASS', { url: `redis://:wrong@${at(locked)}` }, /wrong user or password \(WRONGPASS\)/],
    ['no such user', { url: `redis://who:wrong@${at(plain)}` }, /wrong user or password/],
    ['database', { url: `redis://${at(plain)}/99` }, /no database of that number/],
    ['TLS: unknown CA', { url: secure.url }, /certificate is not accepted/],
    ['TLS: plain server', { url: `rediss://${at(plain)}` }, /does not speak TLS there/],
    [
      'TLS: plain server, tls undefined',
      { url: `rediss://${at(plain)}`, tls: undefined },
      /does not speak TLS there/
    ],
    [
      'TLS: plain node, tls undefined',
      { url: `rediss+cluster://${at(lone)}`, redisOptions: { tls: undefined } },
      /does not speak TLS there/
    ],
    ['TLS: plain client', { url: secure.url.replace('rediss', 'redis') }, /closes the connection/],
    [
      'HTTP',
      { url: `redis://127.0.0.1:${portOf(web)}` },
      new RegExp(`127\\.0\\.0\\.1:${portOf(web)}: what answers there does not speak Redis`)
    ],
    ['HTTP as Cluster', { url: `redis+cluster://127.0.0.1:${portOf(web)}` }, /does not speak Redis/],
    ['HTTP as Sentinel', { url: `redis+sentinel://127.0.0.1:${portOf(web)}/m` }, /does not speak Redis/],
    [
      'TLS: plain client, and a server that closes without a word',
      { url: `redis://127.0.0.1:${portOf(tls)}` },
      /closes the connection: .* TLS where the URL says none/
    ],
    ['node as single', { url: `redis://${at(lone)}` }, /node of a Redis Cluster: use redis\+cluster/],
    ['node as single, in Valkey words', { url: `valkey://${at(lone)}` }, /node of a Redis Cluster/],
    ['no such socket', { url: 'unix:///no/such.sock' }, /at \/no\/such\.sock: there is no such socket/],
    ['single as Cluster', { url: plain.url, cluster: true }, /single server, no Redis Cluster/],
    // Whatever speaks TLS there: its certificate comes before its protocol.
    [
      'TLS: certificate of a Sentinel',
      { url: `rediss+sentinel://${at(secure)}/m` },
      /certificate is not accepted: pass the CA as tls: \{ ca \}/
    ],
    [
      'TLS: a Sentinel that is trusted by the same CA',
      { url: `rediss+sentinel://${at(secure)}/m`, tls: { ca: secure.ca! } },
      /it is a server, not a Sentinel: use redis:\/\//
    ],
    ['CLUSTERDOWN', { url: lone.url, cluster: true }, /Cluster is down/],
    [
      'Cluster refused',
      { url: 'redis+cluster://127.0.0.1:1,127.0.0.1:2' },
      /127\.0\.0\.1:1,127\.0\.0\.1:2: connection refused/
    ],
    ['Cluster NOAUTH', { url: `redis://${at(locked)}`, cluster: true }, /NOAUTH/],
    ['no sentinel', { url: 'redis+sentinel://127.0.0.1:1/m' }, /127\.0\.0\.1:1: connection refused/],
    ['server as Sentinel', { url: `redis+sentinel://${at(plain)}/m` }, /it is a server, not a Sentinel/],
    [
      'server as Sentinel, and a Sentinel that is away',
      { url: `redis+sentinel://${at(plain)},127.0.0.1:1/m` },
      /127\.0\.0\.1:1: (it is a server, not a Sentinel|connection refused)/
    ]
  ]
  for (const [name, options, message] of cases) {
    await t.test(name, async (t: Test) => {
      const error = await failure(t, { ...options, connectTimeout })
      t.match(error, { code: 'FLOTILLA_REDIS_ERR_CONNECT', message })
      t.ok(error.ms < connectTimeout + 1_500, `${error.ms} ms`)
    })
  }
  for (const scheme of ['redis', 'redis+cluster']) {
    const error = await failure(t, { url: `${scheme}://app:TOPSECRET@${at(locked)}`, connectTimeout })
    t.match(error.message, /WRONGPASS/)
    t.notMatch(inspect(error, { depth: 10 }) + JSON.stringify(error), /TOPSECRET/, scheme)
  }
  const late = await failure(t, { url: `redis://${at(proxy)}`, connectTimeout: '30s' })
  t.match(late, { code: 'FLOTILLA_REDIS_ERR_CONNECT' }, "before Fastify's own limit for plugins")
})

void test('Sentinel: an unknown master, and a sentinel asked as a server', async (t) => {
  const group = await startSentinel({ replicas: 0, sentinels: 1 })
  t.teardown(() => group.stop())
  const [sentinel] = group.sentinels
  const unknown = await failure(t, { url: group.url.replace('mymaster', 'another'), connectTimeout: 800 })
  t.match(unknown, { code: 'FLOTILLA_REDIS_ERR_CONNECT', message: /no master of that name/ })
  const wrong = await failure(t, { url: `redis://127.0.0.1:${sentinel!.port}`, connectTimeout: 800 })
  t.match(wrong, { code: 'FLOTILLA_REDIS_ERR_CONNECT', message: /it is a Sentinel/ })
})

void test('Sentinel: servers in the place of all Sentinels fail at once, one among Sentinels does not', async (t) => {
  const group = await startSentinel({ replicas: 0, sentinels: 1 })
  const server = await startRedis({ password: false })
  t.teardown(() => Promise.all([group.stop(), server.stop()]))
  const lone = `${server.host}:${server.port}`
  // Ten minutes: only giving up at once ends this test.
  const app = Fastify({ pluginTimeout: 0 })
  const error = await rejection(
    Promise.resolve(
      app.register(redis, { url: `redis+sentinel://${lone},${lone}/mymaster`, connectTimeout: '10m' })
    )
  )
  await app.close()
  t.match(error, { code: 'FLOTILLA_REDIS_ERR_CONNECT', message: /it is a server, not a Sentinel/ })
  const mixed = await startApp(t, { url: group.url.replace(/:\/\/(?:[^@]*@)?/, `$&${lone},`) })
  t.equal(await mixed.redis.ping(), 'PONG')
})

void test('Sentinel: passwords of its own', async (t) => {
  const group = await startSentinel({ replicas: 0, sentinels: 1 })
  t.teardown(() => group.stop())
  const [sentinel] = group.sentinels
  await sentinel!.command('ACL', 'SETUSER', 'default', 'resetpass', '>guarded')
  t.match(await failure(t, { url: group.url, connectTimeout: 2_000 }), {
    code: 'FLOTILLA_REDIS_ERR_CONNECT',
    message: /pass sentinelPassword/
  })
  const app = await startApp(t, { url: group.url, sentinelPassword: 'guarded' })
  t.equal(await app.redis.ping(), 'PONG')
})

void test('the URL of a replica: a write says READONLY, and the connection stays', async (t) => {
  const server = await startRedis()
  const replica = await startRedis({ args: ['--replicaof', server.host, String(server.port)] })
  t.teardown(() => Promise.all([server.stop(), replica.stop()]))
  await until(async () => (await replica.info('replication'))['master_link_status'] === 'up')
  const app = await startApp(t, { url: replica.url, commandTimeout: '3s' })
  t.match(await rejection(app.redis.set('k', 1)), { message: /^READONLY/ })
  const id = await app.redis.client('ID')
  t.match(await rejection(app.redis.set('k', 1)), { message: /^READONLY/ })
  t.equal(await app.redis.client('ID'), id)
})

void test('passwords, ACL users, databases and TLS from the URL', async (t) => {
  const locked = await startRedis({ password: 'p@ss/word' })
  const secure = await startRedis({ tls: true })
  const cluster = await startCluster({ replicas: 0, password: 'pw' })
  t.teardown(() => Promise.all([locked.stop(), secure.stop(), cluster.stop()]))
  const app = await startApp(t, {
    url: `${locked.url}/2`,
    connectionName: 'passed-through',
    password: undefined,
    db: undefined
  })
  await app.redis.set('k', 'in two')
  t.match(await app.redis.client('INFO'), /name=passed-through .*db=2 /)
  await locked.command('ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '&*', '+@all')
  const user = await startApp(t, { url: `redis://app:secret@127.0.0.1:${locked.port}` })
  t.equal(await user.redis.acl('WHOAMI'), 'app')
  const tls = await startApp(t, { url: secure.url, tls: { ca: secure.ca! } })
  t.equal(await tls.redis.set('k', 'v'), 'OK')
  await tls.bus.ready()
  const sharded = await startApp(t, { url: cluster.url, redisOptions: { password: undefined } })
  t.equal(await sharded.redis.set('k', 'v'), 'OK')
  await sharded.bus.ready()
})

void test('a Unix socket: commands, database, subscriber and bus', async (t) => {
  // The folder of a test is too deep: the path of a socket has at most 107 bytes.
  const folder = await mkdtemp(join(tmpdir(), 'flotilla-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const socket = join(folder, 'redis.sock')
  const server = await startRedis({ args: ['--unixsocket', socket], password: 'pw' })
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: `unix://:pw@${socket}?db=2` })
  t.match(await app.redis.client('INFO'), new RegExp(`laddr=${socket}:0 .*db=2 `))
  await app.bus.ready()
  const heard = record(app.bus)
  await app.bus.publish('news', 1)
  await until(() => heard.length === 1)
  await chmod(socket, 0)
  if (process.getuid?.() !== 0) {
    t.match(await failure(t, { url: `unix://:pw@${socket}`, connectTimeout: 700 }), {
      code: 'FLOTILLA_REDIS_ERR_CONNECT',
      message: /may not open the socket/
    })
  }
})

void test(
  "Node's permission model without the network",
  {
    skip: !process.allowedNodeEnvironmentFlags.has('--allow-net') && 'this Node.js cannot forbid the network'
  },
  async (t) => {
    const script = `
      import Fastify from 'fastify'
      import redis from '@flotilla/redis'
      for (const url of ['redis://127.0.0.1:6379', 'redis+cluster://127.0.0.1:6379', 'redis+sentinel://127.0.0.1:6379/m']) {
        const app = Fastify({ pluginTimeout: 0 })
        await app.register(redis, { url, connectTimeout: '10m' }).then(
          () => console.log('registered'),
          ({ code, message }) => console.log(code, message)
        )
        await app.close()
      }`
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--permission', '--allow-fs-read=*', '--input-type=module', '--eval', script],
      { cwd: fileURLToPath(new URL('..', import.meta.url)), timeout: 30_000 }
    )
    const lines = stdout.trim().split('\n')
    t.equal(lines.length, 3)
    for (const line of lines) {
      t.match(line, /^FLOTILLA_REDIS_ERR_CONNECT .*start it with --allow-net/)
      t.notMatch(line, /protected mode/)
    }
  }
)

void test('the bus is well from the first check on, while its connection is still being made', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = Fastify()
  t.teardown(() => app.close())
  const results: unknown[] = []
  app.decorate('health', {
    state: 'starting',
    // As in an app that has started its checks: each is asked when it is added.
    addCheck: (name: string, check: CheckFunction) => {
      if (name === 'bus') results.push(check({ signal: AbortSignal.timeout(10_000) }))
    },
    onDrain: () => undefined
  })
  await app.register(redis, { url: server.url })
  app.bus.subscribe('news', () => undefined)
  await app.ready()
  t.match(await Promise.all(results), [{ ok: true, details: { active: true, connected: true } }])
})

void test('registered twice', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const twice = await rejection(
    Promise.resolve(app.register(redis, { url: server.url })).then(() => app.ready())
  )
  t.match(twice, { code: 'FLOTILLA_REDIS_ERR_ALREADY_REGISTERED', message: /namespace/ })
})

void test("a client of one's own, plain @fastify/redis, and names", async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const client = new Redis(server.url, { lazyConnect: true })
  t.teardown(() => client.disconnect())
  const app = await startApp(t, { client })
  await app.ready()
  t.equal(app.redis, client)
  t.equal(resolveRedis(app, undefined, 'x'), client)
  t.equal(resolveRedis(app, client, 'x'), client)
  await app.bus.ready()
  await app.close()
  t.equal(await client.ping(), 'PONG', 'not ours to close')
  t.match(await server.command('CLIENT', 'LIST', 'TYPE', 'pubsub'), /^$/, 'but the subscriber was')

  const plain = Fastify()
  t.teardown(() => plain.close())
  const missing = (app: FastifyInstance, option?: string | Redis): Error => {
    try {
      resolveRedis(app, option, '@flotilla/session')
    } catch (error) {
      return error as Error
    }
    throw new Error('found one')
  }
  t.match(missing(plain), {
    code: 'FLOTILLA_REDIS_ERR_NO_CLIENT',
    message: /@flotilla\/session: .*register @flotilla\/redis/
  })
  await plain.register(fastifyRedis, { url: server.url, namespace: 'sessions' })
  t.match(missing(plain), { message: /redis: 'sessions'/ })
  t.match(missing(plain, 'other'), { message: /named 'other'/ })
  t.match(missing(plain, {} as Redis), { message: /must be an ioredis client/ })
  const named = resolveRedis(plain, 'sessions', 'x')
  let inner: unknown
  await plain.register(async (child) => {
    inner = resolveBus(child, named)
  })
  const bus = resolveBus(plain, named)
  t.equal(inner, bus, 'one bus for the app')
  t.not(bus, app.bus)
  const heard: unknown[] = []
  bus.subscribe('news', (payload) => heard.push(payload))
  await bus.ready()
  await bus.publish('news', 1)
  await plain.close()
  t.match(await server.command('CLIENT', 'LIST', 'TYPE', 'pubsub'), /^$/)
})
