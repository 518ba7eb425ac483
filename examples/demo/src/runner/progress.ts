/** Says what is being started and how long it took, a line each; on a terminal the line is redrawn. */
export async function step<T>(name: string, work: () => Promise<T>): Promise<T> {
  const terminal = process.stdout.isTTY
  const begin = performance.now()
  if (terminal) process.stdout.write(`  … ${name}`)
  const end = (sign: string): void => {
    const seconds = ((performance.now() - begin) / 1_000).toFixed(1)
    process.stdout.write(`${terminal ? '\r\u001b[K' : ''}  ${sign} ${name} (${seconds} s)\n`)
  }
  try {
    const result = await work()
    end('✓')
    return result
  } catch (error) {
    end('✗')
    throw error
  }
}
