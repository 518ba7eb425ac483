import { Redis } from 'ioredis'
import { test } from 'tap'
import { startCluster, startRedis, startSentinel, until } from '../src/index.js'

test('one server: what a kill, a pause and a restart do to it', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const client = redis.client()
  await client.set('key', 'value')

  redis.pause()
  const answer = client.get('key')
  t.equal(
    await Promise.race([answer, new Promise((resolve) => setTimeout(resolve, 100, 'silence'))]),
    'silence'
  )
  redis.resume()
  t.equal(await answer, 'value')

  const { port, pid } = redis
  const ended = new Promise((resolve) => client.once('end', resolve))
  await redis.kill()
  await ended
  t.notOk(redis.running)
  await t.rejects(redis.command('PING'))
  await redis.restart()
  t.equal(redis.port, port)
  t.not(redis.pid, pid)
  t.equal(await redis.command('GET', 'key'), null, 'nothing was saved')
})

test('a durable server keeps what it acknowledged through SIGKILL', async (t) => {
  const redis = await startRedis({ durable: true })
  t.teardown(() => redis.stop())
  await redis.command('SET', 'key', 'value')
  await redis.kill()
  await redis.restart()
  t.equal(await redis.command('GET', 'key'), 'value')
})

test('password and TLS are required, and the URL leads in', async (t) => {
  const open = await startRedis({ password: false })
  t.teardown(() => open.stop())
  t.equal(open.url, `redis://127.0.0.1:${open.port}`)
  const usual = await startRedis()
  t.teardown(() => usual.stop())
  const without = new Redis(usual.port, { retryStrategy: () => null })
  without.on('error', () => {})
  t.teardown(() => without.disconnect())
  await t.rejects(without.get('key'), /NOAUTH/, 'a password by default')

  const secret = await startRedis({ password: 'p@ss word/1' })
  t.teardown(() => secret.stop())
  const client = new Redis(secret.url)
  t.equal(await client.ping(), 'PONG')
  client.disconnect()
  const stranger = new Redis(secret.port, { retryStrategy: () => null })
  stranger.on('error', () => {})
  t.teardown(() => stranger.disconnect())
  await t.rejects(stranger.get('key'), /NOAUTH/)

  const encrypted = await startRedis({ tls: true })
  t.teardown(() => encrypted.stop())
  const trusting = new Redis(encrypted.url, { tls: { ca: String(encrypted.ca) } })
  t.equal(await trusting.ping(), 'PONG')
  trusting.disconnect()
})

test('countCommands shows what the application asked for, once, and nothing of the connection', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { commands, result } = await redis.countCommands(async () => {
    const client = redis.client()
    await client.ping()
    await client.set('key', 'value')
    return client.eval("return redis.call('get', KEYS[1])", 1, 'key')
  })
  t.equal(result, 'value')
  t.strictSame(
    commands.map(([name]) => name),
    ['SET', 'EVAL']
  )
})

test('countCommands on a server that never rests', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const client = redis.client()
  t.teardown(() => client.disconnect())
  const over = new AbortController()
  const noise = Array.from({ length: 4 }, async () => {
    while (!over.signal.aborted) await client.incr('noise')
  })
  for (let turn = 0; turn < 20; turn += 1) {
    const { commands } = await redis.countCommands(() => client.get(`key ${turn}`))
    t.ok(commands.some(([name, key]) => name === 'GET' && key === `key ${turn}`))
  }
  over.abort()
  await Promise.all(noise)
})

test('twenty servers at once get twenty ports', async (t) => {
  const servers = await Promise.all(Array.from({ length: 20 }, () => startRedis()))
  t.teardown(() => Promise.all(servers.map((server) => server.stop())))
  t.equal(new Set(servers.map(({ port }) => port)).size, 20)
  await Promise.all(servers.map((server, index) => server.command('SET', 'index', index)))
  t.strictSame(
    await Promise.all(servers.map((server) => server.command('GET', 'index'))),
    servers.map((_server, index) => String(index))
  )
})

test('Sentinel: a killed primary is replaced and comes back as a replica', async (t) => {
  const group = await startSentinel({ password: 'secret', sentinelPassword: 'guarded' })
  t.teardown(() => group.stop())
  const old = await group.master()
  t.equal((await group.replicas()).length, 2)
  await old.command('SET', 'key', 'value')
  await old.command('WAIT', 2, 5_000)

  await old.kill()
  const master = await group.waitForFailover(old)
  t.not(master, old)
  t.equal(await master.command('GET', 'key'), 'value')
  t.equal(await master.command('SET', 'key', 'newer'), 'OK')

  await old.restart()
  await group.waitForAgreement()
  t.equal((await old.info('replication'))['role'], 'slave')
  t.not(await group.failover(), master)

  const client = new Redis({
    sentinels: group.sentinels.map(({ host, port }) => ({ host, port })),
    name: group.name,
    password: 'secret',
    sentinelPassword: 'guarded'
  })
  t.teardown(() => client.disconnect())
  t.equal(await client.get('key'), 'newer')
})

test('Cluster: a slot moves live, a replica takes over, a killed master is replaced', async (t) => {
  const cluster = await startCluster()
  t.teardown(() => cluster.stop())
  t.equal((await cluster.masters()).length, 3)

  const from = await cluster.masterOf('{tag}')
  for (let index = 0; index < 10; index += 1) await from.command('SET', `{tag}${index}`, index)
  let halfway: unknown
  const moved = await cluster.migrateSlot('{tag}', {
    async midway() {
      // Five keys are gone from here: a client is sent on with ASK.
      const replies = await Promise.allSettled(
        Array.from({ length: 10 }, (_none, index) => from.command('GET', `{tag}${index}`))
      )
      halfway = replies.filter(
        (one) => one.status === 'rejected' && String(one.reason.message).startsWith('ASK ')
      ).length
    }
  })
  t.equal(halfway, 5)
  t.equal(moved.keys, 10)
  t.equal(moved.from, from)
  t.equal(await cluster.masterOf('{tag}'), moved.to)
  await t.rejects(from.command('GET', '{tag}1'), /^MOVED /)
  t.equal(await moved.to.command('GET', '{tag}1'), '1')

  const held = await cluster.beginMigration('{tag}', from)
  t.equal(await held.moveKeys(0.5), 5)
  await held.cancel()
  t.equal(await moved.to.command('GET', '{tag}1'), '1')
  t.equal(await cluster.masterOf('{tag}'), moved.to)

  const replica = await cluster.replicaOf(moved.to)
  t.equal(await cluster.failover('{tag}'), replica)
  t.equal(await replica.command('GET', '{tag}1'), '1')

  await until(async () => (await cluster.replicaOf(replica)) === moved.to, {
    message: 'the old master follows'
  })
  await cluster.waitForHealth()
  await replica.kill()
  await cluster.waitForFailover(replica)
  t.equal(await cluster.masterOf('{tag}'), moved.to)
  await replica.restart()
  await cluster.waitForHealth()
})
