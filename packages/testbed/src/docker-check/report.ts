import { TimeoutError } from '../errors.js'
import { interrupted } from './engine.js'

interface Outcome {
  name: string
  held: boolean
  detail: string
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

  /** Runs one step; its result says what was seen, and what it throws says what did not hold. */
  async step(
    name: string,
    work: () => Promise<string>,
    { diagnosis, after, cleans = false }: StepOptions = {}
  ): Promise<boolean> {
    const began = performance.now()
    let held = true
    let detail: string
    try {
      detail = await (cleans ? work() : this.#unlessInterrupted(work))
    } catch (error) {
      held = false
      const more = interrupted.aborted ? undefined : await diagnosis?.().catch(String)
      detail = [messageOf(error), more].filter(Boolean).join('\n')
    }
    try {
      await after?.()
    } catch (error) {
      held = false
      detail = `${detail}\n${messageOf(error)}`
    }
    const seconds = (performance.now() - began) / 1_000
    this.#outcomes.push({ name, held, detail, seconds })
    say(`${held ? 'ok    ' : 'FAILED'} ${name.padEnd(48)} ${seconds.toFixed(1).padStart(6)} s  ${detail}`)
    return held
  }

  /** Prints what did not hold; true when all of it did. */
  end(): boolean {
    const failed = this.#outcomes.filter(({ held }) => !held)
    const seconds = this.#outcomes.reduce((sum, one) => sum + one.seconds, 0)
    say(
      failed.length === 0
        ? `\nAll ${this.#outcomes.length} held, in ${Math.round(seconds)} s.`
        : `\nDid not hold: ${failed.map(({ name }) => name).join('; ')}`
    )
    return failed.length === 0
  }

  /** An interruption ends the wait at once; the steps that follow fail the same way, up to those that clean up. */
  async #unlessInterrupted(work: () => Promise<string>): Promise<string> {
    interrupted.throwIfAborted()
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
