import { AsyncLocalStorage } from 'node:async_hooks'

/**
 * Runs a function outside any request. A timer keeps the AsyncLocalStorage context in which it was armed: one that many share and
 * that arms itself again would keep the context of the first request for as long as the process lives.
 */
export const detached: <R>(run: () => R) => R = AsyncLocalStorage.snapshot()
