/* Compiled, not run: what the types must allow and refuse. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type {
  Session,
  SessionDataOf,
  SessionInfo,
  SessionOptions,
  StandardSchema,
  StoredSession
} from '../../src/index.js'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <A, B>(equal: Equal<A, B>): Equal<A, B> => equal

interface Cart {
  cart: { items: string[] }
  count: number
}

export async function sessions(request: FastifyRequest, app: FastifyInstance): Promise<void> {
  // The augmented SessionData of the test app.
  const count = request.session.get('count')
  same<typeof count, number | undefined>(true)
  await request.session.update('count', (n = 0) => n + 1)
  // @ts-expect-error -- a count is a number
  request.session.set('count', 'many')
  same<Session['userId'], string | undefined>(true)
  same<Session['ref'], string>(true)
  // @ts-expect-error -- set by login only
  request.session.userId = 'ada'

  // As properties, which is what handlers written for @fastify/session use.
  const cart = request.session.cart
  same<typeof cart, { items: string[] } | undefined>(true)
  request.session.count = 7
  // @ts-expect-error -- a count is a number
  request.session.count = 'many'
  const { expires, originalMaxAge } = request.session.cookie
  same<typeof expires, Date | null>(true)
  same<typeof originalMaxAge, number | null>(true)
  void request.session.destroy((error) => request.log.info({ error }))
  void request.session.regenerate(['count'], () => {})

  // Fastify's own way to type a decorator without augmentation.
  const typed = request.getDecorator<Session<Cart>>('session')
  typed.data.cart?.items.push('book')
  const items = typed.get('cart')
  same<typeof items, { items: string[] } | undefined>(true)
  // @ts-expect-error -- there is no such key
  typed.get('basket')
  // @ts-expect-error -- a number goes in, a number comes out
  await typed.update('count', (n = 0) => `${n}`)

  const list = await app.sessions.list('ada')
  same<typeof list, SessionInfo[]>(true)
  const stored = await app.sessions.create<Cart>('ada', { count: 1 })
  same<typeof stored, StoredSession<Cart>>(true)
  same<typeof stored.id, string | undefined>(true)
  // @ts-expect-error -- a user id is a string
  await app.sessions.list(7)
}

declare const schema: StandardSchema<unknown, Cart>
same<SessionDataOf<typeof schema>, Cart>(true)

export const options: SessionOptions<Cart> = {
  secret: ['x', Buffer.from('y')],
  schema,
  migrate: (data, from) => ({ cart: { items: [] }, count: from, ...data })
}

// @ts-expect-error -- a secret is needed
export const without: SessionOptions = {}
// @ts-expect-error -- the plugin signs the cookie itself
export const signed: SessionOptions = { secret: 'x', cookie: { signed: true } }
