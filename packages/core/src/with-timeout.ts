import { Deadline } from './deadline.js'

/** Work that was not done in time. */
export class TimeoutError extends Error {
  /** Always this one; a package that shows it to users gives it a code of its own. */
  readonly code = 'FLOTILLA_CORE_ERR_TIMEOUT'

  /** @param ms what it had, in milliseconds */
  constructor(ms: number) {
    super(`not done within ${Math.round(ms)} ms`)
    this.name = 'TimeoutError'
  }
}

/** Who else ends the wait, and how it ends. */
export interface TimeoutOptions {
  /** Ends the wait at once; the promise is rejected with the reason of this signal. */
  signal?: AbortSignal | undefined
  /** Makes the error of a wait that took too long. Default {@link TimeoutError}. */
  timeoutError?: (() => Error) | undefined
}

/** Work that can be ended: the signal is aborted, with the error of the wait as its reason, if the wait ends before the work. */
export type AbortableWork<T> = (signal: AbortSignal) => T | PromiseLike<T>

/**
 * Waits for work, but not for longer than `ms`. Time in which the event loop was blocked does not count, see
 * {@link Deadline}. Work given as a promise goes on after the wait, and its outcome is dropped: what it holds is its owner's to
 * release. Work given as a function gets a signal.
 *
 * @param ms milliseconds; `Infinity` for no limit
 */
export function withTimeout<T>(
  work: PromiseLike<T> | AbortableWork<T>,
  ms: number,
  { signal, timeoutError }: TimeoutOptions = {}
): Promise<T> {
  // oxlint-disable-next-line typescript/prefer-promise-reject-errors -- the reason of a signal is its owner's
  if (signal?.aborted) return Promise.reject(signal.reason)
  return new Promise((resolve, reject) => {
    const controller = typeof work === 'function' ? new AbortController() : undefined
    const end = (error: unknown): void => {
      finish()
      reject(error)
      controller?.abort(error)
    }
    const abort = (): void => end(signal?.reason)
    const deadline = new Deadline(ms, () => end(timeoutError ? timeoutError() : new TimeoutError(ms)))
    const finish = (): void => {
      deadline.cancel()
      signal?.removeEventListener('abort', abort)
    }
    signal?.addEventListener('abort', abort, { once: true })
    const started = controller ? start(work as AbortableWork<T>, controller.signal) : (work as PromiseLike<T>)
    started.then(
      (value) => {
        finish()
        return resolve(value)
      },
      (error: unknown) => {
        finish()
        reject(error)
      }
    )
  })
}

async function start<T>(work: AbortableWork<T>, signal: AbortSignal): Promise<T> {
  return work(signal)
}
