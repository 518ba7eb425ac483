import { api } from './api.js'
import { byId, colourOf, count, log, make, setText } from './dom.js'

const SHOWN = 30
const reads = { replica: 0, primary: 0 }
/** The highest entry that this page has written or been told of: no later read may lack it. */
let known = 0
/** What is being sent, under which key: sent again it is the same entry. */
let draft = { body: '', key: '' }

/** The forms and the feed. `onLogin` runs when somebody logged in or out. */
export function startGuestBook({ onLogin }) {
  byId('login').addEventListener('submit', async (event) => {
    event.preventDefault()
    await guarded(event.target, async () => {
      await api('/api/login', { method: 'POST', body: { name: byId('name').value } })
      await onLogin()
      byId('body').focus()
    })
  })
  byId('post').addEventListener('submit', async (event) => {
    event.preventDefault()
    await guarded(event.target, async () => {
      const body = byId('body').value
      if (body !== draft.body) draft = { body, key: newKey() }
      const post = await api('/api/posts', { method: 'POST', body: draft })
      draft = { body: '', key: '' }
      byId('body').value = ''
      known = Math.max(known, Number(post.id))
      setText(byId('post-note'), await readBack())
    })
  })
  byId('logout').addEventListener('click', async () => {
    await api('/api/logout', { method: 'POST' }).catch((error) => log(error.message))
    await onLogin()
  })
}

async function readBack() {
  try {
    const { database, answeredBy } = await refreshFeed()
    const where = database.role === 'replica' ? 'the replica' : 'the primary'
    return `Written; read back at once from ${where} through ${answeredBy}.`
  } catch (error) {
    return `Written; reading it back failed: ${error.message}.`
  }
}

/** Not randomUUID: a page that came over plain http has none. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join(
    ''
  )

/** Reads the book and checks that nothing this page knows of is missing. */
export async function refreshFeed({ after } = {}) {
  const least = known
  const answer = await api(after ? `/api/posts?after=${encodeURIComponent(after)}` : '/api/posts')
  const newest = Number(answer.posts[0]?.id ?? 0)
  if (newest < least) {
    count('stale')
    log(`stale read: entry ${least} was missing, the newest was ${newest}`)
  }
  known = Math.max(known, newest)
  reads[answer.database.role]++
  drawReads()
  for (const post of answer.posts.toReversed()) show(post)
  return answer
}

/** Shows an entry in its place, once, however often and through whichever socket it came. */
export function show(post, { isNew = false } = {}) {
  known = isNew ? Math.max(known, Number(post.id)) : known
  const feed = byId('feed')
  if (feed.querySelector(`[data-id="${CSS.escape(String(post.id))}"]`)) return
  const time = new Date(post.createdAt).toLocaleTimeString('en-GB')
  const by = post.writtenBy ? ` · written through ${post.writtenBy}` : ''
  const item = make('li', {
    'data-id': post.id,
    class: isNew ? 'new' : '',
    style: post.writtenBy ? `--mine: ${colourOf(post.writtenBy)}` : undefined,
    children: [make('b', { text: post.author }), ` ${post.body}`, make('small', { text: `${time}${by}` })]
  })
  const next = [...feed.children].find((one) => Number(one.dataset.id) < Number(post.id))
  feed.insertBefore(item, next ?? null)
  while (feed.children.length > SHOWN) feed.lastChild.remove()
}

function drawReads() {
  const all = reads.replica + reads.primary
  const share = Math.round((reads.replica / all) * 100)
  const meter = byId('reads')
  if (meter.children.length === 0) meter.append(make('i'), make('i'))
  meter.children[0].style.width = `${share}%`
  meter.children[1].style.width = `${100 - share}%`
  meter.setAttribute('aria-label', `${share} % of ${all} reads were answered by the replica`)
  setText(
    byId('reads-note'),
    `Replica ${reads.replica}, primary ${reads.primary}: after a write, only a server that has it answers.`
  )
}

async function guarded(form, work) {
  const button = form.querySelector('button')
  button.disabled = true
  setText(byId('post-note'), '')
  try {
    await work()
  } catch (error) {
    setText(
      byId('post-note'),
      `That did not work: ${error.message}. Try again: what is sent twice is still one entry.`
    )
    log(error.message)
  } finally {
    button.disabled = false
  }
}
