import { Agent, request } from 'node:http'

export interface Answer {
  readonly status: number
  /** The instance that answered, from its `x-instance` header. */
  readonly instance: string
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: string
  json<T>(): T
}

export interface AskOptions {
  readonly method?: string
  readonly body?: unknown
  /** Milliseconds to wait. Default 10,000. */
  readonly timeout?: number
}

/** A kept connection had been closed when the request was sent on it. */
class ConnectionClosed extends Error {}

/** A browser without a window: keeps cookies and connections, and may talk to any instance. */
export class Visitor {
  readonly #cookies = new Map<string, string>()
  readonly #agent = new Agent({ keepAlive: true })
  readonly #fresh = new Agent({ keepAlive: false })
  /** Requests that were sent again because their kept connection had been closed. */
  resent = 0

  get cookie(): string {
    return Array.from(this.#cookies, ([name, value]) => `${name}=${value}`).join('; ')
  }

  /**
   * Rejects when no answer came; any status is an answer. As in a browser, a request that found its kept
   * connection closed before a byte of the answer came is sent again on a new one: the other end may close an idle
   * connection at any time (RFC 9112 §9.3.1; nginx does at each reload).
   */
  async ask(base: string, path: string, options: AskOptions = {}): Promise<Answer> {
    const text = options.body === undefined ? undefined : JSON.stringify(options.body)
    const send = (agent: Agent): Promise<Answer> => this.#send(new URL(path, base), options, text, agent)
    try {
      return await send(this.#agent)
    } catch (error) {
      if (!(error instanceof ConnectionClosed)) throw error
      this.resent++
      return send(this.#fresh)
    }
  }

  #send(
    url: URL,
    { method = 'GET', timeout = 10_000 }: AskOptions,
    text: string | undefined,
    agent: Agent
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const headers: Record<string, string | number> = {}
      if (this.#cookies.size > 0) headers['cookie'] = this.cookie
      if (text !== undefined) {
        headers['content-type'] = 'application/json'
        headers['content-length'] = Buffer.byteLength(text)
      }
      const outgoing = request(url, { method, agent, headers }, (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', reject)
        response.on('end', () => {
          this.#keep(response.headers['set-cookie'] ?? [])
          const body = Buffer.concat(chunks).toString()
          resolve({
            status: response.statusCode ?? 0,
            instance: String(response.headers['x-instance'] ?? ''),
            headers: response.headers,
            body,
            json: <T>() => JSON.parse(body) as T
          })
        })
      })
      outgoing.setTimeout(timeout, () => outgoing.destroy(new Error(`no answer within ${timeout} ms`)))
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        const idle = outgoing.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
        reject(idle ? new ConnectionClosed(error.message, { cause: error }) : error)
      })
      outgoing.end(text)
    })
  }

  /** As `ask`, and the answer must have this status. */
  async must<T>(base: string, path: string, options: AskOptions & { status?: number } = {}): Promise<T> {
    const answer = await this.ask(base, path, options)
    const expected = options.status ?? 200
    if (answer.status !== expected) {
      throw new Error(
        `${options.method ?? 'GET'} ${path} answered ${answer.status} instead of ${expected}: ${answer.body.slice(0, 160)}`
      )
    }
    return (answer.body === '' ? undefined : answer.json()) as T
  }

  async login(base: string, name: string): Promise<void> {
    await this.must(base, '/api/login', { method: 'POST', body: { name } })
  }

  close(): void {
    this.#agent.destroy()
  }

  #keep(headers: readonly string[]): void {
    for (const header of headers) {
      const [pair = '', ...attributes] = header.split(';')
      const [name = '', ...value] = pair.split('=')
      const gone = attributes.some((one) => /^\s*(max-age=0|expires=thu, 01 jan 1970.*)$/i.test(one))
      if (gone) this.#cookies.delete(name)
      else this.#cookies.set(name, value.join('='))
    }
  }
}
