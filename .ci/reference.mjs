// Writes API.md of every public package from the doc comments of what it exports; with --check, only says where a
// committed one differs. It fails, too, where an exported name has no doc comment, a {@link} leads nowhere, or an
// exported type speaks of one that is not exported. The packages must have been built.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Application, Comment, CommentTag, Converter, ReflectionKind, UnknownType } from 'typedoc'

const check = process.argv.includes('--check')
const root = new URL('..', import.meta.url).pathname
process.chdir(root)

/** Every entry point of every public package; paths are relative to the root. */
const entries = []
for (const { name: folder } of (await readdir('packages', { withFileTypes: true })).filter((one) =>
  one.isDirectory()
)) {
  const manifest = JSON.parse(await readFile(join('packages', folder, 'package.json'), 'utf8'))
  if (manifest.private) continue
  for (const [path, target] of Object.entries(manifest.exports)) {
    if (path === './package.json') continue
    const built = join('packages', folder, target.default)
    entries.push({
      package: manifest.name,
      specifier: manifest.name + path.slice(1),
      built,
      source: built.replace('/dist/', '/src/').replace(/js$/, 'ts'),
      page: join('packages', folder, `API${path.slice(1).replaceAll('/', '-')}.md`)
    })
  }
}

/** What each entry point exports at run time. */
const exported = new Map()
for (const { specifier, built } of entries) exported.set(specifier, await import(pathToFileURL(built).href))

function group(reflection, title) {
  reflection.comment ??= new Comment()
  reflection.comment.blockTags.push(new CommentTag('@group', [{ kind: 'text', text: title }]))
}

/** An error class made by @fastify/error says all there is to say by its code, status and message. */
function describeVariable(reflection) {
  const names = exported.get(reflection.parent?.name)
  const value = names?.[reflection.name]
  if (value !== undefined && value === names.default) group(reflection, 'Plugin')
  if (typeof value !== 'function' || !(value.prototype instanceof Error)) return
  // Made without arguments it keeps the placeholders of its message, or has none.
  const { code, statusCode, message } = new value()
  if (!code?.startsWith('FLOTILLA_')) return
  const words = message.replace(/%[sd]/g, '…').replace(/^(…|undefined)$/, '')
  const text = `\`${code}\`, status ${statusCode}${words && `: ${words.replace(/[<>]/g, '\\$&')}`}`
  reflection.comment ??= new Comment()
  const told = reflection.comment.summary
  reflection.comment.summary = [...told, { kind: 'text', text: told.length > 0 ? `\n\n${text}` : text }]
  group(reflection, 'Errors')
  reflection.type = new UnknownType('FastifyErrorConstructor')
}

const ofParameter = (one) =>
  one !== undefined && (one.kind === ReflectionKind.Parameter || ofParameter(one.parent))

/** The parts of an object type that is written in place are told by the comment of what they are part of. */
function inPlace(project, name) {
  const parts = project.getReflectionsByKind(ReflectionKind.Property)
  const bare = parts.filter(
    (one) => one.parent?.kind === ReflectionKind.TypeLiteral && !one.hasComment() && !ofParameter(one)
  )
  const names = bare.map((one) => one.getFriendlyFullName())
  return [...new Set(names)].filter((one) => one.startsWith(`${name}.`) || one.startsWith(`${name}/`))
}

const out = await mkdtemp(join(tmpdir(), 'flotilla-reference-'))
const app = await Application.bootstrapWithPlugins({
  plugin: ['typedoc-plugin-markdown'],
  entryPoints: entries.map(({ source }) => source),
  tsconfig: '.ci/reference.tsconfig.json',
  basePath: root,
  // The build has checked the types, with the compiler that the product is built with.
  skipErrorChecking: true,
  readme: 'none',
  disableGit: true,
  disableSources: true,
  excludePrivate: true,
  excludeInternal: true,
  excludeExternals: true,
  validation: { notExported: true, invalidLink: true, notDocumented: true, rewrittenLink: true },
  outputs: [{ name: 'markdown', path: out }],
  router: 'module',
  groupOrder: [
    'Plugin',
    'Functions',
    'Classes',
    'Interfaces',
    'Type Aliases',
    'Variables',
    'Errors',
    'References'
  ],
  useHTMLAnchors: true,
  hidePageHeader: true,
  hideBreadcrumbs: true,
  expandParameters: true,
  parametersFormat: 'table',
  interfacePropertiesFormat: 'table',
  classPropertiesFormat: 'table',
  typeAliasPropertiesFormat: 'table',
  propertyMembersFormat: 'table',
  typeDeclarationFormat: 'table',
  logLevel: 'Warn'
})

app.converter.on(Converter.EVENT_CREATE_DECLARATION, (_, reflection) => {
  if (reflection.kind !== ReflectionKind.Module) return
  reflection.name = entries.find(({ source }) => source.startsWith(reflection.name)).specifier
})
app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
  for (const one of project.getReflectionsByKind(ReflectionKind.Variable)) describeVariable(one)
})
const project = await app.convert()
// TypeDoc looks only at the names of one package at a time.
for (const name of new Set(entries.map((entry) => entry.package))) {
  project.packageName = name
  app.options.setValue('intentionallyNotDocumented', inPlace(project, name))
  app.validate(project)
}
await app.generateOutputs(project)

/** TypeDoc's own pages name each other by module; here each stands beside its package's README. */
function relink(text, { specifier, page }) {
  return text.replace(/\]\(([^)#\s]+)\.md(#[^)]*)?\)/g, (link, target, anchor = '') => {
    if (target.includes(':')) return link
    const to = entries.find((entry) => resolve('/', dirname(specifier), target) === `/${entry.specifier}`)
    if (!to) throw new Error(`${page} links to ${target}, which is no page`)
    return `](${relative(dirname(page), to.page)}${anchor})`
  })
}

const differing = []
for (const entry of entries) {
  const written = relink(await readFile(join(out, `${entry.specifier}.md`), 'utf8'), entry)
  if ((await readFile(entry.page, 'utf8').catch(() => '')) === written) continue
  differing.push(entry.page)
  if (!check) await writeFile(entry.page, written)
}
await rm(out, { recursive: true })

if (app.logger.hasWarnings() || app.logger.hasErrors()) process.exitCode = 1
if (check && differing.length > 0) {
  console.error(`${differing.join(', ')}: not what the doc comments say; run \`npx pnpm reference\``)
  process.exitCode = 1
} else console.log(differing.length > 0 ? `written: ${differing.join(', ')}` : 'nothing has changed')
