import { randomBytes } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { slowChannel } from './diagnostics.js'
import { jsonFrame, type Frame } from './frame.js'
import type { Identity } from './identity.js'
import { Intake, type CommandRate } from './intake.js'
import type { Batch, Outbox, Recipient } from './outbox.js'
import { CLOSE, type ServerFrame } from './protocol.js'
import type { Subscription } from './subscription.js'
import type { Transport } from './transport.js'

/** What all connections of one instance share. */
export interface ConnectionContext {
  readonly outbox: Outbox
  readonly highWaterMark: number
  readonly rate: CommandRate
  /** Called with each frame that a client sends. */
  readonly onFrame: (connection: Connection, data: Buffer, isBinary: boolean) => void
  /** Carries out one command; never rejects. */
  readonly onCommand: (connection: Connection, data: Buffer) => Promise<void>
  /** Called when a slow connection has caught up with its own buffer. */
  readonly onDrained: (connection: Connection) => void
  readonly onEnded: (connection: Connection) => void
}

/** Of a slow connection. */
interface Backlog {
  /** Bytes, since it became slow. */
  written: number
  /** Who waits for its end. */
  readonly waiting: (() => void)[]
}

/** How long a connection that is being closed may take to say goodbye. */
const CLOSE_GRACE = 2000

/** One client. */
export class Connection implements Recipient {
  // First and together what each message of a fan-out looks at.
  batch: Batch | undefined
  /** Over its high-water mark: channels push nothing until it has drained. */
  slow = false
  closeCode = 0
  readonly id = randomBytes(9).toString('base64url')
  /** In whole milliseconds of `performance.now()`, like all times of a connection: V8 would keep each fraction in an object. */
  readonly since = Math.trunc(performance.now())
  /** Set by anything that arrives; cleared by each ping. */
  heard = true
  /** The tick of {@link Connections} at which the outstanding ping was sent; 0 without. */
  pingedAt = 0
  nextPing = 0
  /** What waited for the socket at the last ping. */
  bufferedAtPing = 0
  /** What subscriptions keep for it while it is slow. */
  heldBytes = 0
  /** Frames that were no commands so far. */
  badFrames = 0
  #intake: Intake | undefined
  #backlog: Backlog | undefined
  #subscriptions: Map<string, Subscription> | undefined
  #closeTimer: NodeJS.Timeout | undefined

  constructor(
    private readonly context: ConnectionContext,
    readonly transport: Transport,
    /**
     * Of the upgrade; kept only where an option of the app's reads it later. Its headers, parser and logger
     * would be most of what an idle connection takes.
     */
    readonly request: FastifyRequest | undefined,
    readonly identity: Identity
  ) {}

  get subscriptions(): Map<string, Subscription> {
    this.#subscriptions ??= new Map()
    return this.#subscriptions
  }

  get open(): boolean {
    return this.closeCode === 0 && this.transport.open
  }

  /** A frame of the client has arrived. */
  received(data: Buffer, isBinary: boolean): void {
    this.context.onFrame(this, data, isBinary)
  }

  /** Queues a frame for the end of this tick. */
  push(frame: Frame): void {
    if (this.closeCode !== 0) return
    this.context.outbox.push(this, frame)
    const { batch } = this
    if (batch === undefined || batch.size <= this.context.highWaterMark) return
    // Enough for one write; what the kernel makes of it tells whether the client keeps up.
    this.batch = undefined
    this.write(batch)
  }

  send(frame: ServerFrame): void {
    this.push(jsonFrame(frame))
  }

  write(batch: Batch): void {
    const { transport, context } = this
    if (transport.write(batch)) return
    const { buffered } = transport
    if (buffered <= context.highWaterMark) return
    if (this.#backlog) {
      // However long the message was that made it slow: answers to what it had asked before pile up behind it.
      this.#backlog.written += batch.size
      if (this.#backlog.written > context.highWaterMark) this.close(CLOSE.SLOW, 'not reading')
      return
    }
    const backlog: Backlog = { written: 0, waiting: [] }
    this.#backlog = backlog
    this.slow = true
    slowChannel.publish({ connection: this.id, bytes: buffered })
    transport.onceDrained(() => {
      this.#backlog = undefined
      this.slow = false
      this.#intake?.resume()
      if (this.open) context.onDrained(this)
      for (const resolve of backlog.waiting) resolve()
    })
  }

  get holdsTooMuch(): boolean {
    return this.heldBytes > this.context.highWaterMark
  }

  /** Its socket is not read: it has too much under way, or does not take the answers. */
  get paused(): boolean {
    return this.#intake?.paused === true
  }

  /** Carries out a command in its turn. False if the client has sent more commands than it may. */
  command(data: Buffer): boolean {
    const { rate, onCommand } = this.context
    this.#intake ??= new Intake(this, rate, (command) => onCommand(this, command))
    return this.#intake.take(data)
  }

  /** Resolves when nothing waits for the socket, or it has ended. */
  async drained(): Promise<void> {
    const backlog = this.#backlog
    if (!backlog || !this.open) return
    await new Promise<void>((resolve) => {
      backlog.waiting.push(resolve)
    })
  }

  /** Sends what is queued, closes, and ends the socket if the client does not answer in time. */
  close(code: number, reason: string, grace = CLOSE_GRACE): void {
    if (this.closeCode !== 0) return
    const { batch } = this
    this.batch = undefined
    if (batch && !this.slow) this.transport.write(batch)
    this.closeCode = code
    this.#intake?.end()
    this.transport.close(code, reason)
    this.#closeTimer = setTimeout(() => this.transport.terminate(), grace)
    this.#closeTimer.unref()
  }

  /** The transport has ended. */
  ended(code: number): void {
    if (this.closeCode === 0) this.closeCode = code
    this.batch = undefined
    this.#intake?.end()
    this.#intake = undefined
    for (const resolve of this.#backlog?.waiting ?? []) resolve()
    clearTimeout(this.#closeTimer)
    this.context.onEnded(this)
  }
}
