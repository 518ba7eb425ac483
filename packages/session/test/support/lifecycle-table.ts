import { listen, onEachTopology, until, type TopologyName } from '@flotilla/testbed'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import { test, type Test } from 'tap'
import { buildApp } from './app.js'
import { addSwitches, interleave } from './switches.js'
import type { RefusedMessage, SessionOptions } from '../../src/index.js'

/*
 * Every operation that ends or renews a session against every operation that renews or writes it. One instance executes the first, another
 * one the second. Each is stopped before each of its commands to Redis in turn, while the other one runs from its beginning to its end.
 * The cells are generated. FLOTILLA_LONG=1 runs all of them on each topology, else Sentinel and Cluster get the modes that differ there.
 */

interface Answer {
  status: number
  body: Record<string, unknown>
  cookie: string | undefined
}

/** A logged-in visitor, as both operations find it. */
interface Subject {
  readonly userId: string
  readonly cookie: string
  readonly ref: string
  /** In Redis. */
  readonly key: string
  readonly prefix: string
}

type Operation = (app: FastifyInstance, subject: Subject) => Promise<Answer>

async function request(
  app: FastifyInstance,
  cookie: string | undefined,
  method: 'GET' | 'POST',
  url: string,
  payload: object = {}
): Promise<Answer> {
  const options = {
    method,
    url,
    ...(cookie !== undefined && { headers: { cookie } }),
    ...(method === 'POST' && { payload })
  }
  // The promise that `inject` returns starts the request outside of the caller's AsyncLocalStorage.
  const response = await new Promise<LightMyRequestResponse>((resolve, reject) => {
    app.inject(options, (error, result) => (result ? resolve(result) : reject(error)))
  })
  const set = response.cookies.find(({ name }) => name === 'sid')
  return {
    status: response.statusCode,
    body: response.json(),
    cookie: set && set.value !== '' ? `sid=${set.value}` : undefined
  }
}

const post =
  (url: string, payload?: object): Operation =>
  (app, { cookie, userId }) =>
    request(app, cookie, 'POST', url, payload ?? { userId })

const NONE: Answer = { status: 200, body: {}, cookie: undefined }

async function changeMeta({ key }: Subject, app: FastifyInstance, change: (parts: string[]) => void) {
  const meta = await app.redis.hget(key, '@')
  if (meta === null) return
  const parts = meta.split(' ')
  change(parts)
  await app.redis.hset(key, '@', parts.join(' '))
}

/** What ends a session. `instant` is nothing that could be stopped on its way. */
const ENDS: Record<string, { run: Operation; instant?: true; keeps?: true; user?: true }> = {
  logout: { run: post('/logout') },
  destroy: { run: post('/destroy') },
  regenerate: { run: post('/regenerate', { keep: ['w'] }), keeps: true },
  login: { run: post('/login'), keeps: true, user: true },
  revoke: {
    run: async (app, { userId, ref }) => {
      await app.sessions.revoke(userId, ref)
      return NONE
    }
  },
  revokeAll: {
    run: async (app, { userId }) => {
      await app.sessions.revokeAll(userId)
      return NONE
    }
  },
  idle: {
    instant: true,
    run: async (app, { key }) => {
      await app.redis.pexpire(key, 1)
      await until(async () => (await app.redis.exists(key)) === 0, { message: 'it expires' })
      return NONE
    }
  },
  absolute: {
    instant: true,
    run: async (app, subject) => {
      const at = Date.now() + 5
      await changeMeta(subject, app, (parts) => (parts[2] = String(at)))
      await app.redis.pexpireat(subject.key, at)
      await until(async () => (await app.redis.exists(subject.key)) === 0, { message: 'it expires' })
      return NONE
    }
  }
}

const HOUR = 3_600_000

/** As if the session had last been renewed, and its user had last been authenticated, an hour ago. */
const age = (subject: Subject, app: FastifyInstance): Promise<void> =>
  changeMeta(subject, app, (parts) => {
    for (const at of [4, 5]) parts[at] = String(Number(parts[at]) - HOUR)
  })

const PROOF = 'reauthenticated'

/** What renews. */
const RENEWS: Record<string, Operation> = {
  renew: post('/renew'),
  [PROOF]: post('/reauthenticated'),
  'option renew': (app, { cookie }) => request(app, cookie, 'GET', '/data')
}

/** What writes; all but touch write `w`. */
const WRITES: Record<string, Operation> = {
  set: post('/set', { w: 1 }),
  update: post('/update/w'),
  reload: post('/reload-set'),
  save: post('/save'),
  touch: post('/touch')
}

function addRoutes(app: FastifyInstance): void {
  app.post('/reauthenticated', async ({ session }) => {
    await session.reauthenticated()
    return {}
  })
  app.post('/reload-set', async ({ session }) => {
    await session.reload()
    session.set('w', 1)
    return {}
  })
  app.post('/save', async ({ session }) => {
    session.set('w', 1)
    await session.save()
    return {}
  })
  app.post('/touch', async ({ session }) => {
    await session.touch()
    return {}
  })
}

const MODES: Record<string, Partial<SessionOptions>> = {
  plain: {},
  encrypt: { encrypt: true },
  local: { local: { maxAge: '10m' } },
  durable: { durable: { replicas: 1, timeout: '5s' } }
}

const LONG = process.env['FLOTILLA_LONG'] === '1'
const modesOf = (topology: TopologyName): string[] =>
  // A single server has no replica to wait for.
  topology === 'single'
    ? ['plain', 'encrypt', 'local']
    : LONG
      ? Object.keys(MODES)
      : topology === 'cluster'
        ? ['durable', 'plain']
        : ['durable']

interface Fleet {
  readonly one: FastifyInstance
  readonly two: FastifyInstance
  readonly prefix: string
  readonly local: boolean
  readonly refused: RefusedMessage[]
}

let visitors = 0

async function newSubject({ one, two, prefix }: Fleet): Promise<Subject> {
  const userId = `visitor ${visitors++}`
  const session = await one.sessions.create(userId)
  const id = session.id!
  // With `local`, both hold a copy.
  for (const app of [one, two]) await app.sessions.get(id)
  const key = `${prefix}s:{${id.slice(0, 4)}}:${session.ref}`
  return { userId, cookie: `sid=${id}`, ref: session.ref, prefix, key }
}

async function userOf(app: FastifyInstance, cookie: string | undefined): Promise<unknown> {
  return cookie === undefined ? undefined : (await app.sessions.get(cookie.slice(4)))?.userId
}

/** Whether no user is logged in by this cookie on any instance, at once or as soon as the message on the bus has arrived. */
async function isDead({ one, two, local }: Fleet, cookie: string | undefined): Promise<boolean> {
  for (const app of [one, two]) {
    const loggedOut = async (): Promise<boolean> => (await userOf(app, cookie)) === undefined
    if (await loggedOut()) continue
    if (!local) return false
    try {
      await until(loggedOut, { timeout: 10_000 })
    } catch {
      return false
    }
  }
  return true
}

interface Cell {
  readonly name: string
  /** One of the two proves who the user is. */
  readonly proves: boolean
  readonly fleet: Fleet
  readonly writes: boolean
}

/** @returns what is wrong */
async function checkEnded(
  cell: Cell,
  subject: Subject,
  end: keyof typeof ENDS,
  [ended, other]: [Answer, Answer]
) {
  const { fleet } = cell
  const { keeps, user } = ENDS[end]!
  const wrong: string[] = []
  if (ended.status !== 200) wrong.push(`${end} answered ${ended.status}`)
  // The proof of a user that is logged out already is refused.
  const loggedOut = cell.proves && other.status === 401
  if (![200, 409].includes(other.status) && !loggedOut) wrong.push(`the other one answered ${other.status}`)
  for (const cookie of [subject.cookie, other.cookie])
    if (!(await isDead(fleet, cookie))) wrong.push('a cookie outlives the end')
  const listed = await fleet.one.sessions.count(subject.userId)
  if (listed !== (user ? 1 : 0)) wrong.push(`${listed} listed`)
  if (user && (await userOf(fleet.two, ended.cookie)) !== subject.userId) wrong.push('the login is lost')
  const refused = fleet.refused.some(({ ref }) => ref === subject.ref)
  if (keeps && cell.writes && other.status === 200 && !refused && other.cookie === undefined) {
    const next = await fleet.two.sessions.get(String(ended.cookie).slice(4))
    if (next?.get('w') !== 1) wrong.push('a write was lost')
  }
  return wrong
}

/** @returns what is wrong */
async function checkRenewed({ fleet, writes, proves }: Cell, subject: Subject, answers: [Answer, Answer]) {
  const wrong: string[] = []
  for (const { status } of answers) if (status !== 200) wrong.push(`${status}`)
  const cookies = [answers[0].cookie, answers[1].cookie, subject.cookie].filter((one) => one !== undefined)
  for (const cookie of cookies)
    if ((await userOf(fleet.two, cookie)) !== subject.userId) wrong.push('a cookie is lost')
  if (writes) {
    const session = await fleet.two.sessions.get(cookies[0]!.slice(4))
    await session?.reload()
    if (session?.get('w') !== 1) wrong.push('a write was lost')
  }
  if (fleet.refused.some(({ ref }) => ref === subject.ref)) wrong.push('a write was refused')
  if (proves) {
    const session = await fleet.two.sessions.get(cookies[0]!.slice(4))
    await session?.reload()
    const { authenticatedAt, createdAt } = session!
    if (!(authenticatedAt! >= createdAt!)) wrong.push('the proof was lost')
  }
  await fleet.one.sessions.revokeAll(subject.userId)
  for (const cookie of cookies) if (!(await isDead(fleet, cookie))) wrong.push('it outlives revokeAll')
  return wrong
}

interface Pair {
  readonly row: string
  readonly column: string
  readonly first: Operation
  readonly second: Operation
  readonly instant: boolean
}

/** A copy in memory ends by a clock of its own, which local.test.ts looks at: nothing notifies it when Redis lets a session expire. */
function pairs({ local }: Fleet): Pair[] {
  const columns = Object.entries({ ...RENEWS, ...WRITES })
  const rows = [
    ...Object.entries(ENDS)
      .filter(([, { instant }]) => !local || !instant)
      .map(([row, { run, instant }]) => [row, run, instant === true] as const),
    ...Object.entries(RENEWS).map(([row, run]) => [row, run, false] as const)
  ]
  return rows.flatMap(([row, first, instant]) =>
    columns.map(([column, second]) => ({ row, column, first, second, instant }))
  )
}

/** Every way to have one come between the steps of the other. @returns how many there were */
async function runPair(
  fleet: Fleet,
  mode: string,
  pair: Pair,
  fail: (text: string) => void
): Promise<number> {
  const { row, column, first, second, instant } = pair
  const writes = column in WRITES && column !== 'touch'
  let runs = 0
  for (const stopped of instant ? [column] : [row, column]) {
    for (let n = 0, more = true; more; n++) {
      const subject = await newSubject(fleet)
      const names = new Set([row, column])
      if (names.has('option renew') || names.has(PROOF)) await age(subject, fleet.one)
      const a = (): Promise<Answer> => first(fleet.one, subject)
      const b = (): Promise<Answer> => second(fleet.two, subject)
      const result =
        stopped === column && row !== column ? await interleave(n, b, a) : await interleave(n, a, b)
      const forwards = !(stopped === column && row !== column)
      const answers: [Answer, Answer] = forwards
        ? [result.first, result.second]
        : [result.second, result.first]
      const cell = { name: `${mode}: ${row} × ${column}`, fleet, writes, proves: names.has(PROOF) }
      const wrong =
        row in ENDS
          ? await checkEnded(cell, subject, row, answers)
          : await checkRenewed(cell, subject, answers)
      for (const one of wrong) fail(`${cell.name}, ${stopped} stopped before command ${n}: ${one}`)
      more = result.switched
      runs++
    }
  }
  return runs
}

/** Runs the table on one topology. */
export function testTable(topology: TopologyName): void {
  const name = `${topology}: whatever ends a session ends it, and whatever writes is kept, in every order`
  test(name, { timeout: 1_200_000 }, async (t) => {
    await onEachTopology<Test>(
      t,
      async (t, { url }) => {
        for (const mode of modesOf(topology))
          await t.test(mode, async (t) => {
            await testMode(t, url, mode)
          })
      },
      { topologies: [topology] }
    )
  })
}

async function testMode(t: Test, url: string, mode: string): Promise<void> {
  const prefix = `table-${mode}:`
  const start = async (): Promise<FastifyInstance> => {
    const renew = { every: '1h', grace: '10m' } as const
    const app = await buildApp({ url, session: { prefix, renew, ...MODES[mode] } })
    t.teardown(() => app.close())
    addRoutes(app)
    await app.ready()
    addSwitches(app)
    return app
  }
  const refused = listen<RefusedMessage>(t, 'flotilla:session:refused')
  const fleet = { one: await start(), two: await start(), prefix, local: mode === 'local', refused }
  let runs = 0
  const failed: string[] = []
  const left = pairs(fleet)
  const work = async (): Promise<void> => {
    for (let pair = left.pop(); pair; pair = left.pop()) {
      const more = await runPair(fleet, mode, pair, (text) => void failed.push(text))
      runs += more
    }
  }
  await Promise.all(Array.from({ length: 12 }, work))
  t.same(failed, [], `${runs} cells`)
  t.ok(runs > 200, `${runs} cells`)
}
