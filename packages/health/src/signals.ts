import closeWithGrace from 'close-with-grace'
import type { FastifyBaseLogger } from 'fastify'

type Signal = 'SIGTERM' | 'SIGINT' | 'SIGHUP' | 'SIGQUIT' | 'SIGUSR2'

interface Listener {
  signals: readonly Signal[]
  log: FastifyBaseLogger
  timeout: number
  /** False where something had to be cut; the process then exits with 1. */
  drain(signal: string): Promise<boolean>
}

const ALL = [
  'SIGHUP',
  'SIGINT',
  'SIGQUIT',
  'SIGILL',
  'SIGTRAP',
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGSEGV',
  'SIGUSR2',
  'SIGTERM',
  'uncaughtException',
  'unhandledRejection',
  'beforeExit'
] as const satisfies closeWithGrace.AllEvents[]

/** Time between the drain's own deadline, at which it cuts what remains, and the end of the process. */
const LAST_WORDS = 2000

// Signals belong to the process, not to an app: where several apps live in one process, the first to finish
// must not exit under the others.
const listeners = new Set<Listener>()
let installed: { uninstall(): void } | undefined
let closing = false

/**
 * Drains on the listener's signals, then exits the process with 0; a second signal, or a drain that had
 * to cut something, exits with 1. Returns what takes the listener away again.
 */
export function onSignals(listener: Listener): () => void {
  listeners.add(listener)
  install()
  return () => {
    listeners.delete(listener)
    if (!closing) install()
  }
}

function install(): void {
  installed?.uninstall()
  installed = undefined
  if (listeners.size === 0) return
  const apps = [...listeners]
  const wanted = new Set<string>(apps.flatMap((app) => app.signals))
  const delay = Math.max(...apps.map((app) => app.timeout)) + LAST_WORDS
  installed = closeWithGrace(
    {
      delay,
      skip: ALL.filter((event) => !wanted.has(event)),
      logger: false,
      onSecondSignal: (signal) => tell(`second ${signal}: exiting at once`),
      onTimeout: () => tell('drain did not end within its timeout: exiting')
    },
    async ({ signal = 'close' }) => {
      closing = true
      const clean = await Promise.all([...listeners].map((app) => app.drain(signal)))
      if (clean.includes(false)) throw new Error('cut')
    }
  )
}

function tell(message: string): void {
  for (const { log } of listeners) log.error(message)
}
