/** Runs what is queued under one key one after another, so that this process does not race with itself. */
export interface KeyedQueue {
  run<T>(key: string, task: () => Promise<T>): Promise<T>
}

export function createKeyedQueue(): KeyedQueue {
  const tails = new Map<string, Promise<unknown>>()
  return {
    async run(key, task) {
      const previous = tails.get(key)
      const current = previous ? previous.then(task, task) : task()
      tails.set(key, current)
      try {
        return await current
      } finally {
        if (tails.get(key) === current) tails.delete(key)
      }
    }
  }
}
