import { execFile } from 'node:child_process'
import { accessSync, constants, readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { canFetchPackages, fetchPackage } from './debian-packages.js'
import { ProgramMissingError } from './errors.js'

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
    oldest: 100
  }
} satisfies Record<string, Source>

export type ProgramName = keyof typeof sources
/** What most tests need; a browser is fetched by the test that asks for it. */
export const programNames = (Object.keys(sources) as ProgramName[]).filter((name) => name !== 'chromium')

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

async function locate(name: ProgramName): Promise<Program> {
  const source: Source = sources[name]
  const mode = process.env['FLOTILLA_PROGRAMS'] ?? 'auto'
  const tried: string[] = []
  let cause: unknown

  if (mode !== 'fetch') {
    for (const folder of [
      ...(process.env['PATH'] ?? '').split(delimiter),
      ...source.places.flatMap(expand)
    ]) {
      const path = join(folder, name)
      if (folder === '' || !isExecutable(path)) continue
      const version = await versionOf(path, source.versionFlag, {}).catch(() => undefined)
      if (version === undefined) continue
      if (majorOf(version) >= source.oldest) return { path, env: {}, version }
      tried.push(`${path} is too old: ${version}, and ${source.oldest} or later is needed`)
    }
    tried.push(`looked on PATH and in ${source.places.join(', ')}`)
  }
  if (mode !== 'path' && canFetchPackages()) {
    try {
      const { folder, env } = await fetchPackage(source.debian, name)
      for (const place of [...source.places, '/usr/bin']) {
        const path = expand(join(folder, place))
          .map((directory) => join(directory, name))
          .find(isExecutable)
        if (path !== undefined) {
          return { path, env, version: await versionOf(path, source.versionFlag, env) }
        }
      }
      tried.push(`the package ${source.debian} holds no ${name}`)
    } catch (error) {
      cause = error
      tried.push(`fetching the package ${source.debian} failed: ${firstLine(error)}`)
    }
  }
  const error = new ProgramMissingError(name, tried.join('; ') || 'nothing was tried', advice(source))
  if (cause !== undefined) error.cause = cause
  throw error
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
