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
const ENDED_EARLY =
  'the process was ended in the midst of the drain by something that calls process.exit: give it longer than ' +
  'drain.timeout (fastify-cli: --close-grace-delay, close-with-grace: delay)'

/**
 * Takes the app out of service without failing a request.
 *
 *     serving ──> lingering ──> running the steps ──> finishing requests ──> closing ──> closed
 *
 * `run()` and `app.close()` both go this way, and either joins the other wherever it stands. Fastify answers 503 as
 * soon as it closes, so everything up to `closing` happens before. While `lingering`, readiness is down, responses ask to
 * close their connections, and routes serve. It ends after `delay`, or once no request has come for `quiet`. Whatever
 * is left at the deadline is cut.
 */
export class Drain {
  readonly #fastify: FastifyInstance
  readonly #settings: DrainSettings
  readonly #board: StatusBoard
  readonly #traffic: { readonly gate: RequestGate; readonly connections: Connections }
  readonly #steps = new Map<string, DrainStep>()
  /** Everything before `closing`. */
  #prepared: Promise<boolean> | undefined
  #running: Promise<boolean> | undefined
  #deadline = Infinity
  #cutting: NodeJS.Timeout | undefined

  constructor(
    fastify: FastifyInstance,
    settings: DrainSettings,
    board: StatusBoard,
    traffic: { readonly gate: RequestGate; readonly connections: Connections }
  ) {
    this.#fastify = fastify
    this.#settings = settings
    this.#board = board
    this.#traffic = traffic
  }

  /** @throws FLOTILLA_HEALTH_ERR_DUPLICATE, FLOTILLA_HEALTH_ERR_CHECK_INVALID */
  add(name: string, step: DrainStep): void {
    if (typeof step !== 'function')
      throw new HealthCheckInvalidError(`drain step '${name}' must be a function`)
    if (this.#steps.has(name)) throw new HealthDuplicateError('drain step', name)
    this.#steps.set(name, step)
  }

  /** Drains once and closes the app; later calls join. False if something had to be cut at the deadline. */
  run(reason: string): Promise<boolean> {
    this.#running ??= this.#drainAndClose(reason)
    return this.#running
  }

  /** `app.close()` waits for this before Fastify begins to close. */
  async beforeClose(): Promise<void> {
    const { delay, onClose } = this.#settings
    await this.#prepare('app.close()', onClose ? delay : 0)
  }

  /** Fastify closes. An app that closes before it was ready has not been drained. */
  closing(): void {
    if (this.#prepared === undefined) {
      this.#stopKeepingAlive()
      this.#traffic.connections.sweep(POLL)
    }
    // Sockets that were upgraded hold the server open until their plugin closes them.
    this.#cutting ??= setTimeout(() => this.#cut(), this.#left() / 2).unref()
  }

  closed(): void {
    clearTimeout(this.#cutting)
    this.#traffic.connections.stop()
  }

  async #drainAndClose(reason: string): Promise<boolean> {
    const began = performance.now()
    const finished = await this.#prepare(reason, this.#settings.delay)
    const closed = await this.#close(this.#left())
    const durationMs = Math.round(performance.now() - began)
    this.#fastify.log.info({ durationMs, cut: !(finished && closed) }, 'drained')
    return finished && closed
  }

  #prepare(reason: string, delay: number): Promise<boolean> {
    this.#prepared ??= this.#sequence(reason, delay)
    return this.#prepared
  }

  /** False if a connection had to be cut. */
  async #sequence(reason: string, delay: number): Promise<boolean> {
    const { log, server } = this.#fastify
    const { timeout } = this.#settings
    this.#deadline = performance.now() + timeout
    const onExit = (): void => log.error({ reason }, ENDED_EARLY)
    process.once('exit', onExit)
    try {
      log.info({ reason, delay, timeout }, 'draining')
      this.#stopKeepingAlive()
      // No balancer knows of an instance that never took traffic.
      if (this.#board.tookTraffic && server.listening) await this.#linger(delay)
      await this.#runSteps(Math.floor(Date.now() + this.#left() * STEPS))
      return await this.#finishRequests(this.#left() * REQUESTS)
    } finally {
      process.off('exit', onExit)
    }
  }

  #left(): number {
    return Math.max(0, Math.min(this.#deadline - performance.now(), this.#settings.timeout))
  }

  #stopKeepingAlive(): void {
    this.#board.draining()
    this.#traffic.gate.retire()
    this.#traffic.connections.retire()
  }

  /** Waits for `delay`, or less once no request has come for `quiet`. */
  async #linger(delay: number): Promise<void> {
    const { quiet } = this.#settings
    const began = performance.now()
    for (;;) {
      const now = performance.now()
      const wait = delay - (now - began)
      if (wait <= 0) break
      if (quiet > 0 && now - Math.max(began, this.#traffic.gate.lastRequestAt) >= quiet) break
      await sleep(Math.min(POLL, wait))
    }
    drained.publish({ phase: 'linger', durationMs: performance.now() - began, outcome: 'done' })
  }

  async #runSteps(deadline: number): Promise<void> {
    await Promise.all([...this.#steps].map(([name, step]) => this.#runStep(name, step, deadline)))
  }

  async #runStep(name: string, step: DrainStep, deadline: number): Promise<void> {
    const began = performance.now()
    const patience = new AbortController()
    let outcome: 'done' | 'late' | 'failed' = 'done'
    try {
      const late = sleep(Math.max(1, deadline - Date.now()), 'late' as const, { signal: patience.signal })
      late.catch(() => undefined)
      const result = await Promise.race([Promise.resolve(step({ deadline })), late])
      if (result === 'late') {
        outcome = 'late'
        this.#fastify.log.error({ step: name }, 'drain step did not end in time; going on without it')
      }
    } catch (error) {
      outcome = 'failed'
      this.#fastify.log.error({ err: error, step: name }, 'drain step failed; going on')
    } finally {
      patience.abort()
    }
    drained.publish({ phase: name, durationMs: performance.now() - began, outcome })
  }

  /**
   * Refuses new connections while Fastify's routes still answer: a balancer takes a refused connection to
   * another instance whatever the method, but hands on the 503 that a closing Fastify gives to requests on
   * connections that are still open. So `close()` must find none. False if some had to be cut.
   */
  async #finishRequests(patience: number): Promise<boolean> {
    const { gate, connections } = this.#traffic
    const began = performance.now()
    // Right after the loop has accepted what was waiting: the kernel resets what is still in its queue.
    await immediate()
    gate.stopAccepting()
    connections.sweep(IDLE)
    while (connections.open > 0 && performance.now() - began < patience) await sleep(POLL)
    const finished = connections.open === 0
    if (!finished) this.#cut()
    const outcome = finished ? 'done' : 'late'
    drained.publish({ phase: 'requests', durationMs: performance.now() - began, outcome })
    return finished
  }

  /** Closes the app, or waits for a close that is under way. False if it failed or takes longer. */
  async #close(patience: number): Promise<boolean> {
    const done = new AbortController()
    const late = sleep(patience, false, { signal: done.signal })
    late.catch(() => undefined)
    try {
      return await Promise.race([this.#fastify.close().then(() => true), late])
    } catch (error) {
      this.#fastify.log.error({ err: error }, 'closing failed')
      return false
    } finally {
      done.abort()
    }
  }

  #cut(): void {
    const { open, requests } = this.#traffic.connections
    this.#fastify.log.error({ connections: open, requests }, 'drain: out of time, cutting what remains')
    this.#traffic.connections.destroy()
  }
}
