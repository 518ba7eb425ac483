/** What an error means to an operator. */
export interface Explanation {
  readonly reason: string
  /** Trying again cannot help. */
  readonly fatal: boolean
  /** 0 for errors that only report that there was another one before. */
  readonly weight: number
}

type Rule = readonly [pattern: RegExp, reason: string, fatal: boolean]

/** What a server answers to the command SENTINEL, which only a Sentinel knows. */
const NOT_A_SENTINEL = /unknown command .?sentinel/i

const SILENT = 'no answer in time'

const RULES: readonly Rule[] = [
  [
    /failed to connect to sentinel .*(NOAUTH|WRONGPASS)/,
    'the Sentinel has a password of its own: pass sentinelPassword, and sentinelUsername if it has users',
    true
  ],
  // Not fatal by itself: another one of the list may be a Sentinel. connect() knows when none is.
  [
    NOT_A_SENTINEL,
    'it is a server, not a Sentinel: use redis://host:port, redis+cluster:// for a node of a Cluster, or the port of the Sentinels, usually 26379',
    false
  ],
  [/^WRONGMODE cluster/, 'it is a node of a Redis Cluster: use redis+cluster:// or cluster: true', true],
  [/^WRONGMODE sentinel/, 'it is a Sentinel, not a server: use redis+sentinel://host:port/name', true],
  [
    /cluster support disabled/i,
    'it is a single server, no Redis Cluster: use redis:// without cluster: true',
    true
  ],
  [/NOAUTH/, 'it asks for a password (NOAUTH): put user and password into the URL', true],
  [
    /WRONGPASS|invalid (username-password|password)|without any password configured/i,
    'wrong user or password (WRONGPASS)',
    true
  ],
  [/NOPERM/, 'the user may not do this (NOPERM): see its ACL', true],
  // https://nodejs.org/api/permissions.html: before the answers of a server, since none was asked.
  [
    /ERR_ACCESS_DENIED/,
    "Node.js's permission model forbids this process the network: start it with --allow-net beside --permission",
    true
  ],
  [/protected mode/i, 'it is in protected mode (DENIED): set a password or bind address on the server', true],
  [/DB index is out of range|invalid DB index/i, 'it has no database of that number', true],
  [/invalid reply: null|no such master/i, 'the sentinels know no master of that name', false],
  [
    /CLUSTERDOWN/,
    'the Cluster is down (CLUSTERDOWN): not all slots are served, or most masters are unreachable',
    false
  ],
  [/LOADING/, 'it is still loading its data (LOADING)', false],
  [/ENOTFOUND|EAI_AGAIN|EAI_NODATA/, 'the host name cannot be resolved (DNS)', false],
  [/ECONNREFUSED/, 'connection refused: nothing listens there', false],
  [/connect ENOENT/, 'there is no such socket', false],
  [/connect (EACCES|EPERM) \//, 'this user may not open the socket: see its unixsocketperm', true],
  [
    /wrong version number|packet length too long|EPROTO|record layer/i,
    'it does not speak TLS there: use redis:// instead of rediss://, or the TLS port',
    true
  ],
  [
    /certificate|self.signed|SELF_SIGNED|ERR_TLS|CERT_|unable to verify/i,
    'its TLS certificate is not accepted: pass the CA as tls: { ca }',
    true
  ],
  [
    /Unknown RESP type|Protocol error, got/,
    'what answers there does not speak Redis: a port of another service, such as HTTP, or TLS where the URL says none',
    true
  ],
  [/ETIMEDOUT|timed out|ETIMEOUT|no answer/i, SILENT, false],
  [
    /ECONNRESET|EPIPE|Connection is closed|closed/i,
    'it closes the connection: a port of another service, or TLS where the URL says none?',
    false
  ]
]

/** Whether an error says that what was asked as a Sentinel is none. */
export function isNotSentinel(error: unknown): boolean {
  return NOT_A_SENTINEL.test(textOf(error))
}

/** Finds the cause in an error of ioredis, which may wrap it in its message or in `lastNodeError`. */
export function explain(error: unknown, tls: boolean): Explanation {
  const text = textOf(error)
  const generic =
    /^(None of startup nodes is available|Failed to refresh slots cache\.?|Connection is closed\.?)$/.test(
      text
    )
  for (const [pattern, reason, fatal] of RULES) {
    if (!pattern.test(text)) continue
    const hint = tls && reason === SILENT ? ', or it does not speak TLS there' : ''
    return { reason: `${reason}${hint}${detail(text)}`, fatal, weight: generic ? 0 : 1 }
  }
  return { reason: text, fatal: false, weight: generic ? 0 : 1 }
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code, lastNodeError } = error as Error & { code?: unknown; lastNodeError?: unknown }
  if (lastNodeError instanceof Error) return textOf(lastNodeError)
  const inner = error instanceof AggregateError ? error.errors.map(textOf).join('; ') : ''
  return [typeof code === 'string' && !error.message.includes(code) ? code : '', error.message, inner]
    .filter((part) => part !== '')
    .join(' ')
}

function detail(text: string): string {
  return text.startsWith('WRONGMODE') ? '' : ` [${text.length > 160 ? `${text.slice(0, 160)}…` : text}]`
}
