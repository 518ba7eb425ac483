import Fastify, { type FastifyInstance } from 'fastify'
import { flotillaRedis } from '@flotilla/redis'
import { test, type Test } from 'tap'
import { onEachTopology, until } from '@flotilla/testbed'
import health from '../src/index.js'

test('the fleet registry on a single server, Sentinel and Cluster', async (t) => {
  await onEachTopology<Test>(t, async (t, { url }) => {
    const start = async (instance: string): Promise<FastifyInstance> => {
      const app = Fastify()
      t.teardown(() => app.close())
      await app.register(flotillaRedis, { url, instance })
      await app.register(health, { instance, drain: { signals: false }, fleet: { lease: 1500 } })
      await app.ready()
      return app
    }
    const [one, two] = await Promise.all([start('one'), start('two')])
    const ids = async (app: FastifyInstance): Promise<string> =>
      (await app.health.fleet()).instances
        .map(({ id }) => id)
        .toSorted()
        .join()
    const left: unknown[] = []
    one.bus.subscribe('instance.left', (payload) => left.push(payload))
    await one.bus.ready()
    await until(async () => (await ids(one)) === 'one,two' && (await ids(two)) === 'one,two')
    await two.close()
    await until(async () => (await ids(one)) === 'one')
    await until(() => left.length > 0)
    t.strictSame(left, [{ instance: 'two' }])
  })
})
