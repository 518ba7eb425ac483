import type { FastifyInstance } from 'fastify'

const RANKING = `
  SELECT author, count(*)::int AS posts FROM posts GROUP BY author ORDER BY posts DESC, author LIMIT 5`

export interface Ranking {
  writers: { author: string; posts: number }[]
  /** The instance that computed it, for the whole fleet. */
  computedBy: string
  computedAt: string
  /** How many times the fleet has computed it since Redis started. */
  computation: number
}

/** Who wrote most: expensive to know, so it is computed once for the fleet and dropped when a post comes in. */
export async function ranking(app: FastifyInstance): Promise<void> {
  app.get('/api/ranking', async (): Promise<Ranking & { answeredBy: string; fromMemory: boolean }> => {
    const fromMemory = app.cache.peek('ranking') !== undefined
    const found = await app.cache.getOrSet<Ranking>('ranking', async ({ after }) => compute(app, after), {
      ttl: '1m',
      tags: ['posts']
    })
    return { ...found, answeredBy: app.health.instance, fromMemory }
  })

  // The same knowledge as a whole response: stored, validated and purged by the tag that the data carries.
  app.get('/api/front-page', { config: { cache: { ttl: '1m', tags: ['posts'] } } }, async (request) =>
    compute(app, request.cacheFill?.after)
  )
}

/** @param after the place of the write that dropped the last ranking: an older one must not take its place */
async function compute(app: FastifyInstance, after?: string): Promise<Ranking> {
  const { rows } = await app.db.read.after(after).query<Ranking['writers'][number]>(RANKING)
  return {
    writers: rows,
    computedBy: app.health.instance,
    computedAt: new Date().toISOString(),
    computation: await app.redis.incr('demo:computations')
  }
}
