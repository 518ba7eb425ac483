import { setImmediate as immediate, setTimeout as sleep } from 'node:timers/promises'
import { createChannel, type DrainStep } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import type { Connections } from './connections.js'
import { HealthCheckInvalidError, HealthDuplicateError } from './errors.js'
import type { DrainSettings } from './options.js'
import type { RequestGate } from './request-gate.js'
import type { StatusBoard } from './status-board.js'

/**
 * `flotilla:health:drain`: a phase of a drain is over: `linger`, each drain step by its name, and `requests`, the wait
 * for those in flight. `late`: not in time, and cut.
 */
const drained = createChannel<{ phase: string; durationMs: number; outcome: 'done' | 'late' | 'failed' }>(
  'health',
  'drain'
)

/** Share of the remaining time that drain steps may take, and that requests in flight may take after them. */
const STEPS = 0.8
const REQUESTS = 0.9
const POLL = 20
/** How long a connection must have been idle to be closed: long enough that no request is on its way. */
const IDLE = 250
const CLOSED_BY_ANOTHER =
  'the app was closed by something else in the midst of the drain, so requests are answered with 503: take away the ' +
  'other signal handler (close-with-grace, fastify-cli), or set drain.signals to false and let it await app.health.drain()'

/**
 * Takes the app out of service without failing a request:
 * readiness falls and responses ask to close their connections → routes keep serving for `delay`, or until it
 * has been quiet → drain steps → no new connections, wait for requests in flight → `app.close()`. Whatever is
 * left at the deadline is cut.
 */
export class Drain {
  private readonly steps = new Map<string, DrainStep>()
  private running: Promise<boolean> | undefined
  /** The drain has come to its own `app.close()`. */
  private closing = false

  constructor(
    private readonly fastify: FastifyInstance,
    private readonly settings: DrainSettings,
    private readonly board: StatusBoard,
    private readonly gate: RequestGate,
    private readonly connections: Connections
  ) {}

  get started(): boolean {
    return this.running !== undefined
  }

  /** @throws FLOTILLA_HEALTH_ERR_DUPLICATE, FLOTILLA_HEALTH_ERR_CHECK_INVALID */
  add(name: string, step: DrainStep): void {
    if (typeof step !== 'function')
      throw new HealthCheckInvalidError(`drain step '${name}' must be a function`)
    if (this.steps.has(name)) throw new HealthDuplicateError('drain step', name)
    this.steps.set(name, step)
  }

  /** Runs the sequence once; later calls join it. False where something had to be cut at the deadline. */
  run(reason: string): Promise<boolean> {
    this.running ??= this.sequence(reason)
    return this.running
  }

  /**
   * The app is being closed. Without a drain: readiness falls and idle connections do not hold it up. In the midst of one,
   * by somebody else: Fastify answers 503 from now on, so all that can be done is to say so.
   */
  enterClose(): void {
    if (this.running !== undefined) {
      if (!this.closing) this.fastify.log.warn(CLOSED_BY_ANOTHER)
      return
    }
    this.running = this.closeWithin(this.settings.timeout)
    this.stopKeepingAlive()
    this.connections.sweep(POLL)
  }

  private async sequence(reason: string): Promise<boolean> {
    const { log } = this.fastify
    const { delay, timeout } = this.settings
    const began = performance.now()
    const left = (): number => Math.max(0, began + timeout - performance.now())
    log.info({ reason, delay, timeout }, 'draining')
    this.stopKeepingAlive()
    // An instance that never took traffic has nobody to tell.
    if (this.board.tookTraffic && this.fastify.server.listening) await this.linger(delay)
    await this.runSteps(Math.floor(Date.now() + left() * STEPS))
    const finished = await this.finishRequests(left() * REQUESTS)
    const closed = await this.close(left())
    this.connections.stop()
    log.info({ durationMs: Math.round(performance.now() - began), cut: !(finished && closed) }, 'drained')
    return finished && closed
  }

  private stopKeepingAlive(): void {
    this.board.draining()
    this.gate.retire()
    this.connections.retire()
  }

  /** Waits for `delay`, or less once no request has come for `quiet`. */
  private async linger(delay: number): Promise<void> {
    const { quiet } = this.settings
    const began = performance.now()
    for (;;) {
      const now = performance.now()
      const wait = delay - (now - began)
      if (wait <= 0) break
      if (quiet > 0 && now - Math.max(began, this.gate.lastRequestAt) >= quiet) break
      await sleep(Math.min(POLL, wait))
    }
    drained.publish({ phase: 'linger', durationMs: performance.now() - began, outcome: 'done' })
  }

  private async runSteps(deadline: number): Promise<void> {
    await Promise.all([...this.steps].map(([name, step]) => this.runStep(name, step, deadline)))
  }

  private async runStep(name: string, step: DrainStep, deadline: number): Promise<void> {
    const began = performance.now()
    const patience = new AbortController()
    let outcome: 'done' | 'late' | 'failed' = 'done'
    try {
      const late = sleep(Math.max(1, deadline - Date.now()), 'late' as const, { signal: patience.signal })
      late.catch(() => undefined)
      const result = await Promise.race([Promise.resolve(step({ deadline })), late])
      if (result === 'late') {
        outcome = 'late'
        this.fastify.log.error({ step: name }, 'drain step did not end in time; going on without it')
      }
    } catch (error) {
      outcome = 'failed'
      this.fastify.log.error({ err: error, step: name }, 'drain step failed; going on')
    } finally {
      patience.abort()
    }
    drained.publish({ phase: name, durationMs: performance.now() - began, outcome })
  }

  /**
   * Refuses new connections while Fastify's routes still answer: a balancer takes a refused connection to
   * another instance whatever the method, but hands on the 503 that a closing Fastify gives to requests on
   * connections that are still open. So `close()` must find none. False where some had to be cut.
   */
  private async finishRequests(patience: number): Promise<boolean> {
    const began = performance.now()
    // Right after the loop has accepted what was waiting: the kernel resets what is still in its queue.
    await immediate()
    this.gate.stopAccepting()
    this.connections.sweep(IDLE)
    while (this.connections.open > 0 && performance.now() - began < patience) await sleep(POLL)
    const finished = this.connections.open === 0
    if (!finished) this.cut()
    const outcome = finished ? 'done' : 'late'
    drained.publish({ phase: 'requests', durationMs: performance.now() - began, outcome })
    return finished
  }

  private async close(patience: number): Promise<boolean> {
    // Sockets that were upgraded hold the server open until their plugin closes them.
    const cut = setTimeout(() => this.cut(), patience / 2)
    this.closing = true
    try {
      return await this.closeWithin(patience)
    } finally {
      clearTimeout(cut)
    }
  }

  /** Closes the app, or waits for a close that is under way. False where it failed or takes longer. */
  private async closeWithin(patience: number): Promise<boolean> {
    const done = new AbortController()
    const late = sleep(patience, false, { signal: done.signal })
    late.catch(() => undefined)
    try {
      return await Promise.race([this.fastify.close().then(() => true), late])
    } catch (error) {
      this.fastify.log.error({ err: error }, 'closing failed')
      return false
    } finally {
      done.abort()
    }
  }

  private cut(): void {
    const { open, requests } = this.connections
    this.fastify.log.error({ connections: open, requests }, 'drain: out of time, cutting what remains')
    this.connections.destroy()
  }
}
