import { finished, Readable } from 'node:stream'

export interface Recording {
  /** Bytes; a longer body is passed on and not recorded. */
  readonly maxBytes: number
  /** The body came whole and is not too long. */
  readonly onWhole: (body: Buffer) => void
  /** There will be no recording: too long, cut off, failed, or given up. Called at most once, and never after `onWhole`. */
  readonly onLost: () => void
}

/**
 * Passes a body on to one client and records it.
 *
 * | state | the source is read | when the client goes away |
 * | --- | --- | --- |
 * | recording | at its own pace: a client that reads slowly holds up no other that waits for the recording | goes on: the recording is for others, too |
 * | passing on | at the client's pace | is destroyed |
 *
 * It begins as recording and changes once, when the body exceeds `maxBytes` or {@link giveUp} is called. Memory holds at
 * most `maxBytes` and one chunk for the recording; the client's queue refers to the same chunks.
 */
export class RecordedStream extends Readable {
  readonly #source: Readable
  readonly #recording: Recording
  #chunks: Buffer[] | undefined = []
  #length = 0

  constructor(source: Readable, recording: Recording) {
    super()
    this.#source = source
    this.#recording = recording
    source.on('data', (chunk: unknown) => this.#take(chunk))
    finished(source, { writable: false }, (error) => this.#end(error ?? undefined))
  }

  /** Ends the recording; the client still gets the body. */
  giveUp(): void {
    if (!this.#chunks) return
    this.#chunks = undefined
    this.#recording.onLost()
    if (this.destroyed) this.#source.destroy()
  }

  override _read(): void {
    this.#source.resume()
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    if (this.#chunks && !error) this.#source.resume()
    else this.#source.destroy()
    callback(error)
  }

  #take(chunk: unknown): void {
    if (typeof chunk !== 'string' && !(chunk instanceof Uint8Array)) {
      this.#source.destroy(new TypeError(`a body consists of strings and bytes, got ${typeof chunk}`))
      return
    }
    const bytes =
      typeof chunk === 'string'
        ? Buffer.from(chunk)
        : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    this.#length += bytes.length
    if (this.#length > this.#recording.maxBytes) this.giveUp()
    this.#chunks?.push(bytes)
    if (!this.destroyed && !this.push(bytes) && !this.#chunks) this.#source.pause()
  }

  #end(error: Error | undefined): void {
    if (error) {
      this.giveUp()
      this.destroy(error)
      return
    }
    const chunks = this.#chunks
    this.#chunks = undefined
    if (chunks) this.#recording.onWhole(Buffer.concat(chunks))
    if (!this.destroyed) this.push(null)
  }
}
