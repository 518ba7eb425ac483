import { until } from '@flotilla/testbed'
import { t as tap, test } from 'tap'
import { Listener } from '../../src/check/listener.js'
import { Visitor, type Answer } from '../../src/check/visitor.js'
import { startFleet, type Fleet } from '../fleet.js'

/* What cache, broadcast and router promise only together, on three instances and a replica that lags. */

const LAG = 1_500

interface Latest {
  posts: { id: string }[]
  database: { role: string }
}

interface Ranking {
  writers: { author: string; posts: number }[]
  computation: number
}

let fleet: Fleet
let urls: string[]

tap.before(async () => {
  fleet = await startFleet()
  urls = fleet.apps.urls
})
tap.teardown(() => fleet.stop())

async function visitorCalled(name: string): Promise<Visitor> {
  const visitor = new Visitor()
  await visitor.login(urls[0]!, name)
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

const at = (turn: number): string => urls[turn % urls.length]!

test('one purge by tag clears data and HTTP responses, on every instance', async (t) => {
  const visitor = await visitorCalled('Ada')
  const anonymous = new Visitor()
  // Responses are stored by host: through the balancer every instance has the same.
  const pages = (): Promise<Answer[]> =>
    Promise.all(Array.from({ length: 12 }, () => anonymous.ask(fleet.url, '/api/front-page')))
  const rankings = (): Promise<Answer[]> => Promise.all(urls.map((url) => anonymous.ask(url, '/api/ranking')))
  const computations = (all: Answer[]): number =>
    new Set(all.map((answer) => answer.json<Ranking>().computation)).size

  await anonymous.must(fleet.url, '/api/front-page')
  await anonymous.must(urls[0]!, '/api/ranking')
  const before = await pages()
  t.equal(computations(before), 1, 'a stored response')
  t.equal(new Set(before.map(({ instance }) => instance)).size, urls.length, 'serves every instance')
  t.equal(computations(await rankings()), 1, 'so does a cached value')
  // Whoever computes anew reads behind the write, also where the replica is not that far.
  const [replica] = fleet.postgres.replicas
  await replica!.setDelay(LAG)
  t.teardown(() => replica!.setDelay(0))
  await post(visitor, at(1), 'this drops both')
  for (const all of [await pages(), await rankings()]) {
    for (const answer of all) {
      const { writers } = answer.json<Ranking>()
      t.same(writers, [{ author: 'Ada', posts: 1 }], `on ${answer.instance} neither outlives the purge`)
    }
  }
})

test('a broadcast carries the token, and the refetch it triggers reads what it announced', async (t) => {
  const [replica] = fleet.postgres.replicas
  await replica!.setDelay(LAG)
  t.teardown(() => replica!.setDelay(0))
  const visitor = await visitorCalled('Bea')
  const other = new Visitor()
  const listener = await Listener.open(at(2))
  let stale = 0
  for (let turn = 0; turn < 12; turn++) {
    const id = await post(visitor, at(turn), `turn ${turn}`)
    await listener.waitFor([id])
    const after = encodeURIComponent(listener.token ?? '')
    const [refetch, plain] = await Promise.all([
      other.must<Latest>(at(turn + 1), `/api/posts?after=${after}`),
      new Visitor().must<Latest>(at(turn + 1), '/api/posts')
    ])
    t.equal(refetch.posts[0]?.id, id, `the refetch reads entry ${id} (from the ${refetch.database.role})`)
    if (plain.posts[0]?.id !== id) stale++
  }
  t.ok(stale > 0, `without the token ${stale} of 12 reads were old: the replica did lag`)
  listener.close()
})

test('a cache fill from a lagging replica never outlives the invalidation of its data', async (t) => {
  const [replica] = fleet.postgres.replicas
  await replica!.setDelay(LAG)
  const visitor = await visitorCalled('Cem')
  const reader = new Visitor()
  const known = async (url: string): Promise<number> => {
    const { writers } = await reader.must<Ranking>(url, '/api/ranking')
    return writers.find(({ author }) => author === 'Cem')?.posts ?? 0
  }
  const stopped = new AbortController()
  // Readers on every instance keep filling the cache, also in the middle of each write.
  const readers = urls.map(async (url) => {
    while (!stopped.signal.aborted) await known(url)
  })
  for (let turn = 1; turn <= 12; turn++) {
    await post(visitor, at(turn), `turn ${turn}`)
    const counts = await Promise.all(urls.map(known))
    t.same(
      counts,
      counts.map(() => turn),
      `after ${turn} writes every instance ranks ${turn}`
    )
  }
  stopped.abort()
  await Promise.all(readers)
  await replica!.setDelay(0)
  await until(async () => (await Promise.all(urls.map(known))).every((count) => count === 12), {
    message: 'it stays right once the replica has caught up'
  })
})
