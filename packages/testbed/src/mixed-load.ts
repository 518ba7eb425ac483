import { once } from 'node:events'
import { Agent, request, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

/** How many clients of each kind ask at the same time; each asks again as soon as it has its answer. */
export interface MixedLoadOptions {
  url: string
  /** `GET /` and `POST /` in turn on keep-alive connections. Default 6. */
  keepAlive?: number
  /** `GET /slow?ms=…`. Default 4. */
  slow?: number
  /** Milliseconds of a slow request. Default 3,000. */
  slowMs?: number
  /** `POST /upload` of 512 KB in sixteen pieces over half a second, answered `{ bytes }`. Default 2. */
  uploads?: number
}

export type LoadKind = 'get' | 'post' | 'slow' | 'upload'

export interface LoadReport {
  answered: Record<LoadKind, number>
  /**
   * Asked again, as browsers do, since the balancer had closed the kept connection before
   * it read the request: nginx before 1.27.4 closes idle client connections at each reload. Whatever goes
   * wrong between balancer and instance arrives as a status and is a failure.
   */
  repeated: number
  /** Each request that was lost: an error, another status than 200 or a wrong body. */
  failures: string[]
}

export interface MixedLoad {
  readonly report: LoadReport
  /** Waits for the answers that are due. */
  stop(): Promise<LoadReport>
}

const PIECE = Buffer.alloc(32 * 1024, 'x')
const PIECES = 16

/**
 * A constant mixed load through a balancer, that loses no failure: the app must answer `GET /` and `POST /`
 * with JSON, `/slow?ms=` with `{ "slept": ms }` and `/upload` with `{ "bytes": n }`.
 */
export function startMixedLoad(options: MixedLoadOptions): MixedLoad {
  const { url, keepAlive = 6, slow = 4, slowMs = 3000, uploads = 2 } = options
  const agent = new Agent({ keepAlive: true, maxSockets: keepAlive + slow + uploads })
  const fresh = new Agent()
  const done = new AbortController()
  const report: LoadReport = { answered: { get: 0, post: 0, slow: 0, upload: 0 }, repeated: 0, failures: [] }

  const client = async (
    kinds: readonly LoadKind[],
    run: (kind: LoadKind) => Promise<void>
  ): Promise<void> => {
    for (let turn = 0; !done.signal.aborted; turn++) {
      const kind = kinds[turn % kinds.length]!
      const asked = new Date().toISOString()
      try {
        await run(kind)
        report.answered[kind]++
      } catch (error) {
        report.failures.push(`${asked} ${kind}: ${(error as Error).message}`)
      }
      await sleep(5)
    }
  }

  /** Asks once more where the balancer had closed the kept connection before it read the request. */
  const ask = async (method: string, path: string, body = false): Promise<[number, string]> => {
    try {
      return await send(method, path, agent, body)
    } catch (error) {
      if (!(error instanceof StaleConnection)) throw error
      report.repeated++
      return send(method, path, fresh, body)
    }
  }
  const plain = async (kind: LoadKind): Promise<void> => expect(await ask(kind.toUpperCase(), '/'), /^\{/)
  const slowly = async (): Promise<void> =>
    expect(await ask('GET', `/slow?ms=${slowMs}`), `{"slept":${slowMs}}`)
  const upload = async (): Promise<void> =>
    expect(await ask('POST', '/upload', true), `{"bytes":${PIECE.length * PIECES}}`)

  async function send(method: string, path: string, by: Agent, body: boolean): Promise<[number, string]> {
    const headers = body ? { 'content-type': 'application/octet-stream' } : {}
    const outgoing = request(url + path, { method, agent: by, headers })
    const answer = once(outgoing, 'response') as Promise<[IncomingMessage]>
    answer.catch(() => undefined)
    try {
      if (body) await pieces(outgoing)
      outgoing.end()
      const [response] = await answer
      let text = ''
      for await (const chunk of response) text += String(chunk)
      return [response.statusCode!, text]
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (outgoing.reusedSocket && (code === 'ECONNRESET' || code === 'EPIPE')) {
        throw new StaleConnection(`${code} on a kept connection`)
      }
      throw error
    }
  }

  const clients = [
    ...Array.from({ length: keepAlive }, () => client(['get', 'post'], plain)),
    ...Array.from({ length: slow }, () => client(['slow'], slowly)),
    ...Array.from({ length: uploads }, () => client(['upload'], upload))
  ]
  return {
    report,
    async stop() {
      done.abort()
      await Promise.all(clients)
      agent.destroy()
      return report
    }
  }
}

class StaleConnection extends Error {}

async function pieces(outgoing: ReturnType<typeof request>): Promise<void> {
  for (let piece = 0; piece < PIECES; piece++) {
    outgoing.write(PIECE)
    await sleep(500 / PIECES)
  }
}

function expect([status, body]: [number, string], wanted: string | RegExp): void {
  const right = typeof wanted === 'string' ? body === wanted : wanted.test(body)
  if (status !== 200 || !right) throw new Error(`${status} ${body.slice(0, 100)}`)
}
