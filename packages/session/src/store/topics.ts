/** Topic of revocations on the fleet bus: `{ refs: string[], userId?: string }`. */
export const REVOKED = 'session.revoked'
/** Topic of changes, published with `local`: `{ refs: string[] }`. */
export const CHANGED = 'session.changed'
