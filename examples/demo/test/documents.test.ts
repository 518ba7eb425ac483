import { readdir, readFile, stat } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'tap'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** Every Markdown file of the root, of `docker` and of each package and example. */
async function documents(): Promise<string[]> {
  const folders = [root, join(root, 'docker')]
  for (const group of ['packages', 'examples'])
    for (const entry of await readdir(join(root, group), { withFileTypes: true }))
      if (entry.isDirectory()) folders.push(join(root, group, entry.name))
  const files: string[] = []
  for (const folder of folders)
    for (const name of await readdir(folder)) if (name.endsWith('.md')) files.push(join(folder, name))
  return files
}

/** The anchors of a document: those it sets, and those that a reader makes of its headings, numbered where equal. */
function anchorsOf(text: string): Set<string> {
  const anchors = new Set([...text.matchAll(/<a id="([^"]+)"/g)].map(([, id]) => id!))
  const seen = new Map<string, number>()
  for (const [, heading] of text.replace(/^```.*?^```/gms, '').matchAll(/^#+ (.*)$/gm)) {
    const slug = heading!
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_\- ]/gu, '')
      .replaceAll(' ', '-')
    const times = seen.get(slug) ?? 0
    seen.set(slug, times + 1)
    anchors.add(times === 0 ? slug : `${slug}-${times}`)
  }
  return anchors
}

test('every link within the documents leads to a file, and to a heading where it names one', async (t) => {
  const files = await documents()
  t.ok(files.length > 15)
  let links = 0
  for (const file of files) {
    const text = (await readFile(file, 'utf8')).replace(/^```.*?^```/gms, '')
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue
      links++
      const [path, anchor] = target!.split('#')
      const to = path === '' ? file : join(dirname(file), path!)
      const found = await stat(to).catch(() => undefined)
      const leads =
        found !== undefined && (anchor === undefined || anchorsOf(await readFile(to, 'utf8')).has(anchor))
      if (!leads) t.fail(`${relative(root, file)}: ${target} leads nowhere`)
    }
  }
  t.ok(links > 500, `${links} links`)
})
