import { api } from './api.js'
import { byId, make, setText } from './dom.js'

let asked = 0
let computations = 0
let last

/** The ranking as the cache has it, and how seldom it was computed. */
export async function refreshRanking() {
  const ranking = await api('/api/ranking')
  asked++
  if (last !== ranking.computation) computations++
  last = ranking.computation
  byId('ranking').replaceChildren(
    ...ranking.writers.map(({ author, posts }) =>
      make('li', { children: [make('span', { text: author }), make('b', { text: String(posts) })] })
    )
  )
  const from = ranking.fromMemory ? 'memory' : 'Redis'
  setText(
    byId('ranking-note'),
    `Asked ${asked} times, computed ${computations}; last by ${ranking.computedBy}, just now from ${from} of ${ranking.answeredBy}.`
  )
}
