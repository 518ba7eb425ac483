import type { Fleet } from '../runner/fleet.js'
import { rollFleet } from '../runner/control.js'
import { until } from '@flotilla/testbed'
import { assert } from './assert.js'
import { Load } from './load.js'
import { Listener } from './listener.js'
import { Visitor } from './visitor.js'

interface Latest {
  posts: { id: string; body: string }[]
  database: { role: 'primary' | 'replica' }
  answeredBy: string
}

interface Ranking {
  computedBy: string
  computation: number
  answeredBy: string
}

/** Where a fleet is reached. */
export interface Reached {
  /** The load balancer. */
  readonly url: string
  /** One address for each instance; the balancer's where it is all that can be reached. */
  readonly urls: readonly string[]
  /** Its servers, where they are ours. */
  readonly fleet: Fleet | undefined
}

/** A part of the story. `run` walks it and says what was seen; it throws when something did not hold. */
export type Chapter =
  | { readonly name: string; readonly needs: 'balancer'; run(reached: Reached): Promise<string> }
  /** Servers are hurt here, so they must be ours. */
  | { readonly name: string; readonly needs: 'fleet'; run(fleet: Fleet): Promise<string> }

/** What a fleet must hold to, told in the order in which an operator would try it. */
export const story: readonly Chapter[] = [
  {
    name: 'each instance says who it is and that it is well',
    needs: 'balancer',
    async run({ urls, fleet }) {
      const visitor = new Visitor()
      const names = new Set<string>()
      for (const url of urls) {
        let health: Record<string, unknown> = {}
        // An instance on a busy machine may just have seen a dependency answer late; it must recover by itself.
        await until(
          async () => {
            health = await visitor.must<Record<string, unknown>>(url, '/health')
            // The balancer chooses: ask until it has come to each.
            const wanted = fleet !== undefined || !names.has(String(health['instance']))
            return health['status'] === 'healthy' && wanted
          },
          { timeout: 20_000, message: `${url} shows ${names.size + 1} healthy instances` }
        )
        for (const field of ['status', 'instance', 'version', 'uptime']) {
          assert(field in health, `/health has no "${field}": ${JSON.stringify(health)}`)
        }
        names.add(String(health['instance']))
      }
      assert(names.size === urls.length, `instances share a name: ${[...names].join(', ')}`)
      visitor.close()
      return [...names].toSorted().join(', ')
    }
  },
  {
    name: 'a session made on one instance is read on every other',
    needs: 'balancer',
    async run({ urls }) {
      const visitor = new Visitor()
      const [first, ...others] = urls
      await visitor.login(first!, 'Ada')
      let visits = 0
      for (const url of [...others, first!, ...others]) {
        const me = await visitor.must<{ name: string | null; visits: number }>(url, '/api/me')
        assert(me.name === 'Ada', `${url} knows the visitor as ${String(me.name)}, not as Ada`)
        assert(me.visits === ++visits, `${url} counted ${me.visits} visits instead of ${visits}`)
      }
      visitor.close()
      return `made on one, read ${visits} times on ${urls.length} instances, each write seen by the next`
    }
  },
  {
    name: 'a value missing everywhere is computed once for the fleet',
    needs: 'balancer',
    async run({ url: balancer, urls }) {
      const visitor = await loggedIn(balancer, 'Bea')
      const before = await visitor.must<Ranking>(urls[0]!, '/api/ranking')
      await post(visitor, urls[0]!, 'this entry drops the ranking')
      const asked = 30
      const answers = await Promise.all(
        Array.from({ length: asked }, (_, index) =>
          visitor.must<Ranking>(urls[index % urls.length]!, '/api/ranking')
        )
      )
      const computations = new Set(answers.map(({ computation }) => computation))
      assert(!computations.has(before.computation), 'the value from before the write was served after it')
      assert(
        computations.size === 1,
        `${asked} requests saw ${computations.size} computations (${[...computations].join(', ')})`
      )
      visitor.close()
      return `${asked} requests on ${urls.length} instances at once, 1 computation, by ${answers[0]!.computedBy}`
    }
  },
  {
    name: 'a message reaches the sockets of every instance',
    needs: 'balancer',
    async run({ url: balancer, urls }) {
      const listeners = await Promise.all(urls.flatMap((url) => [Listener.open(url), Listener.open(url)]))
      const visitor = await loggedIn(balancer, 'Cem')
      const ids: string[] = []
      for (const url of urls) ids.push(await post(visitor, url, `hello from ${url}`))
      await Promise.all(listeners.map((listener) => listener.waitFor(ids)))
      for (const listener of listeners) listener.close()
      visitor.close()
      return `${ids.length} messages, one published on each instance, reached ${listeners.length} of ${listeners.length} sockets`
    }
  },
  {
    name: 'what a visitor wrote is read back, from a replica',
    needs: 'balancer',
    async run({ url: balancer, urls, fleet }) {
      const visitor = await loggedIn(balancer, 'Dot')
      const roles = { primary: 0, replica: 0 }
      const writeAndRead = async (turn: number): Promise<void> => {
        const id = await post(visitor, urls[turn % urls.length]!, `turn ${turn}`)
        const read = await visitor.must<Latest>(urls[(turn + 1) % urls.length]!, '/api/posts')
        assert(
          read.posts.some((one) => one.id === id),
          `entry ${id} was missing when its own author read at once on another instance (from the ${read.database.role})`
        )
        roles[read.database.role]++
      }
      for (let turn = 0; turn < 30; turn++) await writeAndRead(turn)
      const { replica } = roles
      assert(replica > 0, 'not one of 30 reads was served by the replica')
      const seen = `30 of 30 right, ${replica} of them from the replica`
      if (fleet === undefined) {
        visitor.close()
        return seen
      }
      await fleet.postgres.replicas[0]!.pauseReplay()
      try {
        for (let turn = 0; turn < 10; turn++) await writeAndRead(turn)
      } finally {
        await fleet.postgres.replicas[0]!.resumeReplay()
      }
      visitor.close()
      return `${seen}; with its replay paused 10 of 10 right`
    }
  },
  {
    name: 'an instance killed in the middle takes nobody with it',
    needs: 'fleet',
    async run(fleet) {
      const victim = fleet.apps.instances[1]!
      const visitor = await loggedIn(fleet.url, 'Eve')
      const listeners = await Promise.all(Array.from({ length: 9 }, () => Listener.open(fleet.url)))
      const load = await Load.start(fleet.url)
      await until(() => load.answered > 100, { message: 'the load runs' })
      const killedAt = performance.now()
      await victim.kill()
      const goneAt = performance.now()
      await until(() => performance.now() - goneAt > 2_500, { message: 'the fleet ran on without it' })
      const me = await visitor.must<{ name: string | null }>(fleet.url, '/api/me')
      await victim.restart()
      await load.stop()
      assert(me.name === 'Eve', `the session was gone: the visitor is known as ${String(me.name)}`)
      const unexplained = load.failures.filter(
        ({ startedAt }) => startedAt > goneAt || startedAt < killedAt - 2_000
      )
      assert(unexplained.length === 0, failuresOf(unexplained))
      assert(load.stale === 0, `${load.stale} reads lacked what their visitor had written`)
      await Promise.all(listeners.map((listener) => listener.waitFor(load.written)))
      const resumed = listeners.reduce((sum, listener) => sum + listener.resumed, 0)
      assert(resumed > 0, 'no socket had to resume: the kill hit nobody')
      for (const listener of listeners) listener.close()
      visitor.close()
      return (
        `${load.answered} requests, ${load.failures.length} failed that were in flight there; ` +
        `${resumed} sockets resumed, ${load.written.length} messages × ${listeners.length} sockets, none lost or doubled`
      )
    }
  },
  {
    name: 'a rolling restart of every instance loses nothing',
    needs: 'fleet',
    async run(fleet) {
      const visitor = await loggedIn(fleet.url, 'Fay')
      const listeners = await Promise.all(Array.from({ length: 9 }, () => Listener.open(fleet.url)))
      const load = await Load.start(fleet.url)
      await until(() => load.answered > 50, { message: 'the load runs' })
      await rollFleet(fleet)
      await load.stop()
      assert(load.failures.length === 0, failuresOf(load.failures))
      assert(load.stale === 0, `${load.stale} reads lacked what their visitor had written`)
      await Promise.all(listeners.map((listener) => listener.waitFor(load.written)))
      const me = await visitor.must<{ name: string | null }>(fleet.url, '/api/me')
      assert(me.name === 'Fay', `the session was gone: the visitor is known as ${String(me.name)}`)
      for (const listener of listeners) listener.close()
      visitor.close()
      return `${load.answered} requests, 0 failed; ${load.written.length} messages × ${listeners.length} sockets, none lost or doubled`
    }
  },
  {
    name: 'a revoked session loses its sockets everywhere',
    needs: 'balancer',
    async run({ url: balancer, urls }) {
      const visitor = await loggedIn(balancer, 'Gus')
      const other = await loggedIn(balancer, 'Gus')
      const listeners = await Promise.all(urls.map((url) => Listener.open(url, other.cookie)))
      const kept = await Listener.open(urls[0]!, visitor.cookie)
      await visitor.must(urls[0]!, '/api/sessions', { method: 'DELETE', status: 204 })
      for (const listener of listeners) {
        await until(() => listener.refused, { message: 'the revoked session has lost its socket' })
      }
      assert(!kept.refused, 'the session that was to stay lost its socket too')
      const me = await other.must<{ name: string | null }>(urls[2] ?? balancer, '/api/me')
      assert(me.name === null, 'the revoked session is still good')
      kept.close()
      visitor.close()
      other.close()
      return `${listeners.length} sockets on ${listeners.length} instances closed, the other session stayed`
    }
  }
]

async function loggedIn(url: string, name: string): Promise<Visitor> {
  const visitor = new Visitor()
  await visitor.login(url, name)
  return visitor
}

async function post(visitor: Visitor, url: string, body: string): Promise<string> {
  const { id } = await visitor.must<{ id: string }>(url, '/api/posts', {
    method: 'POST',
    body: { body },
    status: 201
  })
  return id
}

function failuresOf(failures: Load['failures']): string {
  const shown = failures.slice(0, 4).map(({ what, instance, reason }) => `${what} ${instance}: ${reason}`)
  return [`${failures.length} requests failed`, ...shown].join('\n')
}
