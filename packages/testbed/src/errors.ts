import createError from '@fastify/error'

/** Everything the testbed refuses with. Each message says what to do next. */

/** A program is neither on this machine nor to be had from the distribution's packages. */
export const ProgramMissingError = createError<[program: string, tried: string, advice: string]>(
  'FLOTILLA_TESTBED_ERR_PROGRAM_MISSING',
  "'%s' is not on this machine (%s). %s"
)

/** Something in the cache folder is of no use here and cannot be replaced. */
export const CacheError = createError<[path: string, why: string]>(
  'FLOTILLA_TESTBED_ERR_CACHE',
  '%s does not work here and cannot be removed (%s), as after a copy from another user; delete it'
)

/** A variable of the environment has a value that the testbed does not know. */
export const EnvironmentError = createError<[name: string, known: string, value: string, nearest: string]>(
  'FLOTILLA_TESTBED_ERR_ENVIRONMENT',
  "%s must be one of %s, got '%s'; did you mean '%s'?"
)

/** A server or an app ended or stayed silent while it was to become ready. */
export const NotReadyError = createError<[what: string, why: string]>(
  'FLOTILLA_TESTBED_ERR_NOT_READY',
  '%s did not become ready: %s'
)

/** No loopback port could be bound after several tries. */
export const NoPortError = createError<[what: string]>(
  'FLOTILLA_TESTBED_ERR_NO_PORT',
  '%s found every port that it tried in use; end what occupies the loopback ports 10240-32767 and try again'
)

/** `until` gave up. */
export const TimeoutError = createError<[timeout: number, message: string]>(
  'FLOTILLA_TESTBED_ERR_TIMEOUT',
  'gave up after %d ms waiting until %s'
)

/** A fault or a command was asked of a server that cannot do it in its present state. */
export const StateError = createError<[message: string]>('FLOTILLA_TESTBED_ERR_STATE', '%s')
