import { compareOffsets } from '../position.js'
import type { Member, Position, ServerFrame } from '../protocol.js'
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

interface Channel {
  handler: ((message: MessageEvent<never>) => void) | undefined
  position: Position | undefined
  /** Of the last messages that had one. */
  keys: Set<string>
  ready: Promise<void>
  confirm: () => void
  refuse: (error: Error) => void
}

/** A publish is repeated within seconds, if at all. */
const MAX_KEYS = 1000

interface Call {
  /** As it goes over the wire. */
  frame: string
  resolve: (frame: ServerFrame) => void
  reject: (error: Error) => void
  timer: ReturnType<typeof setTimeout>
}

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
  const timeout = options.timeout ?? 10_000

  const channels = new Map<string, Channel>()
  const calls = new Map<number, Call>()
  const listeners = new Map<string, Set<(event: never) => void>>()
  let state: ClientState = 'connecting'
  let socket: WebSocketLike | undefined
  let connection: string | undefined
  let attempts = 0
  let lastId = 0
  let advised: number | undefined
  let ping = 25_000
  let reopen: ReturnType<typeof setTimeout> | undefined
  let watchdog: ReturnType<typeof setTimeout> | undefined

  const emit = <Event extends keyof ClientEvents>(event: Event, value: ClientEvents[Event]): void => {
    for (const listener of listeners.get(event) ?? []) listener(value as never)
  }
  const sendText = (frame: string): void => {
    if (state === 'open') socket?.send(frame)
  }
  const send = (frame: object): void => sendText(JSON.stringify(frame))
  const enter = (next: ClientState, code?: number): void => {
    if (state === next && next !== 'connecting') return
    state = next
    emit('state', { state, ...(code !== undefined && { code }) })
  }
  const subscribeFrame = (channel: string): object => {
    const since = channels.get(channel)?.position
    return { type: 'subscribe', channel, ...(since && { since }) }
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
    if (code === 1009)
      rejectCalls(new BroadcastError('too_large', 'The server does not take messages of this size'))
    const bound = Math.min(max, min * 2 ** attempts)
    attempts += 1
    reopen = setTimeout(open, advised ?? Math.random() * bound)
    advised = undefined
    enter('connecting', code)
  }

  const rejectCalls = (error: Error): void => {
    for (const id of calls.keys()) settle(id, ({ reject }) => reject(error))
  }

  const finish = (code: number): void => {
    enter('closed', code)
    clearTimeout(reopen)
    clearTimeout(watchdog)
    const error = closedError(code)
    rejectCalls(error)
    for (const channel of channels.values()) channel.refuse(error)
    channels.clear()
  }

  const receive = (frame: ServerFrame): void => {
    switch (frame.type) {
      case 'welcome':
        connection = frame.connection
        ping = frame.ping
        attempts = 0
        heard()
        enter('open')
        for (const channel of channels.keys()) send(subscribeFrame(channel))
        for (const call of calls.values()) sendText(call.frame)
        break
      case 'message':
        onMessage(frame)
        break
      case 'subscribed': {
        const channel = channels.get(frame.channel)
        if (!channel) break
        channel.position = { epoch: frame.epoch, offset: frame.offset }
        channel.confirm()
        break
      }
      case 'gap': {
        const channel = channels.get(frame.channel)
        if (!channel) break
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
        send({ type: 'pong' })
        break
      case 'error':
        onError(frame)
        break
      default:
        settle(frame.id, (call) => call.resolve(frame))
    }
  }

  const onMessage = (frame: Extract<ServerFrame, { type: 'message' }>): void => {
    const channel = channels.get(frame.channel)
    if (!channel) return
    const { epoch, offset, token, key } = frame
    const position = epoch !== undefined && offset !== undefined ? { epoch, offset } : undefined
    if (position) {
      const at = channel.position
      if (at && at.epoch === position.epoch && compareOffsets(position.offset, at.offset) <= 0) return
      channel.position = position
    }
    if (key !== undefined) {
      if (channel.keys.has(key)) return
      channel.keys.add(key)
      if (channel.keys.size > MAX_KEYS) channel.keys.delete(channel.keys.values().next().value!)
    }
    const event = {
      channel: frame.channel,
      data: frame.data,
      ...(token !== undefined && { token }),
      ...(position && { position })
    }
    channel.handler?.(event as MessageEvent<never>)
    emit('message', event)
  }

  const onError = (frame: Extract<ServerFrame, { type: 'error' }>): void => {
    const error = Object.assign(new BroadcastError(frame.code, frame.message), {
      ...(frame.channel !== undefined && { channel: frame.channel })
    })
    if (typeof frame.id === 'number' && calls.has(frame.id)) {
      settle(frame.id, (call) => call.reject(error))
      return
    }
    const { channel: name } = frame
    const channel = name === undefined ? undefined : channels.get(name)
    if (name !== undefined && channel) {
      if (frame.code === 'unavailable') {
        // The server could not reach Redis just now.
        setTimeout(
          () => channels.get(name) === channel && send(subscribeFrame(name)),
          min + Math.random() * min
        )
        return
      }
      channels.delete(name)
      channel.refuse(error)
    }
    emit('error', error)
  }

  const settle = (id: unknown, then: (call: Call) => void): void => {
    const call = calls.get(id as number)
    if (!call) return
    calls.delete(id as number)
    clearTimeout(call.timer)
    then(call)
  }

  /** Sends now or once connected, and again after each reconnect until it is answered. */
  const call = (frame: Record<string, unknown>): Promise<ServerFrame> =>
    new Promise((resolve, reject) => {
      if (state === 'closed') {
        reject(closedError())
        return
      }
      const id = (lastId += 1)
      const whole = toJson({ ...frame, id })
      const timer = setTimeout(
        () => settle(id, ({ reject: fail }) => fail(new BroadcastError('timeout', 'No answer in time'))),
        timeout
      )
      calls.set(id, { frame: whole, resolve, reject, timer })
      sendText(whole)
    })

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
      if (!channel) {
        channel = {
          handler: undefined,
          position: since,
          keys: new Set(),
          ...deferred()
        }
        if (state === 'closed') {
          channel.refuse(closedError())
        } else {
          channels.set(name, channel)
          send(subscribeFrame(name))
        }
      }
      const mine = channel
      mine.handler = onMessageOf
      return {
        channel: name,
        get position() {
          return mine.position
        },
        ready: mine.ready,
        unsubscribe() {
          if (channels.get(name) !== mine) return
          channels.delete(name)
          mine.refuse(new BroadcastError('unsubscribed', 'Unsubscribed before the server confirmed it'))
          send({ type: 'unsubscribe', channel: name })
        }
      }
    },
    async publish(channel, data): Promise<PublishAck> {
      const key = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`
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
      set.add(listener)
      return () => set.delete(listener)
    },
    close() {
      const current = socket
      socket = undefined
      finish(1000)
      current?.close(1000)
    }
  }
}

function closedError(code?: number): BroadcastError {
  return new BroadcastError('closed', `The connection is closed${code === undefined ? '' : ` (${code})`}`)
}

/** Before a call is kept: what has no JSON would throw at every reconnect. */
function toJson(frame: object): string {
  try {
    return JSON.stringify(frame)
  } catch {
    throw new BroadcastError('unserialisable', 'Publish only what can be written as JSON')
  }
}

function deferred(): Pick<Channel, 'ready' | 'confirm' | 'refuse'> {
  let confirm!: () => void
  let refuse!: (error: Error) => void
  const ready = new Promise<void>((resolve, reject) => {
    confirm = resolve
    refuse = reject
  })
  // Awaiting `ready` is up to the caller; the `error` event tells as well.
  ready.catch(() => undefined)
  return { ready, confirm, refuse }
}
