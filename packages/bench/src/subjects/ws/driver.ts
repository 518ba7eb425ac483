import type { ServedSubject, WorkRequest } from '../../harness/subject.js'
import { dialectOf } from './dialect.js'
import { Audience, openMany, post } from './fleet.js'
import type { RawSocket } from './raw-socket.js'

interface Args {
  readonly subject: string
  readonly urls: readonly string[]
  readonly sockets: number
  readonly burst: number
  readonly channels: number
  readonly channel: string
  readonly prefix: string
}

/** The load on every subject, from one process of its own. */
export function serveDriver(): ServedSubject {
  const audiences = new Map<string, Promise<Audience>>()
  const pairs = new Map<string, Promise<[RawSocket, RawSocket]>>()
  const crowds = new Map<string, Promise<RawSocket[]>>()
  const idle: RawSocket[] = []
  return {
    work: {
      /** Deliveries a second, `burst` messages at a time, the next when all have them. */
      async fanout({ ms, args }: WorkRequest) {
        const { subject, urls, sockets, burst } = args as unknown as Args
        const url = urls[0]!
        const audience = await memo(audiences, url, () => Audience.gather(subject, url, 'fan:1', sockets))
        const begin = performance.now()
        let deliveries = 0
        do {
          await audience.deliver(burst)
          deliveries += sockets * burst
        } while (performance.now() - begin < ms)
        return (deliveries / (performance.now() - begin)) * 1_000
      },

      /** Median milliseconds from a client's publish on one instance to another client's socket on another. */
      async latency({ ms, args }: WorkRequest) {
        const { subject, urls, channel } = args as unknown as Args
        const [from, to] = [urls[0]!, urls[1]!]
        const dialect = dialectOf(subject)
        const [sender, receiver] = await memo(pairs, `${channel} ${from}`, async () => [
          await dialect.open(from, []),
          await dialect.open(to, [channel])
        ])
        const times: number[] = []
        const begin = performance.now()
        for (let n = 0; performance.now() - begin < ms; n += 1) {
          const arrived = new Promise<void>((resolve, reject) => {
            receiver.onText = (text) => {
              const data = dialect.data(text) as { n: number } | undefined
              if (data === undefined) return
              if (data.n === n) resolve()
              else reject(new Error(`got ${text} instead of ${n}`))
            }
          })
          const sentAt = performance.now()
          sender.send(dialect.publish(channel, { n }))
          await arrived
          times.push(performance.now() - sentAt)
        }
        times.sort((a, b) => a - b)
        return times[times.length >> 1]!
      },

      /** Opens connections that do nothing. */
      async idle({ args }: WorkRequest) {
        const { subject, urls, sockets } = args as unknown as Args
        idle.push(...(await openMany(dialectOf(subject), urls[0]!, sockets, () => [])))
        return idle.length
      },

      /** Messages a second to channels of one member each, taken in turn. */
      async channels({ ms, args }: WorkRequest) {
        const { subject, urls, sockets, channels, prefix } = args as unknown as Args
        const url = urls[0]!
        const crowd = await memo(crowds, url, () =>
          openMany(dialectOf(subject), url, sockets, (index) =>
            Array.from(
              { length: channels / sockets },
              (_none, n) => `${prefix}:${index * (channels / sockets) + n}`
            )
          )
        )
        const begin = performance.now()
        let turn = 0
        let done = 0
        const lane = async (socket: RawSocket, index: number): Promise<void> => {
          const dialect = dialectOf(subject)
          do {
            const channel = `${prefix}:${index * (channels / sockets) + (turn++ % (channels / sockets))}`
            const arrived = new Promise<void>((resolve, reject) => {
              socket.onText = (text) => {
                const data = dialect.data(text) as { n: number } | undefined
                if (data === undefined) return
                if (data.n === 7) resolve()
                else reject(new Error(`got ${text}`))
              }
            })
            await post(url, channel, 7, 1)
            await arrived
            done += 1
          } while (performance.now() - begin < ms)
        }
        // As many at a time as there are connections to post with.
        await Promise.all(crowd.slice(0, 32).map(lane))
        return (done / (performance.now() - begin)) * 1_000
      },

      /** Milliseconds for all sockets to come back at once; ours also get the ten messages they missed. */
      async storm({ args }: WorkRequest) {
        const { subject, urls, sockets } = args as unknown as Args
        const url = urls[0]!
        const dialect = dialectOf(subject)
        const channel = 'fan:storm'
        let since: unknown
        if (subject === 'flotilla') {
          const first = await dialect.open(url, [])
          const at = new Promise<unknown>((resolve) => {
            first.onText = (text) => {
              const frame = JSON.parse(text) as { type: string; epoch?: string; offset?: string }
              if (frame.type === 'subscribed') resolve({ epoch: frame.epoch, offset: frame.offset })
            }
          })
          first.send(JSON.stringify({ type: 'subscribe', channel }))
          since = await at
          first.close()
          await post(url, channel, 0, 10)
        }
        const begin = performance.now()
        const back: RawSocket[] = []
        await Promise.all(
          Array.from({ length: sockets }, async () => {
            const socket = await dialect.open(url, subject === 'flotilla' ? [] : [channel])
            back.push(socket)
            if (subject !== 'flotilla') return
            const complete = new Promise<void>((resolve) => {
              let got = 0
              socket.onText = (text) => {
                if (dialect.data(text) === undefined) return
                got += 1
                if (got === 10) resolve()
              }
            })
            socket.send(JSON.stringify({ type: 'subscribe', channel, since }))
            await complete
          })
        )
        const took = performance.now() - begin
        for (const socket of back) socket.close()
        return took
      }
    }
  }
}

function memo<T>(cache: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  let made = cache.get(key)
  if (!made) cache.set(key, (made = make()))
  return made
}
