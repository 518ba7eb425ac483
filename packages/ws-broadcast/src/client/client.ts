import type { Member, ServerFrame } from '../protocol.js'
import { Calls } from './calls.js'
import { Channel } from './channel.js'
import { BroadcastError } from './error.js'
import type {
  BroadcastClient,
  ClientEvents,
  ClientOptions,
  ClientState,
  MessageEvent,
  PublishAck,
  SubscribeOptions,
  Subscription,
  WebSocketConstructor,
  WebSocketLike
} from './types.js'

/** Close codes after which a reconnect would be refused again: bad frames, logged out, disconnected. */
const FINAL = new Set([1003, 4400, 4401, 4403])

/**
 * Opens a connection and keeps it: reconnects with jitter, subscribes again and resumes each channel where it
 * stood, so that every message arrives once and in order, or a `gap` event says that some may be missing.
 *
 * @param url absolute, or relative to the page
 */
export function connect(url: string, options: ClientOptions = {}): BroadcastClient {
  const scope = globalThis as { WebSocket?: unknown; location?: { href: string } }
  const Socket = options.WebSocket ?? (scope.WebSocket as WebSocketConstructor | undefined)
  if (!Socket) throw new TypeError('No global WebSocket here: pass { WebSocket } from the package ws')
  const target = new URL(url, scope.location?.href)
  target.protocol = target.protocol.replace('http', 'ws')
  const { min = 500, max = 20_000 } = options.reconnect ?? {}

  const channels = new Map<string, Channel>()
  const listeners = new Map<string, Set<(event: never) => void>>()
  let state: ClientState = 'connecting'
  let socket: WebSocketLike | undefined
  let connection: string | undefined
  let attempts = 0
  let advised: number | undefined
  let ping = 25_000
  let idempotencyTtl = 0
  let reopen: ReturnType<typeof setTimeout> | undefined
  let watchdog: ReturnType<typeof setTimeout> | undefined

  const backOff = (failures: number): number => Math.min(max, min * 2 ** failures)
  const emit = <Event extends keyof ClientEvents>(event: Event, value: ClientEvents[Event]): void => {
    for (const listener of listeners.get(event) ?? []) tell(listener, value as never)
  }
  const sendText = (frame: string): void => {
    if (connection !== undefined) socket?.send(frame)
  }
  const calls = new Calls(options.timeout ?? 10_000, sendText)
  const send = (frame: object): void => sendText(JSON.stringify(frame))
  const enter = (next: ClientState, code?: number): void => {
    if (state === next && next !== 'connecting') return
    state = next
    emit('state', { state, ...(code !== undefined && { code }) })
  }
  /** Subscribes from where the channel stands; without a connection the next one does. */
  const ask = (name: string, channel: Channel): void => {
    const { position: since } = channel
    channel.asked = calls.nextId()
    channel.live = false
    send({ type: 'subscribe', id: channel.asked, channel: name, ...(since && { since }) })
  }

  /** Something arrived: given up when nothing more does for two ping intervals. */
  const heard = (): void => {
    clearTimeout(watchdog)
    watchdog = setTimeout(() => lost(socket, 4408), ping * 2)
  }

  const open = (): void => {
    const current = new Socket(target.href)
    socket = current
    // A connection attempt may hang as well.
    heard()
    current.addEventListener('message', ({ data }) => {
      if (socket !== current) return
      heard()
      receive(JSON.parse(String(data)) as ServerFrame)
    })
    current.addEventListener('close', ({ code }) => lost(current, code))
    // A close follows; without a listener the socket of `ws` would throw.
    current.addEventListener('error', () => undefined)
  }

  const lost = (which: WebSocketLike | undefined, code = 1006): void => {
    if (!which || socket !== which) return
    socket = undefined
    connection = undefined
    clearTimeout(watchdog)
    which.close()
    if (state === 'closed') return
    if (FINAL.has(code)) {
      finish(code)
      return
    }
    // What was too large would be too large again.
    if (code === 1009) {
      calls.rejectAll(new BroadcastError('too_large', 'The server does not take messages of this size'))
    }
    reopen = setTimeout(open, advised ?? Math.random() * backOff(attempts++))
    advised = undefined
    enter('connecting', code)
  }

  const finish = (code: number): void => {
    enter('closed', code)
    clearTimeout(reopen)
    clearTimeout(watchdog)
    const error = closedError(code)
    calls.rejectAll(error)
    for (const channel of channels.values()) channel.end(error)
    channels.clear()
  }

  const receive = (frame: ServerFrame): void => {
    switch (frame.type) {
      case 'welcome':
        ;({ connection, ping, idempotencyTtl } = frame)
        heard()
        for (const [name, channel] of channels) ask(name, channel)
        calls.sendAll()
        // Last: what a listener asks for is sent when it does.
        enter('open')
        break
      case 'message':
        onMessage(frame)
        break
      case 'subscribed': {
        const channel = channels.get(frame.channel)
        if (channel?.asked === frame.id) channel?.begin(frame)
        break
      }
      case 'gap': {
        const channel = channels.get(frame.channel)
        if (!channel?.live) break
        channel.position = { epoch: frame.epoch, offset: frame.offset }
        emit('gap', { channel: frame.channel, reason: frame.reason })
        break
      }
      case 'join':
      case 'leave':
        emit('presence', { channel: frame.channel, type: frame.type, member: frame.member })
        break
      case 'reconnect':
        advised = frame.delay
        break
      case 'ping':
        // The connection lasts; before that it may end as the one before did, by its subscribes or by what they bring.
        attempts = 0
        send({ type: 'pong' })
        break
      case 'error':
        onError(frame)
        break
      default:
        calls.resolve(frame.id, frame)
    }
  }

  const onMessage = (frame: Extract<ServerFrame, { type: 'message' }>): void => {
    const channel = channels.get(frame.channel)
    if (!channel?.live) return
    const event = channel.accept(frame, idempotencyTtl)
    if (!event) return
    if (channel.handler) tell(channel.handler, event as MessageEvent<never>)
    emit('message', event)
  }

  const onError = (frame: Extract<ServerFrame, { type: 'error' }>): void => {
    const error = new BroadcastError(frame.code, frame.message, frame.channel, frame.retryAfter)
    if (frame.id !== undefined) {
      if (calls.reject(frame.id, error)) return
      const asked = [...channels].find(([, channel]) => channel.asked === frame.id)
      // Nobody waits for it any more.
      if (!asked) return
      const [name, channel] = asked
      if (frame.code === 'unavailable') {
        // The server could not reach Redis just now.
        channel.retry = setTimeout(
          () => channels.get(name) === channel && channel.asked === frame.id && ask(name, channel),
          (frame.retryAfter ?? 0) + (0.5 + Math.random() / 2) * backOff(channel.failures++)
        )
        return
      }
      channels.delete(name)
      channel.end(error)
    }
    emit('error', error)
  }

  const call = async (frame: object): Promise<ServerFrame> => {
    if (state === 'closed') throw closedError()
    return calls.make(frame)
  }

  open()
  return {
    get state() {
      return state
    },
    get connection() {
      return connection
    },
    subscribe<Data>(
      name: string,
      onMessageOf?: (message: MessageEvent<Data>) => void,
      { since }: SubscribeOptions = {}
    ): Subscription {
      let channel = channels.get(name)
      // Elsewhere in the log: a subscription of its own, in the place of the one before.
      if (!channel || since) {
        channel?.end(
          new BroadcastError('unsubscribed', 'Another subscription has taken the place of this one')
        )
        channel = new Channel(since)
        if (state === 'closed') {
          channel.end(closedError())
        } else {
          channels.set(name, channel)
          ask(name, channel)
        }
      }
      const mine = channel
      mine.handler = onMessageOf
      const subscription: Subscription = {
        channel: name,
        get position() {
          return mine.position
        },
        ready: mine.ready,
        unsubscribe() {
          if (channels.get(name) !== mine || mine.holder !== subscription) return
          channels.delete(name)
          mine.end(new BroadcastError('unsubscribed', 'Unsubscribed before the server confirmed it'))
          send({ type: 'unsubscribe', channel: name })
        }
      }
      mine.holder = subscription
      return subscription
    },
    async publish(channel, data, { idempotencyKey: key = randomKey() } = {}): Promise<PublishAck> {
      const { offset, epoch } = (await call({ type: 'publish', channel, data, key })) as PublishAck
      return { ...(offset !== undefined && { offset }), ...(epoch !== undefined && { epoch }) }
    },
    async presence(channel): Promise<Member[]> {
      const frame = await call({ type: 'presence', channel })
      return frame.type === 'presence' ? frame.members : []
    },
    on(event, listener) {
      const set = listeners.get(event) ?? new Set()
      listeners.set(event, set)
      // Given twice it counts twice.
      const own = (value: never): void => listener(value)
      set.add(own)
      return () => set.delete(own)
    },
    close() {
      const current = socket
      socket = undefined
      finish(1000)
      current?.close(1000)
    }
  }
}

/** What a listener throws is reported as any uncaught error, and keeps nothing from the others. */
function tell<Value>(listener: (value: Value) => void, value: Value): void {
  try {
    listener(value)
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}

function closedError(code?: number): BroadcastError {
  return new BroadcastError('closed', `The connection is closed${code === undefined ? '' : ` (${code})`}`)
}

function randomKey(): string {
  return `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`
}
