/** Shorthand for getElementById. */
export const byId = (id) => document.getElementById(id)

/** Makes an element. Text is always set as text: what visitors write is never markup. */
export function make(tag, { text, children = [], ...attributes } = {}) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue
    element.setAttribute(name, value === true ? '' : String(value))
  }
  if (text !== undefined) element.textContent = text
  element.append(...children)
  return element
}

/** Replaces text only when it changed, so that a screen reader is not told the same thing every second. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** One colour per instance, in the order they were first seen. */
const colours = new Map()
export function colourOf(instance) {
  if (!instance) return ''
  if (!colours.has(instance)) colours.set(instance, `var(--i${colours.size % 6})`)
  return colours.get(instance)
}
export const knownInstances = () => [...colours]

export function log(text) {
  const list = byId('log')
  const time = new Date().toLocaleTimeString('en-GB')
  list.prepend(make('li', { children: [make('time', { text: time }), text] }))
  while (list.children.length > 60) list.lastChild.remove()
}

const counts = {}
/** Adds to one of the counters at the top. */
export function count(name, by = 1) {
  counts[name] = (counts[name] ?? 0) + by
  const element = byId(`n-${name}`)
  element.textContent = counts[name].toLocaleString('en-US')
  if ('goodAtZero' in element.dataset) element.classList.toggle('bad', counts[name] > 0)
}
