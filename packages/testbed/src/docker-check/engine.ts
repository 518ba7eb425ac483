import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** The project's root. */
const root = join(import.meta.dirname, '..', '..', '..', '..')

const interruption = new AbortController()

/** Aborted when the user wants no more of it: what runs is ended, and only what cleans up may still start. */
export const interrupted: AbortSignal = interruption.signal

export function interrupt(): void {
  interruption.abort(new Error('interrupted'))
}

export interface CommandOptions {
  env?: Record<string, string>
  /** Milliseconds; default 120,000. */
  timeout?: number
  /** It takes something away again, so an interruption does not end it. Default false. */
  cleans?: boolean
}

/** Runs a program in the project's root; rejects with the end of what it wrote. */
export async function command(
  program: string,
  args: readonly string[],
  { env = {}, timeout = 120_000, cleans = false }: CommandOptions = {}
): Promise<string> {
  try {
    const { stdout } = await run(program, args, {
      cwd: root,
      timeout,
      maxBuffer: 64 << 20,
      env: { ...process.env, ...env },
      ...(!cleans && { signal: interrupted })
    })
    return stdout.trim()
  } catch (cause) {
    if (!cleans && interrupted.aborted) throw interrupted.reason
    const {
      stdout = '',
      stderr = '',
      killed
    } = cause as { stdout?: string; stderr?: string; killed?: boolean }
    const wrote = `${stdout}\n${stderr}`.trim().split('\n').slice(-30).join('\n')
    const how = killed ? `did not end within ${timeout / 1_000} s` : 'failed'
    throw new Error(`${program} ${args.slice(0, 6).join(' ')} ${how}:\n${wrote}`, { cause })
  }
}

/** `docker …` */
export function docker(...args: string[]): Promise<string> {
  return command('docker', args)
}

/** `docker …` for what takes something away or only looks: works after an interruption too. */
export function dockerCleanup(...args: string[]): Promise<string> {
  return command('docker', args, { cleans: true })
}

/** What `docker …` lists, one a line. */
export async function listed(...args: string[]): Promise<string[]> {
  return (await dockerCleanup(...args)).split('\n').filter(Boolean)
}

/** The end of what a container wrote, on either stream. */
export function logsOf(container: string, lines = 12): Promise<string> {
  return command('sh', ['-c', 'docker logs --tail "$1" "$0" 2>&1', container, String(lines)], {
    cleans: true
  })
}

/** Why no container can be run here; undefined where one can. */
export async function noEngine(): Promise<string | undefined> {
  try {
    const version = await command('docker', ['version', '--format', '{{.Server.Version}}'], {
      timeout: 15_000
    })
    return version === '' ? 'the Docker engine does not say its version' : undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** The compose program: `docker compose` (v2), or `docker-compose` with --compatibility, which v1 needs for replicas. */
export async function composeProgram(): Promise<[program: string, ...args: string[]]> {
  try {
    await command('docker', ['compose', 'version'])
    return ['docker', 'compose']
  } catch {
    await command('docker-compose', ['version'])
    return ['docker-compose', '--compatibility']
  }
}
