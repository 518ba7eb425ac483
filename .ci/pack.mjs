// Packs every public package as `npm publish` would, for installing from a clone.
//   npx pnpm tarballs [FOLDER]     writes the tarballs to FOLDER (default: packed/) and prints the line that installs them
import { execFile } from 'node:child_process'
import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))

/** The manifests of all packages that are published, each with its folder. */
export async function publicPackages() {
  const manifests = []
  for (const name of await readdir(join(root, 'packages'), { withFileTypes: true })) {
    if (!name.isDirectory()) continue
    const folder = join(root, 'packages', name.name)
    const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
    if (!manifest.private) manifests.push({ ...manifest, folder })
  }
  return manifests
}

/** Packs one package and returns the path of its tarball. */
export async function pack(manifest, destination) {
  const { stdout } = await run('npx', ['pnpm', 'pack', '--json', '--pack-destination', destination], {
    cwd: manifest.folder,
    timeout: 180_000,
    killSignal: 'SIGKILL'
  })
  return resolve(destination, JSON.parse(stdout).filename)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const destination = resolve(process.argv[2] ?? join(root, 'packed'))
  await mkdir(destination, { recursive: true })
  const files = []
  for (const manifest of await publicPackages()) files.push(await pack(manifest, destination))
  console.log(`${files.length} tarballs. In your app:\n\n  npm install ${join(destination, '*.tgz')}\n`)
}
