import { test, type Test } from 'tap'
import { onEachTopology, until } from '@flotilla/testbed'
import { RawClient, startTestApp } from './app.js'

test('the contract', (top) =>
  onEachTopology(top, async (parent: Test, { url }) => {
    const [a, b] = await Promise.all([startTestApp(parent, url), startTestApp(parent, url)])

    await parent.test('a message reaches the sockets of every instance, in order', async (t) => {
      const clients = await Promise.all([RawClient.open(t, a.ws), RawClient.open(t, b.ws)])
      for (const client of clients) await client.subscribe('news')
      for (let n = 0; n < 20; n += 1) await (n % 2 ? a : b).app.broadcast.publish('news', { n })
      for (const client of clients) {
        await client.count(20)
        t.same(
          client.data(),
          Array.from({ length: 20 }, (_, n) => ({ n }))
        )
      }
    })

    await parent.test('a client resumes where it left off, on another instance', async (t) => {
      const first = await RawClient.open(t, a.ws)
      const { epoch, offset } = await first.subscribe('load:resume')
      first.ws.terminate()
      for (let n = 0; n < 450; n += 1) void a.app.broadcast.publish('load:resume', n)
      await a.app.broadcast.publish('load:resume', 450)
      const second = await RawClient.open(t, b.ws)
      const answer = await second.subscribe('load:resume', { epoch, offset })
      t.equal(answer.recovered, true)
      await second.count(451)
      t.same(
        second.data(),
        Array.from({ length: 451 }, (_, n) => n)
      )
    })

    await parent.test('trimmed history is a gap, and what is left follows', async (t) => {
      const { offset, epoch } = await a.app.broadcast.publish('short:1', 0)
      for (let n = 1; n <= 300; n += 1) await a.app.broadcast.publish('short:1', n)
      const client = await RawClient.open(t, a.ws)
      const answer = await client.subscribe('short:1', { epoch, offset })
      t.equal(answer.recovered, false)
      t.equal((await client.next('gap')).reason, 'trimmed')
      await until(() => client.data().at(-1) === 300)
      const data = client.data() as number[]
      t.ok(data.length >= 5 && data.length < 300, `${data.length} left`)
      t.same(
        data,
        data.map((_, index) => 301 - data.length + index)
      )
    })

    await parent.test('an idempotency key publishes once', async (t) => {
      const client = await RawClient.open(t, b.ws)
      await client.subscribe('news')
      const one = await a.app.broadcast.publish('news', 'once', { idempotencyKey: 'k1' })
      const two = await b.app.broadcast.publish('news', 'once', { idempotencyKey: 'k1' })
      t.same([one.duplicate, two.duplicate], [false, true])
      t.equal(one.offset, two.offset)
      await a.app.broadcast.publish('plain:once', 1, { idempotencyKey: 'k' })
      t.equal((await b.app.broadcast.publish('plain:once', 1, { idempotencyKey: 'k' })).duplicate, true)
      await a.app.broadcast.publish('news', 'end')
      await client.count(2)
      t.same(client.data(), ['once', 'end'])
    })

    await parent.test('channels without history deliver too', async (t) => {
      const client = await RawClient.open(t, b.ws)
      await client.subscribe('plain:1')
      t.same(await a.app.broadcast.publish('plain:1', { x: 'ä\n€' }), { duplicate: false })
      await client.count(1)
      t.same(client.of('message')[0], { type: 'message', channel: 'plain:1', data: { x: 'ä\n€' } })
    })

    await parent.test('presence spans the instances', async (t) => {
      const [one, two] = [await RawClient.open(t, a.ws), await RawClient.open(t, b.ws)]
      await one.subscribe('room:7')
      await until(async () => (await b.app.broadcast.presence('room:7')).length === 1)
      await two.subscribe('room:7')
      const ids = [one, two].map((client) => client.of('welcome')[0]!.connection).sort()
      await until(async () => (await a.app.broadcast.presence('room:7')).length === 2)
      t.same((await b.app.broadcast.presence('room:7')).map(({ id }) => id).sort(), ids)
      two.ws.close()
      const left = await one.next('leave')
      t.equal(left.member.id, two.of('welcome')[0]!.connection)
      t.equal((await a.app.broadcast.presence('room:7')).length, 1)
    })

    await parent.test('a client publishes where the rule lets it', async (t) => {
      const client = await RawClient.open(t, a.ws)
      await client.subscribe('room:8')
      client.send({ type: 'publish', id: 1, channel: 'room:8', data: { hi: 1 }, key: 'a' })
      client.send({ type: 'publish', id: 2, channel: 'room:8', data: { hi: 1 }, key: 'a' })
      client.send({ type: 'publish', id: 3, channel: 'news', data: 1 })
      await until(() => client.of('published').length === 2)
      t.equal((await client.next('error')).code, 'forbidden')
      t.equal(client.data().length, 1)
    })

    await parent.test('disconnect reaches the sockets of all instances', async (t) => {
      const client = await RawClient.open(t, b.ws)
      const { connection } = client.of('welcome')[0]!
      await a.app.broadcast.disconnect({ connection }, { code: 4999, reason: 'test' })
      await until(() => client.closed)
      t.same(client.closed, { code: 4999, reason: 'test' })
    })
  }))
