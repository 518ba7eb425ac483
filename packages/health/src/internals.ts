import type { FastifyInstance } from 'fastify'

/**
 * What this package uses of Fastify beyond its documentation. Fastify carries avvio's documented `onClose(callback)`, whose
 * callbacks run last in, first out, and registers its own, which answers 503 from then on, before the `onReady` hooks. A
 * callback that is added in `onReady` therefore runs while routes still serve.
 */
export function beforeFastifyCloses(fastify: FastifyInstance, callback: () => Promise<void>): void {
  const { onClose } = fastify as unknown as { onClose?: (callback: () => Promise<void>) => void }
  onClose?.call(fastify, callback)
}
