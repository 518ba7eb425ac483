import { createError } from '@fastify/error'

/** An option of `register` is missing, unknown or out of range; the message names it. */
export const HealthOptionError = createError<[string]>('FLOTILLA_HEALTH_ERR_OPTION', '%s', 500, TypeError)

/** The plugin was registered a second time in a scope that already has it. */
export const HealthRegisteredError = createError<[]>(
  'FLOTILLA_HEALTH_ERR_REGISTERED',
  '@flotilla/health is already registered here; register it once and use fastify.health everywhere'
)

/** A check or drain step of that name exists already. */
export const HealthDuplicateError = createError<[string, string]>(
  'FLOTILLA_HEALTH_ERR_DUPLICATE',
  "a %s named '%s' exists already; names are shown to operators and must be unique"
)

/** What was given to `addCheck` or `onDrain` is not usable. */
export const HealthCheckInvalidError = createError<[string]>(
  'FLOTILLA_HEALTH_ERR_CHECK_INVALID',
  '%s',
  500,
  TypeError
)

/** A check did not settle within its `timeout`; its signal has been aborted. */
export const HealthCheckTimeoutError = createError<[string, string]>(
  'FLOTILLA_HEALTH_ERR_CHECK_TIMEOUT',
  "check '%s' did not settle within %s"
)

/** The request was turned away because the process is past one of its `overload` limits. */
export const HealthOverloadedError = createError<[]>(
  'FLOTILLA_HEALTH_ERR_OVERLOADED',
  'The service is overloaded; try again shortly',
  503
)

/** `fleet()` was asked of an app without Redis, or with `fleet: false`. */
export const HealthNoFleetError = createError<[]>(
  'FLOTILLA_HEALTH_ERR_NO_FLEET',
  "no fleet registry: register @flotilla/redis or pass the option 'redis', and do not set fleet: false"
)

/** Redis did not answer a heartbeat or a look at the fleet in time. */
export const HealthFleetTimeoutError = createError<[string]>(
  'FLOTILLA_HEALTH_ERR_FLEET_TIMEOUT',
  'Redis did not answer the fleet registry within %s'
)

/** An extra port (admin, agent-check, responder) could not be opened. */
export const HealthPortError = createError<
  [option: string, address: string, reason: string, cause?: { cause: unknown }]
>('FLOTILLA_HEALTH_ERR_PORT', "option '%s': cannot listen on %s (%s); choose a free port or 0 for any", 500)
