import { randomBytes } from 'node:crypto'
import cookie from '@fastify/cookie'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'

interface Stored {
  ref: string
  userId: string | undefined
  data: Map<string, unknown>
}

/**
 * The fault `memory-sessions`: what every tutorial shows, under the names that @flotilla/session has. It is right in
 * one process and wrong in two.
 */
export const memorySessions = fp(
  async (app: FastifyInstance) => {
    const all = new Map<string, Stored>()
    await app.register(cookie)

    const sessionOf = (request: FastifyRequest) => {
      let id = request.cookies['sid'] ?? ''
      const stored = (): Stored => {
        let found = all.get(id)
        if (!found) all.set(id, (found = { ref: id.slice(0, 8), userId: undefined, data: new Map() }))
        return found
      }
      return {
        get userId() {
          return all.get(id)?.userId
        },
        get ref() {
          return stored().ref
        },
        get: (key: string) => all.get(id)?.data.get(key),
        set: (key: string, value: unknown) => void stored().data.set(key, value),
        async update(key: string, change: (value: unknown) => unknown) {
          const { data } = stored()
          data.set(key, change(data.get(key)))
          return data.get(key)
        },
        async login(userId: string) {
          id = randomBytes(24).toString('base64url')
          stored().userId = userId
          fresh.set(request, id)
        },
        async logout() {
          all.delete(id)
        }
      }
    }
    const fresh = new WeakMap<FastifyRequest, string>()
    const sessions = new WeakMap<FastifyRequest, ReturnType<typeof sessionOf>>()
    app.decorateRequest('session', {
      getter(this: FastifyRequest) {
        let session = sessions.get(this)
        if (!session) sessions.set(this, (session = sessionOf(this)))
        return session as unknown as FastifyRequest['session']
      }
    })
    app.addHook('onSend', async (request, reply) => {
      const id = fresh.get(request)
      if (id !== undefined) reply.setCookie('sid', id, { path: '/', httpOnly: true })
    })
    const ofUser = (userId: string): [string, Stored][] => [...all].filter(([, one]) => one.userId === userId)
    app.decorate('sessions', {
      list: async (userId: string) => ofUser(userId).map(([, { ref }]) => ({ ref })),
      revoke: async (userId: string, ref: string) => {
        for (const [id, one] of ofUser(userId)) if (one.ref === ref) all.delete(id)
      },
      revokeAll: async (userId: string, { except }: { except?: string } = {}) => {
        for (const [id, one] of ofUser(userId)) if (one.ref !== except) all.delete(id)
      }
    } as never)
  },
  { name: 'memory-sessions' }
)
