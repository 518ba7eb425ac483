// A registered symbol rather than a WeakSet: two copies of this package in one process must agree.
const kPersonal = Symbol.for('flotilla.personal')

/**
 * Marks a request as answered for one person: its session or identity was read. A shared cache must not
 * store the response (RFC 9111 §3: only what may be reused for other users).
 */
export function markPersonal(request: object): void {
  ;(request as { [kPersonal]?: boolean })[kPersonal] = true
}

/** Whether {@link markPersonal} was called for this request. */
export function isPersonal(request: object): boolean {
  return (request as { [kPersonal]?: boolean })[kPersonal] === true
}
