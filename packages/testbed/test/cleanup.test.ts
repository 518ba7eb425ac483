import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'tap'
import { until } from '../src/index.js'
import { isAlive, leftovers } from './fixtures/alive.js'

const endings = {
  'a crash': { argument: 'crash', end: () => {} },
  'process.exit': { argument: 'exit', end: () => {} },
  SIGTERM: { argument: 'wait', end: (child: ChildProcess) => child.kill('SIGTERM') },
  SIGINT: { argument: 'wait', end: (child: ChildProcess) => child.kill('SIGINT') },
  SIGKILL: { argument: 'wait', end: (child: ChildProcess) => child.kill('SIGKILL') }
}

for (const [name, { argument, end }] of Object.entries(endings)) {
  test(`nothing is left after ${name}: no process, no folder, no shared memory`, async (t) => {
    // A temporary folder of its own, so that what lies in it is this parent's.
    const temporary = mkdtempSync(join(tmpdir(), 'cleanup-'))
    chmodSync(temporary, 0o711)
    const child = fork(new URL('./fixtures/everything.ts', import.meta.url), [argument], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      env: { ...process.env, TMPDIR: temporary }
    })
    let stderr = ''
    child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    const exited = once(child, 'exit')
    const [{ pids }] = (await Promise.race([
      once(child, 'message'),
      exited.then(() => Promise.reject(new Error(`the parent ended too early: ${stderr}`)))
    ])) as [{ pids: number[] }]
    t.equal(pids.length, 8)
    if (argument === 'wait')
      t.strictSame(
        pids.filter((pid) => !isAlive(pid)),
        []
      )
    const folders = leftovers(temporary)
    t.equal(folders.length, 1)
    const segments = segmentsOf(pids)

    end(child)
    await exited
    await until(() => pids.every((pid) => !isAlive(pid)), { message: 'every process is gone' })
    await until(() => leftovers(temporary).length === 0, { message: 'the temporary folder is gone' })
    t.strictSame(
      segments.filter((segment) => known().includes(segment)),
      [],
      'shared memory'
    )
    rmSync(temporary, { recursive: true })
  })
}

/** `shmid` of the segments that these processes made. */
function segmentsOf(pids: readonly number[]): string[] {
  return lines().flatMap((fields) => (pids.includes(Number(fields[4])) ? [String(fields[1])] : []))
}

function known(): string[] {
  return lines().map((fields) => String(fields[1]))
}

/** key, shmid, perms, size, cpid, … */
function lines(): string[][] {
  try {
    const text = readFileSync('/proc/sysvipc/shm', 'utf8').trim().split('\n').slice(1)
    return text.map((line) => line.trim().split(/\s+/))
  } catch {
    return []
  }
}
