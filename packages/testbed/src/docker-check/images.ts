import { command, docker, dockerCleanup, listed } from './engine.js'
import type { Report } from './report.js'

/** What must not be in the image. */
const ABSENT = [
  'tap',
  'tsx',
  'typescript',
  'esbuild',
  'playwright-core',
  '@flotilla/testbed',
  '@flotilla/bench'
]
const DEMO = 'flotilla-demo'
const PGBOUNCER = 'flotilla-pgbouncer'

/** The images under tags of this run alone, so that nobody's own are touched. */
export class Images {
  readonly name = DEMO
  /** Tags of `flotilla-demo`: the version that runs first, the one that follows, one that does not start. */
  readonly first: string
  readonly next: string
  readonly broken: string
  /** What the build leaves behind; kept under a name only to be removed by it. */
  readonly #stage: string
  readonly #made: string[] = []

  constructor(private readonly build: boolean) {
    const own = `check-${process.pid}`
    this.first = build ? own : 'dev'
    this.next = `${own}-next`
    this.broken = `${own}-broken`
    this.#stage = `${DEMO}:${own}-stage`
  }

  /** Builds them; false where that failed or where something is in the image that must not be. */
  async prepare(report: Report): Promise<boolean> {
    return (
      (await report.step('build the images', () => this.#build())) &&
      (await report.step('what the image holds', () => this.#scan()))
    )
  }

  async remove(): Promise<string> {
    for (const image of this.#made.splice(0).toReversed())
      await dockerCleanup('image', 'rm', '--force', image)
    return 'the images of this run are gone'
  }

  async #build(): Promise<string> {
    const first = `${DEMO}:${this.first}`
    if (this.build) {
      const build = async (tag: string, ...args: string[]): Promise<void> => {
        const isNew = (await listed('image', 'ls', '--quiet', tag)).length === 0
        await command('docker', ['build', '-q', '-t', tag, ...args], { timeout: 900_000 })
        if (isNew) this.#made.push(tag)
      }
      await build(this.#stage, '--target', 'build', '-f', 'docker/Dockerfile', '.')
      await build(first, '-f', 'docker/Dockerfile', '.')
      await build(`${PGBOUNCER}:${this.first}`, 'docker/pgbouncer')
    }
    await this.#derive(this.next, 'ENV FOLLOWS=1')
    await this.#derive(
      this.broken,
      `CMD ["node", "-e", "console.error('cannot start: made so'); process.exit(1)"]`
    )
    const size = Number(await docker('image', 'inspect', '--format', '{{.Size}}', first))
    return `${Math.round(size / 1e6)} MB`
  }

  async #derive(tag: string, line: string): Promise<void> {
    const dockerfile = `FROM ${DEMO}:${this.first}\n${line}\n`
    await command('sh', ['-c', 'printf "%s" "$DOCKERFILE" | docker build -q -t "$0" -', `${DEMO}:${tag}`], {
      env: { DOCKERFILE: dockerfile }
    })
    this.#made.push(`${DEMO}:${tag}`)
  }

  /** Looks in the image for what must not be there. */
  async #scan(): Promise<string> {
    const image = `${DEMO}:${this.first}`
    const names = ABSENT.map((name) => `-path '*/node_modules/${name}'`).join(' -o ')
    const find = `find /app -name .git -o -path /app/src -o -path /app/test -o ${names}; id -u`
    const output = await docker('run', '--rm', '--entrypoint', 'sh', image, '-c', find)
    if (output !== '1000') throw new Error(`found in the image: ${output.replaceAll('\n', ', ')}`)
    const history = await docker('history', '--no-trunc', '--format', '{{.CreatedBy}}', image)
    const env = await docker('image', 'inspect', '--format', '{{json .Config.Env}}', image)
    if (/postgres:\/\/|SESSION_SECRET=|PASSWORD=/.test(history + env))
      throw new Error('a secret is in the image')
    return 'no dev dependency, no sources, no tests, no secret; runs as user 1000'
  }
}
