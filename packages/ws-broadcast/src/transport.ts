import type { Batch } from './outbox.js'

/** How a connection reaches its client. */
export interface Transport {
  readonly kind: 'ws' | 'sse'
  readonly open: boolean
  /** Bytes accepted here that the kernel has not taken yet. */
  readonly buffered: number
  /** @returns whether the kernel has taken everything */
  write(batch: Batch): boolean
  /** Calls back once `buffered` is 0 again. */
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
