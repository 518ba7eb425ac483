import { RawSocket } from './raw-socket.js'

/** How to speak to one subject over a raw socket. */
export interface Dialect {
  /** Connects; resolves once the subject sends what is published to `channels`. */
  open(url: string, channels: readonly string[]): Promise<RawSocket>
  /** The frame by which a client publishes. */
  publish(channel: string, data: unknown): string
  /** The data of a frame that carries a message; undefined for any other frame. */
  data(text: string): unknown
}

const flotilla: Dialect = {
  async open(url, channels) {
    const socket = await RawSocket.open(url, '/ws', '{"type":"ping"}')
    await expectFrames(
      socket,
      (frame) => frame.includes('"type":"subscribed"'),
      channels.length,
      () => {
        for (const channel of channels) socket.send(JSON.stringify({ type: 'subscribe', channel }))
      }
    )
    return socket
  },
  publish: (channel, data) => JSON.stringify({ type: 'publish', channel, data }),
  data: (text) => {
    const frame = JSON.parse(text) as { type: string; data?: unknown }
    return frame.type === 'message' ? frame.data : undefined
  }
}

const floor: Dialect = {
  async open(url, channels) {
    const socket = await RawSocket.open(url, '/ws')
    await expectFrames(
      socket,
      (frame) => frame.startsWith('{"subscribed"'),
      channels.length,
      () => {
        for (const channel of channels) socket.send(JSON.stringify({ subscribe: channel }))
      }
    )
    return socket
  },
  publish: (channel, data) => JSON.stringify({ publish: channel, data }),
  data: (text) => (JSON.parse(text) as { data?: unknown }).data
}

/** Engine.IO 4 over WebSocket: `0` open, `2` ping, `3` pong, `40` connect, `42` event. */
const socketIo: Dialect = {
  async open(url, channels) {
    const socket = await RawSocket.open(url, '/socket.io/?EIO=4&transport=websocket', '2')
    await expectFrames(
      socket,
      (frame) => frame.startsWith('40'),
      1,
      () => socket.send('40')
    )
    if (channels.length > 0) {
      await expectFrames(
        socket,
        (frame) => frame.startsWith('42["subscribed"'),
        channels.length,
        () => {
          for (const channel of channels) socket.send(`42${JSON.stringify(['subscribe', channel])}`)
        }
      )
    }
    // Whoever does not answer pings is thrown out within the minute.
    setInterval(() => socket.send('3'), 10_000).unref()
    return socket
  },
  publish: (channel, data) => `42${JSON.stringify(['publish', channel, data])}`,
  data: (text) => (text.startsWith('42["message"') ? (JSON.parse(text.slice(2)) as unknown[])[1] : undefined)
}

export function dialectOf(subject: string): Dialect {
  if (subject.startsWith('socket.io')) return socketIo
  return subject === 'floor' ? floor : flotilla
}

async function expectFrames(
  socket: RawSocket,
  wanted: (frame: string) => boolean,
  count: number,
  ask: () => void
): Promise<void> {
  if (count === 0) return
  let seen = 0
  const all = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${seen} of ${count} confirmations`)), 60_000)
    socket.onText = (frame) => {
      if (!wanted(frame)) return
      seen += 1
      if (seen < count) return
      clearTimeout(timer)
      resolve()
    }
  })
  ask()
  await all
  socket.onText = undefined
}
