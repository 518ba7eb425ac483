import { once } from 'node:events'
import { Agent, request, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

/** What a listener tells the feed. */
export interface FeedEvents {
  message: (n: number) => void
  gap: () => void
  reconnect: () => void
}

export interface FeedOptions {
  url: string
  /** `POST /messages/<channel>` of `{ n }` publishes there. */
  channel: string
  /** Opens one listener to the channel and returns what closes it. */
  listen: (events: FeedEvents) => () => void
  /** Default 5. */
  listeners?: number
}

export interface FeedReport {
  /** Messages whose publish was acknowledged. */
  published: number
  /** Publishes that failed, and messages that some listener did not get once and in order. */
  lost: string[]
  gaps: number
  reconnects: number
}

/** Publishes numbered messages through a balancer while listeners hear them through it, and compares. */
export function startFeed({ url, channel, listen, listeners = 5 }: FeedOptions): {
  stop(): Promise<FeedReport>
} {
  const report: FeedReport = { published: 0, lost: [], gaps: 0, reconnects: 0 }
  const heard: number[][] = []
  const closers: (() => void)[] = []
  for (let listener = 0; listener < listeners; listener++) {
    const mine: number[] = []
    heard.push(mine)
    closers.push(
      listen({
        message: (n) => mine.push(n),
        gap: () => report.gaps++,
        reconnect: () => report.reconnects++
      })
    )
  }
  const done = new AbortController()
  const published: number[] = []
  const publish = async (): Promise<void> => {
    for (let n = 1; !done.signal.aborted; n++) {
      try {
        await post(`${url}/messages/${channel}`, JSON.stringify({ n }))
        published.push(n)
      } catch (error) {
        report.lost.push(`publish ${n}: ${(error as Error).message}`)
      }
      await sleep(20)
    }
  }
  const publishing = publish()
  return {
    async stop() {
      done.abort()
      await publishing
      const end = performance.now() + 10_000
      const behind = (): boolean => heard.some((mine) => mine.at(-1) !== published.at(-1))
      while (behind() && performance.now() < end) await sleep(50)
      for (const close of closers) close()
      report.published = published.length
      for (const [listener, mine] of heard.entries()) {
        for (const what of compare(mine, published)) report.lost.push(`listener ${listener + 1}: ${what}`)
      }
      return report
    }
  }
}

/** A listener joins at some point of the feed; from its first message on it must hear every one. */
function compare(heard: readonly number[], published: readonly number[]): string[] {
  const first = heard[0]
  if (first === undefined) return ['nothing at all']
  const wrong: string[] = []
  if (first > 50) wrong.push(`the first message was ${first}`)
  const got = new Set(heard)
  const missing = published.filter((n) => n >= first && !got.has(n))
  for (const n of missing) wrong.push(`message ${n} is missing`)
  if (got.size !== heard.length) wrong.push('twice')
  if (heard.some((n, at) => at > 0 && n < heard[at - 1]!)) wrong.push('out of order')
  return wrong
}

async function post(url: string, body: string): Promise<void> {
  const headers = { 'content-type': 'application/json' }
  const outgoing = request(url, { method: 'POST', agent: new Agent(), headers })
  const [response] = (await once(outgoing.end(body), 'response')) as [IncomingMessage]
  let text = ''
  for await (const chunk of response) text += String(chunk)
  if (response.statusCode !== 200) throw new Error(`${response.statusCode} ${text.slice(0, 100)}`)
}
