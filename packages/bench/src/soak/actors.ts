import { availableParallelism, loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client, type Reply } from './client.js'
import type { Ledger } from './ledger.js'
import type { randomFrom } from './plan.js'

/** What every actor is told. */
export interface Stage {
  readonly url: string
  readonly ledger: Ledger
  readonly signal: AbortSignal
  readonly random: ReturnType<typeof randomFrom>
}

/** Asks, and keeps account of what failed; undefined where no good answer came. */
async function ask<Body>(
  { ledger }: Stage,
  client: Client,
  method: string,
  path: string,
  { body, cookie, expected = [200] }: { body?: unknown; cookie?: string; expected?: number[] } = {}
): Promise<Reply<Body> | undefined> {
  const begin = ledger.now()
  let trouble: string
  let refused = true
  try {
    const reply = await client.ask<Body>(method, path, body, cookie)
    if (expected.includes(reply.status)) {
      ledger.count('answered')
      ledger.check('failed', true, '')
      return reply
    }
    refused = reply.status === 503
    trouble = `${reply.status} ${JSON.stringify(reply.body).slice(0, 160)}`
  } catch (error) {
    trouble = (error as Error).message
  }
  ledger.count('failed')
  // A machine with too little time for its processes is a fault as well: servers then answer too late.
  const excused = ledger.disturbed(begin, ledger.now()) || (refused && isStarved())
  ledger.check('failed', excused, `${method} ${path}: ${trouble}`)
  return undefined
}

/** Whether each core has several processes waiting for it. */
function isStarved(): boolean {
  return (loadavg()[0] ?? 0) > 5 * availableParallelism()
}

/** Writes entry after entry, reads each back at once, and asks again until it was acknowledged. */
export class Writer {
  readonly acknowledged: number[] = []
  readonly #client: Client

  constructor(
    readonly lane: string,
    private readonly stage: Stage,
    private readonly retried: Set<string>
  ) {
    this.#client = new Client(stage.url)
  }

  async run(): Promise<void> {
    const { ledger, signal } = this.stage
    for (let n = 1; !signal.aborted; n++) {
      if (!(await this.#write(n))) continue
      this.acknowledged.push(n)
      const read = await ask<{ newest: number }>(
        this.stage,
        this.#client,
        'GET',
        `/entries?lane=${this.lane}`
      )
      if (read) {
        const { newest } = read.body
        ledger.check('stale', newest >= n, `${this.lane} wrote ${n} and read back ${newest}`)
      }
      await sleep(15)
    }
  }

  /** Every acknowledged entry, from the database as any instance sees it. */
  async verify(): Promise<void> {
    const { ledger } = this.stage
    const read = await ask<{ newest: number; count: number }>(
      this.stage,
      this.#client,
      'GET',
      `/entries?lane=${this.lane}`
    )
    const count = read?.body.count ?? -1
    ledger.check(
      'stale',
      count >= this.acknowledged.length,
      `${this.lane}: ${this.acknowledged.length} writes were acknowledged and ${count} are there`
    )
    this.#client.close()
  }

  async #write(n: number): Promise<boolean> {
    const { ledger, signal } = this.stage
    const deadline = ledger.now() + 30_000
    for (let attempt = 1; ledger.now() < deadline; attempt++) {
      if (attempt > 1) this.retried.add(`${this.lane}:${n}`)
      const body = { lane: this.lane, n }
      if (await ask(this.stage, this.#client, 'POST', '/entries', { body, expected: [201] })) return true
      if (signal.aborted) return false
      await sleep(150)
    }
    return false
  }
}

/** Logs in, revokes, and tries the cookies of revoked sessions again for as long as the run goes. */
export async function runRevoker(stage: Stage, name: string): Promise<void> {
  const { ledger, signal, random } = stage
  const revoked: string[] = []
  for (let turn = 0; !signal.aborted; turn++) {
    const client = new Client(stage.url)
    const user = `${name}-${turn}`
    if (await ask(stage, client, 'POST', '/login', { body: { user } })) {
      const { cookie } = client
      const me = await ask<{ user: string | null }>(stage, client, 'GET', '/me', { expected: [200, 401] })
      const ended =
        me?.status === 200 ? await ask(stage, client, 'POST', '/revoke', { expected: [200] }) : undefined
      if (ended) revoked.push(cookie)
    }
    for (let tries = 0; tries < 4 && revoked.length > 0; tries++) {
      const cookie = revoked[Math.floor(random() * Math.min(revoked.length, 400))]!
      const me = await ask<{ user: string | null }>(stage, client, 'GET', '/me', {
        cookie,
        expected: [200, 401]
      })
      if (me) ledger.check('resurrected', me.status === 401, `a revoked session was good for ${me.body.user}`)
    }
    client.close()
    await sleep(100)
  }
}

/** Asks every instance at once for a key that nobody has. */
export async function runColdReader(stage: Stage): Promise<void> {
  const { ledger, signal } = stage
  const clients = Array.from({ length: 9 }, () => new Client(stage.url))
  for (let turn = 0; !signal.aborted; turn++) {
    const begin = ledger.now()
    const replies = await Promise.all(
      clients.map((client) => ask<{ computation: string }>(stage, client, 'GET', `/cold/${turn}`))
    )
    const computations = new Set(replies.flatMap((reply) => (reply ? [reply.body.computation] : [])))
    // Redis away or the computing instance gone: each instance computes for itself rather than fail.
    if (!ledger.disturbed(begin, ledger.now())) {
      ledger.check('stampede', computations.size === 1, `key ${turn} was computed ${computations.size} times`)
    }
    await sleep(300)
  }
  for (const client of clients) client.close()
}
