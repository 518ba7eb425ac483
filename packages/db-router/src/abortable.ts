import type { CausalSession } from './causal-session.js'
import { AbortedError, because } from './errors.js'

/** The caller: both may end what it waits for. */
export interface Caller {
  readonly session: CausalSession
  readonly signal?: AbortSignal | undefined
}

/**
 * A wait that ends with its caller: for a connection, a turn, a primary. Rejects with FLOTILLA_DB_ERR_ABORTED at once when
 * the session or the signal is aborted.
 *
 * @param begin starts the wait and returns what gives up its place; that is not called once the wait is over
 * @param limit how long it lasts at most, in milliseconds, and what it ends with then
 */
export function untilAborted<T>(
  { session, signal }: Caller,
  begin: (resolve: (value: T) => void, reject: (error: Error) => void) => () => void,
  limit?: { readonly ms: number; readonly late: () => T | Error }
): Promise<T> {
  return new Promise((resolve, reject) => {
    let giveUp = (): void => {}
    let timer: NodeJS.Timeout | undefined
    const over = (): void => {
      clearTimeout(timer)
      session.offAbort(abort)
      signal?.removeEventListener('abort', abort)
    }
    const abort = (): void => {
      over()
      giveUp()
      reject(because(new AbortedError(), signal?.reason))
    }
    if (session.aborted || signal?.aborted) return abort()
    session.onAbort(abort)
    signal?.addEventListener('abort', abort)
    if (limit) {
      timer = setTimeout(() => {
        over()
        giveUp()
        const end = limit.late()
        if (end instanceof Error) reject(end)
        else resolve(end)
      }, limit.ms)
    }
    giveUp = begin(
      (value) => {
        over()
        resolve(value)
      },
      (error) => {
        over()
        reject(error)
      }
    )
  })
}
