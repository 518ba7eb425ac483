import fastifyCookie from '@fastify/cookie'
import { joinHealth } from '@flotilla/core'
import { checkRedis, type FleetBus, requirePermissions, resolveBus, resolveRedis } from '@flotilla/redis'
import type { FastifyBaseLogger, FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { ERR_REGISTERED } from './errors.js'
import { RevocationPublisher } from './lifecycle/revocation-publisher.js'
import { SessionLifecycle } from './lifecycle/session-lifecycle.js'
import { SessionLoader } from './lifecycle/session-loader.js'
import { SessionWriter } from './lifecycle/session-writer.js'
import { StoreErrors } from './lifecycle/store-errors.js'
import { readOptions, type SessionOptions, type Settings } from './options.js'
import { SessionCookie } from './request/cookie.js'
import { addSessionHooks } from './request/hooks.js'
import { Notices } from './request/notices.js'
import type { SessionData } from './request/session-data.js'
import type { Session } from './request/session.js'
import { Cipher } from './store/cipher.js'
import { RedisClock } from './store/clock.js'
import { SessionEncryption } from './store/field-codec.js'
import { Keys } from './store/keys.js'
import { LocalSessions } from './store/local-sessions.js'
import { MemoryStore } from './store/memory-store.js'
import { permissionsFor } from './store/permissions.js'
import { RedisStore } from './store/redis-store.js'
import { SessionRecords } from './store/session-records.js'
import type { SessionStore } from './store/session-store.js'
import { SessionTokens } from './store/token.js'
import { Devices } from './users/devices.js'
import { createSessions, type Sessions } from './users/sessions.js'
import { UserSessions } from './users/user-sessions.js'

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * The session of this request, with its data as properties; `undefined` at run time on routes with `config: { session: false }`.
     */
    readonly session: Session & Partial<SessionData>
  }
  interface FastifyInstance {
    readonly sessions: Sessions
  }
  interface FastifyContextConfig {
    /** `false`: no session on this route, and no Redis. `'lazy'`: read on `await request.session.load()`. */
    session?: false | 'lazy'
  }
}

const NAME = '@flotilla/session'
const IN_MEMORY = 'without Redis, in the memory of this process alone, it works with redis: false'

async function session(fastify: FastifyInstance, options: SessionOptions): Promise<void> {
  const settings = readOptions(options)
  if (fastify.hasRequestDecorator('session') || fastify.hasDecorator('sessions')) throw new ERR_REGISTERED()
  if (!fastify.hasDecorator('parseCookie')) await fastify.register(fastifyCookie)

  const log = fastify.log.child({ plugin: NAME })
  const clock = new RedisClock()
  const keys = new Keys(settings.prefix, settings.secret)
  const tokens = new SessionTokens(settings.secret, settings.cookie.name)
  const { store, bus } = await openStore(fastify, keys, clock, settings)
  const records = new SessionRecords(store, { keys, tokens }, createCiphers(settings, keys), {
    grace: settings.renew.grace,
    onReuse: settings.onReuse
  })
  const devices = new Devices(
    settings.encrypt ? new Cipher(settings.secret, 'flotilla:session-devices') : undefined
  )
  const errors = new StoreErrors(log, settings.retryAfter)
  const publisher = new RevocationPublisher(bus, log, {
    local: settings.local !== undefined,
    scope: settings.prefix
  })
  const local =
    settings.local &&
    bus &&
    new LocalSessions(bus, clock, {
      ...settings.local,
      idleTimeout: settings.idleTimeout,
      scope: settings.prefix
    })
  const background = new BackgroundWork(log)
  const later = background.add

  const common = { store, records, keys, devices, tokens, local, errors, publisher, settings, log, clock }
  const loader = new SessionLoader({
    ...common,
    remove: (token) => later(store.remove({ ...token, userHash: undefined }))
  })
  const writer = new SessionWriter(common)
  const lifecycle = new SessionLifecycle({ ...common, loader, later })
  const users = new UserSessions({ ...common, lifecycle })
  const cookie = new SessionCookie({ ...settings, settings: settings.cookie, tokens, clock, log })

  const notices = new Notices(log)
  const parts = {
    loader,
    writer,
    lifecycle,
    tokens,
    errors,
    settings,
    cookie,
    ...notices.callbacks
  }
  fastify.decorate('sessions', createSessions(parts, users))
  addSessionHooks(fastify, { ...parts, clock, later })
  fastify.addHook('onClose', () => background.finished())
}

/** Redis, or this process's memory, in which there is no fleet to notify. */
async function openStore(
  fastify: FastifyInstance,
  keys: Keys,
  clock: RedisClock,
  settings: Settings
): Promise<{ readonly store: SessionStore; readonly bus: FleetBus | undefined }> {
  if (settings.redis === false) {
    if (process.env['NODE_ENV'] === 'production')
      fastify.log.warn(
        { plugin: NAME },
        'sessions are in the memory of this process (redis: false): they end with it, and no other instance knows them. With more than one instance register @flotilla/redis and leave the option out'
      )
    return { store: new MemoryStore(keys, clock, settings), bus: undefined }
  }
  const client = resolveRedis(fastify, settings.redis, NAME, IN_MEMORY)
  await requirePermissions(client, permissionsFor(settings.prefix))
  const bus = resolveBus(fastify, client)
  const store = new RedisStore(client, keys, clock, settings)
  if (settings.local)
    fastify.addHook('onReady', async () => {
      await bus.ready()
      await store.readClock()
    })
  joinHealth(fastify, (health) =>
    health.addCheck('session', () => checkRedis(client), { level: 'critical', scope: 'shared' })
  )
  return { store, bus }
}

function createCiphers({ secret, encrypt }: Settings, keys: Keys) {
  return {
    successors: new Cipher(secret, 'flotilla:session-successor'),
    encryption: encrypt
      ? new SessionEncryption(new Cipher(secret, 'flotilla:session-data-key'), (token) => keys.session(token))
      : undefined
  }
}

/** Work that no response waits for. It is finished before the app closes. */
class BackgroundWork {
  readonly #log: FastifyBaseLogger
  readonly #running = new Set<Promise<unknown>>()

  constructor(log: FastifyBaseLogger) {
    this.#log = log
  }

  readonly add = (work: Promise<unknown>): void => {
    const tracked = work.catch((err: unknown) => this.#log.debug({ err }, 'work after the response failed'))
    this.#running.add(tracked)
    void tracked.finally(() => this.#running.delete(tracked))
  }

  async finished(): Promise<void> {
    await Promise.all(this.#running)
  }
}

/**
 * Sessions in Redis: decorates each request with `session`, a {@link Session}, and the instance with `sessions`,
 * {@link Sessions}.
 *
 * @throws FLOTILLA_SESSION_ERR_OPTION, FLOTILLA_SESSION_ERR_REGISTERED, FLOTILLA_REDIS_ERR_NO_CLIENT from `register`
 */
const flotillaSession: FastifyPluginAsync<SessionOptions> = fp(session, { name: NAME, fastify: '5.x' })

export { flotillaSession }
export default flotillaSession
