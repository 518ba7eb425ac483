const cell = new Int32Array(new SharedArrayBuffer(4))

/** Blocks the event loop of this thread for real. */
export function block(ms: number): void {
  Atomics.wait(cell, 0, 0, ms)
}

/** Resolves after one turn of the event loop in which timers and arrived data were looked at. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(() => setImmediate(resolve), 0)
  })
}
