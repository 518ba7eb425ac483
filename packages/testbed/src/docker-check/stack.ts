import { command, composeProgram, docker, listed, logsOf } from './engine.js'
import type { Images } from './images.js'

let count = 0

/** One compose project, under a name of its own. */
export class ComposeStack {
  readonly project = `flotilla-check-${process.pid}-${(count += 1)}`
  #program: [string, ...string[]] | undefined

  constructor(
    private readonly images: Images,
    private readonly files: readonly string[],
    readonly port: number
  ) {}

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** `docker compose …` on this project, with `version` as the image's tag. */
  async run(
    args: readonly string[],
    version: string,
    { timeout = 240_000, cleans = false }: { timeout?: number; cleans?: boolean } = {}
  ): Promise<string> {
    const [program, ...first] = (this.#program ??= await composeProgram())
    const files = this.files.flatMap((file) => ['-f', `docker/${file}`])
    return command(program, [...first, '-p', this.project, ...files, ...args], {
      timeout,
      cleans,
      env: {
        FLOTILLA_PORT: String(this.port),
        APP_VERSION: version,
        PGBOUNCER_VERSION: this.images.first,
        COMPOSE_HTTP_TIMEOUT: '240'
      }
    })
  }

  /** The ids of a service's containers that run, oldest first; with `all`, also of those that do not. */
  async containers(service?: string, { all = false } = {}): Promise<string[]> {
    const ids = await listed(
      'ps',
      '--quiet',
      ...(all ? ['--all'] : []),
      '--filter',
      `label=com.docker.compose.project=${this.project}`,
      ...(service === undefined ? [] : ['--filter', `label=com.docker.compose.service=${service}`])
    )
    return ids.toReversed()
  }

  /** Runs a program in the first container of a service. */
  async exec(service: string, ...args: string[]): Promise<string> {
    const [container] = await this.containers(service)
    if (container === undefined) throw new Error(`no container of ${service} runs`)
    return docker('exec', container, ...args)
  }

  /** How each container stands, and the end of the logs of those that are not well. */
  async diagnosis(): Promise<string> {
    const states = await listed(
      'ps',
      '--all',
      '--filter',
      `label=com.docker.compose.project=${this.project}`,
      '--format',
      '{{.Names}}: {{.Status}}'
    )
    const lines: string[] = []
    for (const state of states) {
      lines.push(state)
      if (/: Up (?!.*unhealthy)|: Exited \(0\)|: Created/.test(state)) continue
      const logs = await logsOf(String(state.split(':', 1)[0]))
      lines.push(...logs.split('\n').map((line) => `    ${line}`))
    }
    return lines.join('\n')
  }

  /** Takes everything of it away. @throws where something is left */
  async remove(): Promise<string> {
    if (this.#program === undefined) return 'nothing was started'
    await this.run(['down', '--volumes', '--remove-orphans', '--timeout', '5'], 'dev', { cleans: true })
    const label = `label=com.docker.compose.project=${this.project}`
    const left = [
      ...(await listed('ps', '--all', '--format', '{{.Names}}', '--filter', label)),
      ...(await listed('network', 'ls', '--format', '{{.Name}}', '--filter', label)),
      ...(await listed('volume', 'ls', '--format', '{{.Name}}', '--filter', label))
    ]
    if (left.length > 0) throw new Error(`left behind: ${left.join(', ')}`)
    return 'no container, network or volume left'
  }
}
