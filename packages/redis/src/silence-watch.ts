import { Deadline } from '@flotilla/core'
import type { Redis } from 'ioredis'

/**
 * Finds a connection that died silently: an answer is owed, and for the whole period not one byte has arrived. Any
 * byte counts, since answers to much that was asked at once come late on a connection that is well.
 */
export class SilenceWatch {
  readonly #ms: number
  readonly #onSilence: () => void
  /** Answers that are owed. */
  #owed = 0
  #deadline: Deadline | undefined
  readonly #touch = (): void => this.#deadline?.touch()

  /** @param connection is connected; what it asks must go through {@link track} */
  constructor(connection: Redis, ms: number, onSilence: () => void) {
    this.#ms = ms
    this.#onSilence = onSilence
    connection.stream.on('data', this.#touch)
  }

  /** Counts what was just asked until it is answered. */
  async track<T>(answer: Promise<T>): Promise<T> {
    if (this.#owed++ === 0) this.#deadline = new Deadline(this.#ms, this.#onSilence)
    try {
      return await answer
    } finally {
      if (--this.#owed === 0) this.stop()
    }
  }

  stop(): void {
    this.#deadline?.cancel()
    this.#deadline = undefined
  }
}
