import { api } from './api.js'
import { byId, log, make, setText } from './dom.js'

let shown = ''

/** Who you are, as whichever instance answered knows it. Returns the visitor's name, if logged in. */
export async function refreshSession() {
  const me = await api('/api/me')
  const loggedIn = me.name !== null
  byId('login').hidden = loggedIn
  byId('post').hidden = !loggedIn
  byId('logout').hidden = !loggedIn
  setText(byId('you'), loggedIn ? me.name : 'not logged in')
  const form = JSON.stringify([me.name, me.devices?.map(({ ref }) => ref), me.ref])
  if (form !== shown) {
    shown = form
    draw(me)
  }
  if (loggedIn) {
    setText(byId('made-on'), me.madeOn)
    setText(byId('read-on'), me.answeredBy)
    setText(byId('visits'), String(me.visits))
  }
  return me.name
}

function draw(me) {
  const card = byId('session')
  if (me.name === null) {
    card.replaceChildren(make('p', { class: 'quiet', text: 'Log in: any instance will know you.' }))
    return
  }
  const fact = (title, id) => [make('dt', { text: title }), make('dd', { id })]
  const devices = make('ul', {
    class: 'devices',
    'aria-label': 'Your sessions',
    children: me.devices.map((device) => deviceItem(device, device.ref === me.ref))
  })
  card.replaceChildren(
    make('dl', {
      class: 'facts',
      children: [
        ...fact('made on', 'made-on'),
        ...fact('last read on', 'read-on'),
        ...fact('times read', 'visits')
      ]
    }),
    devices
  )
}

function deviceItem(device, current) {
  const label = current ? 'this browser' : (device.label ?? 'another browser')
  const item = make('li', { children: [make('span', { text: label, title: label })] })
  if (!current) {
    const button = make('button', {
      type: 'button',
      class: 'small',
      text: 'Revoke',
      'aria-label': `Revoke ${label}`
    })
    button.addEventListener('click', async () => {
      button.disabled = true
      await api(`/api/sessions/${encodeURIComponent(device.ref)}`, { method: 'DELETE' }).catch((error) =>
        log(error.message)
      )
      log('a session was revoked: its sockets close on every instance')
      await refreshSession()
    })
    item.append(button)
  }
  return item
}
