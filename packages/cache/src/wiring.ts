import type { FastifyInstance } from 'fastify'
import { joinHealth } from '@flotilla/core'
import { resolveBus, resolveRedis, resolveSubscriber, type RedisClient } from '@flotilla/redis'
import { Backplane } from './backplane.js'
import { Breaker } from './breaker.js'
import { RedisTime, TurnClock } from './clock.js'
import { Core } from './core.js'
import { Engine } from './engine.js'
import { createKeyNames } from './keys.js'
import { Marks } from './marks.js'
import { Memory } from './memory.js'
import type { CacheSettings } from './options.js'
import { Outbox } from './outbox.js'
import { EntryReader } from './reader.js'
import { Remote } from './remote.js'
import { channels } from './telemetry.js'
import { Tickets } from './tickets.js'
import { Waiters } from './waiters.js'

const CLOSE_MS = 2000
/** Marks outlive every entry that depends on them. */
const MARK_MARGIN_MS = 3_600_000
const IN_MEMORY = 'without Redis, in the memory of this process alone, it works with redis: false'

/** The client that the cache uses, unless it works without Redis. */
export function clientOf(fastify: FastifyInstance, { redis }: CacheSettings): RedisClient | undefined {
  return redis === false ? undefined : resolveRedis(fastify, redis, '@flotilla/cache', IN_MEMORY)
}

/** Makes the parts of one cache and ties them to the life of its app. */
export function buildCore(fastify: FastifyInstance, settings: CacheSettings): Core {
  const log = fastify.log.child({ plugin: '@flotilla/cache' })
  const client = clientOf(fastify, settings)
  const names = createKeyNames(settings.keyPrefix)
  const marks = new Marks(client === undefined)
  const memory = settings.memory && new Memory(settings.memory, marks)
  const time = new RedisTime()
  const waiters = new Waiters()
  const tickets = new Tickets(marks)
  const clock = new TurnClock()

  const outbox = client && new Outbox((unsent) => core.send(unsent), settings.breaker.cooldown)
  const breaker =
    client &&
    new Breaker(
      { ...settings.breaker, timeout: settings.redisTimeout.hard },
      async () => {
        await remote!.ping()
        // Before anyone reads from it again: what was invalidated while it was away.
        const resent = await outbox!.flush()
        await core.sendRecent()
        // Whether the bus is complete again is for its own news to say.
        marks.distrust()
        channels.breaker.publish({ state: 'closed', resent })
      },
      (open, cause) => {
        if (open) log.warn({ err: cause }, 'Redis does not answer; the cache goes on in memory')
        else log.info('Redis answers again')
        waiters.wakeAll()
      }
    )
  const remote =
    client &&
    new Remote({
      client,
      breaker: breaker!,
      names,
      marks,
      time,
      settings: {
        lease: settings.lease,
        markLife: settings.maxTtl + MARK_MARGIN_MS,
        clockSkew: settings.clockSkew,
        replicaTimeout: settings.redisTimeout.hard
      }
    })
  const reader = new EntryReader({ marks, names, time, log, compressAbove: settings.compressAbove, remote })
  const engine = new Engine({
    memory,
    marks,
    names,
    remote,
    reader,
    clock,
    time,
    tickets,
    waiters,
    log,
    settings,
    admit: (address, entry, ticket) => core.admit(address, entry, ticket)
  })
  const core: Core = new Core({
    settings,
    log,
    clock,
    time,
    names,
    marks,
    memory,
    tickets,
    reader,
    engine,
    remote,
    backplane: undefined,
    outbox
  })
  if (client) connect(fastify, core, client, waiters)

  joinHealth(fastify, (health) => {
    if (!breaker) return
    health.addCheck(
      'cache',
      () => ({
        ok: !breaker.open,
        ...(breaker.open ? { message: 'Redis does not answer; the cache goes on in memory' } : {}),
        details: { entries: memory?.entries ?? 0, bytes: memory?.bytes ?? 0, unsent: outbox?.size ?? 0 }
      }),
      { level: 'degraded', scope: 'shared' }
    )
  })
  fastify.addHook('onClose', async () => {
    await engine.settle(CLOSE_MS)
    breaker?.close()
    outbox?.close()
    memory?.clear()
  })
  return core
}

/** Joins the fleet: invalidations of others, and news of fills that somebody here waits for. */
function connect(fastify: FastifyInstance, core: Core, client: RedisClient, waiters: Waiters): void {
  const { marks, names, log } = core.parts
  const suspect = (recovered: boolean, reason: string): void => {
    marks.distrust(recovered)
    if (recovered) void core.sendRecent()
    channels.suspect.publish({ reason, recovered })
  }
  const backplane = new Backplane(resolveBus(fastify, client), names.prefix, {
    invalidated: (message, from) => core.receive(message, from),
    gap: suspect
  })
  core.parts.backplane = backplane
  // Until the subscription stands, what is learnt may be overtaken unseen.
  marks.distrust(false)
  let unsubscribe: (() => void) | undefined
  const warn =
    (what: string) =>
    (error: unknown): void =>
      log.warn({ err: error }, what)
  fastify.addHook('onReady', async () => {
    await Promise.all([
      backplane
        .ready()
        .then(
          () => marks.distrust(true),
          warn('the fleet bus is not there yet; memory is checked with Redis at each read')
        ),
      resolveSubscriber(fastify, client)
        .subscribe(names.filled, (message) => waiters.wake(message.toString()))
        .then((end) => (unsubscribe = end), warn('no notice of fills; waiting callers poll'))
    ])
  })
  fastify.addHook('onClose', async () => unsubscribe?.())
}
