/* The plan as tables of the capacity page, each line with the arithmetic behind it. */
import { ASSUMED, COSTS, size, type Fleet } from './plan.js'

const count = (figure: number): string =>
  Number(figure.toPrecision(figure < 1 ? 1 : 3)).toLocaleString('en-US', { maximumFractionDigits: 2 })

function bytes(figure: number): string {
  const [unit, name] = figure >= 1e9 ? [1e9, 'GB'] : figure >= 1e6 ? [1e6, 'MB'] : ([1e3, 'kB'] as const)
  return `${Number((figure / unit).toPrecision(2)).toLocaleString('en-US')} ${name}`
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')

const redis = ({ masters, requests }: Fleet): string =>
  masters > 1
    ? `Cluster: ${masters} masters, a replica each`
    : requests < ASSUMED.aloneBelow
      ? '1 server'
      : 'Sentinel: 1 master, 2 replicas'

/** What is in a line: how it is reckoned, and how it reads for one fleet. */
const LINES: readonly (readonly [string, string, (fleet: Fleet) => string])[] = [
  ['**fleets** of their own', 'see below', ({ fleets }) => `**${fleets}**`],
  ['users of each', 'users / fleets', ({ users }) => count(users)],
  ['sessions', `users × ${ASSUMED.sessionsPerUser}`, ({ sessions }) => count(sessions)],
  [
    'Redis: memory',
    `sessions × (${COSTS.session} + ${ASSUMED.sessionData}) + users × ${ASSUMED.cachedKeysPerUser} × (${COSTS['cached key']} − 100 + ${count(ASSUMED.cachedData)}) + users × ${ASSUMED.channelsPerUser} × ${ASSUMED.historySize} × ${COSTS['history message']}`,
    ({ redisBytes }) => bytes(redisBytes)
  ],
  ['sockets', `users × ${ASSUMED.online}`, ({ sockets }) => count(sockets)],
  ['requests a second', `sockets × ${ASSUMED.requestsPerOnline}`, ({ requests }) => count(requests)],
  ['writes a second', `requests × ${ASSUMED.writesPerRequest}`, ({ writes }) => count(writes)],
  [
    'Redis: operations a second',
    `requests × (1 + ${ASSUMED.cacheReadsInRedis}) + writes × 2`,
    ({ redisOperations }) => count(redisOperations)
  ],
  [
    '**Redis: topology**',
    `masters = the larger of memory / ${bytes(ASSUMED.redisMemory)} and operations / ${count(ASSUMED.redisOperations)}; more than one is a Cluster of at least 3; one alone below ${ASSUMED.aloneBelow} requests a second`,
    (fleet) => `**${redis(fleet)}**`
  ],
  [
    'app: cores in use',
    `requests × (${COSTS.request} + ${count(ASSUMED.ownWork)} + ${COSTS['routed query']}) µs + writes × (${COSTS['routed query']} + ${COSTS.publish}) µs + sockets × ${ASSUMED.messagesPerSocket} × ${COSTS['delivered message']} µs`,
    ({ cores }) => count(cores)
  ],
  [
    '**app: instances**, a core each',
    `the larger of cores / ${ASSUMED.load} and sockets / ${count(ASSUMED.socketsPerInstance)}, and one more`,
    ({ instances }) => `**${count(instances)}**`
  ],
  ['instances in all', 'fleets × instances', ({ fleets, instances }) => count(fleets * instances)],
  [
    "memory of an instance's sockets",
    `sockets / instances × ${COSTS['idle socket']}`,
    ({ socketBytes }) => bytes(socketBytes)
  ],
  [
    'connections at each Redis node',
    'instances × 2 (commands, subscriber); on a Cluster × 3 (sharded channels)',
    ({ redisConnections }) => count(redisConnections)
  ],
  [
    'bus: what Redis sends a second',
    `writes × instances × ${ASSUMED.busMessage}`,
    ({ busBytes }) => bytes(busBytes)
  ],
  [
    '**PostgreSQL**: servers',
    `replicas = reads / ${count(ASSUMED.replicaReads)}, and one more above a tenth of that`,
    ({ replicas }) => `**1 primary, ${count(replicas)} ${replicas === 1 ? 'replica' : 'replicas'}**`
  ],
  [
    'connections that all pools may open to one server',
    `instances × ${ASSUMED.poolMax}; above ${ASSUMED.maxConnections} through PgBouncer`,
    ({ poolConnections }) =>
      `${count(poolConnections)}${poolConnections > ASSUMED.maxConnections ? ', **PgBouncer**' : ''}`
  ],
  [
    'connections that are busy, over all replicas',
    `reads × ${ASSUMED.queryTime} ms`,
    ({ busyConnections }) => count(busyConnections)
  ]
]

/** The table of what fleets of these sizes need. */
export function sizes(users: readonly number[]): string {
  const fleets = users.map(size)
  return table(
    ['', 'how it is reckoned', ...users.map((figure) => `${figure.toLocaleString('en-US')} users`)],
    LINES.map(([what, how, show]) => [what, how, ...fleets.map(show)])
  )
}

/** The table of what one of each costs, as it was measured. */
export function costs(): string {
  const unit = (what: string): string =>
    what === 'idle socket'
      ? 'bytes of memory of the instance'
      : ['session', 'cached key', 'history message'].includes(what)
        ? 'bytes of Redis'
        : 'µs of CPU of the instance'
  return table(
    ['', 'cost of one', ''],
    Object.entries(COSTS).map(([what, figure]) => [what, figure.toLocaleString('en-US'), unit(what)])
  )
}
