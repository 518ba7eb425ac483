import { describeIssues, type StandardSchema } from '@flotilla/core'
import { Refusal } from './refusal.js'

/** A schema of any library that implements Standard Schema (https://standardschema.dev); `Output` is what it makes of the data. */
export type Schema<Output = unknown> = StandardSchema<unknown, Output>

/** What a client reads about data that does not fit, at most this many characters. */
const MAX_MESSAGE = 500

export function isSchema(value: unknown): value is Schema {
  const standard = (value as Partial<Schema> | null | undefined)?.['~standard']
  return typeof standard?.validate === 'function'
}

/**
 * The data as the schema has it.
 *
 * @throws Refusal `invalid_data` with the first issues
 */
export async function validate<Output>(schema: Schema<Output>, data: unknown): Promise<Output> {
  const result = await schema['~standard'].validate(data)
  if (!result.issues) return result.value
  const message = describeIssues(result.issues)
  throw new Refusal('invalid_data', message.slice(0, MAX_MESSAGE) || 'The data does not fit the schema')
}
