// Counts what the style rules of .github/CONTRIBUTING.md forbid, for each package, and compares the counts with
// .ci/house-rules.json. A count may fall; it must not rise.
//   node .ci/house-rules.mjs --check         fails if a count has risen
//   node .ci/house-rules.mjs --update        records the counts that have fallen
//   node .ci/house-rules.mjs --list FOLDER   prints every place below that folder
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { extname } from 'node:path'
import { parseSync, Visitor } from 'oxc-parser'

const root = new URL('..', import.meta.url).pathname
const recordFile = new URL('house-rules.json', import.meta.url)

const MAX_SENTENCE_WORDS = 30
const MAX_FUNCTION_LINES = 70
const MAX_PARAMETERS = 4
const MAX_FILE_LINES = 350

/** Habits of prose that make a reader stop. The plain form stands behind each. */
const HABITS = [
  [
    /\b(?:whoever|whomever|whom|nobody|somebody|everybody)\b/i,
    'name the actor: the caller, the client, the instance'
  ],
  [/\b(?:tells|told)\b/i, 'logs, emits, reports, notifies'],
  [/\bwithout a word\b/i, 'silently'],
  [/\bno matter\b/i, 'does not matter'],
  [/\bwants? (?:an?|the|no)\b/i, 'needs, must'],
  [/\b(?:lest|befalls?|whence|hitherto)\b/i, 'so that … not, happens to, from where, until now'],
  [/\bmend(?:s|ed|ing)?\b/i, 'fix, repair'],
  [/\bwhere (?:there|none|nothing|it (?:is|was))\b/i, 'if'],
  [/\b(?:is|are|was|were) to be\b/i, 'must be, will be'],
  [/\b(?:those|one|any|all) who\b|\bwho (?:asks?|waits?|has|does|reads?|writes?)\b/i, 'name the actor']
]

const SCRIPTS = new Set(['.ts', '.mts', '.mjs', '.js'])
const HASH_COMMENTS = new Set(['.sh', '.conf', '.cfg', '.yaml', '.yml', '.ini', '.lua', ''])

const places = []
for (const file of git('ls-files')) {
  if (/(^|\/)(API\.md|pnpm-lock\.yaml|LICENSE|results\/.*|dist\/.*)$|\.(json|svg|png|gif)$/.test(file))
    continue
  const text = readFileSync(`${root}${file}`, 'utf8')
  const extension = extname(file)
  if (SCRIPTS.has(extension)) measureScript(file, text)
  else if (extension === '.md') measureProse(file, markdownText(text), { sentences: true })
  else if (HASH_COMMENTS.has(extension)) measureProse(file, hashComments(text), { sentences: true })
}

function git(...args) {
  return execFileSync('git', args, { cwd: root, encoding: 'utf8' }).split('\n').filter(Boolean)
}

function report(file, line, rule, message) {
  places.push({ file, line, rule, message })
}

function measureScript(file, text) {
  const { program, comments } = parseSync(file, text)
  const lineOf = lineIndex(text)
  const isTest = file.includes('/test/')
  if (!isTest && file.includes('/src/') && text.split('\n').length > MAX_FILE_LINES) {
    report(file, 1, 'longFiles', `over ${MAX_FILE_LINES} lines`)
  }
  measureProse(file, commentBlocks(comments, lineOf), { sentences: true })
  const strings = []
  const addString = (start, value) => {
    if (/\S\s+\S+\s+\S/.test(value)) strings.push([lineOf(start), value])
  }
  const measureFunction = (node) => {
    const lines = lineOf(node.end) - lineOf(node.start) + 1
    if (!isTest && lines > MAX_FUNCTION_LINES) {
      report(file, lineOf(node.start), 'longFunctions', `${lines} lines, at most ${MAX_FUNCTION_LINES}`)
    }
    if (node.params.length > MAX_PARAMETERS) {
      report(file, lineOf(node.start), 'parameters', `${node.params.length}, at most ${MAX_PARAMETERS}`)
    }
  }
  const measureMember = (node) => {
    if (node.accessibility === 'private') report(file, lineOf(node.start), 'private', 'use a #private member')
  }
  new Visitor({
    Literal: (node) => typeof node.value === 'string' && addString(node.start, node.value),
    TemplateElement: (node) => addString(node.start, node.value.cooked ?? ''),
    FunctionDeclaration: measureFunction,
    FunctionExpression: measureFunction,
    ArrowFunctionExpression: measureFunction,
    MethodDefinition: measureMember,
    PropertyDefinition: measureMember,
    TSParameterProperty: measureMember,
    MemberExpression: (node) => {
      const reaches =
        node.property.type === 'Identifier' && !node.computed && /^_[a-z]/.test(node.property.name)
      if (reaches && file.includes('/src/') && !file.endsWith('/internals.ts')) {
        report(file, lineOf(node.start), 'internals', `${node.property.name}: only in internals.ts`)
      }
    }
  }).visit(program)
  measureProse(file, strings, { sentences: false })
}

/** Line comments that follow each other are one text, as a sentence runs over their ends. */
function commentBlocks(comments, lineOf) {
  const blocks = []
  let lastLine = -1
  for (const { type, value, start, end } of comments) {
    const line = lineOf(start)
    if (type === 'Line' && line === lastLine + 1 && blocks.length > 0) blocks.at(-1)[1] += ` ${value}`
    else blocks.push([line, value.replace(/^\s*\*+ ?/gm, ' ')])
    lastLine = type === 'Line' ? lineOf(end) : -1
  }
  return blocks
}

function hashComments(text) {
  const blocks = []
  let open = false
  text.split('\n').forEach((line, index) => {
    const comment = /^\s*(?:#|--)\s?(.*)$/.exec(line)?.[1]
    if (comment === undefined) open = false
    else if (open) blocks.at(-1)[1] += ` ${comment}`
    else {
      blocks.push([index + 1, comment])
      open = true
    }
  })
  return blocks
}

/** Paragraphs, list items and table cells, without code. */
function markdownText(text) {
  const blocks = []
  let fenced = false
  let open = false
  text.split('\n').forEach((line, index) => {
    if (/^\s*```/.test(line)) fenced = !fenced
    if (fenced || /^\s*(?:```|$|<)/.test(line)) open = false
    else if (/^\s*\|/.test(line)) {
      for (const cell of line.split(/(?<!\\)\|/)) blocks.push([index + 1, cell])
      open = false
    } else if (open && !/^\s*(?:[-*]|\d+\.|#+) /.test(line)) blocks.at(-1)[1] += ` ${line}`
    else {
      blocks.push([index + 1, line])
      open = true
    }
  })
  return blocks
}

function measureProse(file, blocks, { sentences }) {
  for (const [line, raw] of blocks) {
    const text = raw.replaceAll(/`[^`]*`/g, 'x').replaceAll(/\]\([^)]*\)/g, ']')
    for (const [habit, plain] of HABITS) {
      for (const match of text.matchAll(new RegExp(habit, 'gi'))) {
        report(file, line, 'prose', `"${match[0]}": ${plain}`)
      }
    }
    if (!sentences) continue
    for (const sentence of text.split(/[.!?:;](?:\s|$)|@\w+|\n\s*\n|\s-\s/)) {
      const words = sentence.split(/\s+/).filter((word) => /[\p{L}\d]/u.test(word)).length
      if (words > MAX_SENTENCE_WORDS) {
        report(
          file,
          line,
          'longSentences',
          `${words} words: ${sentence.trim().replaceAll(/\s+/g, ' ').slice(0, 70)} …`
        )
      }
    }
  }
}

function lineIndex(text) {
  const starts = [0]
  for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) starts.push(at + 1)
  return (offset) => {
    let low = 0
    let high = starts.length
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (starts[middle] <= offset) low = middle
      else high = middle
    }
    return low + 1
  }
}

/** `packages/cache`, `examples/demo`, `docker`; everything else is the repository's own. */
function homeOf(file) {
  return /^(?:packages|examples)\/[^/]+(?=\/)|^docker(?=\/)/.exec(file)?.[0] ?? '.'
}

const counts = {}
for (const { file, rule } of places) {
  const home = (counts[homeOf(file)] ??= {})
  home[rule] = (home[rule] ?? 0) + 1
}

const mode = process.argv[2]
if (mode === '--list') {
  const folder = (process.argv[3] ?? '.').replace(/\/+$/, '')
  for (const { file, line, rule, message } of places) {
    if (folder === '.' || file === folder || file.startsWith(`${folder}/`)) {
      console.log(`${file}:${line}: ${rule}: ${message}`)
    }
  }
} else if (mode === '--check' || mode === '--update') {
  const record = JSON.parse(readFileSync(recordFile, 'utf8'))
  const risen = []
  const next = {}
  for (const home of new Set([...Object.keys(record), ...Object.keys(counts)].sort())) {
    for (const rule of new Set(
      [...Object.keys(record[home] ?? {}), ...Object.keys(counts[home] ?? {})].sort()
    )) {
      const limit = record[home]?.[rule] ?? 0
      const count = counts[home]?.[rule] ?? 0
      if (count > limit) risen.push(`${home}: ${rule} rose from ${limit} to ${count}`)
      const kept = Math.min(limit, count)
      if (kept > 0) (next[home] ??= {})[rule] = kept
    }
  }
  if (mode === '--update') writeFileSync(recordFile, `${JSON.stringify(next, undefined, 2)}\n`)
  for (const line of risen) console.error(line)
  if (risen.length > 0) {
    console.error('The places: node .ci/house-rules.mjs --list FOLDER. The rules: .github/CONTRIBUTING.md.')
    process.exitCode = 1
  }
} else {
  console.error('usage: node .ci/house-rules.mjs --check | --update | --list FOLDER')
  process.exitCode = 2
}
