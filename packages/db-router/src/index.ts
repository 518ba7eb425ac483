export { flotillaDbRouter, flotillaDbRouter as default } from './plugin.js'
export type { ConsistencyToken } from '@flotilla/core'
export type { Carrier } from './carriers/carrier.js'
export type { CookieSettings } from './carriers/cookie.js'
export type { GateMessage, QueryMessage, RetryMessage, ServerMessage } from './channels.js'
export type { Database, Reader, TransactionOptions, Writer } from './database.js'
export {
  AbortedError,
  AlreadyRegisteredError,
  ClosedError,
  FencedError,
  NoPrimaryError,
  NotAReadError,
  OptionError,
  OutcomeUnknownError,
  OverBudgetError,
  PoolExhaustedError,
  ReleasedError,
  RolledBackError,
  StartError,
  TimeoutError,
  TransactionEndedError,
  TransactionTimeoutError,
  UnavailableError
} from './errors.js'
export { useRoutedPool, type KnexLike } from './knex.js'
export type { DbRouterOptions, ServerOption } from './options.js'
export type { RouteClassifier } from './route-classifier.js'
export type { QueryFunction, QueryOptions } from './statement.js'
export type { DatabaseStatus, ServerStatus } from './status.js'
export type { IsolationLevel, Transaction } from './transaction.js'
