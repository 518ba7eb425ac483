import { execFile, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { basename, dirname, join, sep } from 'node:path'
import { promisify } from 'node:util'
import { cacheFolder, removeFromCache } from './debian-packages.js'
import { bindPrograms, isBound } from './elf-files.js'
import { NotReadyError } from './errors.js'
import { withFileLock } from './file-lock.js'
import { findProgram, type Program } from './programs.js'
import { sharedTemporaryFolder, temporaryFolder } from './reaper.js'

const run = promisify(execFile)

/** A role of every server that the testbed starts, and its password. */
export interface Role {
  readonly name: string
  readonly password: string
}

/**
 * The roles of every server. Each password has characters that a URL must escape, so that a client that forgets to
 * decode them fails here.
 *
 * - `app` owns its database and has no other right: it is what the URLs that tests hand to an app carry.
 * - `admin` is the superuser, for the testbed's own statements and for the faults that need one.
 * - `replicator` may stream and nothing else.
 */
export const roles = {
  app: { name: 'app', password: 'app:p@ss/1' },
  admin: { name: 'postgres', password: 'admin:p@ss/1' },
  replicator: { name: 'replicator', password: 'replicator:p@ss/1' }
} satisfies Record<string, Role>

/** Every connection proves its password, and the app's role cannot replicate. */
const hostRules = [
  'host all all 127.0.0.1/32 scram-sha-256',
  'host replication replicator 127.0.0.1/32 scram-sha-256',
  ''
].join('\n')

/** The URL of a database for a role. */
export function databaseUrl({ name, password }: Role, host: string, port: number, database: string): string {
  return `postgres://${name}:${encodeURIComponent(password)}@${host}:${port}/${encodeURIComponent(database)}`
}

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
    const partial = `${copy}.${process.pid}`
    await run('cp', ['-R', root, partial])
    if (isBound(root)) await bindPrograms(partial, await findProgram('patchelf'), copy)
    await rename(partial, copy).catch(() => undefined)
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
      JSON.stringify([postgres.version, owner, dirname(postgres.path), 'v2', ...(cluster ? [cluster] : [])])
    )
    .digest('hex')
    .slice(0, 12)
  const template = join(cacheFolder(), `postgresql-data-${key}`)
  if (await isUsable(template, owner)) return template
  await mkdir(cacheFolder(), { recursive: true })
  await withFileLock(join(cacheFolder(), 'initdb.lock'), async () => {
    if (await isUsable(template, owner)) return
    await removeFromCache(template)
    await makeTemplate(template, initdb, postgres)
  })
  return template
}

/** Whether it is whole and PostgreSQL, which insists on its own files, may use it: a copy may have lost its owner. */
async function isUsable(template: string, { uid = process.getuid?.() }: Owner): Promise<boolean> {
  try {
    const [folder, control] = await Promise.all(
      [template, join(template, 'global', 'pg_control')].map((path) => stat(path))
    )
    return folder?.uid === uid && control?.uid === uid && ((folder?.mode ?? 0) & 0o027) === 0
  } catch {
    return false
  }
}

/** Under a name of its own until it is whole. */
async function makeTemplate(template: string, initdb: Program, postgres: Program): Promise<void> {
  const owner = databaseOwner()
  const scratch = temporaryFolder('initdb')
  const data = join(scratch, 'data')
  const password = join(scratch, 'password')
  await writeFile(password, roles.admin.password)
  await mkdir(data, { mode: 0o700 })
  if (owner.uid !== undefined) await run('chown', ['-R', `${owner.uid}:${owner.gid}`, scratch])
  const options = { env: databaseEnvironment(postgres), cwd: scratch, ...owner }
  const settings = '--no-sync --auth scram-sha-256 --encoding UTF8 --locale C --wal-segsize 4'.split(' ')
  await run(initdb.path, ['-D', data, '-U', roles.admin.name, '--pwfile', password, ...settings], options)
  const { app, replicator } = roles
  await singleUser(
    postgres,
    data,
    [
      `CREATE ROLE ${app.name} LOGIN PASSWORD '${app.password}'`,
      `CREATE ROLE ${replicator.name} LOGIN REPLICATION PASSWORD '${replicator.password}'`,
      `CREATE DATABASE app OWNER ${app.name}`
    ],
    options
  )
  // The owner of the file stays the one that initdb gave it.
  await writeFile(join(data, 'pg_hba.conf'), hostRules)
  await run('cp', ['-a', data, `${template}.${process.pid}`])
  await rename(`${template}.${process.pid}`, template)
  await rm(scratch, { recursive: true, force: true })
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
  statements: readonly string[],
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
    child.stdin.end(statements.map((statement) => `${statement}\n`).join(''))
  })
}

/** Whether everybody may pass through every folder above a file. */
async function isOpen(path: string): Promise<boolean> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0) return false
    if (folder === dirname(folder)) return true
  }
}
