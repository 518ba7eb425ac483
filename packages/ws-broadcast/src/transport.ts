import type { ServerResponse } from 'node:http'
import type { Http2ServerResponse } from 'node:http2'
import type { Writable } from 'node:stream'
import type { Batch } from './outbox.js'

/** How a connection reaches its client. */
export interface Transport {
  readonly kind: 'ws' | 'sse'
  readonly open: boolean
  /** Bytes accepted here that the kernel has not taken yet. */
  readonly buffered: number
  /** @returns whether the kernel has taken everything */
  write(batch: Batch): boolean
  /** Calls back, in a later turn, once nothing waits of what has been written so far, or the connection has ended. */
  onceDrained(callback: () => void): void
  /** Asks the peer for a sign of life; any answer counts. */
  ping(): void
  /** Takes nothing more from the peer, so that TCP holds it up, until `resume`. */
  pause(): void
  resume(): void
  /** Ends in good order; the peer may still take its time. */
  close(code: number, reason: string): void
  /** Ends now. */
  terminate(): void
}

/** Whether nobody takes an answer any more. That of HTTP/2 does not tell it itself, and says `close` only once. */
export function hasGone(response: ServerResponse | Http2ServerResponse): boolean {
  return 'stream' in response ? response.stream.destroyed : response.destroyed
}

const NOTHING = Buffer.alloc(0)

/**
 * Calls back once all that waits in a stream has gone, or the stream has ended. Its own `drain` comes only where more than its own
 * mark had waited, which is 16 kB before Node 22 and 64 kB since.
 */
export function onceFlushed(stream: Writable | undefined, callback: () => void): void {
  const waiting = stream && !stream.destroyed && !stream.writableEnded && stream.writableLength > 0
  if (waiting) stream.write(NOTHING, () => callback())
  else setImmediate(callback)
}
