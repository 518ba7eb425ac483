import { setTimeout as sleep } from 'node:timers/promises'
import { flotillaRedis } from '@flotilla/redis'
import { startApp, startSentinel, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { WebSocket } from 'ws'
import { connect, type BroadcastClient } from '../../src/client/index.js'
import { createPublisher } from '../../src/publisher.js'
import type { Position } from '../../src/protocol.js'
import { Log, Tally } from './tally.js'

export interface DeliveryOptions {
  clients: number
  messages: number
  /** Messages published at a time; the next ones wait for their acknowledgement. */
  window: number
  /** Milliseconds between two cuts of a tenth of the clients. */
  cutEvery: number
  /** Least milliseconds from one fault to the next. */
  faultEvery: number
  log?: (line: string) => void
}

export interface DeliveryResult {
  /** Messages acknowledged as durable: all of them, in the end. */
  acknowledged: number
  /** Publishes repeated because they had failed or were not confirmed by a replica. */
  repeated: number
  expected: number
  received: number
  missing: number
  duplicates: number
  /** Deliveries not in the order of the acknowledged offsets. */
  outOfOrder: number
  /** Deliveries of messages that a failover lost afterwards, so that a repeated publish stored them again. */
  restored: number
  /** Gap events by reason. */
  gaps: Record<string, number>
  cuts: number
  faults: string[]
  seconds: number
}

const CHANNEL = 'load:delivery'

/**
 * Three instances behind one Sentinel group while everything goes wrong in turn: the Redis master is killed,
 * pub/sub connections are killed, an instance is killed and started again, and a tenth of the clients loses
 * its connection every few seconds.
 */
export async function runDelivery(options: DeliveryOptions): Promise<DeliveryResult> {
  const { clients: clientCount, messages, log = () => undefined } = options
  const startedAt = performance.now()
  const redis = await startSentinel()
  const fleet = await startApp({
    script: new URL('instance.ts', import.meta.url),
    instances: 3,
    env: { REDIS_URL: redis.url }
  })
  const publisherApp = Fastify()
  await publisherApp.register(flotillaRedis, { url: redis.url })
  const publisher = createPublisher({
    redis: publisherApp.redis,
    channels: { 'load:*': { history: { size: 20_000, ttl: '10m' }, durable: true } }
  })

  const acknowledgements = new Log()
  const gaps: Record<string, number> = {}
  const result = { acknowledged: 0, repeated: 0, cuts: 0, faults: [] as string[] }
  const sockets: (WebSocket | undefined)[] = []
  const tallies: Tally[] = []
  const clients: BroadcastClient[] = []
  const state = { over: false, published: false }

  try {
    for (let index = 0; index < clientCount; index += 1) {
      const tally = new Tally(messages, acknowledgements)
      tallies.push(tally)
      class Tracked extends WebSocket {
        constructor(url: string) {
          super(url, { perMessageDeflate: false })
          sockets[index] = this
        }
      }
      const url = `${fleet.instances[index % 3]!.url}/ws`
      const client = connect(url, { WebSocket: Tracked, reconnect: { min: 100, max: 1000 } })
      client.on('gap', ({ reason }) => {
        gaps[reason] = (gaps[reason] ?? 0) + 1
      })
      clients.push(client)
      const { ready } = client.subscribe<number>(CHANNEL, ({ data, position }) => tally.add(data, position!))
      if (index % 50 === 49) await ready
      else ready.catch(() => undefined)
    }
    await until(
      async () => {
        const stats = await Promise.all(
          fleet.instances.map((one) => one.call<{ subscriptions: number }>({ do: 'stats' }))
        )
        return stats.reduce((sum, { subscriptions }) => sum + subscriptions, 0) === clientCount
      },
      { message: 'all clients are subscribed', timeout: 60_000 }
    )
    log(`${clientCount} clients on 3 instances`)

    const publishOne = async (n: number): Promise<void> => {
      for (;;) {
        try {
          const position = await publisher.publish(CHANNEL, n, { idempotencyKey: `n${n}` })
          acknowledgements.acknowledge(n, position as Position)
          result.acknowledged += 1
          return
        } catch {
          result.repeated += 1
          await sleep(50)
        }
      }
    }
    const publishAll = async (): Promise<void> => {
      for (let n = 0; n < messages; n += options.window) {
        const window = Array.from({ length: Math.min(options.window, messages - n) }, (_, i) =>
          publishOne(n + i)
        )
        await Promise.all(window)
        if ((n / options.window) % 20 === 0) log(`${n} of ${messages} published`)
        // Paced, so that the faults fall into the stream and not after it.
        await sleep((faults.length * options.faultEvery) / (messages / options.window))
      }
    }
    const cut = async (): Promise<void> => {
      for (let turn = 0; !state.over; turn += 1) {
        await sleep(options.cutEvery)
        for (let index = turn % 10; index < clientCount; index += 10) {
          sockets[index]?.terminate()
          result.cuts += 1
        }
      }
    }
    const faults: [name: string, fault: () => Promise<unknown>][] = [
      [
        'CLIENT KILL TYPE pubsub',
        async () => (await redis.master()).command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      ],
      [
        'SIGKILL of the Redis master',
        async () => {
          const master = await redis.master()
          await master.kill()
          await redis.waitForFailover(master)
          await master.restart()
        }
      ],
      [
        'SIGKILL of an instance',
        async () => {
          const instance = fleet.instances[result.faults.length % 3]!
          await instance.kill()
          await sleep(300)
          await instance.restart()
        }
      ],
      [
        'CLIENT KILL TYPE pubsub, again',
        async () => (await redis.master()).command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      ]
    ]
    /** Each fault once, and all over again while messages are being published. */
    const breakThings = async (): Promise<void> => {
      for (let turn = 0; turn < faults.length || !state.published; turn += 1) {
        const [name, fault] = faults[turn % faults.length]!
        await sleep(options.faultEvery)
        log(name)
        await fault()
        result.faults.push(name)
      }
    }
    const cutting = cut()
    const publishing = publishAll().finally(() => {
      state.published = true
    })
    await Promise.all([publishing, breakThings()])
    state.over = true
    await cutting
    log('everything is published; waiting for the last client')
    await until(() => tallies.every((tally) => tally.complete), {
      timeout: 30_000,
      interval: 200,
      message: 'every client has every message'
    }).catch(() => undefined)
  } finally {
    state.over = true
    for (const client of clients) client.close()
    publisher.close()
    await publisherApp.close()
    await fleet.stop()
    await redis.stop()
  }

  const sum = (of: (tally: Tally) => number): number => tallies.reduce((total, tally) => total + of(tally), 0)
  const count = (test: (n: number) => number): number =>
    sum((tally) => tally.counts.reduce((total, n) => total + test(n), 0))
  return {
    ...result,
    expected: clientCount * messages,
    received: sum(({ received }) => received),
    missing: count((n) => (n === 0 ? 1 : 0)),
    duplicates: count((n) => Math.max(0, n - 1)),
    outOfOrder: sum((tally) => tally.verdict().outOfOrder),
    restored: sum((tally) => tally.verdict().restored),
    gaps,
    seconds: Math.round((performance.now() - startedAt) / 100) / 10
  }
}
