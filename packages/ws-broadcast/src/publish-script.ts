import { defineScript } from '@flotilla/redis'
import { publishLua } from './lua/publish.js'
import { publishOnceLua } from './lua/publish-once.js'

export type PublishReply = [offset: string, epoch: string, duplicate: number]

export const publishScript = defineScript<PublishReply>({ name: 'ws-publish', keys: 3, lua: publishLua })

/** Replies 1 where the idempotency key had been used. */
export const publishOnceScript = defineScript<number>({
  name: 'ws-publish-once',
  keys: 1,
  lua: publishOnceLua
})
