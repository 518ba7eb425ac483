import { ERR_RESERVED } from '../errors.js'
import { type Inner, kState } from './session-access.js'
import type { Session } from './session.js'

type AnySession = Session<Record<string, unknown>>

const properties: ProxyHandler<AnySession> = {
  get(target, name) {
    if (name === kState) return target[kState]
    if (typeof name === 'symbol' || name in target || name === 'then') return Reflect.get(target, name)
    return target.get(name)
  },
  set(target, name, value) {
    if (name in target || typeof name === 'symbol') throw new ERR_RESERVED(String(name), String(name))
    target.set(name, value)
    return true
  },
  has: (target, name) => name in target || (typeof name === 'string' && target.has(name)),
  deleteProperty(target, name) {
    if (typeof name === 'string' && !(name in target)) target.delete(name)
    return true
  },
  ownKeys: (target) => target.keys(),
  getOwnPropertyDescriptor(target, name) {
    if (typeof name !== 'string' || !target.has(name)) return undefined
    return { value: target.get(name), writable: true, enumerable: true, configurable: true }
  }
}

/** With its data as properties too: `request.session.cart` beside `request.session.get('cart')`. */
export function withProperties<S extends Inner>(session: S): S {
  return new Proxy<S>(session, properties as unknown as ProxyHandler<S>)
}
