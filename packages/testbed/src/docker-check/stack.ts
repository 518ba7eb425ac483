import { command, composeProgram, docker } from './engine.js'

/** One compose project, under a name of its own. */
export class ComposeStack {
  readonly project = `flotilla-check-${process.pid}`
  #program: [string, ...string[]] = ['docker', 'compose']

  constructor(
    private readonly files: readonly string[],
    readonly port: number
  ) {}

  async prepare(): Promise<void> {
    this.#program = await composeProgram()
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  run(args: readonly string[], version: string, timeout = 240_000): Promise<string> {
    const [program, ...first] = this.#program
    const files = this.files.flatMap((file) => ['-f', `docker/${file}`])
    return command(program, [...first, '-p', this.project, ...files, ...args], {
      timeout,
      env: { FLOTILLA_PORT: String(this.port), APP_VERSION: version, COMPOSE_HTTP_TIMEOUT: '240' }
    })
  }

  /** The ids of a service's running containers, oldest first. */
  async containers(service: string): Promise<string[]> {
    const ids = await docker(
      'ps',
      '--quiet',
      '--filter',
      `label=com.docker.compose.project=${this.project}`,
      '--filter',
      `label=com.docker.compose.service=${service}`
    )
    return ids.split('\n').filter(Boolean).toReversed()
  }

  /** What stands still and why, for a stack that did not come up. */
  async diagnosis(): Promise<string> {
    const state = await docker(
      'ps',
      '--all',
      '--filter',
      `label=com.docker.compose.project=${this.project}`,
      '--format',
      '{{.Names}}: {{.Status}}'
    )
    return state
  }

  async remove(): Promise<void> {
    await this.run(['down', '--volumes', '--remove-orphans', '--timeout', '5'], 'dev').catch(() => undefined)
  }
}
