import { once } from 'node:events'
import {
  connect as connectHttp2,
  constants,
  type ClientHttp2Stream,
  type IncomingHttpHeaders
} from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import websocket from '@fastify/websocket'
import { flotillaRedis } from '@flotilla/redis'
import { startRedis, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { flotillaBroadcast, type Identity } from '../src/index.js'
import { RawClient, refusal, startTestApp } from './app.js'

test('who may come in', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())

  for (const maxConnections of [3, 30]) {
    const title = `${maxConnections} of 30 and no more, though all come at once and login takes its time`
    await parent.test(title, async (t) => {
      for (const login of [10, 0]) {
        const server = await startTestApp(t, redis.url, {
          maxConnections,
          authenticate: async () => {
            if (login > 0) await sleep(login)
            return {}
          }
        })
        let go: (() => void) | undefined
        const stay = new Promise<void>((resolve) => {
          go = resolve
        })
        const answers = await Promise.all(Array.from({ length: 30 }, () => refusal(server.ws, {}, stay)))
        go!()
        t.equal(answers.filter((status) => status === 101).length, maxConnections)
        t.equal(answers.filter((status) => status === 503).length, 30 - maxConnections)
        await until(() => server.app.broadcast.stats().connections === 0)
        t.equal(await refusal(server.ws), 101, 'and no place is lost')
      }
    })
  }

  await parent.test(
    'no more of them where a later hook of the app takes its time, and none lost to its answers',
    async (t) => {
      let verdict = (): void => undefined
      let refuse = true
      let asked = 0
      const server = await startTestApp(t, redis.url, { maxConnections: 3, ssePath: '/events' }, (app) => {
        app.addHook('onRoute', (route) => {
          if (route.url !== '/ws' && route.url !== '/events') return
          const own = [route.preHandler ?? []].flat()
          route.preHandler = [
            ...own,
            async (_request, reply) => {
              asked += 1
              await new Promise<void>((resolve) => {
                const before = verdict
                verdict = () => {
                  before()
                  resolve()
                }
              })
              if (refuse) await reply.code(403).send({})
            }
          ]
        })
      })
      const decide = (): void => {
        verdict()
        verdict = () => undefined
      }
      const events = `${server.url}/events?channels=news`
      for (let turn = 0; turn < 3; turn += 1) {
        const before = asked
        const stop = new AbortController()
        const answers = [
          refusal(server.ws),
          fetch(events).then(({ status }) => status),
          fetch(events, { signal: stop.signal }).catch(() => 'left')
        ]
        await until(() => asked === before + 3, { message: 'three are on their way in' })
        t.equal(await refusal(server.ws), 503, 'and fill the place')
        stop.abort()
        t.equal(await answers[2], 'left')
        decide()
        t.same(await Promise.all(answers), [403, 403, 'left'])
      }
      refuse = false
      const before = asked
      let go = (): void => undefined
      const stay = new Promise<void>((resolve) => {
        go = resolve
      })
      const answers: (number | undefined)[] = []
      const all = Array.from({ length: 10 }, async () => answers.push(await refusal(server.ws, {}, stay)))
      await until(() => asked === before + 3 && answers.length === 7, { message: 'no place was lost' })
      t.same(answers, Array<number>(7).fill(503))
      decide()
      await Promise.all(all)
      t.same(answers.slice(7), [101, 101, 101])
      go()
    }
  )

  await parent.test('nobody whose login was under way when the drain began', async (t) => {
    let drain: ((context: { deadline: number }) => Promise<void>) | undefined
    let letIn: (() => void) | undefined
    const server = await startTestApp(
      t,
      redis.url,
      {
        authenticate: async () => {
          await new Promise<void>((resolve) => {
            letIn = resolve
          })
          return {}
        }
      },
      (app) => {
        app.decorate('health', {
          state: 'ready',
          addCheck: () => undefined,
          onDrain: (_name: string, step: typeof drain) => {
            drain = step
          }
        })
      }
    )
    const answer = refusal(server.ws)
    await until(() => letIn)
    await drain!({ deadline: Date.now() + 3000 })
    letIn!()
    t.equal(await answer, 503)
  })

  await parent.test(
    'nobody for whom authenticate answers no identity, whatever else it answers',
    async (t) => {
      for (const [answer, status] of [
        [undefined, 4401],
        [false, 4401],
        ['ann', 4401],
        [null, 4401],
        [{ userId: 17 }, 500],
        [{ ref: null }, 500],
        [{ userId: undefined }, 101],
        [{ userId: 'ann', id: 17 }, 101]
      ] as const) {
        const server = await startTestApp(t, redis.url, {
          // As an app in JavaScript may.
          authenticate: () => answer as Identity | null
        })
        t.equal(await refusal(server.ws), status, JSON.stringify(answer) ?? 'undefined')
      }
    }
  )

  await parent.test('the last place is a reader’s of events as well', async (t) => {
    for (const options of [{}, { authorize: () => true }]) {
      const server = await startTestApp(t, redis.url, { ssePath: '/events', maxConnections: 1, ...options })
      const stop = new AbortController()
      t.teardown(() => stop.abort())
      const ask = async (): Promise<number> =>
        (await fetch(`${server.url}/events?channels=news`, { signal: stop.signal })).status
      t.equal(await ask(), 200)
      t.equal(await ask(), 503)
    }
  })

  await parent.test('a HEAD of the event stream opens nothing', async (t) => {
    const server = await startTestApp(t, redis.url, { ssePath: '/events' })
    const head = await fetch(`${server.url}/events?channels=news`, { method: 'HEAD' })
    t.equal(head.status, 404)
    t.equal(server.app.broadcast.stats().connections, 0)
  })

  await parent.test('nobody who has gone before the app had made up its mind', async (t) => {
    const waiting: (() => void)[] = []
    const wait = (): Promise<void> => new Promise((resolve) => waiting.push(resolve))
    const gone: Promise<unknown>[] = []
    const server = await startTestApp(
      t,
      redis.url,
      {
        ssePath: '/events',
        authorize: async () => {
          await wait()
          return true
        }
      },
      async (app) => {
        await app.register(websocket)
        app.addHook('onRequest', async (request) => {
          gone.push(once(request.raw.socket, 'close'))
        })
        app.get('/own', { websocket: true }, async (socket, request) => {
          await wait()
          app.broadcast.attach(socket, request, { channels: ['news'] })
        })
      }
    )
    const stop = new AbortController()
    const events = fetch(`${server.url}/events?channels=news`, { signal: stop.signal }).catch(() => undefined)
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/own`)
    await once(socket, 'open')
    await until(() => waiting.length === 2)
    stop.abort()
    socket.terminate()
    await Promise.all([events, ...gone])
    for (const resolve of waiting) resolve()
    // One that comes and goes after them: whatever they had opened would still be there.
    const after = await RawClient.open(t, server.ws)
    after.ws.close()
    await until(() => after.closed !== undefined)
    await until(() => server.app.broadcast.stats().connections === 0, { message: 'nothing was opened' })
    t.equal(server.app.broadcast.stats().subscriptions, 0)
  })

  await parent.test('who goes during the login takes no place', async (t) => {
    let answer: (() => void) | undefined
    let gone: Promise<unknown> | undefined
    const server = await startTestApp(
      t,
      redis.url,
      {
        ssePath: '/events',
        maxConnections: 1,
        authenticate: async () => {
          await new Promise<void>((resolve) => {
            answer = resolve
          })
          return {}
        }
      },
      (app) => {
        app.addHook('onRequest', async (request) => {
          gone ??= once(request.raw.socket, 'close')
        })
      }
    )
    const stop = new AbortController()
    const events = fetch(`${server.url}/events?channels=news`, { signal: stop.signal }).catch(() => undefined)
    await until(() => answer)
    stop.abort()
    await Promise.all([events, gone])
    answer!()
    answer = undefined
    const next = refusal(server.ws)
    await until(() => answer, { message: 'the next one is asked who it is' })
    answer!()
    t.equal(await next, 101)
  })

  for (const asked of ['authenticate', 'authorize']) {
    await parent.test(`over HTTP/2, who goes during ${asked} leaves nothing behind`, async (t) => {
      let answer: (() => void) | undefined
      let gone: Promise<unknown> | undefined
      const listeners = new Set<number>()
      const app = Fastify({ http2: true })
      t.teardown(() => app.close())
      await app.register(flotillaRedis, { url: redis.url })
      app.addHook('onRequest', async ({ raw: { stream } }) => {
        gone = once(stream, 'close')
        listeners.add(stream.session!.socket.listenerCount('close'))
      })
      await app.register(flotillaBroadcast, {
        channels: { news: { history: {} } },
        ssePath: '/events',
        maxConnections: 1,
        [asked]: async () => {
          await new Promise<void>((resolve) => {
            answer = resolve
          })
          return {}
        }
      })
      const session = connectHttp2(await app.listen({ port: 0, host: '127.0.0.1' }))
      t.teardown(() => session.destroy())
      const ask = async (): Promise<ClientHttp2Stream> => {
        answer = undefined
        const stream = session.request({ ':path': '/events?channels=news' }).on('error', () => undefined)
        await until(() => answer)
        return stream
      }
      for (let turn = 0; turn < 3; turn += 1) {
        const stream = await ask()
        stream.close(constants.NGHTTP2_CANCEL)
        await gone
        answer!()
      }
      const stays = await ask()
      answer!()
      const [headers] = (await once(stays, 'response')) as [IncomingHttpHeaders]
      t.equal(headers[':status'], 200, 'the only place is free')
      await once(stays, 'data')
      t.equal(app.broadcast.stats().connections, 1)
      stays.close(constants.NGHTTP2_CANCEL)
      await until(() => app.broadcast.stats().connections === 0)
      t.equal(listeners.size, 1, 'nothing piles up on the connection that all share')
    })
  }

  await parent.test('a reason that is too long for a close frame is cut, on every instance', async (t) => {
    const [a, b] = await Promise.all([startTestApp(t, redis.url), startTestApp(t, redis.url)])
    await b.app.bus.ready()
    const clients = [await RawClient.open(t, a.ws), await RawClient.open(t, b.ws)]
    const identities = clients.map((client) => client.of('welcome')[0]!.connection)
    for (const connection of identities) {
      await a.app.broadcast.disconnect({ connection }, { code: 4000, reason: 'ä'.repeat(100) })
    }
    await until(() => clients.every(({ closed }) => closed))
    t.same(
      clients.map(({ closed }) => closed),
      clients.map(() => ({ code: 4000, reason: 'ä'.repeat(61) }))
    )
  })
})
