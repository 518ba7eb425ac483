import { Visitor } from './visitor.js'

interface Failure {
  readonly what: string
  readonly startedAt: number
  readonly instance: string
  readonly reason: string
}

/** Visitors that never stop asking, through the balancer: reads of everything, and now and then a post. */
export class Load {
  readonly #lanes: Promise<void>[]
  readonly failures: Failure[] = []
  /** Ids of the entries that were acknowledged as written, in no particular order. */
  readonly written: string[] = []
  /** Reads that lacked an entry which their own visitor had written before. */
  stale = 0
  answered = 0
  private running = true

  private constructor(
    private readonly base: string,
    visitors: readonly Visitor[]
  ) {
    this.#lanes = visitors.map((visitor, lane) => this.#run(visitor, lane))
  }

  static async start(base: string, { visitors = 6, name = 'load' } = {}): Promise<Load> {
    const all = await Promise.all(
      Array.from({ length: visitors }, async (_, lane) => {
        const visitor = new Visitor()
        await visitor.login(base, `${name} ${lane}`)
        return visitor
      })
    )
    return new Load(base, all)
  }

  async stop(): Promise<void> {
    this.running = false
    await Promise.all(this.#lanes)
  }

  async #run(visitor: Visitor, lane: number): Promise<void> {
    let own = 0
    for (let turn = lane; this.running; turn++) {
      if (turn % 3 === 0) {
        const post = await this.#ask(
          visitor,
          'POST',
          '/api/posts',
          { body: `entry ${turn} of lane ${lane}` },
          201
        )
        if (post !== undefined) {
          const { id } = post as { id: string }
          this.written.push(id)
          own = Math.max(own, Number(id))
        }
      } else if (turn % 3 === 1) {
        const read = (await this.#ask(visitor, 'GET', '/api/posts')) as
          | { posts: { id: string }[] }
          | undefined
        if (read !== undefined && Number(read.posts[0]?.id ?? 0) < own) this.stale++
      } else {
        await this.#ask(visitor, 'GET', turn % 2 === 0 ? '/api/me' : '/api/ranking')
      }
    }
    visitor.close()
  }

  async #ask(
    visitor: Visitor,
    method: string,
    path: string,
    body?: unknown,
    expected = 200
  ): Promise<unknown> {
    const startedAt = performance.now()
    const failed = (instance: string, reason: string): undefined => {
      this.failures.push({ what: `${method} ${path}`, startedAt, instance, reason })
    }
    try {
      const answer = await visitor.ask(this.base, path, { method, body })
      if (answer.status !== expected)
        return failed(answer.instance, `${answer.status} ${answer.body.slice(0, 120)}`)
      this.answered++
      return answer.json()
    } catch (error) {
      return failed('', (error as Error).message)
    }
  }
}
