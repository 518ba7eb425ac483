import { serveSubjects } from '../harness/subject.js'
import { drizzleOrm } from './db/drizzle-orm.js'
import { fastifyPostgres } from './db/fastify-postgres.js'
import { flotilla, flotillaWithoutTokens } from './db/flotilla.js'
import { floor } from './db/floor.js'
import { sequelize } from './db/sequelize.js'
import { serve } from './db/serve.js'
import { typeorm } from './db/typeorm.js'

serveSubjects({
  flotilla: serve(flotilla),
  'flotilla-without-tokens': serve(flotillaWithoutTokens),
  floor: serve(floor),
  'drizzle-orm': serve(drizzleOrm),
  sequelize: serve(sequelize),
  typeorm: serve(typeorm),
  'fastify-postgres': serve(fastifyPostgres)
})
