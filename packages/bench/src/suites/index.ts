import type { Suite } from '../harness/suite.js'
import cache from './cache.js'
import db from './db.js'
import health from './health.js'
import session from './session.js'
import ws from './ws.js'

export const suites: readonly Suite[] = [session, cache, ws, db, health]
