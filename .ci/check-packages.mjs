// Packs every public package and checks what a user would get: publint, the types as each module system
// resolves them, and that an empty project which installs the tarballs can require() and import them.
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const root = new URL('..', import.meta.url).pathname
const folder = await mkdtemp(join(tmpdir(), 'flotilla-packages-'))
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

const bin = (name) => join(root, 'node_modules', '.bin', name)
const manifests = []
for (const name of await readdir(join(root, 'packages'))) {
  const manifest = JSON.parse(await readFile(join(root, 'packages', name, 'package.json'), 'utf8'))
  if (!manifest.private) manifests.push({ ...manifest, folder: join(root, 'packages', name) })
}

try {
  const tarballs = []
  for (const manifest of manifests) {
    await check(`${manifest.name} packs`, async () => {
      const { stdout } = await run('npx', ['pnpm', 'pack', '--json', '--pack-destination', folder], {
        cwd: manifest.folder
      })
      const { filename } = JSON.parse(stdout)
      tarballs.push({
        name: manifest.name,
        file: filename.startsWith('/') ? filename : join(folder, filename)
      })
    })
  }
  for (const { name, file } of tarballs) {
    await check(`${name} passes publint`, () => run(bin('publint'), ['run', '--strict', file]))
    await check(`${name} resolves with its types`, () =>
      // ESM only: Node 20.19 and later can require() it, which this rule does not know of.
      run(bin('attw'), [file, '--profile', 'node16', '--ignore-rules', 'cjs-resolves-to-esm'])
    )
  }

  const project = await mkdtemp(join(folder, 'project-'))
  await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'newcomer', private: true }))
  await check('an empty project installs the tarballs', () =>
    run('npm', ['install', '--no-audit', '--no-fund', 'fastify', ...tarballs.map(({ file }) => file)], {
      cwd: project
    })
  )
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
} finally {
  await rm(folder, { recursive: true, force: true })
}

const failed = results.filter((good) => !good).length
console.log(`${results.length - failed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
