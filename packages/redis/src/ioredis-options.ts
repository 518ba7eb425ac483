import type { ClusterOptions, RedisOptions } from 'ioredis'
import type { OwnOptions } from './options.js'

/** What ioredis takes, but for what the plugin sets itself. */
export type IoredisOptions = Omit<
  RedisOptions & ClusterOptions,
  | keyof OwnOptions
  | 'host'
  | 'port'
  | 'path'
  | 'sentinels'
  | 'name'
  | 'lazyConnect'
  | 'monitor'
  | 'readOnly'
  | 'Connector'
>

type ClusterOnly = Exclude<keyof IoredisOptions, keyof RedisOptions>

/** Options of ioredis for a Cluster as a whole. The compiler counts them: a new version may have more. */
const OF_CLUSTER = {
  clusterNodeRetryStrategy: true,
  clusterRetryStrategy: true,
  dnsLookup: true,
  maxRedirections: true,
  redisOptions: true,
  resolveSrv: true,
  retryDelayOnClusterDown: true,
  retryDelayOnFailover: true,
  retryDelayOnMoved: true,
  retryDelayOnTryAgain: true,
  scaleReads: true,
  shardedSubscribers: true,
  slotsRefreshInterval: true,
  slotsRefreshTimeout: true,
  useSRVRecords: true
} satisfies Record<ClusterOnly, true>

/** Options of ioredis for each connection. */
const OF_CONNECTION = {
  autoPipeliningIgnoredCommands: true,
  autoResendUnfulfilledCommands: true,
  autoResubscribe: true,
  blockingTimeout: true,
  blockingTimeoutGrace: true,
  clientInfoTag: true,
  commandQueue: true,
  connectionName: true,
  db: true,
  disableClientInfo: true,
  disconnectTimeout: true,
  enableAutoPipelining: true,
  enableOfflineQueue: true,
  enableReadyCheck: true,
  enableTLSForSentinelMode: true,
  failoverDetector: true,
  family: true,
  himportFieldsets: true,
  keepAlive: true,
  keyPrefix: true,
  maxLoadingRetryTime: true,
  maxRetriesPerRequest: true,
  natMap: true,
  noDelay: true,
  offlineQueue: true,
  password: true,
  preferredSlaves: true,
  protocol: true,
  reconnectOnError: true,
  replyMapping: true,
  retryStrategy: true,
  role: true,
  scripts: true,
  sentinelCommandTimeout: true,
  sentinelMaxConnections: true,
  sentinelPassword: true,
  sentinelReconnectStrategy: true,
  sentinelRetryStrategy: true,
  sentinelTLS: true,
  sentinelUsername: true,
  showFriendlyErrorStack: true,
  socketTimeout: true,
  stringNumbers: true,
  tls: true,
  updateSentinels: true,
  username: true
} satisfies Record<Exclude<keyof IoredisOptions, ClusterOnly>, true>

/** Names that ioredis knows, and that the plugin passes on. */
export const IOREDIS_OPTIONS: ReadonlySet<string> = new Set([
  ...Object.keys(OF_CONNECTION),
  ...Object.keys(OF_CLUSTER)
])

/** The same of `redisOptions`, which are those of the connections to the nodes of a Cluster. */
export const NODE_OPTIONS: ReadonlySet<string> = new Set([
  ...Object.keys(OF_CONNECTION),
  'connectTimeout',
  'commandTimeout'
])
