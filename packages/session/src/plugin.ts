import fastifyCookie from '@fastify/cookie'
import { joinHealth } from '@flotilla/core'
import { checkRedis, resolveBus, resolveRedis } from '@flotilla/redis'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { createAnnouncer } from './lifecycle/revocation-publisher.js'
import { createCipher } from './store/cipher.js'
import { createClock } from './store/clock.js'
import { createCookie } from './request/cookie.js'
import { createDevices } from './users/devices.js'
import { ERR_REGISTERED } from './errors.js'
import { plainCodec, sealedCodec } from './store/field-codec.js'
import { addSessionHooks } from './request/hooks.js'
import { createIdentity } from './lifecycle/session-lifecycle.js'
import { createKeys } from './store/keys.js'
import { createLocalSessions } from './store/local-sessions.js'
import type { Forgotten } from './request/operations.js'
import { readOptions, type SessionOptions } from './options.js'
import { createOutage } from './lifecycle/store-errors.js'
import { createReader } from './lifecycle/reader.js'
import type { Session } from './request/session.js'
import { createSessions, type Sessions } from './users/sessions.js'
import { createStore } from './store/store.js'
import { createTicketing } from './store/token.js'
import { createUserSessions } from './users/user-sessions.js'
import { createWriter } from './lifecycle/writer.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The session of this request; `undefined` at run time on routes with `config: { session: false }`. */
    readonly session: Session
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

async function session(fastify: FastifyInstance, options: SessionOptions): Promise<void> {
  const settings = readOptions(options)
  if (fastify.hasRequestDecorator('session') || fastify.hasDecorator('sessions')) throw new ERR_REGISTERED()
  const client = resolveRedis(fastify, settings.redis, NAME)
  const bus = resolveBus(fastify, client)
  if (!fastify.hasDecorator('parseCookie')) await fastify.register(fastifyCookie)

  const log = fastify.log.child({ plugin: NAME })
  const { secret } = settings
  const clock = createClock()
  const keys = createKeys(settings.prefix, secret)
  const ticketing = createTicketing(secret, settings.cookie.name)
  const aliases = createCipher(secret, 'flotilla:session-alias')
  const codec = settings.encrypt
    ? sealedCodec(createCipher(secret, 'flotilla:session-data'), keys)
    : plainCodec
  const devices = createDevices(
    settings.encrypt ? createCipher(secret, 'flotilla:session-devices') : undefined
  )
  const outage = createOutage(log, settings.retryAfter)
  const announcer = createAnnouncer(bus, log, { local: settings.local !== undefined, scope: settings.prefix })
  const local =
    settings.local &&
    createLocalSessions(bus, clock, {
      ...settings.local,
      idleTimeout: settings.idleTimeout,
      scope: settings.prefix
    })

  const background = new Set<Promise<unknown>>()
  const later = (work: Promise<unknown>): void => {
    const tracked = work.catch((err: unknown) => log.debug({ err }, 'work after the response failed'))
    background.add(tracked)
    void tracked.finally(() => background.delete(tracked))
  }

  const store = createStore({ ...settings, client, keys, codec, aliases, ticketing, clock })
  const discard = ({ tag, hash }: { tag: string; hash: string }): void =>
    later(client.del(keys.session(tag, hash)))
  const reader = createReader({ store, codec, local, outage, settings, log, discard })
  const identity = createIdentity({
    client,
    store,
    keys,
    devices,
    ticketing,
    reader,
    local,
    outage,
    announcer,
    settings,
    later
  })
  const writer = createWriter({
    store,
    codec,
    local,
    outage,
    clock,
    announcer,
    settings,
    log,
    create: (state) => identity.create(state)
  })
  const users = createUserSessions({
    client,
    keys,
    devices,
    local,
    outage,
    announcer,
    settle: (key) => identity.settle(key)
  })
  const cookie = createCookie({ settings, ticketing, log, now: () => clock.now() })

  const warned = new Set<string>()
  const warnOnce = (message: string): void => {
    if (!warned.has(message)) log.warn(message)
    warned.add(message)
  }
  const late = (): void =>
    warnOnce(
      'a session was changed after its response had been sent; only `await session.save()` keeps what was set, and a new id, as of a login, does not reach the browser'
    )
  const forgotten: Forgotten = (name, failure) => {
    if (failure) log.error({ err: failure.error }, `\`session.${name}()\` failed and was not awaited`)
    else
      warnOnce(
        `\`session.${name}()\` was not awaited: the response waited for it, but what else the handler did to the session may have come before it; write \`await session.${name}()\``
      )
  }
  const parts = { reader, writer, identity, ticketing, outage, late, forgotten }
  fastify.decorate('sessions', createSessions(parts, users))
  addSessionHooks(fastify, { ...parts, cookie, clock, settings, later })
  if (settings.local) fastify.addHook('onReady', async () => await bus.ready())
  fastify.addHook('onClose', async () => {
    await Promise.all(background)
  })
  joinHealth(fastify, (health) =>
    health.addCheck('session', () => checkRedis(client), { level: 'critical', scope: 'shared' })
  )
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
