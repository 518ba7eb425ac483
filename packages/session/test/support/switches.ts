import { AsyncLocalStorage } from 'node:async_hooks'
import type { FastifyInstance } from 'fastify'

interface Switch {
  /** Commands that may still be sent before the pause. */
  left: number
  readonly paused: () => void
  readonly released: Promise<void>
}

const running = new AsyncLocalStorage<Switch>()

type Send = (...args: unknown[]) => Promise<unknown>

const COMMANDS = ['hgetall', 'evalsha', 'eval', 'publish', 'spublish'] as const

/** From now on a task of {@link interleave} can be paused before each command that the app sends for it. */
export function addSwitches(app: FastifyInstance): void {
  const client = app.redis as unknown as Record<string, Send>
  for (const name of COMMANDS) {
    const send = client[name]!.bind(client)
    client[name] = async (...args) => {
      const current = running.getStore()
      if (current && current.left-- === 0) {
        current.paused()
        await current.released
      }
      return await send(...args)
    }
  }
}

export interface Interleaved<First, Second> {
  first: First
  second: Second
  /** False if `first` was over before its nth command: then there is nothing more to interleave. */
  switched: boolean
}

/**
 * Runs `first` up to its nth command to Redis, then `second` from its beginning to its end, then the rest of `first`. With n from 0 until
 * `switched` is false this is every way in which the second can come between two steps of the first.
 */
export async function interleave<First, Second>(
  n: number,
  first: () => Promise<First>,
  second: () => Promise<Second>
): Promise<Interleaved<First, Second>> {
  let release = (): void => {}
  let pause = (): void => {}
  const released = new Promise<void>((resolve) => (release = resolve))
  const paused = new Promise<'paused'>((resolve) => (pause = () => resolve('paused')))
  const one = running.run({ left: n, paused: pause, released }, first)
  const switched = (await Promise.race([paused, one.then(() => 'over')])) === 'paused'
  try {
    const other = await running.exit(second)
    release()
    return { first: await one, second: other, switched }
  } finally {
    release()
  }
}
