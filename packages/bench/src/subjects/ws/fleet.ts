import { Agent, request } from 'node:http'
import { dialectOf, type Dialect } from './dialect.js'
import type { RawSocket } from './raw-socket.js'

/** Connects many sockets, a hundred at a time, or fewer where each subscribes to many channels. */
export async function openMany(
  dialect: Dialect,
  url: string,
  count: number,
  channelsOf: (index: number) => readonly string[]
): Promise<RawSocket[]> {
  const sockets: RawSocket[] = []
  const size = Math.max(1, Math.min(100, Math.floor(1000 / Math.max(1, channelsOf(0).length))))
  for (let done = 0; done < count; done += size) {
    const group = Array.from({ length: Math.min(size, count - done) }, (_none, index) =>
      dialect.open(url, channelsOf(done + index))
    )
    sockets.push(...(await Promise.all(group)))
  }
  return sockets
}

const agent = new Agent({ keepAlive: true, maxSockets: 64 })

/** Asks a subject to publish `count` messages at once, `{ n: from }`, `{ n: from + 1 }`, …, over HTTP. */
export function post(url: string, channel: string, from: number, count: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const target = `${url}/publish?channel=${encodeURIComponent(channel)}&from=${from}&count=${count}`
    const outgoing = request(target, { method: 'POST', agent }, (response) => {
      response.resume()
      response.once('end', () => {
        if (response.statusCode === 200) resolve()
        else reject(new Error(`publishing was answered with ${response.statusCode}`))
      })
    })
    outgoing.once('error', reject)
    outgoing.end()
  })
}

/** Sockets of one subject that wait for messages of one channel, and the count of what was published. */
export class Audience {
  #published = 0
  /** Sockets that do not have all yet. */
  #waiting = 0
  #complete: () => void = () => undefined

  private constructor(
    readonly dialect: Dialect,
    readonly url: string,
    readonly channel: string,
    readonly sockets: readonly RawSocket[]
  ) {
    for (const socket of sockets) {
      socket.frames = 0
      socket.onFrames = () => {
        if (socket.frames !== this.#published) return
        this.#waiting -= 1
        if (this.#waiting === 0) this.#complete()
      }
    }
  }

  static async gather(subject: string, url: string, channel: string, count: number): Promise<Audience> {
    const dialect = dialectOf(subject)
    return new Audience(dialect, url, channel, await openMany(dialect, url, count, () => [channel]))
  }

  /**
   * Publishes `count` messages at once and resolves when every socket has every one of them. The first socket's
   * are read and compared; of the others the number must be right.
   */
  async deliver(count: number): Promise<void> {
    const from = this.#published
    this.#published += count
    this.#waiting = this.sockets.length
    const seen: unknown[] = []
    const first = this.sockets[0]!
    first.onText = (text) => {
      const data = this.dialect.data(text)
      if (data !== undefined) seen.push(data)
    }
    const all = new Promise<void>((resolve) => {
      this.#complete = resolve
    })
    await Promise.all([post(this.url, this.channel, from, count), all])
    first.onText = undefined
    const expected = Array.from({ length: count }, (_none, index) => ({ n: from + index }))
    if (JSON.stringify(seen) !== JSON.stringify(expected)) {
      throw new Error(
        `got ${JSON.stringify(seen).slice(0, 200)} instead of ${JSON.stringify(expected).slice(0, 200)}`
      )
    }
  }
}
