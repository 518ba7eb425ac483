import { execFile } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { Apt, plainEnvironment } from './apt.js'
import { bindPrograms, isBound, libraryFolders } from './elf-files.js'
import { CacheError } from './errors.js'
import { withFileLock } from './file-lock.js'
import type { Program } from './programs.js'

const run = promisify(execFile)

/** The folder that holds fetched programs: `.cache/programs` of the project, or `FLOTILLA_CACHE`. */
export function cacheFolder(): string {
  const own = process.env['FLOTILLA_CACHE']
  if (own !== undefined && own !== '') return own
  let folder = import.meta.dirname
  for (let depth = 0; depth < 6; depth += 1) {
    if (existsSync(join(folder, 'pnpm-workspace.yaml'))) return join(folder, '.cache', 'programs')
    folder = join(folder, '..')
  }
  return join(import.meta.dirname, '..', '.cache', 'programs')
}

/** Whether this system has what fetching needs: Debian, Ubuntu and their kin. */
export function canFetchPackages(): boolean {
  return process.platform === 'linux' && onPath('apt-get') && onPath('dpkg-deb')
}

export interface FetchedPackage {
  /** The root below which the package's files lie as they would below `/`. */
  folder: string
  env: Record<string, string>
}

/** Where a package comes from, and what is done with it before it is used. */
interface Release {
  /** Ends the name of the folder. */
  readonly suffix: string
  open(cache: string): Promise<Apt>
  /** Whether a package of the plan is worth its room. */
  wants(pkg: string): boolean
  /** Readies what was unpacked into `partial` and will lie in `folder`. */
  finish(partial: string, folder: string): Promise<void>
}

const ofTheSystem: Release = {
  suffix: '',
  open: async (cache) => Apt.ofTheSystem(cache),
  // PostgreSQL's just-in-time compiler: 100 MB that nothing here turns on.
  wants: (pkg) => !/^(libllvm|libz3)/.test(pkg),
  finish: async () => {}
}

/** Programs and the libraries they are linked to: not what installing them on a machine would need besides. */
const servers = /^(redis|valkey|nginx|haproxy|pgbouncer|postgresql-\d)/
const libraries = /^(lib(?!llvm|z3|pam-modules|perl|c-|systemd-shared)|zlib1g)(?!.*-perl$)/

/**
 * Downloads a package and those of its dependencies that the system lacks, and unpacks them into the cache.
 * Neither root nor any change to the system: apt works on lists of its own, takes no lock, and installs
 * nothing; its signatures and checksums are verified as always. Processes that want the same wait for one.
 *
 * @param program what is shown to the user as being fetched
 */
export async function fetchPackage(name: string, program: string): Promise<FetchedPackage> {
  const folder = await fetchFrom(ofTheSystem, name, program)
  return { folder, env: { LD_LIBRARY_PATH: libraryFolders(folder).join(delimiter) } }
}

/** The same from Debian's later releases, with all libraries down to libc, to which the programs are bound. */
export async function fetchNewestPackage(
  name: string,
  program: string,
  patchelf: Program
): Promise<FetchedPackage> {
  const folder = await fetchFrom(
    {
      suffix: '-newest',
      open: (cache) => Apt.ofLaterReleases(cache),
      wants: (pkg) => servers.test(pkg) || libraries.test(pkg),
      finish: (partial, place) => bindPrograms(partial, patchelf, place)
    },
    name,
    program
  )
  if (!isBound(folder)) {
    progress(`${folder} was copied here; binding its programs to their libraries again`)
    await withFileLock(join(cacheFolder(), 'fetching.lock'), async () => {
      if (!isBound(folder)) await bindPrograms(folder, patchelf)
    })
  }
  return { folder, env: {} }
}

/** Removes a fetched package that does not work, so that the next call fetches it. */
export async function discardPackage({ folder }: FetchedPackage): Promise<void> {
  progress(`${folder} does not work, as after a copy that lost links or modes; fetching it again`)
  await removeFromCache(folder)
}

/** @throws FLOTILLA_TESTBED_ERR_CACHE that names what to delete, if another user owns it */
export async function removeFromCache(folder: string): Promise<void> {
  try {
    await rm(folder, { recursive: true, force: true })
  } catch (cause) {
    const error = new CacheError(folder, (cause as NodeJS.ErrnoException).code ?? String(cause))
    error.cause = cause
    throw error
  }
}

async function fetchFrom(release: Release, name: string, program: string): Promise<string> {
  const cache = cacheFolder()
  const folder = join(cache, `${name}${release.suffix}-${process.arch}`)
  if (existsSync(folder)) return folder
  mkdirSync(cache, { recursive: true })
  await withFileLock(join(cache, 'fetching.lock'), async () => {
    if (existsSync(folder)) return
    const began = performance.now()
    progress(`fetching Debian's package ${name} for ${program} into ${cache}`)
    await unpack(release, name, folder)
    progress(`${program} is ready after ${((performance.now() - began) / 1_000).toFixed(1)} s`)
  })
  return folder
}

/** Whole or not at all: no process may meet a half unpacked program. */
async function unpack(release: Release, name: string, folder: string): Promise<void> {
  const apt = await release.open(cacheFolder())
  await apt.update()
  const versioned = release === ofTheSystem ? await versionedPackages(name) : []
  const plan = await apt.plan([name, ...versioned])
  const partial = `${folder}.${process.pid}`
  await rm(partial, { recursive: true, force: true })
  const debs = join(partial, 'debs')
  await mkdir(debs, { recursive: true })
  try {
    await apt.download(
      plan.filter(({ pkg }) => release.wants(pkg)),
      debs
    )
    for (const deb of readdirSync(debs)) await run('dpkg-deb', ['-x', join(debs, deb), partial])
    await rm(debs, { recursive: true })
    await release.finish(partial, folder)
    await rename(partial, folder)
  } finally {
    await rm(partial, { recursive: true, force: true })
  }
}

/**
 * `postgresql` is an empty package that depends on `postgresql-15`: where the latter is installed already, asking
 * for the former alone would fetch nothing that runs.
 */
async function versionedPackages(name: string): Promise<string[]> {
  const args = ['depends', '--important', '--installed', name]
  const { stdout } = await run('apt-cache', args, { env: plainEnvironment() }).catch(() => ({ stdout: '' }))
  return [...stdout.matchAll(/Depends: (\S+)/g)]
    .map(([, dependency]) => String(dependency))
    .filter((dependency) => dependency.startsWith(`${name}-`) && /-\d+$/.test(dependency))
}

function onPath(program: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return folder !== ''
    } catch {
      return false
    }
  })
}

function progress(line: string): void {
  process.stderr.write(`flotilla: ${line}\n`)
}
