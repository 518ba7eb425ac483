import type { Redis } from 'ioredis'
import Fastify, { type FastifyInstance } from 'fastify'
import { test } from 'tap'
import redis, {
  defineScript,
  flotillaRedis,
  isCluster,
  type resolveRedis,
  runGrouped,
  type FleetBus,
  type RedisClient,
  type RedisPluginOptions,
  type Subscriber
} from '../../src/index.js'

/** True where two types are the same. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const holds = <T extends true>(): T | undefined => undefined

const script = defineScript<[string, number]>({ name: 'typed', keys: 1, lua: 'return {}' })

/** Checked by the compiler alone. */
export async function types(
  app: FastifyInstance,
  client: RedisClient,
  subscriber: Subscriber
): Promise<void> {
  holds<Same<typeof app.bus, FleetBus>>()
  const plain: Redis = app.redis
  plain.disconnect()
  const reply = await script.run(client, ['k'], ['v', 1, Buffer.alloc(0)])
  holds<Same<typeof reply, [string, number]>>()
  const counts = await runGrouped<number>(client, ['a'], (pipeline, key) => pipeline.incr(key))
  holds<Same<typeof counts, number[]>>()
  if (isCluster(client)) client.nodes('master')
  holds<Same<ReturnType<typeof resolveRedis>, RedisClient>>()
  const end = await subscriber.subscribe('c', (message) => message.toString(), { sharded: true })
  holds<Same<typeof end, () => void>>()
  // @ts-expect-error keys are strings
  await script.run(client, [1])
  // @ts-expect-error an option of ours with the wrong type
  await app.register(redis, { url: 'redis://localhost', commandTimeout: true })
  // @ts-expect-error the master's name belongs into the URL
  const refused: RedisPluginOptions = { url: 'redis+sentinel://h/m', sentinels: [] }
  await app.register(redis, {
    ...refused,
    family: 4,
    db: 1,
    tls: { ca: 'x' },
    scaleReads: 'slave',
    keyPrefix: 'a:'
  })
}

void test('default and named export are the plugin', async (t) => {
  t.equal(redis, flotillaRedis)
  t.type(types, 'function')
  const app = Fastify()
  t.teardown(() => app.close())
  t.notOk(app.hasPlugin('@flotilla/redis'))
})
