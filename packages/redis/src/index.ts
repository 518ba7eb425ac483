// Brings `fastify.redis` into the types of apps that do not depend on @fastify/redis themselves.
export type { FastifyRedis } from '@fastify/redis'
export type { FleetBus, FleetBusHandler, FleetBusMeta, FleetBusStatus, TopicOptions } from './bus.js'
export { duplicateForBlocking, type BlockingOptions } from './blocking.js'
export { RETURN_ALLOWANCE } from './client.js'
export { waitForReplicas, type WaitForReplicasOptions } from './durability.js'
export { runGrouped } from './grouped.js'
export { checkRedis } from './health.js'
export type { IoredisOptions } from './ioredis-options.js'
export type { BusOptions, OwnOptions, RedisPluginOptions } from './options.js'
export type { Lease } from './lease/held-lease.js'
export type { LeasedWork, LeaseResult, NotRun } from './lease/lease-manager.js'
export type { LeaseOptions } from './lease/lease-options.js'
export { resolveLeases, type Leases } from './lease/resolve-leases.js'
export { default, flotillaRedis } from './plugin.js'
export { channelPrefixOf, commandTimeoutOf, isCluster, type RedisClient } from './redis-client.js'
export { withoutArguments } from './reply-error.js'
export { KEY, requirePermissions, type RequiredPermissions } from './permissions.js'
export { resolveBus, resolveRedis } from './resolve.js'
export { defineScript, type RedisScript, type ScriptArgument, type ScriptDefinition } from './script.js'
export { isMasterReplaced } from './sentinel-view.js'
export { groupBySlot, hashTag, slotOf } from './slots.js'
export {
  publishTo,
  resolveSubscriber,
  type Gap,
  type MessageHandler,
  type SubscribeOptions,
  type Subscriber
} from './subscriber.js'
export type { GapReason } from './subscriber-link.js'
export {
  RedisAlreadyRegisteredError,
  RedisClosedError,
  RedisConnectError,
  RedisKeysError,
  RedisLeaseLostError,
  RedisNoClientError,
  RedisNotDurableError,
  RedisOptionsError,
  RedisPermissionError,
  RedisPublishError,
  RedisSubscribeError,
  RedisUnavailableError
} from './errors.js'
