import type { Frame } from './frame.js'

/** Above this, frames that no other socket gets in the same row are written one by one instead of copied together. */
const COPY_LIMIT = 16_384

/**
 * A row of frames that one or many sockets get in one tick, as a chain from its last frame. Sockets that get
 * the same frames share the chain, and with it the joined bytes: a burst to a thousand members of a channel
 * is joined once and written a thousand times.
 */
export class Batch {
  readonly size: number
  readonly count: number
  /** Sockets that end with this row. */
  uses = 0
  #bytes: Buffer | undefined
  #nextFrame: Frame | undefined
  #next: Batch | undefined

  constructor(
    private readonly parent?: Batch,
    private readonly frame?: Frame
  ) {
    this.size = (parent?.size ?? 0) + (frame?.bytes.length ?? 0)
    this.count = (parent?.count ?? 0) + (frame ? 1 : 0)
  }

  /** This row with one more frame; the same object for everyone who adds the same frame in turn. */
  with(frame: Frame): Batch {
    if (this.#nextFrame === frame) return this.#next!
    this.#nextFrame = frame
    this.#next = new Batch(this, frame)
    return this.#next
  }

  frames(): Frame[] {
    if (!this.frame) return []
    const frames = [this.frame]
    for (let batch = this.parent; batch?.frame; batch = batch.parent) frames.push(batch.frame)
    return frames.toReversed()
  }

  /** All frames in one buffer, or `undefined` where joining would only copy. */
  joined(): Buffer | undefined {
    if (this.count === 1) return this.frame!.bytes
    if (this.#bytes) return this.#bytes
    if (this.uses < 2 && this.size > COPY_LIMIT) return undefined
    this.#bytes = Buffer.concat(
      this.frames().map((frame) => frame.bytes),
      this.size
    )
    return this.#bytes
  }
}

/** Whoever an outbox writes to. */
export interface Recipient {
  /** What it gets at the end of this tick. */
  batch: Batch | undefined
  write(batch: Batch): void
}

/** Collects what each socket gets in one turn of the event loop and writes it once. */
export class Outbox {
  #root = new Batch()
  #dirty: Recipient[] = []
  #scheduled = false

  push(recipient: Recipient, frame: Frame): void {
    if (recipient.batch) {
      recipient.batch = recipient.batch.with(frame)
      return
    }
    recipient.batch = this.#root.with(frame)
    this.#dirty.push(recipient)
    if (!this.#scheduled) {
      this.#scheduled = true
      // After the I/O of this turn: all that one read from Redis brought is joined.
      setImmediate(this.flush)
    }
  }

  readonly flush = (): void => {
    this.#scheduled = false
    const dirty = this.#dirty
    this.#dirty = []
    this.#root = new Batch()
    for (const { batch } of dirty) if (batch) batch.uses += 1
    for (const recipient of dirty) {
      const { batch } = recipient
      recipient.batch = undefined
      if (batch) recipient.write(batch)
    }
  }
}
