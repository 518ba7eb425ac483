import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * One process at a time, across processes: the holder's number stands in the file, and the lock of a holder
 * that is gone is taken over. What it protects is made in one rename, so that even the narrow race between
 * two takers costs only work done twice.
 *
 * @throws the reason of `signal` where that is aborted before the lock is had
 */
export async function withFileLock<T>(
  file: string,
  work: () => Promise<T>,
  signal?: AbortSignal
): Promise<T> {
  while (!(await tryCreate(file))) {
    signal?.throwIfAborted()
    const holder = Number(await readFile(file, 'utf8').catch(() => ''))
    if (holder > 0 && !isAlive(holder)) {
      const aside = `${file}.${process.pid}`
      await rename(file, aside).catch(() => undefined)
      await rm(aside, { force: true })
    } else {
      await sleep(50)
    }
  }
  try {
    return await work()
  } finally {
    await rm(file, { force: true })
  }
}

async function tryCreate(file: string): Promise<boolean> {
  try {
    await writeFile(file, String(process.pid), { flag: 'wx' })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
