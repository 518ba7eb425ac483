export { startApp, type AppFleet, type AppInstance, type AppOptions } from './app.js'
export {
  startHAProxy,
  startNginx,
  type BalancedServer,
  type Balancer,
  type BalancerOptions
} from './balancer.js'
export { createCertificate } from './certificate.js'
export { startCluster, type ClusterOptions, type RedisCluster } from './cluster.js'
export type { SlotMigration } from './cluster-migration.js'
export { listen } from './listen.js'
export {
  startMixedLoad,
  type LoadKind,
  type LoadReport,
  type MixedLoad,
  type MixedLoadOptions
} from './mixed-load.js'
export { startFeed, type FeedEvents, type FeedOptions, type FeedReport } from './message-feed.js'
export { startPgBouncer, type PgBouncer, type PgBouncerOptions } from './pgbouncer.js'
export { startPostgres, type PostgresGroup, type PostgresOptions } from './postgres.js'
export type { PostgresReplica } from './postgres-replica.js'
export type { PostgresServer } from './postgres-server.js'
export { findProgram, type Program } from './programs.js'
export { startProxy, type TcpProxy } from './proxy.js'
export { startRedis, type RedisOptions, type RedisServer } from './redis-server.js'
export { startSentinel, type SentinelGroup, type SentinelOptions } from './sentinel.js'
export { sendSteadily, type SteadyRequestOptions, type SteadyRequests } from './steady-requests.js'
export { onEachTopology, startTopology, type Topology, type TopologyName } from './topologies.js'
export { until, type UntilOptions } from './until.js'
