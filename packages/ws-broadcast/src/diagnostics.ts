import { createChannel } from '@flotilla/core'
import type { GapReason } from './protocol.js'

/** `flotilla:ws:connect`: a connection was attached. */
export const connectChannel = createChannel<{ connection: string; userId?: string; transport: 'ws' | 'sse' }>(
  'ws',
  'connect'
)
/** `flotilla:ws:disconnect`: it ended; `code` is the close code. */
export const disconnectChannel = createChannel<{ connection: string; code: number; durationMs: number }>(
  'ws',
  'disconnect'
)
/** `flotilla:ws:publish`: a publish was acknowledged by Redis. */
export const publishChannel = createChannel<{ channel: string; bytes: number; durationMs: number }>(
  'ws',
  'publish'
)
/** `flotilla:ws:deliver`: a message was handed to the local sockets of its channel. */
export const deliverChannel = createChannel<{ channel: string; sockets: number; bytes: number }>(
  'ws',
  'deliver'
)
/** `flotilla:ws:gap`: clients were told that messages may be missing. */
export const gapChannel = createChannel<{ channel: string; reason: GapReason; sockets: number }>('ws', 'gap')
/** `flotilla:ws:repair`: a channel was read on from history, `messages` in all, because one or more had not come. */
export const repairChannel = createChannel<{ channel: string; messages: number }>('ws', 'repair')
/** `flotilla:ws:slow`: a socket went over its high-water mark. */
export const slowChannel = createChannel<{ connection: string; bytes: number }>('ws', 'slow')
