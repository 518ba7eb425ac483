import { execFileSync, spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { forget, watch, type Ending } from './reaper.js'

export interface ProcessOptions {
  /** For messages: 'Redis', 'app instance 2'. */
  name: string
  command: string
  args: readonly string[]
  env?: NodeJS.ProcessEnv
  cwd?: string
  uid?: number | undefined
  gid?: number | undefined
  /** How the process ends with its parent; see `reaper.ts`. */
  ending?: Ending
  /** An IPC channel for Node processes. */
  ipc?: boolean
}

/** One child process: its output's end, its exit, and the signals that faults are made of. */
export class ManagedProcess {
  readonly pid: number
  readonly child: ChildProcess
  readonly #exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  #output = ''
  #running = true

  private constructor(
    readonly name: string,
    child: ChildProcess,
    ending: Ending
  ) {
    this.child = child
    this.pid = child.pid as number
    watch(this.pid, ending)
    const collect = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-64 * 1024)
    }
    child.stdout?.on('data', collect)
    child.stderr?.on('data', collect)
    this.#exit = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        this.#running = false
        forget(this.pid)
        resolve({ code, signal })
      })
    })
    // A server that nobody stopped must not keep the process waiting: the reaper ends it.
    child.unref()
    for (const stream of [child.stdout, child.stderr]) (stream as { unref?: () => void } | null)?.unref?.()
  }

  static async start(options: ProcessOptions): Promise<ManagedProcess> {
    const { name, command, args, env, cwd, uid, gid, ending = 'hard', ipc = false } = options
    const stdio: StdioOptions = ipc ? ['ignore', 'pipe', 'pipe', 'ipc'] : ['ignore', 'pipe', 'pipe']
    const child = spawn(command, args, {
      // A group of its own: Ctrl-C in the terminal reaches only us, and we decide how everything ends.
      detached: true,
      stdio,
      ...(env && { env }),
      ...(cwd !== undefined && { cwd }),
      ...(uid !== undefined && { uid }),
      ...(gid !== undefined && { gid })
    })
    if (child.pid === undefined) {
      // 'error' follows in the next turn.
      await new Promise((_resolve, reject) => child.once('error', reject))
    }
    return new ManagedProcess(name, child, ending)
  }

  /** How it ended. Whoever asks for it waits for it: the event loop lives until then. */
  get exited(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    if (this.#running) this.child.ref()
    return this.#exit
  }

  get running(): boolean {
    return this.#running
  }

  /** The last 64 KiB of standard output and error. */
  output(): string {
    return this.#output
  }

  /** This process and all of its descendants, children first. */
  tree(): number[] {
    return this.#running ? descendants(this.pid) : []
  }

  /** SIGKILL to the whole tree: what a power cut or the kernel's out-of-memory killer does. */
  async kill(): Promise<void> {
    for (const pid of this.tree().toReversed()) send(pid, 'SIGKILL')
    await this.exited
  }

  /** SIGSTOP to the whole tree: connections stay open and nothing answers. */
  pause(): void {
    for (const pid of this.tree()) send(pid, 'SIGSTOP')
  }

  resume(): void {
    for (const pid of this.tree()) send(pid, 'SIGCONT')
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#running) send(this.pid, signal)
  }

  /** Asks with `signal`, waits `patience` ms, then kills. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', patience = 5_000): Promise<void> {
    if (!this.#running) return
    this.resume()
    this.signal(signal)
    const clock = new AbortController()
    await Promise.race([
      this.exited,
      sleep(patience, undefined, { signal: clock.signal }).catch(() => undefined)
    ])
    clock.abort()
    if (this.#running) await this.kill()
  }
}

function descendants(pid: number): number[] {
  const result: number[] = []
  for (const child of childrenOf(pid)) result.push(...descendants(child))
  result.push(pid)
  return result
}

function childrenOf(pid: number): number[] {
  let text: string
  try {
    text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  } catch {
    if (process.platform === 'linux') return []
    try {
      text = execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' })
    } catch {
      return []
    }
  }
  return text.split(/\s+/).filter(Boolean).map(Number)
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended meanwhile.
  }
}
