import { http, type HttpRequest } from '../harness/measures.js'
import { defineSuite, type Case, type SubjectSpec } from '../harness/suite.js'

const SESSIONS = 64
const PEERS = ['fastify-session', 'mgcrea-fastify-session'] as const

interface Load {
  readonly path: '/read' | '/write'
  /** Of each visitor's data, in bytes. */
  readonly size: number
}

/** Logs in `SESSIONS` visitors and has each of them ask with their own cookie. */
const eachVisitor = ({ path, size }: Load): Case['measure'] =>
  http({
    async plan({ url, subject }) {
      const requests: HttpRequest[] = []
      for (let n = 0; n < SESSIONS; n++) {
        const response = await fetch(`${url}/login/${n}?size=${size}`, { method: 'POST' })
        await response.arrayBuffer()
        const cookie = response.headers
          .getSetCookie()
          .map((one) => one.split(';', 1)[0])
          .join('; ')
        if (cookie === '' && subject !== 'bare') throw new Error(`${subject} set no cookie`)
        const answer = path === '/write' ? { ok: true } : { n: subject === 'bare' ? 0 : n }
        requests.push({
          path,
          ...(cookie !== '' && { headers: { cookie } }),
          expect: { body: JSON.stringify(answer) }
        })
      }
      return { requests }
    }
  })

const rate = (
  name: string,
  title: string,
  measure: Case['measure'],
  subjects: readonly string[] | Readonly<Record<string, SubjectSpec>>
): Case => ({ name, title, unit: 'req/s', subjects, measure })

const everyone = ['flotilla', 'floor', 'bare', ...PEERS]

const sizes: readonly (readonly [name: string, bytes: number])[] = [
  ['100b', 100],
  ['1kb', 1_000],
  ['10kb', 10_000],
  ['100kb', 100_000]
]

export default defineSuite({
  name: 'session',
  title: 'Sessions in Redis',
  servers: ['redis'],
  subjects: new URL('../subjects/session.js', import.meta.url),
  cases: [
    rate(
      'read',
      'a route reads one field of a session of 1 kB, nothing is changed',
      eachVisitor({ path: '/read', size: 1_000 }),
      everyone
    ),
    rate(
      'write-one-field',
      'a route changes one field of a session of 1 kB',
      eachVisitor({ path: '/write', size: 1_000 }),
      everyone
    ),
    rate(
      'read-local',
      'as read, from memory: peers have no such mode and read from Redis',
      eachVisitor({ path: '/read', size: 1_000 }),
      {
        flotilla: { process: 'flotilla-local' },
        bare: {},
        floor: {},
        'fastify-session': {},
        'mgcrea-fastify-session': {}
      }
    ),
    rate(
      'anonymous',
      'a visitor without a cookie, on a route that does not use the session',
      http({ plan: () => ({ requests: [{ path: '/anonymous', expect: { body: '{"ok":true}' } }] }) }),
      everyone
    ),
    ...sizes.flatMap(([name, size]) => [
      rate(
        `read-${name}`,
        `reads one small field of a session of ${name}`,
        eachVisitor({ path: '/read', size }),
        ['flotilla', 'floor', ...PEERS]
      ),
      rate(
        `write-${name}`,
        `changes one small field of a session of ${name}`,
        eachVisitor({ path: '/write', size }),
        ['flotilla', 'floor', ...PEERS]
      )
    ])
  ]
})
