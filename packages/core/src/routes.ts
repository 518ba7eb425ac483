import type { FastifyInstance } from 'fastify'

/** What Fastify prints before there is any route; should it print something else one day, an app has some. */
const NONE = '(empty tree)'

/** Whether an app has routes already: those that a plugin's `onRoute` never hears of. What they configure Fastify does not tell. */
export function hasRoutes(fastify: FastifyInstance): boolean {
  return fastify.printRoutes() !== NONE
}
