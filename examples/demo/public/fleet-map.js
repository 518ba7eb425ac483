import { api, onAnswer } from './api.js'
import { byId, colourOf, count, knownInstances, log, make, setText } from './dom.js'

const TRAIL = 90
let previous = new Map()
let canKill = false
let drawnAt = 0
/** The map is drawn every 1.5 s; older than this it is history, in milliseconds. */
const MAP_LIFE = 3_000

/** Draws the map and keeps it true; `canOperate` adds the buttons that need a fleet runner behind the app. */
export function startFleetMap({ canOperate }) {
  canKill = canOperate
  onAnswer(({ ok, instance }) => {
    count(ok ? 'answered' : 'failed')
    step(instance, ok)
    flash(instance)
  })
}

export async function refreshFleet() {
  let fleet
  try {
    fleet = await api('/api/fleet')
  } catch (error) {
    drawAge()
    throw error
  }
  drawnAt = Date.now()
  drawAge()
  drawInstances(fleet.instances)
  drawStores(fleet)
  drawPresent(fleet.present)
  drawDegraded(fleet.redis.connected)
  return fleet
}

/** A map without a fresh answer must not look like the present. */
function drawAge() {
  const old = drawnAt > 0 && Date.now() - drawnAt > MAP_LIFE
  byId('map').classList.toggle('old', old)
  const time = new Date(drawnAt).toLocaleTimeString('en-GB')
  setText(byId('map-note'), old ? `No answer about the fleet: this is how it was at ${time}.` : '')
}

/** What works and what does not, while Redis is away. */
function drawDegraded(connected) {
  setText(
    byId('degraded'),
    connected
      ? ''
      : 'Degraded: Redis is away. The page, the fleet and the book can be read; sessions, posts and live messages wait for it.'
  )
}

function drawInstances(instances) {
  const list = byId('instances')
  const now = new Map(instances.map((one) => [one.name, one]))
  for (const [name, was] of previous) {
    if (!now.has(name)) log(`${name} left the fleet`)
    else if (now.get(name).state !== was.state) log(`${name} is ${now.get(name).state}`)
    else if (now.get(name).uptime < was.uptime) log(`${name} started anew`)
  }
  if (previous.size > 0)
    for (const name of now.keys()) if (!previous.has(name)) log(`${name} joined the fleet`)
  // Those that are gone stay on the map, dashed: an operator looks for what is missing.
  const shown = [...now.values()]
  for (const [name] of knownInstances()) if (!now.has(name)) shown.push({ name, state: 'gone' })
  shown.sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const one of shown) drawInstance(list, one)
  previous = now
  byId('trail-legend').replaceChildren(
    ...knownInstances()
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, colour]) => make('b', { text: name, style: `--mine: ${colour}` }))
  )
}

function drawInstance(list, { name, state, version, load, connections }) {
  let node = list.querySelector(`[data-name="${CSS.escape(name)}"]`)
  if (!node) {
    node = make('li', { class: 'node instance', 'data-name': name, style: `--mine: ${colourOf(name)}` })
    const bar = make('span', { class: 'bar', 'aria-hidden': 'true', children: [make('i')] })
    node.append(
      make('strong', { text: name }),
      make('span', {
        class: 'state',
        children: [make('span', { class: 'dot' }), make('span', { class: 'word' })]
      }),
      make('span', { class: 'more' }),
      bar
    )
    if (canKill) {
      const button = make('button', {
        type: 'button',
        class: 'small',
        text: 'Kill',
        'aria-label': `Kill ${name}`
      })
      button.addEventListener('click', () => kill(name, button))
      node.append(button)
    }
    list.append(node)
  }
  node.dataset.state = state
  setText(node.querySelector('.word'), state)
  const busy = Math.round((load ?? 0) * 100)
  setText(
    node.querySelector('.more'),
    state === 'gone'
      ? 'no heartbeat'
      : `version ${version} · ${connections} ${connections === 1 ? 'connection' : 'connections'} · ${busy} % busy`
  )
  node.querySelector('.bar i').style.width = `${Math.min(100, busy)}%`
  const button = node.querySelector('button')
  if (button) button.disabled = state === 'gone'
}

async function kill(name, button) {
  button.disabled = true
  log(`you killed ${name} (SIGKILL)`)
  try {
    await api(`/api/operator/kill?instance=${encodeURIComponent(name)}`, { method: 'POST' })
  } catch (error) {
    log(`kill: ${error.message}`)
  }
}

function drawStores({ redis, databases }) {
  const nodes = [
    store(
      'redis',
      'Redis',
      redis.connected ? 'ready' : 'down',
      redis.connected ? 'sessions, cache, bus' : 'away'
    ),
    ...databases.map(({ name, role, state, lagMs, inFlight }) =>
      store(
        `db-${name}`,
        role === 'replica' ? 'PostgreSQL replica' : 'PostgreSQL primary',
        state,
        role === 'replica' ? `${lagText(lagMs)} · ${inFlight} in flight` : `${inFlight} in flight`
      )
    )
  ]
  const list = byId('stores')
  for (const one of nodes) {
    const old = list.querySelector(`[data-name="${CSS.escape(one.dataset.name)}"]`)
    if (old) old.replaceWith(one)
    else list.append(one)
  }
}

function store(name, title, state, more) {
  return make('li', {
    class: 'node',
    'data-name': name,
    'data-state': state,
    children: [
      make('strong', { text: title }),
      make('span', {
        class: 'state',
        children: [make('span', { class: 'dot' }), make('span', { text: state })]
      }),
      make('span', { text: more })
    ]
  })
}

const lagText = (ms) =>
  ms === null ? 'lag unknown' : ms < 1_000 ? `lag ${Math.round(ms)} ms` : `lag ${(ms / 1_000).toFixed(1)} s`

function drawPresent(present) {
  const names = [...new Set(present)]
  const text =
    names.length === 0 ? '' : `Here now: ${names.slice(0, 8).join(', ')}${names.length > 8 ? ' …' : ''}`
  setText(byId('present'), text)
}

function step(instance, ok) {
  const trail = byId('trail')
  trail.append(make('i', { style: `--mine: ${colourOf(instance)}`, class: ok ? '' : 'failed' }))
  while (trail.children.length > TRAIL) trail.firstChild.remove()
}

function flash(instance) {
  const served = document.querySelector(`.node[data-name="${CSS.escape(instance)}"]`)
  if (!served) return
  served.classList.remove('served')
  // Reading a layout property restarts the animation.
  void served.offsetWidth
  served.classList.add('served')
}
