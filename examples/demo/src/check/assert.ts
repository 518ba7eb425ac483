/** Something that had to hold did not. */
export class Broken extends Error {
  override name = 'Broken'
}

export function assert(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new Broken(otherwise)
}
