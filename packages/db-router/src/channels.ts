import { createChannel } from '@flotilla/core'

/**
 * `flotilla:db:query`: one statement has ended, for each server it was sent to. Those within a transaction, or on a
 * connection that another library holds, are not reported.
 */
export interface QueryMessage {
  /** `host:port/database`. */
  server: string
  /** The role that the server had when it was chosen. */
  role: 'primary' | 'replica'
  /** How the statement was sent, not what it does. */
  kind: 'read' | 'write'
  /** Milliseconds from the call to the answer, waiting for a connection included. */
  durationMs: number
  /** Why it failed, as its caller gets it, with what the server says in it; absent where it succeeded. */
  error?: unknown
}

/** `flotilla:db:gate`: how a read that had to see a write was placed. One that runs again is placed again. */
export interface GateMessage {
  /**
   * `fresh`: a replica had the write; `waited`: one caught up in time; `primary`: none did; `refused`: the
   * primary's share of such reads was used up.
   */
  outcome: 'fresh' | 'waited' | 'primary' | 'refused'
  /** Milliseconds until it had its place, or was refused. */
  durationMs: number
}

/** `flotilla:db:server`: a server changed state. */
export interface ServerMessage {
  /** `host:port/database`. */
  server: string
  /** `up`: also where a replica has caught up after `ejected`; `ejected`: too far behind; `fenced`: another server was promoted; `foreign`: of another cluster. */
  event: 'up' | 'down' | 'ejected' | 'fenced' | 'promoted' | 'foreign'
  /** In words, if there is more to say. */
  reason?: string
}

/** `flotilla:db:retry`: a read or a transaction runs again. */
export interface RetryMessage {
  /** `host:port/database` of the one that failed; empty if no server was chosen yet. */
  server: string
  /** A transaction runs again as a whole. */
  kind: 'read' | 'transaction'
  /** SQLSTATE, or the code of the connection's error. */
  code: string | undefined
}

export const queryChannel = createChannel<QueryMessage>('db', 'query')
export const gateChannel = createChannel<GateMessage>('db', 'gate')
export const serverChannel = createChannel<ServerMessage>('db', 'server')
export const retryChannel = createChannel<RetryMessage>('db', 'retry')
