export { default, flotillaHealth } from './plugin.js'
export type { CheckSnapshot, HealthCheckOptions } from './check.js'
export type { FleetMember, FleetView, InstanceReport } from './fleet-view.js'
export type { FlotillaHealth } from './health.js'
export type {
  CheckDefaults,
  DetailsOptions,
  DrainOptions,
  FleetOptions,
  HealthOptions,
  MetricsOptions,
  OverloadOptions,
  PortOptions,
  WorkerOptions
} from './options.js'
export type {
  CheckContext,
  CheckFunction,
  CheckReport,
  DrainContext,
  DrainStep,
  HealthState
} from '@flotilla/core'
export {
  HealthCheckInvalidError,
  HealthCheckTimeoutError,
  HealthDuplicateError,
  HealthFleetTimeoutError,
  HealthNoFleetError,
  HealthOptionError,
  HealthOverloadedError,
  HealthPortError,
  HealthRegisteredError
} from './errors.js'
