import { types } from 'node:util'

/**
 * Throws for a value of which JSON would keep nothing or something else, naming the place: `a Map at 'roles'`.
 *
 * Objects that have a form in JSON by themselves (`toJSON`: Date, Decimal, documents of an ORM) are theirs to answer for.
 * Does not end for a circle: call it after `JSON.stringify`, which refuses these.
 *
 * @throws TypeError
 */
export function refuseLoss(value: unknown): void {
  const path: string[] = []
  const lost = findLoss(value, path)
  if (lost === undefined) return
  const place = path.length === 0 ? '' : ` at '${path.toReversed().join('.')}'`
  throw new TypeError(`JSON cannot carry ${lost}${place}, and codec 'msgpack' can`)
}

/** @param path is given the keys that lead to it, the last one first */
function findLoss(value: unknown, path: string[]): string | undefined {
  if (typeof value === 'bigint') return 'toJSON' in BigInt.prototype ? undefined : 'a BigInt'
  if (typeof value !== 'object' || value === null) return undefined
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) {
    const lost = nameOfLost(value)
    if (lost !== undefined) return lost
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return undefined
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const lost = findLoss(value[i], path)
      if (lost !== undefined) return (path.push(String(i)), lost)
    }
    return undefined
  }
  for (const key of Object.keys(value)) {
    const lost = findLoss((value as Record<string, unknown>)[key], path)
    if (lost !== undefined) return (path.push(key), lost)
  }
  return undefined
}

function nameOfLost(value: object): string | undefined {
  // A Buffer has a form in JSON, but does not come back as one.
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name}`
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return undefined
  if (types.isMap(value)) return 'a Map'
  if (types.isSet(value)) return 'a Set'
  if (types.isNativeError(value) || value instanceof Error) return 'an Error'
  if (types.isRegExp(value)) return 'a RegExp'
  if (types.isAnyArrayBuffer(value)) return 'an ArrayBuffer'
  if (types.isPromise(value)) return 'a Promise (await it first)'
  return undefined
}
