import { createChannel } from '@flotilla/core'

/** `flotilla:redis:gap`: messages of the bus may have been missed, or flow again. */
export const busGap = createChannel<{ instance: string; reason: string; recovered: boolean }>('redis', 'gap')

/** `flotilla:redis:probe`: the bus sent itself a message. */
export const busProbe = createChannel<{ instance: string; ok: boolean; ms?: number; error?: unknown }>(
  'redis',
  'probe'
)

/** `flotilla:redis:publish`: a message was handed to Redis, or not. */
export const busPublish = createChannel<{ topic: string; ms: number; error?: unknown }>('redis', 'publish')

/** `flotilla:redis:connection`: the shared client is ready, or lost its connection. */
export const connectionState = createChannel<{ state: 'ready' | 'lost'; topology: string; error?: unknown }>(
  'redis',
  'connection'
)

/** `flotilla:redis:durability`: a wait for replicas ended. */
export const durability = createChannel<{ replicas: number; acknowledged: number; ms: number }>(
  'redis',
  'durability'
)
