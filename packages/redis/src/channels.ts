import { createChannel } from '@flotilla/core'

/** `flotilla:redis:gap`: messages of the bus may have been missed, or flow again. */
export const busGap = createChannel<{ instance: string; reason: string; recovered: boolean }>('redis', 'gap')

/** `flotilla:redis:probe`: the bus sent itself a message, which came back (`ok`, in milliseconds) or did not. */
export const busProbe = createChannel<{
  instance: string
  ok: boolean
  durationMs?: number
  error?: unknown
}>('redis', 'probe')

/** `flotilla:redis:publish`: a message was handed to Redis, or not, in milliseconds. */
export const busPublish = createChannel<{ topic: string; durationMs: number; error?: unknown }>(
  'redis',
  'publish'
)

/** `flotilla:redis:connection`: the client that the plugin opened is ready, or lost its connection; a given one is not watched. */
export const connectionState = createChannel<{ state: 'ready' | 'lost'; topology: string; error?: unknown }>(
  'redis',
  'connection'
)

/** `flotilla:redis:lease`: this instance has taken a lease, given it back, or lost it. */
export const leaseEvent = createChannel<{
  name: string
  token: number
  event: 'acquired' | 'released' | 'lost'
  heldMs?: number
  error?: unknown
}>('redis', 'lease')

/** `flotilla:redis:durability`: a wait for replicas ended, with enough of them or not, in milliseconds. */
export const durability = createChannel<{ replicas: number; acknowledged: number; durationMs: number }>(
  'redis',
  'durability'
)
