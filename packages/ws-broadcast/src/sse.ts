import type { ServerResponse } from 'node:http'
import type { Batch } from './outbox.js'
import { isPosition } from './position.js'
import type { Position } from './protocol.js'
import { hasGone, onceFlushed, type Transport } from './transport.js'

/**
 * After how many milliseconds an EventSource comes back. It keeps what it was told last for as long as it lives, so that each
 * connection says it anew, and none says next to nothing.
 */
const RETRY = { usual: 3000, least: 1000 }

/**
 * The same frames as server-sent events (WHATWG HTML §9.2), for readers behind proxies that break WebSockets.
 * Each event's id is where the reader stands in all its channels; the browser sends it back as
 * `Last-Event-ID` when it reconnects.
 */
export class SseTransport implements Transport {
  readonly kind = 'sse'

  constructor(
    private readonly response: ServerResponse,
    readonly positions: Map<string, Position>
  ) {}

  get open(): boolean {
    return !this.response.writableEnded && !hasGone(this.response)
  }

  get buffered(): number {
    return this.response.writableLength
  }

  write(batch: Batch): boolean {
    if (!this.open) return true
    let text = ''
    for (const frame of batch.frames()) {
      const json = frame.body.toString()
      text += `${this.#fields(json)}data: ${json}\n\n`
    }
    this.response.write(text)
    return this.response.writableLength === 0
  }

  onceDrained(callback: () => void): void {
    onceFlushed(this.response, callback)
  }

  /** There is no such thing here; the `ping` frame goes out as an event. */
  ping(): void {}

  /** Its readers send nothing. */
  pause(): void {}

  resume(): void {}

  close(): void {
    this.response.end()
  }

  terminate(): void {
    this.response.destroy()
  }

  #fields(json: string): string {
    const frame = JSON.parse(json) as { type: string; channel?: string; delay?: number } & Partial<Position>
    if (frame.type === 'welcome') return `retry: ${RETRY.usual}\n`
    if (frame.type === 'reconnect') return `retry: ${RETRY.least + (frame.delay ?? 0)}\n`
    if (frame.channel === undefined || !isPosition(frame)) return ''
    this.positions.set(frame.channel, { epoch: frame.epoch, offset: frame.offset })
    return `id: ${encodePositions(this.positions)}\n`
  }
}

function encodePositions(positions: ReadonlyMap<string, Position>): string {
  return [...positions]
    .map(([channel, { epoch, offset }]) => `${encodeURIComponent(channel)}=${epoch}:${offset}`)
    .join('&')
}

/** What of a `Last-Event-ID` can be read. */
export function decodePositions(text: string): Map<string, Position> {
  const positions = new Map<string, Position>()
  for (const [channel, value] of new URLSearchParams(text)) {
    const [epoch, offset] = value.split(':')
    const position = { epoch, offset }
    if (isPosition(position)) positions.set(channel, position)
  }
  return positions
}
