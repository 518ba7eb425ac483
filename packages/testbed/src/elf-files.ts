import { execFile } from 'node:child_process'
import { openSync, closeSync, existsSync, readFileSync, readdirSync, readSync } from 'node:fs'
import { chmod, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Program } from './programs.js'

const run = promisify(execFile)
const note = '.unpacked-in'

/** The folders below `root` that hold shared libraries, as a loader would search them. */
export function libraryFolders(root: string): string[] {
  const result: string[] = []
  for (const base of ['usr/lib', 'lib']) {
    const path = join(root, base)
    if (!existsSync(path)) continue
    result.push(path)
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (!entry.isDirectory() || !/-linux-/.test(entry.name)) continue
      result.push(join(path, entry.name))
      // Where libpulse keeps the half of itself that it shares.
      const own = join(path, entry.name, 'pulseaudio')
      if (existsSync(own)) result.push(own)
    }
  }
  return result
}

/** Whether the programs below `root` are bound to the libraries of that very folder. */
export function isBound(root: string): boolean {
  try {
    return readFileSync(join(root, note), 'utf8') === root
  } catch {
    return false
  }
}

/**
 * Binds every program below `root` to the loader and the libraries below it. Both are absolute paths, so a folder that
 * was copied or moved must be bound again.
 *
 * @param place the path that the folder will have, if it is not yet there
 */
export async function bindPrograms(root: string, patchelf: Program, place = root): Promise<void> {
  const loader = loaderIn(root)
  if (loader === undefined) throw new Error(`${root} holds no loader of programs`)
  const moved = (path: string): string => join(place, path.slice(root.length))
  const path = libraryFolders(root).map(moved).join(':')
  // Each folder of programs; what postgres loads at run time finds its libraries through the program's own path.
  for (const folder of programFolders(root)) {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const file = join(folder, entry.name)
      if (!entry.isFile() || !isElf(file)) continue
      const { mode } = await stat(file)
      await chmod(file, mode | 0o200)
      // As RPATH and not RUNPATH, which would not reach the libraries of libraries.
      const args = ['--set-interpreter', moved(loader), '--force-rpath', '--set-rpath', path, file]
      await run(patchelf.path, args, { env: { PATH: process.env['PATH'], ...patchelf.env } })
      await chmod(file, mode)
    }
  }
  await rm(join(root, note), { force: true })
  await writeFile(join(root, note), place)
}

function programFolders(root: string): string[] {
  const versions = join(root, 'usr/lib/postgresql')
  const postgres = existsSync(versions) ? readdirSync(versions).map((one) => join(versions, one, 'bin')) : []
  return [...['usr/bin', 'usr/sbin'].map((one) => join(root, one)), ...postgres].filter((one) =>
    existsSync(one)
  )
}

/** The dynamic loader of libc, such as `ld-linux-x86-64.so.2`. */
function loaderIn(root: string): string | undefined {
  const folders = ['lib64', 'usr/lib64', 'lib', 'usr/lib'].map((one) => join(root, one))
  for (const folder of [...folders, ...libraryFolders(root)]) {
    if (!existsSync(folder)) continue
    const name = readdirSync(folder).find((one) => /^ld-linux.*\.so\.\d+$/.test(one))
    // A link may name a path of the system's own; the real file follows in another folder.
    if (name !== undefined && existsSync(join(folder, name))) return join(folder, name)
  }
  return undefined
}

function isElf(file: string): boolean {
  const start = Buffer.alloc(4)
  const handle = openSync(file, 'r')
  try {
    readSync(handle, start, 0, 4, 0)
  } finally {
    closeSync(handle)
  }
  return start.equals(Buffer.from('\x7fELF', 'latin1'))
}
