import { execFile, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { basename, dirname, join, sep } from 'node:path'
import { promisify } from 'node:util'
import { cacheFolder } from './debian-packages.js'
import { NotReadyError } from './errors.js'
import { withFileLock } from './file-lock.js'
import { findProgram, type Program } from './programs.js'
import { sharedTemporaryFolder, temporaryFolder } from './reaper.js'

const run = promisify(execFile)

/** The user and password of every database that the testbed makes. */
export const databaseUser = 'app'
export const databasePassword = 'app'

/** PostgreSQL refuses to run as root; root therefore hands over to the user nobody. */
export interface Owner {
  uid: number | undefined
  gid: number | undefined
}

export function databaseOwner(): Owner {
  if (process.getuid?.() !== 0) return { uid: undefined, gid: undefined }
  const entry = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .find(([name]) => name === 'nobody')
  return { uid: Number(entry?.[2] ?? 65_534), gid: Number(entry?.[3] ?? 65_534) }
}

/**
 * A program, where the owner of the database can run it: root may have unpacked them below a
 * folder that nobody else may enter, and then it is copied.
 */
export async function openProgram(name: 'postgres' | 'initdb' | 'pgbouncer'): Promise<Program> {
  const program = await findProgram(name)
  const fetched = join(cacheFolder(), '')
  if (
    databaseOwner().uid === undefined ||
    !program.path.startsWith(fetched) ||
    (await isOpen(program.path))
  ) {
    return program
  }
  const root = program.path.slice(0, program.path.indexOf(sep, fetched.length + 1))
  const copy = join(sharedTemporaryFolder('programs'), basename(root))
  if (!existsSync(copy)) {
    await run('cp', ['-R', root, `${copy}.part`])
    await rename(`${copy}.part`, copy).catch(() => undefined)
  }
  const moved = (text: string): string => text.replaceAll(root, copy)
  const env = Object.fromEntries(Object.entries(program.env).map(([key, value]) => [key, moved(value)]))
  return { ...program, path: moved(program.path), env }
}

/**
 * A data folder as `initdb` leaves it, with the database `app` in it, made once and kept in the cache: a
 * copy takes milliseconds where `initdb` takes a second. Every copy has the same system identifier, so a
 * copy with a `standby.signal` is a replica of any other one that has not been started before it.
 *
 * @param cluster another name gives a template, and so a system identifier, of its own
 */
export async function dataFolderTemplate(cluster = ''): Promise<string> {
  const initdb = await openProgram('initdb')
  const postgres = await openProgram('postgres')
  const owner = databaseOwner()
  const key = createHash('sha256')
    .update(
      JSON.stringify([postgres.version, owner, dirname(postgres.path), 'v1', ...(cluster ? [cluster] : [])])
    )
    .digest('hex')
    .slice(0, 12)
  const template = join(cacheFolder(), `postgresql-data-${key}`)
  if (existsSync(template)) return template
  await mkdir(cacheFolder(), { recursive: true })
  await withFileLock(join(cacheFolder(), 'initdb.lock'), async () => {
    if (existsSync(template)) return
    const scratch = temporaryFolder('initdb')
    const data = join(scratch, 'data')
    const password = join(scratch, 'password')
    await writeFile(password, databasePassword)
    await mkdir(data, { mode: 0o700 })
    if (owner.uid !== undefined) await run('chown', ['-R', `${owner.uid}:${owner.gid}`, scratch])
    const env = databaseEnvironment(postgres)
    const options = { env, cwd: scratch, ...owner }
    await run(
      initdb.path,
      `-D ${data} -U ${databaseUser} --pwfile ${password} --no-sync --auth trust --encoding UTF8 --locale C --wal-segsize 4`.split(
        ' '
      ),
      options
    )
    await singleUser(postgres, data, `CREATE DATABASE app`, options)
    await run('cp', ['-a', data, `${template}.${process.pid}`])
    await rename(`${template}.${process.pid}`, template)
    await rm(scratch, { recursive: true, force: true })
  })
  return template
}

/** A copy of a data folder with the same owner. */
export async function copyDataFolder(from: string, to: string): Promise<void> {
  await run('cp', ['-a', from, to])
}

/** What a database process sees of our environment: no PGHOST, PGDATA or the like. */
export function databaseEnvironment(program: Program): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'], LC_ALL: 'C', TZ: 'UTC', ...program.env }
}

/**
 * Frees the small piece of System V shared memory that a killed server leaves behind, which names itself in
 * the last word of the seventh line of postmaster.pid.
 */
export async function removeSharedMemory(data: string): Promise<void> {
  let id: string | undefined
  try {
    id = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[6]?.trim().split(/\s+/)[1]
  } catch {
    return
  }
  if (id !== undefined) await run('ipcrm', ['-m', id]).catch(() => undefined)
}

function singleUser(
  postgres: Program,
  data: string,
  sql: string,
  options: { env: NodeJS.ProcessEnv; cwd: string } & Owner
): Promise<void> {
  return new Promise((resolve, reject) => {
    const { uid, gid, ...rest } = options
    const child = spawn(postgres.path, ['--single', '-F', '-D', data, 'postgres'], {
      ...rest,
      ...(uid !== undefined && { uid }),
      ...(gid !== undefined && { gid }),
      stdio: ['pipe', 'pipe', 'pipe']
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
    }
    child.once('error', reject)
    child.once('close', (code) => {
      if (code === 0 && !/ERROR|FATAL/.test(output)) resolve()
      else reject(new NotReadyError('PostgreSQL', `making a database folder failed: ${output.trim()}`))
    })
    child.stdin.end(`${sql}\n`)
  })
}

/** Whether everybody may pass through every folder above a file. */
async function isOpen(path: string): Promise<boolean> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0) return false
    if (folder === dirname(folder)) return true
  }
}
