/**
 * The promise, or a rejection with `late()` after `ms`. The promise itself goes on: what it holds is its
 * owner's to release.
 */
export async function within<T>(promise: Promise<T>, ms: number, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const expired = new Promise<never>((_, reject) => {
    // After the event loop was blocked, timers come before what has arrived meanwhile: let that in first.
    timer = setTimeout(() => setImmediate(() => reject(late())), Math.max(0, ms))
  })
  try {
    return await Promise.race([promise, expired])
  } finally {
    clearTimeout(timer)
  }
}
