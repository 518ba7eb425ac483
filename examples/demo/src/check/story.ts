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

export interface Chapter {
  readonly name: string
  /** Walks it and says what was seen; throws when something did not hold. */
  run(fleet: Fleet): Promise<string>
}

const urlsOf = (fleet: Fleet): string[] => fleet.apps.instances.map(({ url }) => url)

/** What a fleet must hold to, told in the order in which an operator would try it. */
export const story: readonly Chapter[] = [
  {
    name: 'each instance says who it is and that it is well',
    async run(fleet) {
      const visitor = new Visitor()
      const names = new Set<string>()
      for (const url of urlsOf(fleet)) {
        let health: Record<string, unknown> = {}
        // An instance on a busy machine may just have seen a dependency answer late; it must recover by itself.
        await until(
          async () => {
            health = await visitor.must<Record<string, unknown>>(url, '/health')
            return health['status'] === 'healthy'
          },
          { timeout: 20_000, message: `${url} to be healthy` }
        )
        for (const field of ['status', 'instance', 'version', 'uptime']) {
          assert(field in health, `/health has no "${field}": ${JSON.stringify(health)}`)
        }
        names.add(String(health['instance']))
      }
      assert(names.size === fleet.apps.instances.length, `instances share a name: ${[...names].join(', ')}`)
      visitor.close()
      return [...names].toSorted().join(', ')
    }
  },
  {
    name: 'a session made on one instance is read on every other',
    async run(fleet) {
      const visitor = new Visitor()
      const [first, ...others] = urlsOf(fleet)
      await visitor.login(first!, 'Ada')
      let visits = 0
      for (const url of [...others, first!, ...others]) {
        const me = await visitor.must<{ name: string | null; visits: number }>(url, '/api/me')
        assert(me.name === 'Ada', `${url} knows the visitor as ${String(me.name)}, not as Ada`)
        assert(me.visits === ++visits, `${url} counted ${me.visits} visits instead of ${visits}`)
      }
      visitor.close()
      return `made on app-1, read ${visits} times on ${urlsOf(fleet).length} instances, each write seen by the next`
    }
  },
  {
    name: 'a value missing everywhere is computed once for the fleet',
    async run(fleet) {
      const visitor = await loggedIn(fleet, 'Bea')
      const before = await visitor.must<Ranking>(urlsOf(fleet)[0]!, '/api/ranking')
      await post(visitor, urlsOf(fleet)[0]!, 'this entry drops the ranking')
      const asked = 30
      const answers = await Promise.all(
        Array.from({ length: asked }, (_, index) =>
          visitor.must<Ranking>(urlsOf(fleet)[index % urlsOf(fleet).length]!, '/api/ranking')
        )
      )
      const computations = new Set(answers.map(({ computation }) => computation))
      assert(!computations.has(before.computation), 'the value from before the write was served after it')
      assert(
        computations.size === 1,
        `${asked} requests saw ${computations.size} computations (${[...computations].join(', ')})`
      )
      visitor.close()
      return `${asked} requests on ${urlsOf(fleet).length} instances at once, 1 computation, by ${answers[0]!.computedBy}`
    }
  },
  {
    name: 'a message reaches the sockets of every instance',
    async run(fleet) {
      const listeners = await Promise.all(
        urlsOf(fleet).flatMap((url) => [Listener.open(url), Listener.open(url)])
      )
      const visitor = await loggedIn(fleet, 'Cem')
      const ids: string[] = []
      for (const url of urlsOf(fleet)) ids.push(await post(visitor, url, `hello from ${url}`))
      await Promise.all(listeners.map((listener) => listener.waitFor(ids)))
      for (const listener of listeners) listener.close()
      visitor.close()
      return `${ids.length} messages, one published on each instance, reached ${listeners.length} of ${listeners.length} sockets`
    }
  },
  {
    name: 'what a visitor wrote is read back, from a replica',
    async run(fleet) {
      const visitor = await loggedIn(fleet, 'Dot')
      const urls = urlsOf(fleet)
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
      await fleet.postgres.replicas[0]!.pauseReplay()
      try {
        for (let turn = 0; turn < 10; turn++) await writeAndRead(turn)
      } finally {
        await fleet.postgres.replicas[0]!.resumeReplay()
      }
      visitor.close()
      return `30 of 30 right, ${replica} of them from the replica; with its replay paused 10 of 10 right`
    }
  },
  {
    name: 'an instance killed in the middle takes nobody with it',
    async run(fleet) {
      const victim = fleet.apps.instances[1]!
      const visitor = await loggedIn(fleet, 'Eve')
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
    async run(fleet) {
      const visitor = await loggedIn(fleet, 'Fay')
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
    async run(fleet) {
      const visitor = await loggedIn(fleet, 'Gus')
      const other = await loggedIn(fleet, 'Gus')
      const listeners = await Promise.all(urlsOf(fleet).map((url) => Listener.open(url, other.cookie)))
      const kept = await Listener.open(urlsOf(fleet)[0]!, visitor.cookie)
      await visitor.must(urlsOf(fleet)[0]!, '/api/sessions', { method: 'DELETE', status: 204 })
      for (const listener of listeners) {
        await until(() => listener.refused, { message: 'the revoked session has lost its socket' })
      }
      assert(!kept.refused, 'the session that was to stay lost its socket too')
      const me = await other.must<{ name: string | null }>(urlsOf(fleet)[2] ?? fleet.url, '/api/me')
      assert(me.name === null, 'the revoked session is still good')
      kept.close()
      visitor.close()
      other.close()
      return `${listeners.length} sockets on ${listeners.length} instances closed, the other session stayed`
    }
  }
]

async function loggedIn(fleet: Fleet, name: string): Promise<Visitor> {
  const visitor = new Visitor()
  await visitor.login(fleet.url, name)
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
