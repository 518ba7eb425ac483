import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** The project's root. */
const root = join(import.meta.dirname, '..', '..', '..', '..')

export interface CommandOptions {
  env?: Record<string, string>
  /** Milliseconds; default 120,000. */
  timeout?: number
}

/** Runs a program in the project's root; rejects with the end of what it wrote. */
export async function command(
  program: string,
  args: readonly string[],
  { env = {}, timeout = 120_000 }: CommandOptions = {}
): Promise<string> {
  try {
    const { stdout } = await run(program, args, {
      cwd: root,
      timeout,
      maxBuffer: 64 << 20,
      env: { ...process.env, ...env }
    })
    return stdout.trim()
  } catch (cause) {
    const { stdout = '', stderr = '' } = cause as { stdout?: string; stderr?: string }
    const wrote = `${stdout}\n${stderr}`.trim().split('\n').slice(-15).join('\n')
    throw new Error(`${program} ${args.slice(0, 6).join(' ')} failed:\n${wrote}`, { cause })
  }
}

/** `docker …` */
export function docker(...args: string[]): Promise<string> {
  return command('docker', args)
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
