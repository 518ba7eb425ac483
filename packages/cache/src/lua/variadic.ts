import { defineScript, type RedisScript, type ScriptDefinition } from '@flotilla/redis'

/** A script whose number of keys depends on the call: one definition for each number, the same text and SHA. */
export function variadic<Reply>(
  definition: Omit<ScriptDefinition, 'keys'>
): (keys: number) => RedisScript<Reply> {
  const known: RedisScript<Reply>[] = []
  return (keys) => (known[keys] ??= defineScript<Reply>({ ...definition, keys }))
}
