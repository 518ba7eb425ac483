import { TimeoutError } from '../errors.js'
import { interrupted } from './engine.js'

type Result = 'ok' | 'FAILED' | 'stopped'

interface Outcome {
  name: string
  result: Result
  seconds: number
}

export interface StepOptions {
  /** Where it fails: what else to show, such as the logs of what stands still. */
  diagnosis?: () => Promise<string>
  /** Runs once the step has ended and been diagnosed, whatever came of it; what it throws fails the step. */
  after?: () => Promise<unknown>
  /** It takes something away again, so it runs to its end after an interruption too. */
  cleans?: boolean
}

/** Walks named steps, prints each as it ends, and remembers what held. */
export class Report {
  readonly #outcomes: Outcome[] = []

  /**
   * Runs one step; its result says what was seen, and what it throws says what did not hold. After an interruption
   * only what cleans up is begun.
   */
  async step(
    name: string,
    work: () => Promise<string>,
    { diagnosis, after, cleans = false }: StepOptions = {}
  ): Promise<boolean> {
    if (interrupted.aborted && !cleans) return false
    const began = performance.now()
    let result: Result = 'ok'
    let detail: string
    try {
      detail = await (cleans ? work() : this.#untilInterrupted(work))
    } catch (error) {
      result = interrupted.aborted && !cleans ? 'stopped' : 'FAILED'
      const more = interrupted.aborted ? undefined : await diagnosis?.().catch(String)
      detail = [messageOf(error), more].filter(Boolean).join('\n')
    }
    try {
      await after?.()
    } catch (error) {
      result = 'FAILED'
      detail = `${detail}\n${messageOf(error)}`
    }
    const seconds = (performance.now() - began) / 1_000
    this.#outcomes.push({ name, result, seconds })
    say(`${result.padEnd(7)} ${name.padEnd(48)} ${seconds.toFixed(1).padStart(6)} s  ${detail}`)
    return result === 'ok'
  }

  /** Prints what did not hold, or how far it came; true when all of it was run and held. */
  end(): boolean {
    const failed = this.#outcomes.filter(({ result }) => result === 'FAILED')
    const held = this.#outcomes.filter(({ result }) => result === 'ok')
    const seconds = this.#outcomes.reduce((sum, one) => sum + one.seconds, 0)
    if (failed.length > 0) say(`\nDid not hold: ${failed.map(({ name }) => name).join('; ')}`)
    else if (interrupted.aborted) say(`\nInterrupted; the ${held.length} steps until then held.`)
    else say(`\nAll ${held.length} held, in ${Math.round(seconds)} s.`)
    return failed.length === 0 && !interrupted.aborted
  }

  /** An interruption ends the wait at once. */
  async #untilInterrupted(work: () => Promise<string>): Promise<string> {
    return new Promise((resolve, reject) => {
      const stop = (): void => reject(interrupted.reason as Error)
      interrupted.addEventListener('abort', stop, { once: true })
      void work()
        .then(resolve, reject)
        .finally(() => interrupted.removeEventListener('abort', stop))
    })
  }
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  // What was thrown last while something was waited for; a command's error says it all by itself.
  return error instanceof TimeoutError && error.cause instanceof Error
    ? `${error.message} (${error.cause.message})`
    : error.message
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
