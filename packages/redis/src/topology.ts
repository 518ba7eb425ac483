/** How the servers behind a URL work together. */
export type Topology = 'single' | 'sentinel' | 'cluster'

export interface RedisAddress {
  readonly host: string
  readonly port: number
}

/** What a Redis URL says. */
export interface RedisTarget {
  readonly topology: Topology
  /** The server; the Sentinels; or nodes of the Cluster, of which one reachable is enough. Empty behind a Unix socket. */
  readonly nodes: readonly RedisAddress[]
  /** The Unix socket of the server. */
  readonly socketPath: string | undefined
  /** Sentinel: the name of the group. */
  readonly master: string | undefined
  readonly username: string | undefined
  readonly password: string | undefined
  readonly db: number | undefined
  readonly tls: boolean
}

const URL_SHAPE =
  /^(?:(?:redis|valkey)(s)?(?:\+(sentinel|cluster))?|(unix)):\/\/(?:([^@/]*)@)?([^@/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/
const HOST_SHAPE = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/
const ENCODING = "special characters of a user or password are percent-encoded ('@' is %40, '/' is %2F)"
const SCHEMES =
  'a Redis URL begins with redis://, rediss://, redis+sentinel://, redis+cluster:// or unix://, and may say valkey for redis'

/**
 * Reads `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://` and `unix://` URLs, with `valkey` for `redis` as
 * well. The URL class of the platform cannot: it knows no lists of hosts.
 *
 * @throws an `Error` that says what is wrong. It does not repeat hosts or path: of a password that is not encoded,
 *   parts stand there.
 */
export function parseRedisUrl(url: string, cluster = false): RedisTarget {
  const match = URL_SHAPE.exec(url)
  if (!match) throw new Error(`${SCHEMES}; ${ENCODING}`)
  const [, secure, suffix, unix, auth, hosts = '', path = '', query = ''] = match
  if (path.includes('@') || query.includes('@')) throw new Error(ENCODING)
  if (unix) return parseUnixUrl({ auth, hosts, path, query, cluster })
  if (cluster && suffix === 'sentinel') throw new Error("'cluster: true' contradicts redis+sentinel://")
  const topology = (suffix as Topology | undefined) ?? (cluster ? 'cluster' : 'single')
  const nodes = hosts.split(',').map((host) => parseHost(host, topology === 'sentinel' ? 26379 : 6379))
  if (topology === 'single' && nodes.length > 1) {
    throw new Error('several hosts need redis+cluster:// or redis+sentinel://')
  }
  return {
    topology,
    nodes,
    socketPath: undefined,
    tls: secure !== undefined,
    ...parseAuth(auth),
    ...parsePath(topology, path, query)
  }
}

interface UnixUrl {
  readonly auth: string | undefined
  readonly hosts: string
  readonly path: string
  readonly query: string
  readonly cluster: boolean
}

/** `unix://user:password@/run/redis.sock?db=2`: the whole path is that of the socket. */
function parseUnixUrl({ auth, hosts, path, query, cluster }: UnixUrl): RedisTarget {
  if (cluster) throw new Error("'cluster: true' contradicts unix://: the nodes of a Cluster have addresses")
  if (hosts !== '' || path === '' || path.endsWith('/')) {
    throw new Error("unix:// needs the absolute path of the socket: 'unix:///run/redis/redis.sock'")
  }
  return {
    topology: 'single',
    nodes: [],
    socketPath: decode(path, 'the path of the socket'),
    tls: false,
    ...parseAuth(auth),
    ...parsePath('single', '', query)
  }
}

/** Where a URL leads, as a person writes it. */
export function formatTarget({ nodes, socketPath }: RedisTarget): string {
  return socketPath ?? nodes.map(formatAddress).join(',')
}

/** `host:port`, as a person writes it. */
function formatAddress({ host, port }: RedisAddress): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function parseHost(text: string, defaultPort: number): RedisAddress {
  if (text === '') throw new Error('the host is missing')
  const match = HOST_SHAPE.exec(text)
  const port = match?.[3] === undefined ? defaultPort : Number(match[3])
  const host = match?.[1] ?? match?.[2]
  if (host === undefined || port < 1 || port > 65_535) throw new Error('a host is not host:port')
  return { host, port }
}

function parseAuth(auth: string | undefined): Pick<RedisTarget, 'username' | 'password'> {
  if (auth === undefined || auth === '') return { username: undefined, password: undefined }
  const colon = auth.indexOf(':')
  const part = (text: string): string | undefined =>
    text === '' ? undefined : decode(text, 'the user or password')
  if (colon === -1) return { username: part(auth), password: undefined }
  return { username: part(auth.slice(0, colon)), password: part(auth.slice(colon + 1)) }
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error(`${what} is not percent-encoded correctly`)
  }
}

function parsePath(topology: Topology, path: string, query: string): Pick<RedisTarget, 'master' | 'db'> {
  const parts = path.split('/').filter((part) => part !== '')
  const master = topology === 'sentinel' ? parts.shift() : undefined
  if (topology === 'sentinel' && master === undefined) {
    throw new Error('redis+sentinel:// needs the name of the master group as its path, such as /mymaster')
  }
  const parameters = new URLSearchParams(query)
  const fromPath = parts.shift()
  const text = fromPath ?? parameters.get('db') ?? undefined
  parameters.delete('db')
  const [unknown] = parameters.keys()
  if (unknown !== undefined) throw new Error(`unknown parameter '${unknown}'; pass it as an option instead`)
  if (parts.length > 0 || (text !== undefined && !/^\d{1,5}$/.test(text))) {
    throw new Error('the last part of the path is not the number of a database')
  }
  const db = text === undefined ? undefined : Number(text)
  if (topology === 'cluster' && db) throw new Error('a Redis Cluster has database 0 only')
  return { master: master === undefined ? undefined : decode(master, 'the name of the master group'), db }
}
