import { type Channel, createChannel } from '@flotilla/core'

/** A session was read. `ms` is the time Redis took, absent when it came from memory. */
export interface LoadedMessage {
  readonly source: 'redis' | 'memory'
  /** False where the cookie was good but no such session exists any more. */
  readonly found: boolean
  readonly ms?: number
}
/** Changed fields were written, or only the idle deadline (`fields` is 0). */
export interface SavedMessage {
  readonly ref: string
  readonly fields: number
  readonly ms: number
}
export interface CreatedMessage {
  readonly ref: string
  readonly userId?: string
}
/** Sessions ended before their time: logout, destroy, regenerate, revoke. */
export interface RevokedMessage {
  readonly refs: readonly string[]
  readonly userId?: string
}
/** A cookie that no secret of ours signed. Redis was not asked. */
export interface RejectedMessage {
  readonly ip: string
}
/** A write for a session that had ended meanwhile. */
export interface RefusedMessage {
  readonly ref: string
}
/** A session that could not be read as one of ours was given up. */
export interface DroppedMessage {
  readonly ref: string
  readonly reason: string
}
export interface RenewedMessage {
  readonly ref: string
}
/** Redis could not be asked. */
export interface OutageMessage {
  readonly operation: string
  readonly error: Error
}

/** `node:diagnostics_channel` names: `flotilla:session:<event>`. */
export const channels = {
  loaded: createChannel<LoadedMessage>('session', 'loaded'),
  created: createChannel<CreatedMessage>('session', 'created'),
  saved: createChannel<SavedMessage>('session', 'saved'),
  renewed: createChannel<RenewedMessage>('session', 'renewed'),
  revoked: createChannel<RevokedMessage>('session', 'revoked'),
  rejected: createChannel<RejectedMessage>('session', 'rejected'),
  refused: createChannel<RefusedMessage>('session', 'refused'),
  dropped: createChannel<DroppedMessage>('session', 'dropped'),
  outage: createChannel<OutageMessage>('session', 'outage')
} satisfies Record<string, Channel<never>>
