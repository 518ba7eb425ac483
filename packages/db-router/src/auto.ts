import { createRouteClassifier, type RouteClassifier } from './route-classifier.js'

/**
 * For the option `route`: `db.query` sends what is provably a pure SELECT where `db.read.query` goes, and all else to the primary.
 * Statements over PostgreSQL's server-local views, such as `pg_stat_activity`, `pg_locks` and `pg_settings`, stay on the
 * primary.
 */
export function autoRoute(): RouteClassifier {
  return createRouteClassifier()
}
