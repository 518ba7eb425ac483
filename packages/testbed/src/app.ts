import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { NotReadyError, StateError, TimeoutError } from './errors.js'
import { ManagedProcess } from './managed-process.js'
import { onFreePort } from './ports.js'
import { whenReady } from './readiness.js'
import { until } from './until.js'

export interface AppOptions {
  /** The file to run: JavaScript, or TypeScript through tsx. A path or a `file:` URL. */
  script: string | URL
  /** How many processes; default 1. */
  instances?: number
  /** On top of this process's environment; `undefined` removes a variable. PORT and HOST are set. */
  env?: Record<string, string | undefined> | ((index: number) => Record<string, string | undefined>)
  /** Arguments of the script. */
  args?: readonly string[]
  /** Arguments of Node itself, e.g. `['--expose-gc']`. */
  nodeArgs?: readonly string[]
  cwd?: string
  /** The instance is ready when this path answers 200, instead of `process.send({ ready: true })`. */
  readyPath?: string
  /** Milliseconds to become ready; default 20,000. */
  readyTimeout?: number
}

/** One process of an app. */
export class AppInstance {
  readonly host = '127.0.0.1'
  #process: ManagedProcess | undefined
  #url: string | undefined
  #ready = false
  #call = 0

  private constructor(
    readonly index: number,
    readonly port: number,
    private readonly options: AppOptions
  ) {}

  static start(index: number, options: AppOptions): Promise<AppInstance> {
    return onFreePort('the app', async (port) => {
      const instance = new AppInstance(index, port, options)
      await instance.#launch()
      return instance
    })
  }

  get url(): string {
    return this.#url ?? `http://${this.host}:${this.port}`
  }

  get pid(): number {
    return this.#running().pid
  }

  get running(): boolean {
    return this.#process?.running ?? false
  }

  /** Ends it at once and waits for that; another signal than SIGKILL gives it its chance first. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (signal === 'SIGKILL') await this.#process?.kill()
    else await this.#process?.stop(signal, 30_000)
  }

  pause(): void {
    this.#process?.pause()
  }

  resume(): void {
    this.#process?.resume()
  }

  /** Sends a signal and does not wait. */
  signal(signal: NodeJS.Signals): void {
    this.#process?.signal(signal)
  }

  /** SIGTERM, and SIGKILL after ten seconds. */
  async stop(): Promise<void> {
    await this.#process?.stop('SIGTERM', 10_000)
  }

  /** Ends it in good order where it still runs, and starts it again on the same port. */
  async restart(env?: Record<string, string | undefined>): Promise<void> {
    await this.stop()
    await this.#launch(env)
  }

  /** How the process ended; waits for it. */
  get exited(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    return this.#running().exited
  }

  /**
   * Sends a message to the script and waits for its answer: the script gets `{ id, message }` from
   * `process.on('message')` and answers `{ id, reply }` or `{ id, error }` with `process.send`.
   */
  call<Reply = unknown>(message: unknown, timeout = 10_000): Promise<Reply> {
    const { child } = this.#running()
    const id = (this.#call += 1)
    return new Promise<Reply>((resolve, reject) => {
      const done = (finish: () => void): void => {
        clearTimeout(timer)
        child.off('message', listener)
        child.off('exit', ended)
        finish()
      }
      const listener = (answer: unknown): void => {
        if (typeof answer !== 'object' || answer === null || (answer as { id?: number }).id !== id) return
        const { reply, error } = answer as { reply: Reply; error?: string }
        done(() => (error === undefined ? resolve(reply) : reject(new StateError(error))))
      }
      const ended = (): void => done(() => reject(new StateError('the app ended before it answered')))
      // Not unref'd: a pending call keeps this process alive until it is answered or too late.
      const timer = setTimeout(
        () => done(() => reject(new TimeoutError(timeout, 'the app answers a call'))),
        timeout
      )
      child.on('message', listener)
      child.once('exit', ended)
      child.send({ id, message }, (error) => {
        if (error) done(() => reject(error))
      })
    })
  }

  /** The end of what the app wrote. */
  output(): string {
    return this.#process?.output() ?? ''
  }

  async #launch(extra: Record<string, string | undefined> = {}): Promise<void> {
    const { script, env, args = [], nodeArgs = [], cwd, readyPath, readyTimeout } = this.options
    const file = script instanceof URL || script.startsWith('file:') ? fileURLToPath(script) : script
    const loader = /\.[cm]?ts$/.test(file) ? ['--import', import.meta.resolve('tsx')] : []
    this.#ready = false
    const app = await ManagedProcess.start({
      name: `app instance ${this.index + 1}`,
      command: process.execPath,
      args: [...loader, ...nodeArgs, file, ...args],
      env: {
        ...process.env,
        ...(typeof env === 'function' ? env(this.index) : env),
        ...extra,
        PORT: String(this.port),
        HOST: this.host
      },
      ...(cwd !== undefined && { cwd }),
      ipc: true
    })
    this.#process = app
    app.child.channel?.unref()
    app.child.on('message', (message) => {
      if (typeof message !== 'object' || message === null || !('ready' in message)) return
      this.#ready = message.ready === true
      if ('url' in message && typeof message.url === 'string') this.#url = message.url
    })
    try {
      await whenReady(app, () => this.#answers(readyPath), readyTimeout)
    } catch (error) {
      // One that said it was ready and ended at once, between two looks, was ready all the same.
      await until(() => !app.child.connected, { timeout: 1_000 }).catch(() => undefined)
      if (readyPath !== undefined || !this.#ready) throw error
    }
  }

  async #answers(readyPath: string | undefined): Promise<boolean> {
    if (readyPath === undefined) return this.#ready
    const response = await fetch(this.url + readyPath, { signal: AbortSignal.timeout(2_000) })
    await response.arrayBuffer()
    return response.status === 200
  }

  #running(): ManagedProcess {
    if (this.#process === undefined) throw new NotReadyError('the app', 'it was never started')
    return this.#process
  }
}

/** Several processes of one app. */
export class AppFleet {
  readonly instances: AppInstance[] = []

  constructor(private readonly options: AppOptions) {}

  get urls(): string[] {
    return this.instances.map(({ url }) => url)
  }

  /** Starts one more instance. */
  async add(): Promise<AppInstance> {
    const instance = await AppInstance.start(this.instances.length, this.options)
    this.instances.push(instance)
    return instance
  }

  /** Restarts one instance after the other, `pause` ms apart, as a rolling update does. */
  async roll(pause = 0): Promise<void> {
    for (const instance of this.instances) {
      await instance.restart()
      if (pause > 0) await sleep(pause)
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.instances.map((instance) => instance.stop()))
  }
}

/**
 * Starts `instances` Node processes of one script, each with a free PORT and HOST in its environment, and
 * resolves when all of them are ready.
 */
export async function startApp(options: AppOptions): Promise<AppFleet> {
  const fleet = new AppFleet(options)
  const started = await Promise.allSettled(
    Array.from({ length: options.instances ?? 1 }, (_none, index) => AppInstance.start(index, options))
  )
  for (const one of started) if (one.status === 'fulfilled') fleet.instances.push(one.value)
  const failed = started.find((one) => one.status === 'rejected')
  if (failed?.status === 'rejected') {
    await fleet.stop()
    throw failed.reason
  }
  return fleet
}
