import { TokenBucket } from './token-bucket.js'
import type { Transport } from './transport.js'

/** What one client may send. */
export interface CommandRate {
  /** Commands a second, and at once. A client that sends more is closed. */
  readonly perSecond: number
  readonly burst: number
  /** Bytes of commands a second. The socket of a client that sends more is read no faster. */
  readonly bytesPerSecond: number
  /** The longest command. */
  readonly maxPayload: number
}

/** The client whose commands an intake holds. */
export interface Sender {
  readonly open: boolean
  /** The client does not take the answers to its commands. */
  readonly slow: boolean
  readonly transport: Transport
}

/** Commands of one connection that may be under way at once. One more is read only when one of them is answered. */
const MAX_COMMANDS = 128
/** Bytes of commands under way above which no further command is read. */
const MAX_BYTES = 65_536

/**
 * The commands of one connection, on their way in.
 *
 *     reading ── a bound is reached ──► paused ── below all bounds, nothing held ──► reading
 *        └──────────────── the connection ends ────────────────┴──► ended
 *
 * Reading: each command runs as it comes. Paused: the socket is paused, so that TCP holds the client up. What one read of the
 * socket had brought is held and runs first, in order. The bounds are: commands and bytes under way, bytes a second, and
 * answers that the client has not taken. So an app that is slow to authorize costs a bounded amount of memory per client.
 */
export class Intake {
  readonly #sender: Sender
  readonly #run: (command: Buffer) => Promise<void>
  readonly #commands: TokenBucket
  readonly #bytes: TokenBucket
  #running = 0
  #runningBytes = 0
  #held: Buffer[] | undefined
  #timer: NodeJS.Timeout | undefined

  /** @param run carries out one command; never rejects */
  constructor(sender: Sender, rate: CommandRate, run: (command: Buffer) => Promise<void>) {
    this.#sender = sender
    this.#run = run
    this.#commands = new TokenBucket(rate.perSecond, rate.burst)
    this.#bytes = new TokenBucket(rate.bytesPerSecond, Math.max(rate.bytesPerSecond, rate.maxPayload))
  }

  /** The socket is paused. */
  get paused(): boolean {
    return this.#held !== undefined
  }

  /** Runs a command now or holds it. False if the client has sent more commands than it may. */
  take(command: Buffer): boolean {
    const now = performance.now()
    if (!this.#commands.take(now)) return false
    this.#bytes.spend(command.length, now)
    if (this.#held === undefined && this.#isFree(now)) this.#start(command)
    else this.#hold(command, now)
    return true
  }

  /** A bound may no longer be reached: runs what is held, and reads on once nothing is. */
  resume(): void {
    const held = this.#held
    if (!held) return
    const now = performance.now()
    let next = 0
    while (next < held.length && this.#isFree(now)) this.#start(held[next++]!)
    held.splice(0, next)
    if (!this.#sender.open) return
    if (held.length > 0 || !this.#isFree(now)) this.#waitForBytes(now)
    else this.#readOn()
  }

  /** The connection is closing or has ended: drops what is held. */
  end(): void {
    clearTimeout(this.#timer)
    // The client's own close frame must still be read.
    if (this.#held) this.#readOn()
  }

  /**
   * Each decision looks at the clock once. Between two looks the bytes may be paid for: the first look holds a command back, the
   * second finds nothing to wait for, and the client waits forever.
   */
  #isFree(now: number): boolean {
    return (
      this.#sender.open &&
      !this.#sender.slow &&
      this.#running < MAX_COMMANDS &&
      this.#runningBytes < MAX_BYTES &&
      this.#bytes.waitMs(now) === 0
    )
  }

  #start(command: Buffer): void {
    const { length } = command
    this.#running += 1
    this.#runningBytes += length
    void this.#run(command).finally(() => {
      this.#running -= 1
      this.#runningBytes -= length
      this.resume()
    })
  }

  #hold(command: Buffer, now: number): void {
    if (!this.#held) {
      this.#held = []
      this.#sender.transport.pause()
      this.#waitForBytes(now)
    }
    this.#held.push(command)
  }

  #readOn(): void {
    this.#held = undefined
    this.#sender.transport.resume()
  }

  /** The other bounds call `resume` as they are no longer reached. */
  #waitForBytes(now: number): void {
    const waitMs = this.#bytes.waitMs(now)
    if (waitMs === 0) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.resume(), waitMs)
    this.#timer.unref()
  }
}
