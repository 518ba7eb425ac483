/* Random interleavings of requests, checked against what RFC 9111 allows each of them to get. */
import Fastify from 'fastify'
import { Readable } from 'node:stream'
import t from 'tap'
import { flotillaCache } from '../src/index.js'
import { nextTurn } from './support/http.js'

const ROUNDS = 1000
const AT_ONCE = 4
const PATHS = ['/text', '/stream', '/varies']
const NAMES = ['Ada', 'Bob']
const seed = Number(process.env['SEED'] ?? 20_261_201)

/** The same numbers for the same seed (mulberry32). */
function numbers(from: number): (below: number) => number {
  let state = from
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

t.test(`${ROUNDS} rounds of ${AT_ONCE} requests at once, seed ${seed}`, async (t) => {
  const random = numbers(seed)
  const pause = async (): Promise<void> => {
    for (let turns = random(4); turns > 0; turns--) await nextTurn()
  }
  const written = new Map(PATHS.map((path) => [path, 0]))
  /** Of the writes that have been answered. */
  const answered = new Map(PATHS.map((path) => [path, 0]))
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  for (const path of PATHS) {
    app.get(path, { config: { cache: { ttl: '1m', swr: '1m' } } }, async (request, reply) => {
      const version = written.get(path)!
      await pause()
      const personal = request.headers['x-mine'] !== undefined
      const name = personal ? /\w+$/.exec(request.headers.cookie ?? '')?.[0] : undefined
      const variant = path === '/varies' ? String(request.headers['x-variant']) : ''
      if (path === '/varies') void reply.header('vary', 'x-variant')
      const body = `version ${version} of ${path} ${variant} for ${name ?? 'all'}`
      void reply.type('text/plain').header('etag', `"${version} ${variant} ${name ?? 'all'}"`)
      return path === '/stream' ? reply.send(Readable.from([body.slice(0, 5), body.slice(5)])) : body
    })
    app.put(path, async () => {
      await pause()
      written.set(path, written.get(path)! + 1)
      await pause()
      return 'done'
    })
  }

  const write = async (path: string): Promise<void> => {
    const before = written.get(path)!
    await app.inject({ method: 'PUT', url: path })
    answered.set(path, Math.max(answered.get(path)!, before + 1))
  }
  const read = async (path: string): Promise<string | undefined> => {
    const name = NAMES[random(NAMES.length)]!
    const variant = String(random(3))
    const headers: Record<string, string> = { cookie: `name=${name}`, 'x-variant': variant }
    const mine = random(4) === 0
    if (mine) headers['x-mine'] = '1'
    if (random(5) === 0) headers['authorization'] = name
    const directive = [
      undefined,
      undefined,
      undefined,
      'no-cache',
      'only-if-cached',
      'max-age=10',
      'no-store'
    ][random(7)]
    if (directive !== undefined) headers['cache-control'] = directive
    const kind = ['plain', 'plain', 'HEAD', 'range', 'conditional'][random(5)]
    if (kind === 'range') headers['range'] = 'bytes=8-'
    const known = `"${random(written.get(path)! + 1)} ${path === '/varies' ? variant : ''} all"`
    if (kind === 'conditional') headers['if-none-match'] = known
    const [floor, atStart] = [answered.get(path)!, written.get(path)!]
    const asked = `${kind} ${path} ${JSON.stringify(headers)}`
    const response = await app.inject({ method: kind === 'HEAD' ? 'HEAD' : 'GET', url: path, headers })
    const { statusCode, body } = response
    const got = `${asked} got ${statusCode} '${body}' ${String(response.headers['cache-status'])}`
    if (statusCode === 504) return directive === 'only-if-cached' ? undefined : got
    if (statusCode === 304) {
      const [, version] = /^"(\d+) /.exec(known)!
      return kind === 'conditional' && Number(version) >= floor ? undefined : `${got}, ${floor} was answered`
    }
    if (statusCode !== 200 && !(statusCode === 206 && kind === 'range')) return got
    const [, version, ofVariant, forWhom] = /^"(\d+) (\d*) (\w+)"$/.exec(String(response.headers.etag)) ?? []
    if (Number(version) < floor || Number(version) > written.get(path)!)
      return `${got}, ${floor} was answered`
    if ((directive === 'no-cache' || directive === 'no-store') && Number(version) < atStart)
      return `${got}, asked at ${atStart}`
    if (ofVariant !== (path === '/varies' ? variant : '')) return `${got}, variant`
    // What is stored for all may answer a request for which the handler would have made something else.
    if (forWhom !== 'all' && (forWhom !== name || !mine)) return `${got}, of another visitor`
    const whole = `version ${version} of ${path} ${ofVariant} for ${forWhom}`
    const wanted = kind === 'HEAD' ? '' : statusCode === 206 ? whole.slice(8) : whole
    return body === wanted ? undefined : `${got}, not '${wanted}'`
  }

  let checks = 0
  for (let round = 0; round < ROUNDS; round++) {
    const path = PATHS[random(PATHS.length)]!
    const ends = await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        await pause()
        if (random(6) === 0) {
          await write(path)
          return undefined
        }
        checks++
        return await read(path)
      })
    )
    const wrong = ends.filter((one) => one !== undefined)
    if (wrong.length > 0) {
      t.fail(`round ${round}: ${wrong.join('\n')}`)
      return
    }
  }
  t.ok(checks > ROUNDS * 3, `${checks} answers are what they may be`)
})
