export { connect } from './client.js'
export type {
  BroadcastClient,
  CallOptions,
  ClientEvents,
  ClientOptions,
  ClientState,
  GapEvent,
  MessageEvent,
  PresenceEvent,
  Protocols,
  PublishAck,
  PublishOptions,
  SubscribeOptions,
  Subscription,
  WebSocketConstructor,
  WebSocketLike
} from './types.js'
export type { Source } from './link.js'
export { BroadcastError, type BroadcastErrorCode } from './error.js'
export type { Member, Position, Sender } from '../protocol.js'
