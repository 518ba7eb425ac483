import { execFile } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { mkdir, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const dayInMs = 86_400_000
const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'

/** apt-get on lists of its own in the cache: it takes no lock, installs nothing and needs no root. */
export class Apt {
  readonly #folder: string
  readonly #settings: readonly string[]

  /** @param settings options of apt-get on top of those that keep it off the system */
  constructor(folder: string, settings: readonly (readonly [string, string])[]) {
    this.#folder = folder
    this.#settings = [
      ['Dir::State::lists', join(folder, 'lists')],
      ['Dir::Cache', folder],
      ['Debug::NoLocking', '1'],
      // Root's apt would hand over to the user _apt, who may not enter this folder.
      ...(process.getuid?.() === 0 ? [['APT::Sandbox::User', 'root']] : []),
      ['Acquire::Retries', '3'],
      ['Acquire::Languages', 'none'],
      ...settings
    ].flatMap(([key, value]) => ['-o', `${key}=${value}`])
  }

  /** The system's own release, and what is installed already. */
  static ofTheSystem(cache: string): Apt {
    return new Apt(join(cache, 'apt'), [])
  }

  /**
   * Debian's current and coming releases, from the mirror that the system uses, as if nothing were installed: their
   * programs need libraries of their own.
   *
   * @throws if the system's packages are not Debian's
   */
  static async ofLaterReleases(cache: string): Promise<Apt> {
    const system = Apt.ofTheSystem(cache)
    await system.update()
    const targets = await system.get(['indextargets', '--format', '$(REPO_URI) $(LABEL) $(COMPONENT)'])
    const mirror = /^(\S+) Debian main$/m.exec(targets)?.[1]
    if (mirror === undefined) {
      throw new Error('the newest servers come from Debian, and this system has no source of its packages')
    }
    const folder = join(cache, 'apt-newest')
    await mkdir(folder, { recursive: true })
    const sources = join(folder, 'sources.list')
    const signed = existsSync(keyring) ? `[signed-by=${keyring}] ` : ''
    await writeFile(
      sources,
      ['stable', 'testing'].map((release) => `deb ${signed}${mirror} ${release} main\n`).join('')
    )
    await writeFile(join(folder, 'status'), '')
    return new Apt(folder, [
      ['Dir::Etc::SourceList', sources],
      ['Dir::Etc::SourceParts', '/dev/null'],
      ['Dir::State::status', join(folder, 'status')],
      // The coming release moves, and a mirror's copy of it may be past its date.
      ['Acquire::Check-Valid-Until', 'false']
    ])
  }

  /** Fetches the lists of packages unless those at hand are of today. */
  async update(): Promise<void> {
    const lists = join(this.#folder, 'lists')
    await mkdir(join(lists, 'partial'), { recursive: true })
    await mkdir(join(this.#folder, 'archives', 'partial'), { recursive: true })
    const stamp = join(lists, 'stamp')
    if (existsSync(stamp) && Date.now() - statSync(stamp).mtimeMs <= dayInMs) return
    await this.get(['-qq', 'update'])
    await writeFile(stamp, '')
    await utimes(stamp, new Date(), new Date())
  }

  /** The packages that installing `names` would download, as name and version. */
  async plan(names: readonly string[]): Promise<{ pkg: string; version: string }[]> {
    const options = ['-qq', '-y', '--reinstall', '--no-install-recommends', '--print-uris']
    const plan = await this.get([...options, 'install', ...names])
    const found = [...plan.matchAll(/^'[^']+' (\S+)_(\S+)_\S+\.deb /gm)].map(([, pkg, version]) => ({
      pkg: String(pkg),
      version: decodeURIComponent(String(version))
    }))
    if (found.length === 0)
      throw new Error(`apt-get would download nothing for ${names.join(', ')}:\n${plan}`)
    return found
  }

  /** Downloads packages into a folder, with apt's own checks of signatures and sums. */
  async download(packages: readonly { pkg: string; version: string }[], into: string): Promise<void> {
    await this.get(['-qq', 'download', ...packages.map(({ pkg, version }) => `${pkg}=${version}`)], into)
  }

  /** Runs apt-get and returns what it writes. */
  async get(args: readonly string[], cwd = this.#folder): Promise<string> {
    await mkdir(cwd, { recursive: true })
    const options = { cwd, maxBuffer: 64 << 20, env: plainEnvironment() }
    return (await run('apt-get', [...this.#settings, ...args], options)).stdout
  }
}

/** Ours without what would make apt answer in another language or ask questions. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const { LD_LIBRARY_PATH: _libraries, ...rest } = process.env
  return { ...rest, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' }
}
