import { execFile } from 'node:child_process'
import { accessSync, constants, readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import {
  canFetchPackages,
  discardPackage,
  fetchNewestPackage,
  fetchPackage,
  type FetchedPackage
} from './debian-packages.js'
import { choiceOf } from './environment.js'
import { CacheError, ProgramMissingError } from './errors.js'

/** A program to run: its path, and what its environment needs on top of a plain one. */
export interface Program {
  path: string
  /** `LD_LIBRARY_PATH` where the program was fetched with libraries that the system lacks; else empty. */
  env: Record<string, string>
  /** Everything `--version` says, on one line. */
  version: string
}

interface Source {
  /** Debian's name of the package. */
  debian: string
  /** Homebrew's name of the formula. */
  brew: string
  /** Where it lies outside of PATH; `*` stands for one folder's name, the highest version first. */
  places: readonly string[]
  versionFlag: string
  /** The oldest major version that will do. */
  oldest: number
  /** Not a server: `FLOTILLA_SERVERS` does not concern it. */
  onlyOldest?: boolean
}

const postgres: Source = {
  debian: 'postgresql',
  brew: 'postgresql@17',
  places: [
    '/usr/lib/postgresql/*/bin',
    '/usr/pgsql-*/bin',
    '/opt/homebrew/opt/postgresql*/bin',
    '/usr/local/opt/postgresql*/bin'
  ],
  versionFlag: '--version',
  oldest: 14
}

const usual = ['/usr/sbin', '/usr/local/sbin', '/usr/local/bin', '/opt/homebrew/bin']

const sources = {
  'redis-server': {
    debian: 'redis-server',
    brew: 'redis',
    places: usual,
    versionFlag: '--version',
    oldest: 7
  },
  postgres,
  initdb: postgres,
  pgbouncer: { debian: 'pgbouncer', brew: 'pgbouncer', places: usual, versionFlag: '--version', oldest: 1 },
  nginx: { debian: 'nginx', brew: 'nginx', places: usual, versionFlag: '-v', oldest: 1 },
  haproxy: { debian: 'haproxy', brew: 'haproxy', places: usual, versionFlag: '-v', oldest: 2 },
  chromium: {
    debian: 'chromium',
    brew: 'chromium',
    // The program itself: what lies in /usr/bin is a script that knows only the system's own place.
    places: ['/usr/lib/chromium', ...usual],
    versionFlag: '--version',
    oldest: 100,
    onlyOldest: true
  },
  // Binds the newest servers to their libraries.
  patchelf: {
    debian: 'patchelf',
    brew: 'patchelf',
    places: usual,
    versionFlag: '--version',
    oldest: 0,
    onlyOldest: true
  }
} satisfies Record<string, Source>

export type ProgramName = keyof typeof sources
/** What most tests need; the others are fetched when something asks for them. */
export const programNames = (Object.keys(sources) as ProgramName[]).filter(
  (name) => name !== 'chromium' && name !== 'patchelf'
)

const run = promisify(execFile)
const found = new Map<ProgramName, Promise<Program>>()

/**
 * Finds a program on PATH, in its usual place, or in the distribution's packages, which are unpacked into the
 * project's `.cache` folder. `FLOTILLA_PROGRAMS=path` never fetches, `fetch` ignores what is installed.
 *
 * @throws FLOTILLA_TESTBED_ERR_PROGRAM_MISSING
 */
export function findProgram(name: ProgramName): Promise<Program> {
  let program = found.get(name)
  if (program === undefined) {
    program = locate(name)
    found.set(name, program)
    program.catch(() => found.delete(name))
  }
  return program
}

/** What has been looked at in vain, for the error that ends the search. */
interface Search {
  readonly tried: string[]
  cause?: unknown
}

async function locate(name: ProgramName): Promise<Program> {
  const source: Source = sources[name]
  const mode = choiceOf('FLOTILLA_PROGRAMS')
  const newest = choiceOf('FLOTILLA_SERVERS') === 'newest' && !source.onlyOldest
  const executables = executablesOf(name)
  const search: Search = { tried: [] }

  if (mode !== 'fetch' && !newest) {
    for (const executable of executables) {
      const program = await installed(executable, source, search)
      if (program !== undefined) return program
    }
    search.tried.push(`looked on PATH and in ${source.places.join(', ')}`)
  }
  if (mode === 'path' && newest) {
    search.tried.push('FLOTILLA_SERVERS=newest fetches its programs, and FLOTILLA_PROGRAMS=path forbids that')
  }
  if (mode !== 'path' && canFetchPackages()) {
    const program = await fetched(executables[0], source, newest, search)
    if (program !== undefined) return program
  }
  const tried = search.tried.join('; ') || 'nothing was tried'
  const error = new ProgramMissingError(executables.join("' or '"), tried, advice(source))
  if (search.cause !== undefined) error.cause = search.cause
  throw error
}

/** The programs that will do, the preferred one first. */
function executablesOf(name: ProgramName): readonly [string, ...string[]] {
  if (name !== 'redis-server') return [name]
  const kind = choiceOf('FLOTILLA_REDIS')
  if (kind === 'any') return [name, 'valkey-server']
  return [`${kind}-server`]
}

async function installed(
  executable: string,
  source: Source,
  { tried }: Search
): Promise<Program | undefined> {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')
  for (const folder of [...folders, ...source.places.flatMap(expand)]) {
    const path = join(folder, executable)
    if (!isExecutable(path)) continue
    const version = await versionOf(path, source.versionFlag, {}).catch(() => undefined)
    if (version === undefined) continue
    if (majorOf(version) >= source.oldest) return { path, env: {}, version }
    tried.push(`${path} is too old: ${version}, and ${source.oldest} or later is needed`)
  }
  return undefined
}

async function fetched(
  executable: string,
  source: Source,
  newest: boolean,
  search: Search
): Promise<Program | undefined> {
  const name = executable === 'valkey-server' ? executable : source.debian
  try {
    const fetch = newest
      ? async () => fetchNewestPackage(name, executable, await findProgram('patchelf'))
      : () => fetchPackage(name, executable)
    let unpacked = await fetch()
    let program = await programIn(unpacked, executable, source).catch(() => undefined)
    if (program === undefined) {
      await discardPackage(unpacked)
      unpacked = await fetch()
      program = await programIn(unpacked, executable, source)
    }
    if (program === undefined) search.tried.push(`the package ${name} holds no ${executable}`)
    return program
  } catch (error) {
    if (error instanceof CacheError) throw error
    search.cause = error
    search.tried.push(`fetching the package ${name} failed: ${firstLine(error)}`)
    return undefined
  }
}

async function programIn(
  { folder, env }: FetchedPackage,
  executable: string,
  source: Source
): Promise<Program | undefined> {
  for (const place of [...source.places, '/usr/bin']) {
    const path = expand(join(folder, place))
      .map((directory) => join(directory, executable))
      .find(isExecutable)
    if (path !== undefined) return { path, env, version: await versionOf(path, source.versionFlag, env) }
  }
  return undefined
}

function advice(source: Source): string {
  const how =
    process.platform === 'darwin'
      ? `Install it with: brew install ${source.brew}`
      : `Install it with your system's package manager (Debian, Ubuntu: sudo apt-get install ${source.debian})`
  return `${how}; \`docker compose -f docker/compose.yaml up\` needs none of it`
}

// `/usr/lib/postgresql/*/bin` → the folders that exist, the highest version first.
function expand(pattern: string): string[] {
  const star = pattern.indexOf('*')
  if (star === -1) return [pattern]
  const slash = pattern.lastIndexOf('/', star)
  const rest = pattern.indexOf('/', star)
  const parent = pattern.slice(0, slash)
  const prefix = pattern.slice(slash + 1, star)
  let names: string[]
  try {
    names = readdirSync(parent)
  } catch {
    return []
  }
  return names
    .filter((name) => name.startsWith(prefix))
    .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
    .map((name) => join(parent, name, rest === -1 ? '' : pattern.slice(rest)))
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

async function versionOf(path: string, flag: string, env: Record<string, string>): Promise<string> {
  const { stdout, stderr } = await run(path, [flag], { env: { PATH: process.env['PATH'], ...env } })
  return (stdout || stderr).split('\n', 1)[0] ?? ''
}

// `Redis server v=7.0.15 …`, `postgres (PostgreSQL) 15.13`, `nginx version: nginx/1.22.1` → the first number.
function majorOf(version: string): number {
  return Number(/(\d+)\.\d+/.exec(version)?.[1] ?? Infinity)
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? ''
}
