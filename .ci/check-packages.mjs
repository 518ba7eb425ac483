// Packs every public package and checks what a user would get: publint, the types as each module system
// resolves them, that an empty project which installs the tarballs can require() and import them, and that the
// README's first example, copied as it stands into that project, answers on a real Redis and PostgreSQL.
import { execFile } from 'node:child_process'
import { rmSync } from 'node:fs'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { pack, publicPackages } from './pack.mjs'

const start = promisify(execFile)
/** No command of this check takes minutes: one that hangs fails it. */
const run = (file, args, options) =>
  start(file, args, { timeout: 180_000, killSignal: 'SIGKILL', ...options })
const root = new URL('..', import.meta.url).pathname
const folder = await mkdtemp(join(tmpdir(), 'flotilla-packages-'))
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(1))
const results = []

async function check(name, action) {
  try {
    await action()
    results.push(true)
    console.log(`ok - ${name}`)
  } catch (error) {
    results.push(false)
    console.log(`not ok - ${name}\n${[error.stdout, error.stderr, error.message].filter(Boolean).join('\n')}`)
  }
}

/** What a newcomer does: copies the example as it stands, compiles it, gives it its environment, and asks. */
async function firstExample(project) {
  const example = /```ts\n(.*?)```/s.exec(await readFile(join(root, 'README.md'), 'utf8'))?.[1]
  if (!example) throw new Error('the README has no example')
  await writeFile(join(project, 'app.mts'), example)
  await writeFile(
    join(project, 'ask.mts'),
    `${example}
const posted = await app.inject({ method: 'POST', url: '/posts', payload: { text: 'hello' } })
const probe = await app.inject('/health')
console.log(JSON.stringify([posted.statusCode, posted.json(), probe.statusCode, probe.json().version]))
await app.close()
`
  )
  const options = ['--strict', '--module', 'nodenext', '--target', 'es2023', '--types', 'node']
  await run(bin('tsc'), [...options, 'app.mts', 'ask.mts'], { cwd: project })

  const { startPostgres, startRedis } = await import('../packages/testbed/dist/index.js')
  const starting = [startRedis(), startPostgres({ replicas: 1 })]
  try {
    const [redis, postgres] = await Promise.all(starting)
    await postgres.primary.query('CREATE TABLE posts (id serial PRIMARY KEY, text text NOT NULL)')
    const env = {
      ...process.env,
      REDIS_URL: redis.url,
      SESSION_SECRET: 'a secret for the example, of 32 bytes or more',
      DATABASE_URL: postgres.primary.url,
      DATABASE_REPLICA_URL: postgres.replicas[0].url,
      APP_VERSION: '1.2.3',
      PORT: '0'
    }
    // Ends by itself once the app is closed: nothing holds the process.
    const { stdout, stderr } = await run(process.execPath, ['ask.mjs'], {
      cwd: project,
      env,
      timeout: 30_000
    })
    const answer = stdout.trim().split('\n').at(-1)
    if (answer !== '[200,{"id":1},200,"1.2.3"]')
      throw new Error(`it answered ${String(stdout)}${String(stderr)}`)
    const { rows } = await postgres.primary.query('SELECT text FROM posts')
    if (rows[0]?.text !== 'hello') throw new Error('the row it wrote is not in the database')
  } finally {
    const started = await Promise.allSettled(starting)
    await Promise.all(started.map(({ value }) => value?.stop()))
  }
}

/** What a resolution that loses a type would break: errors by their codes, and options that another package adds to routes. */
const USES = `
import Fastify from 'fastify'
import { FLOTILLA_WS_ERR_FULL } from '@flotilla/ws-broadcast'
import { RedisClosedError } from '@flotilla/redis'
const app = Fastify()
app.get('/live', { websocket: true }, (socket, request) => {
  app.broadcast.attach(socket, request)
})
const codes = (error: unknown): string[] => [
  error instanceof FLOTILLA_WS_ERR_FULL ? error.code : '',
  error instanceof RedisClosedError ? error.code : ''
]
void codes
`

const bin = (name) => join(root, 'node_modules', '.bin', name)
const manifests = await publicPackages()

const tarballs = []
for (const manifest of manifests) {
  await check(`${manifest.name} packs`, async () => {
    tarballs.push({ name: manifest.name, file: await pack(manifest, folder) })
  })
}
for (const { name, file } of tarballs) {
  await check(`${name} passes publint`, () => run(bin('publint'), ['run', '--strict', file]))
  await check(`${name} resolves with its types`, () =>
    // ESM only: Node 20.19 and later can require() it, which this rule does not know of.
    run(bin('attw'), [file, '--profile', 'node16', '--ignore-rules', 'cjs-resolves-to-esm'])
  )
}

const { version: typesOfNode } = JSON.parse(
  await readFile(join(root, 'node_modules/@types/node/package.json'), 'utf8')
)
const project = await mkdtemp(join(folder, 'project-'))
await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'newcomer', private: true }))
await check('an empty project installs the tarballs', () =>
  run(
    'npm',
    [
      'install',
      '--no-audit',
      '--no-fund',
      'fastify',
      `@types/node@${typesOfNode}`,
      ...tarballs.map(({ file }) => file)
    ],
    {
      cwd: project
    }
  )
)
for (const [module, resolution] of [
  ['esnext', 'bundler'],
  ['nodenext', 'nodenext']
]) {
  await check(`every declaration compiles as ${resolution} resolves it`, async () => {
    const entries = manifests.flatMap(({ name, exports }) =>
      Object.keys(exports)
        .filter((one) => one !== './package.json')
        .map((one) => name + one.slice(1))
    )
    const imports = entries.map((entry, index) => `import * as m${index} from '${entry}'\nvoid m${index}\n`)
    await writeFile(join(project, 'declarations.ts'), `${imports.join('')}${USES}`)
    const options = [
      '--noEmit',
      '--strict',
      '--target',
      'es2023',
      '--types',
      'node',
      '--skipLibCheck',
      'false'
    ]
    await run(
      bin('tsc'),
      [...options, '--module', module, '--moduleResolution', resolution, 'declarations.ts'],
      {
        cwd: project
      }
    )
  })
}
for (const manifest of manifests) {
  for (const entry of Object.keys(manifest.exports).filter((one) => one !== './package.json')) {
    const specifier = manifest.name + entry.slice(1)
    const isPlugin = entry === '.' && manifest.keywords.includes('fastify-plugin')
    const judge = `if (Object.keys(m).length === 0) throw new Error('exports nothing');${
      isPlugin
        ? `if (typeof m.default !== 'function') throw new Error('the default export is no plugin')`
        : ''
    }`
    await check(`import '${specifier}'`, () =>
      run(process.execPath, ['--input-type=module', '-e', `import * as m from '${specifier}';${judge}`], {
        cwd: project
      })
    )
    await check(`require('${specifier}')`, () =>
      run(process.execPath, ['--input-type=commonjs', '-e', `const m = require('${specifier}');${judge}`], {
        cwd: project
      })
    )
    if (!isPlugin) continue
    await check(`fastify.register(require('${specifier}')) refuses wrong options by name`, () =>
      run(
        process.execPath,
        [
          '--input-type=commonjs',
          '-e',
          `const app = require('fastify')()
           app.register(require('${specifier}'), { noSuchOption: 1 })
           app.ready().then(
             () => { throw new Error('accepted') },
             (error) => {
               if (!/^FLOTILLA_[A-Z]+_ERR_/.test(error.code) || !/option '\\w+'|noSuchOption/.test(error.message)) throw error
             }
           )`
        ],
        { cwd: project }
      )
    )
  }
}
await check('the first example of the README type-checks and answers in that project', () =>
  firstExample(project)
)

const failed = results.filter((good) => !good).length
console.log(`${results.length - failed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
