import { flotillaRedis } from '@flotilla/redis'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { flotillaCache, type CacheOptions } from '../../src/index.js'

/** On a busy machine Redis may take its time: only tests about that want it to count as away. */
const PATIENT: CacheOptions = { redisTimeout: { soft: '10s', hard: '20s' }, lease: '20s' }

/** An app with the cache, closed after the test. @param url of Redis; absent for memory only */
export async function startApp(
  t: Pick<Test, 'teardown'>,
  url: string | undefined,
  options: CacheOptions = {},
  routes?: (app: FastifyInstance) => void
): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  if (url !== undefined) {
    await app.register(flotillaRedis, { url, ...(options.redisTimeout ? {} : { commandTimeout: '20s' }) })
  }
  await app.register(flotillaCache, {
    ...(url === undefined ? { redis: false as const } : {}),
    ...PATIENT,
    ...options
  })
  routes?.(app)
  await app.ready()
  return app
}

/** A promise and what settles it. */
export function gate<T = void>(): {
  open: (value: T) => void
  fail: (error: Error) => void
  passed: Promise<T>
} {
  let open!: (value: T) => void
  let fail!: (error: Error) => void
  const passed = new Promise<T>((resolve, reject) => {
    open = resolve
    fail = reject
  })
  return { open, fail, passed }
}
