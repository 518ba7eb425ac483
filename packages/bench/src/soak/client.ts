import { Agent, request } from 'node:http'

export interface Reply<Body = unknown> {
  readonly status: number
  readonly body: Body
}

/** A browser's part: cookies, kept connections, and a second try where a kept connection turned out closed. */
export class Client {
  readonly #agent = new Agent({ keepAlive: true })
  readonly #cookies = new Map<string, string>()

  constructor(private readonly base: string) {}

  get cookie(): string {
    return Array.from(this.#cookies, (pair) => pair.join('=')).join('; ')
  }

  async ask<Body>(method: string, path: string, body?: unknown, cookie = this.cookie): Promise<Reply<Body>> {
    const text = body === undefined ? undefined : JSON.stringify(body)
    try {
      return await this.#send<Body>(method, path, text, cookie)
    } catch (error) {
      if (!(error as { idle?: boolean }).idle) throw error
      return this.#send<Body>(method, path, text, cookie)
    }
  }

  close(): void {
    this.#agent.destroy()
  }

  #send<Body>(method: string, path: string, text: string | undefined, cookie: string): Promise<Reply<Body>> {
    return new Promise((resolve, reject) => {
      const headers: Record<string, string | number> = {}
      if (cookie !== '') headers['cookie'] = cookie
      if (text !== undefined) headers['content-type'] = 'application/json'
      if (text !== undefined) headers['content-length'] = Buffer.byteLength(text)
      const outgoing = request(
        new URL(path, this.base),
        { method, agent: this.#agent, headers },
        (response) => {
          let received = ''
          response.on('data', (chunk: Buffer) => (received += chunk.toString()))
          response.on('error', reject)
          response.on('end', () => {
            for (const header of response.headers['set-cookie'] ?? []) {
              const [name = '', ...value] = header.split(';', 1)[0]!.split('=')
              this.#cookies.set(name, value.join('='))
            }
            const status = response.statusCode ?? 0
            const json = /json/.test(response.headers['content-type'] ?? '')
            resolve({ status, body: (json ? JSON.parse(received) : received) as Body })
          })
        }
      )
      outgoing.setTimeout(15_000, () => outgoing.destroy(new Error('no answer within 15 s')))
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        reject(Object.assign(error, { idle: outgoing.reusedSocket && error.code === 'ECONNRESET' }))
      })
      outgoing.end(text)
    })
  }
}
