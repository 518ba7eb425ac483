import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** As `pnpm demo` runs it: the compiled program. */
const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url))

export interface Run {
  readonly child: ChildProcess
  readonly ended: Promise<{ code: number | null; output: string }>
  output(): string
}

/** Starts the demo's command. */
export function startDemo(args: readonly string[], env: Record<string, string> = {}): Run {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let output = ''
  const keep = (chunk: Buffer): void => void (output += chunk.toString())
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const ended = new Promise<{ code: number | null; output: string }>((resolve) => {
    child.once('close', (code) => resolve({ code, output }))
  })
  return { child, ended, output: () => output }
}

/** Runs it to its end. */
export const runDemo = (args: readonly string[], env?: Record<string, string>): Run['ended'] =>
  startDemo(args, env).ended
