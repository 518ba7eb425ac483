/* Compiled, not run: what the types must allow and refuse. */
import type { FastifyInstance } from 'fastify'
import type { Cache, Explanation, FactoryContext } from '../../src/index.js'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <A, B>(equal: Equal<A, B>): Equal<A, B> => equal

interface User {
  name: string
}

export async function caches(app: FastifyInstance): Promise<void> {
  const user = await app.cache.getOrSet('user:1', async (): Promise<User> => ({ name: 'ada' }))
  same<typeof user, User>(true)
  const told = await app.cache.getOrSet('user:2', async (ctx) => {
    ctx.tags('user:2')
    return { name: 'ada' }
  })
  same<typeof told, User>(true)
  const aborted = await app.cache.getOrSet('user:3', async ({ signal }) => ({ name: String(signal.aborted) }))
  same<typeof aborted, User>(true)
  const explicit = await app.cache.getOrSet<number>('user:4', ({ stale }) => Number(stale ?? 0) + 1)
  same<typeof explicit, number>(true)
  const number = await app.cache.getOrSet('n', () => 1)
  same<typeof number, number>(true)
  const maybe = await app.cache.getOrSet('m', (): User | undefined => undefined)
  same<typeof maybe, User | undefined>(true)
  const unknown = await app.cache.get('n')
  same<typeof unknown, unknown>(true)
  const named = await app.cache.get<User>('n')
  same<typeof named, User | undefined>(true)

  const users: Cache<User> = app.cache.namespace<User>('users')
  same<ReturnType<typeof users.peek>, User | undefined>(true)
  const many = await users.getMany(['1', '2'])
  same<(typeof many)[number], User | undefined>(true)
  const computed = await users.getOrSetMany(['1', '2'], (keys, contexts) => {
    same<(typeof contexts)[number]['stale'], User | undefined>(true)
    return keys.map((name) => ({ name }))
  })
  same<(typeof computed)[number], User>(true)
  same<Awaited<ReturnType<typeof users.add>>, boolean>(true)
  same<Awaited<ReturnType<typeof users.ttl>>, number | undefined>(true)
  // @ts-expect-error -- a list or a Map
  await users.getOrSetMany(['1'], () => 1)
  await users.set('1', { name: 'ada' }, { ttl: '1m', tags: ['users'] })
  // @ts-expect-error -- a user has a name
  await users.set('1', { nam: 'ada' })
  // @ts-expect-error -- a factory of this namespace makes users
  await users.getOrSet('1', () => 1)
  // @ts-expect-error -- no such option
  await users.getOrSet('1', () => ({ name: 'ada' }), { tll: 1 })
  await users.getOrSet('1', (ctx) => {
    same<typeof ctx.signal, AbortSignal>(true)
    same<typeof ctx.after, string | undefined>(true)
    ctx.tags('a', ['b'])
    return ctx.stale ?? { name: 'ada' }
  })
  same<Awaited<ReturnType<typeof users.explain>>, Explanation>(true)

  app.get('/x', { config: { cache: { ttl: '1m', vary: ['accept'], tags: ({ url }) => [url] } } }, () => 1)
  app.get('/y', { config: { cache: false } }, () => 1)
  // @ts-expect-error -- a list of names
  app.get('/z', { config: { cache: { vary: 'accept' } } }, () => 1)
  app.get('/fill', { config: { cache: { ttl: '1m' } } }, (request) => {
    same<typeof request.cacheFill, FactoryContext | undefined>(true)
    // @ts-expect-error -- there is none where the response is not going to be stored
    request.cacheFill.tags('a')
    request.cacheFill?.tags('a', ['b'])
    request.cacheFill?.consistentWith(request.cacheFill.after)
    const after: string | undefined = request.cacheFill?.after
    // @ts-expect-error -- the cache sets it
    request.cacheFill = undefined
    return { after }
  })
}
