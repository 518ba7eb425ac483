/**
 * An opaque string that names a point in the database's history. `@flotilla/db-router` issues and checks
 * it; caches, broadcasts and jobs only carry it, so that the next read sees no older state.
 */
export type ConsistencyToken = string
