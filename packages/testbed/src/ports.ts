import { createServer } from 'node:net'
import { NoPortError } from './errors.js'

// Below the range from which Linux takes the ports of outgoing connections, so that no client's socket
// occupies the port of a server that is down for a moment and coming back.
const first = 10_240
const last = 32_767
const block = 64

// Each process begins in a block of its own: a server that restarts on its port seldom meets a neighbour's.
let next = first + ((process.pid * block) % (last - first))

/**
 * A loopback port that nobody listens on now. Another process may take it a moment later, so whoever uses it
 * must be ready to ask for another one: see `onFreePort`.
 */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < 2_000; tries += 1) {
    const port = next
    next = next >= last ? first : next + 1
    if (await isFree(port)) return port
  }
  throw new NoPortError('the testbed')
}

/** Thrown by a start that lost the race for its port. */
export class PortTakenError extends Error {}

/** Runs `start` with a free port, and again with another one when it throws `PortTakenError`. */
export async function onFreePort<T>(what: string, start: (port: number) => Promise<T>): Promise<T> {
  for (let tries = 0; tries < 8; tries += 1) {
    try {
      return await start(await freePort())
    } catch (error) {
      if (!(error instanceof PortTakenError)) throw error
    }
  }
  throw new NoPortError(what)
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
