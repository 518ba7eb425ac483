import { createChannel } from '@flotilla/core'

/** `flotilla:db:query`: one statement has ended. */
export interface QueryMessage {
  /** `host:port/database`. */
  server: string
  role: 'primary' | 'replica'
  kind: 'read' | 'write'
  /** Milliseconds from the call to the answer, waiting for a connection included. */
  duration: number
  error?: unknown
}

/** `flotilla:db:gate`: how a read that had to see a write was placed. */
export interface GateMessage {
  outcome: 'fresh' | 'waited' | 'primary' | 'refused'
  /** Milliseconds. */
  waited: number
}

/** `flotilla:db:server`: a server changed state. */
export interface ServerMessage {
  server: string
  event: 'up' | 'down' | 'ejected' | 'fenced' | 'promoted' | 'foreign'
  reason?: string
}

/** `flotilla:db:retry`: a read or a transaction runs again. */
export interface RetryMessage {
  server: string
  kind: 'read' | 'transaction'
  code: string | undefined
}

export const queryChannel = createChannel<QueryMessage>('db', 'query')
export const gateChannel = createChannel<GateMessage>('db', 'gate')
export const serverChannel = createChannel<ServerMessage>('db', 'server')
export const retryChannel = createChannel<RetryMessage>('db', 'retry')
