export { createChannel, watchChannels, type Channel } from './channel.js'
export type { ConsistencyToken } from './consistency.js'
export { formatDuration, parseDuration, type Duration } from './duration.js'
export {
  joinHealth,
  type CheckContext,
  type CheckFunction,
  type CheckOptions,
  type CheckReport,
  type DrainContext,
  type DrainStep,
  type HealthRegistry,
  type HealthState
} from './health.js'
export { optionReader, type OptionErrorConstructor, type OptionRange, type OptionReader } from './options.js'
export { isPersonal, markPersonal } from './personal.js'
export { hasRoutes } from './routes.js'
export { createSigner, type Secret, type Signer } from './signer.js'
export { parseSize, type Size } from './size.js'
