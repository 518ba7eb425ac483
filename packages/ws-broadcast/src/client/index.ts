export { connect } from './client.js'
export type {
  BroadcastClient,
  ClientEvents,
  ClientOptions,
  ClientState,
  GapEvent,
  MessageEvent,
  PresenceEvent,
  PublishAck,
  PublishOptions,
  SubscribeOptions,
  Subscription,
  WebSocketConstructor,
  WebSocketLike
} from './types.js'
export { BroadcastError, type BroadcastErrorCode } from './error.js'
export type { Member, Position, Sender } from '../protocol.js'
