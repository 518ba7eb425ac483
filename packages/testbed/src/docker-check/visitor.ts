import { request } from 'node:http'

export interface Answer {
  status: number
  instance: string
  body: string
}

/** A visitor of the demo, who opens a connection for each request and keeps cookies. */
export class Visitor {
  readonly #cookies = new Map<string, string>()

  constructor(private readonly url: string) {}

  ask(method: string, path: string, body?: unknown): Promise<Answer> {
    const text = body === undefined ? undefined : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const headers: Record<string, string> = { connection: 'close' }
      const cookie = Array.from(this.#cookies, (pair) => pair.join('=')).join('; ')
      if (cookie !== '') headers['cookie'] = cookie
      if (text !== undefined) headers['content-type'] = 'application/json'
      const outgoing = request(new URL(path, this.url), { method, headers, agent: false }, (response) => {
        let received = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => (received += chunk))
        response.once('error', reject)
        response.once('end', () => {
          for (const line of response.headers['set-cookie'] ?? []) {
            const [name = '', ...value] = String(line.split(';', 1)[0]).split('=')
            this.#cookies.set(name, value.join('='))
          }
          resolve({
            status: response.statusCode ?? 0,
            instance: String(response.headers['x-instance'] ?? ''),
            body: received
          })
        })
      })
      outgoing.setTimeout(20_000, () => outgoing.destroy(new Error('no answer within 20 s')))
      outgoing.once('error', reject)
      outgoing.end(text)
    })
  }

  /** Like `ask`, and anything but a 2xx is an error. */
  async must(method: string, path: string, body?: unknown): Promise<Answer> {
    const answer = await this.ask(method, path, body)
    if (answer.status < 200 || answer.status > 299) {
      throw new Error(`${method} ${path}: ${answer.status} ${answer.body.slice(0, 200)}`)
    }
    return answer
  }
}

/** The instances that answer now; with a version, those that report it, and none where another answers too. */
export async function instancesSeen(url: string, version?: string): Promise<Set<string>> {
  const seen = new Set<string>()
  const visitor = new Visitor(url)
  for (let turn = 0; turn < 40; turn += 1) {
    const { status, instance, body } = await visitor.ask('GET', '/health')
    if (status !== 200) continue
    if (version !== undefined && !body.includes(`"version":"${version}"`)) return new Set()
    seen.add(instance)
  }
  return seen
}

/** What to say of the requests that failed since `before`. @throws where more than `allowed` did */
export function lost(load: Load, before: number, allowed = 0): string {
  const failures = load.failures.slice(before)
  if (failures.length > allowed)
    throw new Error(`${failures.length} requests failed, the first: ${failures[0]}`)
  return `${failures.length} of ${load.answered} requests failed`
}

/** Visitors who read and write all the time, and count what they did not get. */
export class Load {
  answered = 0
  readonly failures: string[] = []
  readonly posts: string[] = []
  readonly #stopping = new AbortController()
  #ended: Promise<unknown> = Promise.resolve()

  async start(url: string, visitors = 3): Promise<void> {
    const all = Array.from({ length: visitors }, () => new Visitor(url))
    await Promise.all(
      all.map((visitor, index) => visitor.must('POST', '/api/login', { name: `load-${index}` }))
    )
    this.#ended = Promise.all(all.map((visitor, index) => this.#work(visitor, index)))
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#ended
  }

  async #work(visitor: Visitor, index: number): Promise<void> {
    for (let turn = 0; !this.#stopping.signal.aborted; turn += 1) {
      const writes = turn % 4 === 3
      const body = `load ${index} ${turn}`
      try {
        if (writes) await visitor.must('POST', '/api/posts', { body })
        else await visitor.must('GET', '/api/me')
        this.answered += 1
        if (writes) this.posts.push(body)
      } catch (error) {
        this.failures.push(error instanceof Error ? error.message : String(error))
      }
      await new Promise((resolve) => setTimeout(resolve, 30))
    }
  }
}
