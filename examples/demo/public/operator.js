import { api } from './api.js'
import { byId, log } from './dom.js'

const SAYS = {
  roll: 'you started a rolling restart: each instance drains, ends and starts again',
  'pause-replica': 'you paused the replica: it serves older and older data, so reads move off it',
  'resume-replica': 'the replica replays again',
  'cut-redis': 'you cut Redis off from every instance',
  'restore-redis': 'Redis is reachable again',
  'fail-over': 'you killed the Redis master: Sentinel promotes a replica, and the old one comes back as one'
}
/** Buttons that switch between two actions. */
const PAIRS = { 'pause-replica': 'resume-replica', 'cut-redis': 'restore-redis' }

/** Shows the operator's buttons if a fleet runner stands behind the app, and which faults are in force, whichever tab began them. */
export async function startOperator() {
  const { available, actions = [], inForce = [], balancer } = await api('/api/operator')
  if (balancer) byId('balancer-name').textContent = balancer
  const group = byId('operator')
  group.hidden = !available
  for (const button of group.querySelectorAll('button')) {
    const { action } = button.dataset
    button.hidden = !actions.includes(action)
    if (action in PAIRS) button.setAttribute('aria-pressed', String(inForce.includes(action)))
    button.addEventListener('click', () => press(button))
  }
  return available
}

async function press(button) {
  const { action } = button.dataset
  const pressed = button.getAttribute('aria-pressed')
  const asked = pressed === 'true' ? PAIRS[action] : action
  button.disabled = true
  log(SAYS[asked] ?? asked)
  try {
    await api(`/api/operator/${asked}`, { method: 'POST' })
    if (pressed !== null) button.setAttribute('aria-pressed', String(pressed !== 'true'))
  } catch (error) {
    log(`${asked}: ${error.message}`)
  } finally {
    button.disabled = false
  }
}
