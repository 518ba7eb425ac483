import { flotillaRedis, type RedisPluginOptions } from '@flotilla/redis'
import Fastify, { type FastifyInstance } from 'fastify'
import { WebSocket } from 'ws'
import type { ServerFrame } from '../src/protocol.js'
import { flotillaBroadcast, type BroadcastOptions } from '../src/index.js'
import { until } from '@flotilla/testbed'

const CHANNELS: BroadcastOptions['channels'] = {
  news: { history: { size: 1000, ttl: '10m' } },
  'short:*': { history: { size: 5, ttl: '10m' } },
  'plain:*': {},
  'room:*': { presence: true, publish: 'client', history: {} },
  'load:*': { history: { size: 20_000, ttl: '10m' } }
}

export interface TestApp {
  app: FastifyInstance
  url: string
  ws: string
}

interface Owner {
  teardown(fn: () => unknown): unknown
}

/** A real app on a port of its own, closed with the test. */
export async function startTestApp(
  t: Owner,
  redis: string | RedisPluginOptions,
  options: Partial<BroadcastOptions> = {},
  prepare?: (app: FastifyInstance) => unknown
): Promise<TestApp> {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(flotillaRedis, typeof redis === 'string' ? { url: redis } : redis)
  await prepare?.(app)
  await app.register(flotillaBroadcast, { channels: CHANNELS, ...options })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  return { app, url, ws: `${url.replace('http', 'ws')}/ws` }
}

/** The status that answered an upgrade, or 4401; one that was welcomed goes again at once, or when `stay` resolves. */
export function refusal(
  url: string,
  options: object = {},
  stay?: Promise<unknown>
): Promise<number | undefined> {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, options)
    socket.on('unexpected-response', (_request, response) => {
      resolve(response.statusCode)
      socket.terminate()
    })
    socket.on('close', (code) => {
      if (code >= 4000) resolve(code)
    })
    socket.on('message', () => {
      resolve(101)
      void Promise.resolve(stay).then(() => socket.terminate())
    })
    socket.on('error', () => undefined)
  })
}

type FrameOf<Type extends ServerFrame['type']> = Extract<ServerFrame, { type: Type }>

/** A client that speaks the protocol by hand and keeps all it gets. */
export class RawClient {
  readonly frames: ServerFrame[] = []
  closed: { code: number; reason: string } | undefined

  private constructor(readonly ws: WebSocket) {
    ws.on('message', (data: Buffer) => this.frames.push(JSON.parse(data.toString()) as ServerFrame))
    ws.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() }
    })
    ws.on('error', () => undefined)
  }

  static async open(t: Owner, url: string, options: object = {}): Promise<RawClient> {
    const client = new RawClient(new WebSocket(url, { perMessageDeflate: false, ...options }))
    t.teardown(() => client.ws.terminate())
    await client.next('welcome')
    return client
  }

  send(frame: unknown): void {
    this.ws.send(typeof frame === 'string' ? frame : JSON.stringify(frame))
  }

  of<Type extends ServerFrame['type']>(type: Type, channel?: string): FrameOf<Type>[] {
    return this.frames.filter(
      (frame): frame is FrameOf<Type> =>
        frame.type === type && (channel === undefined || (frame as { channel?: string }).channel === channel)
    )
  }

  /** The data of the messages so far. */
  data(channel?: string): unknown[] {
    return this.of('message', channel).map(({ data }) => data)
  }

  /** The first frame of a type from index `from` on. */
  async next<Type extends ServerFrame['type']>(type: Type, from = 0): Promise<FrameOf<Type>> {
    return until(() => this.frames.slice(from).find((frame): frame is FrameOf<Type> => frame.type === type), {
      message: `a ${type} frame arrives; there are ${JSON.stringify(this.frames.slice(-5))}`
    })
  }

  async subscribe(channel: string, since?: object): Promise<FrameOf<'subscribed'>> {
    const from = this.frames.length
    this.send({ type: 'subscribe', channel, ...(since && { since }) })
    return until(
      () =>
        this.frames
          .slice(from)
          .find(
            (frame): frame is FrameOf<'subscribed'> =>
              frame.type === 'subscribed' && frame.channel === channel
          ),
      { message: `subscribed to ${channel}: ${JSON.stringify(this.frames.slice(-3))}` }
    )
  }

  async count(messages: number, channel?: string): Promise<void> {
    await until(() => this.of('message', channel).length >= messages, {
      message: `${messages} messages arrive`
    }).catch((error: unknown) => {
      throw new Error(`got ${this.of('message', channel).length} of ${messages}`, { cause: error })
    })
  }
}
