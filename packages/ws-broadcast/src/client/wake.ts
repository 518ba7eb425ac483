type Listen = (type: string, listener: () => void, options: { signal: AbortSignal }) => void

interface PageScope {
  readonly addEventListener?: Listen
  readonly document?: { readonly visibilityState: string; readonly addEventListener: Listen }
}

/**
 * Calls back when the network or the page comes back: `online`, a page restored from the back/forward cache, a tab shown again.
 * Timers of a page that is not shown run late or not at all, and an ended connection may go unnoticed.
 *
 * @param wake its argument is true if the network came back
 * @returns the function that ends it
 */
export function onWake(wake: (isOnline: boolean) => void): () => void {
  const scope = globalThis as unknown as PageScope
  const { document } = scope
  const ended = new AbortController()
  const options = { signal: ended.signal }
  scope.addEventListener?.('online', () => wake(true), options)
  scope.addEventListener?.('pageshow', () => wake(false), options)
  document?.addEventListener(
    'visibilitychange',
    () => document.visibilityState === 'visible' && wake(false),
    options
  )
  return () => ended.abort()
}
