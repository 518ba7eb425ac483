/** What `pnpm capacity` measured from ten thousand of each, the dearer of two runs. */
export const COSTS = {
  session: 1319,
  'cached key': 485,
  'history message': 198,
  'idle socket': 4055,
  'delivered message': 1,
  request: 78,
  publish: 22,
  'routed query': 37
}

/** What an app is taken to be like; each is a row of the page, to be replaced by figures of yours. */
export const ASSUMED = {
  /** Of one user, counting those who never come back. */
  sessionsPerUser: 0.3,
  /** Bytes. */
  sessionData: 500,
  cachedKeysPerUser: 0.2,
  cachedData: 1_000,
  channelsPerUser: 0.001,
  historySize: 100,
  /** Share of the users who are there at the busiest moment, each with one socket. */
  online: 0.02,
  requestsPerOnline: 0.1,
  messagesPerSocket: 0.1,
  /** µs of CPU of a request that are the app's own. */
  ownWork: 1_000,
  queriesPerRequest: 1,
  cacheReadsInRedis: 0.2,
  /** A write is one statement on the primary, one invalidation and one publish. */
  writesPerRequest: 0.05,
  busMessage: 200,
  /** Milliseconds of a query at the server. */
  queryTime: 2,
  /** Share of a core that is used at the busiest moment. */
  load: 0.5,
  socketsPerInstance: 10_000,
  poolMax: 10,
  /** PostgreSQL's default of 100, less what administrators and replicas need. */
  maxConnections: 80,
  /** Requests a second below which a restored backup will do. */
  aloneBelow: 100,
  /** Bytes a Redis master holds and still forks and resyncs in time. */
  redisMemory: 8e9,
  redisOperations: 40_000,
  replicaReads: 10_000,
  primaryWrites: 5_000,
  /** A second, from one Redis. */
  busBytes: 50e6
}

/** Payload that the measured costs hold already. */
const MEASURED_PAYLOAD = 100

export interface Fleet {
  /** Fleets with their own Redis and PostgreSQL that the users are spread over; the rest is of each of them. */
  readonly fleets: number
  readonly users: number
  readonly sessions: number
  readonly redisBytes: number
  readonly sockets: number
  readonly requests: number
  readonly redisOperations: number
  readonly cores: number
  readonly instances: number
  readonly socketBytes: number
  readonly busBytes: number
  readonly masters: number
  readonly redisConnections: number
  readonly reads: number
  readonly writes: number
  readonly replicas: number
  readonly poolConnections: number
  readonly busyConnections: number
}

/** Sizes a fleet for this many users; more than one where a single bus or a single primary would not do. */
export function size(users: number): Fleet {
  for (let fleets = 1; ; fleets++) {
    const fleet = sizeOne(users / fleets, fleets)
    if (fleet.busBytes <= ASSUMED.busBytes && fleet.writes <= ASSUMED.primaryWrites) return fleet
  }
}

function sizeOne(users: number, fleets: number): Fleet {
  const a = ASSUMED
  const sessions = users * a.sessionsPerUser
  const redisBytes =
    sessions * (COSTS.session + a.sessionData) +
    users * a.cachedKeysPerUser * (COSTS['cached key'] - MEASURED_PAYLOAD + a.cachedData) +
    users * a.channelsPerUser * a.historySize * COSTS['history message']
  const sockets = users * a.online
  const requests = sockets * a.requestsPerOnline
  const writes = requests * a.writesPerRequest
  const redisOperations = requests * (1 + a.cacheReadsInRedis) + writes * 2
  const cpu =
    requests * (COSTS.request + a.ownWork + a.queriesPerRequest * COSTS['routed query']) +
    writes * (COSTS['routed query'] + COSTS.publish) +
    sockets * a.messagesPerSocket * COSTS['delivered message']
  const cores = cpu / 1e6
  // One more than needed: one may be restarting.
  const instances = Math.max(1, Math.ceil(cores / a.load), Math.ceil(sockets / a.socketsPerInstance)) + 1
  const needed = Math.max(redisBytes / a.redisMemory, redisOperations / a.redisOperations)
  const masters = needed <= 1 ? 1 : Math.max(3, Math.ceil(needed))
  const reads = requests * a.queriesPerRequest
  return {
    fleets,
    users,
    sessions,
    redisBytes,
    sockets,
    requests,
    redisOperations,
    cores,
    instances,
    socketBytes: (sockets / instances) * COSTS['idle socket'],
    busBytes: writes * instances * a.busMessage,
    masters,
    // At each node: commands, and the subscriber (on a Cluster one for the shard's channels).
    redisConnections: instances * (masters === 1 ? 2 : 3),
    reads,
    writes,
    replicas: Math.max(1, Math.ceil(reads / a.replicaReads)) + (reads > a.replicaReads / 10 ? 1 : 0),
    poolConnections: instances * a.poolMax,
    busyConnections: Math.ceil((reads * a.queryTime) / 1_000)
  }
}
