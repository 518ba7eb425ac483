// Brings `websocket: true` into the types of routes for `attach`, in apps that do not depend on @fastify/websocket themselves.
export type { WebSocket } from '@fastify/websocket'
export { default, flotillaBroadcast } from './plugin.js'
export type { AttachOptions, Broadcast, BroadcastStats, DisconnectOptions } from './broadcast.js'
export type { BackpressurePolicy, ClientPublish } from './channel-rules.js'
export type { Call, CallHandler, CallOptions } from './call/calls.js'
export type { SchemaIssue, SchemaResult } from '@flotilla/core'
export type { Schema } from './schema.js'
export type { ConnectionFilter } from './connections.js'
export type { Identity } from './identity.js'
export type { BroadcastOptions, ChannelAction, ChannelOptions } from './options.js'
export {
  CLOSE,
  ERROR_CODES,
  type ClientFrame,
  type ClientLimits,
  type ErrorCode,
  type GapReason,
  type Member,
  type Position,
  type Sender,
  type ServerFrame
} from './protocol.js'
export type { HistoryOptions, StoredMessage } from './stored-messages.js'
export type { PublishOptions, PublishResult } from './publishing.js'
export {
  CallRefusedError,
  FLOTILLA_WS_ERR_ALREADY_REGISTERED,
  FLOTILLA_WS_ERR_ATTACHED,
  FLOTILLA_WS_ERR_CALL_LATE,
  FLOTILLA_WS_ERR_CHANNEL_NAME,
  FLOTILLA_WS_ERR_CLOSE_CODE,
  FLOTILLA_WS_ERR_CLOSED,
  FLOTILLA_WS_ERR_DRAINING,
  FLOTILLA_WS_ERR_FULL,
  FLOTILLA_WS_ERR_NO_HISTORY,
  FLOTILLA_WS_ERR_NO_PRESENCE,
  FLOTILLA_WS_ERR_NOT_DURABLE,
  FLOTILLA_WS_ERR_OPTION,
  FLOTILLA_WS_ERR_ORIGIN,
  FLOTILLA_WS_ERR_PUBLISH,
  FLOTILLA_WS_ERR_TOO_LARGE,
  FLOTILLA_WS_ERR_UNAUTHENTICATED,
  FLOTILLA_WS_ERR_UNKNOWN_CHANNEL,
  FLOTILLA_WS_ERR_UNSERIALISABLE,
  PublishRefusedError
} from './errors.js'
