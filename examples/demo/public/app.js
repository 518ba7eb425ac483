import { log } from './dom.js'
import { refreshFleet, startFleetMap } from './fleet-map.js'
import { refreshFeed, show, startGuestBook } from './guest-book.js'
import { expectMessages, startLive } from './live.js'
import { startOperator } from './operator.js'
import { refreshRanking } from './ranking-card.js'
import { refreshSession } from './session-card.js'

/** Runs `work` again and again, a while after it has ended, and less often if the page is hidden. */
function every(ms, work) {
  const turn = async () => {
    try {
      await work()
    } catch (error) {
      complain(error)
    }
    setTimeout(turn, document.hidden ? ms * 5 : ms)
  }
  void turn()
}

let lastComplaint = ''
function complain(error) {
  // The same trouble every second is one piece of news.
  if (error.message === lastComplaint) return
  lastComplaint = error.message
  log(error.message)
  setTimeout(() => (lastComplaint = ''), 5_000)
}

let refetch
/** A message carries the place of its write in the database's history: what is read next is at least that new. */
function onPost({ data, token }) {
  show(data, { isNew: true })
  clearTimeout(refetch)
  refetch = setTimeout(() => readBook(token), 400)
}

async function readBook(after) {
  try {
    const { posts } = await refreshFeed({ after })
    expectMessages(posts)
  } catch (error) {
    complain(error)
  }
}

const live = () => startLive({ onPost, onStale: () => readBook() })

async function onLogin() {
  await refreshSession()
  live()
}

// First, since it asks nobody: a form that is sent before would load the page again.
startGuestBook({ onLogin })
startFleetMap({ canOperate: await startOperator().catch(() => false) })
live()
every(1_500, refreshFleet)
every(2_500, refreshSession)
every(3_000, () => readBook())
every(2_000, refreshRanking)
