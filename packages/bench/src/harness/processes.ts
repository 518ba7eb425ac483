import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { WorkRequest } from './subject.js'

/** A subject in its own process. */
export interface SubjectProcess {
  readonly pid: number
  /** Where it listens; empty when it only runs work inside. */
  readonly url: string
  /** Runs named work inside and returns its figure; rejects with what the work threw. */
  work(name: string, request: Partial<WorkRequest>, patience?: number): Promise<number>
  stop(): Promise<void>
}

interface Reply {
  readonly ready?: true
  readonly url?: string
  readonly failed?: string
  readonly id?: number
  readonly value?: number
  readonly error?: string
}

const START_TIMEOUT = 30_000

/** Every process of a run, so that all can be stopped whatever happened. */
export class Processes {
  readonly #running = new Set<SubjectProcess>()

  async start(
    script: URL,
    name: string,
    env: Readonly<Record<string, string>>,
    flags: readonly string[]
  ): Promise<SubjectProcess> {
    const started = await startProcess(script, name, env, flags)
    this.#running.add(started)
    return {
      ...started,
      stop: async () => {
        this.#running.delete(started)
        await started.stop()
      }
    }
  }

  async stop(): Promise<void> {
    await Promise.all(Array.from(this.#running, (one) => one.stop()))
    this.#running.clear()
  }
}

async function startProcess(
  script: URL,
  name: string,
  env: Readonly<Record<string, string>>,
  flags: readonly string[]
): Promise<SubjectProcess> {
  const child = fork(compiled(script), [name], {
    env: { ...process.env, ...env, NODE_ENV: 'production' },
    execArgv: ['--expose-gc', ...flags],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    serialization: 'advanced'
  })
  let output = ''
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-4_000)
  }
  child.stdout?.on('data', keep)
  child.stderr?.on('data', keep)
  const waiting = new Map<number, { resolve: (value: number) => void; reject: (error: Error) => void }>()
  child.on('message', (reply: Reply) => {
    if (reply.id === undefined) return
    const call = waiting.get(reply.id)
    waiting.delete(reply.id)
    if (reply.error === undefined) call?.resolve(reply.value ?? 0)
    else call?.reject(new Error(`${name}: ${reply.error}`))
  })
  child.on('exit', (code, signal) => {
    for (const call of waiting.values()) {
      call.reject(new Error(`${name} ended (${signal ?? code}) while measured: ${output}`))
    }
    waiting.clear()
  })
  const url = await ready(child, name, () => output)
  let calls = 0
  const work: SubjectProcess['work'] = (what, request, patience = 60_000) => {
    const id = ++calls
    const full: WorkRequest = { ms: 0, quick: false, warmup: false, args: {}, ...request }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.delete(id)
        reject(new Error(`${name}: "${what}" gave no figure within ${full.ms + patience} ms. ${output}`))
      }, full.ms + patience)
      const settle =
        <Value>(done: (value: Value) => void) =>
        (value: Value): void => {
          clearTimeout(timer)
          done(value)
        }
      waiting.set(id, { resolve: settle(resolve), reject: settle(reject) })
      child.send({ id, work: what, request: full })
    })
  }
  return {
    pid: child.pid!,
    url,
    work,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const gone = once(child, 'exit')
      // A clean close first, for a second: a subject that cannot close is not what is measured here.
      await Promise.race([work('close', {}, 1_000).catch(() => 0), gone])
      child.kill('SIGKILL')
      await gone
    }
  }
}

async function ready(child: ChildProcess, name: string, output: () => string): Promise<string> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      clearTimeout(timer)
      child.kill('SIGKILL')
      reject(new Error(`subject ${name} did not start: ${why}\n${output()}`.trim()))
    }
    const timer = setTimeout(() => fail(`not ready after ${START_TIMEOUT} ms`), START_TIMEOUT)
    child.once('error', (error) => fail(error.message))
    child.once('exit', (code, signal) => fail(`it ended (${signal ?? code})`))
    child.on('message', (reply: Reply) => {
      if (reply.failed !== undefined) fail(reply.failed)
      if (!reply.ready) return
      clearTimeout(timer)
      child.removeAllListeners('error')
      resolve(reply.url ?? '')
    })
  })
}

/** Tests run our sources through a loader; what they fork is the compiled script, which starts ten times faster. */
function compiled(script: URL): string {
  const path = fileURLToPath(script)
  return existsSync(path) ? path : path.replace('/src/', '/dist/')
}
