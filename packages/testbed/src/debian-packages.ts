import { execFile } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { mkdir, rename, rm, utimes, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { withFileLock } from './file-lock.js'

const run = promisify(execFile)
const dayInMs = 86_400_000

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

/**
 * Downloads a package and those of its dependencies that the system lacks, and unpacks them into the cache.
 * Neither root nor any change to the system: apt works on lists of its own, takes no lock, and installs
 * nothing; its signatures and checksums are verified as always. Processes that want the same wait for one.
 *
 * @param program what is shown to the user as being fetched
 */
export async function fetchPackage(name: string, program: string): Promise<FetchedPackage> {
  const cache = cacheFolder()
  const folder = join(cache, `${name}-${process.arch}`)
  if (!existsSync(folder)) {
    mkdirSync(cache, { recursive: true })
    await withFileLock(join(cache, 'fetching.lock'), async () => {
      if (existsSync(folder)) return
      const began = performance.now()
      progress(`${program} is not installed; fetching Debian's package ${name} into ${cache}`)
      await download(cache, name, folder)
      progress(`${program} is ready after ${((performance.now() - began) / 1_000).toFixed(1)} s`)
    })
  }
  return { folder, env: { LD_LIBRARY_PATH: libraryFolders(folder).join(delimiter) } }
}

async function download(cache: string, name: string, folder: string): Promise<void> {
  const lists = join(cache, 'apt', 'lists')
  await mkdir(join(lists, 'partial'), { recursive: true })
  await mkdir(join(cache, 'apt', 'archives', 'partial'), { recursive: true })
  const options = [
    ['Dir::State::lists', lists],
    ['Dir::Cache', join(cache, 'apt')],
    ['Debug::NoLocking', '1'],
    // Root's apt would hand over to the user _apt, who may not enter this folder.
    ...(process.getuid?.() === 0 ? [['APT::Sandbox::User', 'root']] : []),
    ['Acquire::Retries', '3'],
    ['Acquire::Languages', 'none']
  ].flatMap(([key, value]) => ['-o', `${key}=${value}`])
  const apt = async (args: readonly string[], cwd = cache): Promise<string> =>
    (await run('apt-get', [...options, ...args], { cwd, maxBuffer: 64 << 20, env: plainEnvironment() }))
      .stdout

  const stamp = join(lists, 'stamp')
  if (!existsSync(stamp) || Date.now() - statSync(stamp).mtimeMs > dayInMs) {
    await apt(['-qq', 'update'])
    await writeFile(stamp, '')
    await utimes(stamp, new Date(), new Date())
  }
  const plan = await apt([
    '-qq',
    '-y',
    '--reinstall',
    '--no-install-recommends',
    '--print-uris',
    'install',
    name,
    ...(await versionedPackages(name))
  ])
  const wanted = [...plan.matchAll(/^'[^']+' (\S+)_(\S+)_\S+\.deb /gm)]
    .map(([, pkg, version]) => ({ pkg: String(pkg), version: decodeURIComponent(String(version)) }))
    // PostgreSQL's just-in-time compiler: 100 MB that nothing here turns on.
    .filter(({ pkg }) => !/^(libllvm|libz3)/.test(pkg))
  if (wanted.length === 0) throw new Error(`apt-get would download nothing for ${name}:\n${plan}`)

  const partial = `${folder}.${process.pid}`
  await rm(partial, { recursive: true, force: true })
  const debs = join(partial, 'debs')
  await mkdir(debs, { recursive: true })
  try {
    await apt(['-qq', 'download', ...wanted.map(({ pkg, version }) => `${pkg}=${version}`)], debs)
    for (const deb of readdirSync(debs)) await run('dpkg-deb', ['-x', join(debs, deb), partial])
    await rm(debs, { recursive: true })
    // Whole or not at all: nobody may meet a half unpacked program.
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

function libraryFolders(folder: string): string[] {
  const result: string[] = []
  for (const base of ['usr/lib', 'lib']) {
    const path = join(folder, base)
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

function plainEnvironment(): NodeJS.ProcessEnv {
  const { LD_LIBRARY_PATH: _libraries, ...rest } = process.env
  return { ...rest, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' }
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
