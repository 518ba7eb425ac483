import { type Channel, createChannel } from '@flotilla/core'

/** A session was read. */
export interface LoadedMessage {
  /** Where it came from. */
  readonly source: 'redis' | 'memory'
  /** False if the cookie was good but no such session exists any more. */
  readonly found: boolean
  /** Milliseconds; absent when it came from memory. */
  readonly durationMs?: number
}
/** Changed fields were written, or only the idle deadline (`fields` is 0). */
export interface SavedMessage {
  /** The session's public reference. */
  readonly ref: string
  /** How many fields were written. */
  readonly fields: number
  /** Milliseconds that Redis took. */
  readonly durationMs: number
}
/** A session was saved for the first time. */
export interface CreatedMessage {
  /** The session's public reference. */
  readonly ref: string
  /** The user it belongs to, if any. */
  readonly userId?: string
}
/** Sessions ended before their time: logout, destroy, regenerate, revoke. */
export interface RevokedMessage {
  /** Their public references. */
  readonly refs: readonly string[]
  /** The user they belonged to, if any. */
  readonly userId?: string
}
/** A cookie that no secret of ours signed. Redis was not asked. */
export interface RejectedMessage {
  /** `unknown-secret`: it names a secret that is not listed here, so either it is forged or instances do not share their secrets. */
  readonly reason: 'invalid' | 'unknown-secret'
  /** As `request.ip`. */
  readonly ip: string
}
/** A write for a session that had ended meanwhile. */
export interface RefusedMessage {
  /** The session's public reference. */
  readonly ref: string
}
/** A session that could not be read as one of ours was given up. */
export interface DroppedMessage {
  /** The session's public reference. */
  readonly ref: string
  /** What was wrong with it. */
  readonly reason: string
}
/** A token was presented whose successor is in use: a stolen or replayed cookie. */
export interface ReusedMessage {
  /** The session's public reference. */
  readonly ref: string
  /** `void`: it was replaced by `renew({ immediate: true })`, or Redis lost a renewal. That ends nothing. */
  readonly reason: 'reused' | 'void'
  /** Whether the session was ended (option `onReuse`). */
  readonly ended: boolean
}
/** A session got a new verifier. */
export interface RenewedMessage {
  /** The session's public reference, which stays. */
  readonly ref: string
}
/** Redis could not be asked. */
export interface OutageMessage {
  /** What failed. */
  readonly operation: string
  /** Why. */
  readonly error: Error
}

/** `node:diagnostics_channel` names: `flotilla:session:<event>`. */
export const channels = {
  loaded: createChannel<LoadedMessage>('session', 'loaded'),
  created: createChannel<CreatedMessage>('session', 'created'),
  saved: createChannel<SavedMessage>('session', 'saved'),
  reused: createChannel<ReusedMessage>('session', 'reused'),
  renewed: createChannel<RenewedMessage>('session', 'renewed'),
  revoked: createChannel<RevokedMessage>('session', 'revoked'),
  rejected: createChannel<RejectedMessage>('session', 'rejected'),
  refused: createChannel<RefusedMessage>('session', 'refused'),
  dropped: createChannel<DroppedMessage>('session', 'dropped'),
  outage: createChannel<OutageMessage>('session', 'outage')
} satisfies Record<string, Channel<never>>
