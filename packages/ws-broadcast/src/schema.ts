import { Refusal } from './refusal.js'

/**
 * A schema of any library that implements Standard Schema (https://standardschema.dev), such as Zod, Valibot or ArkType. `Output`
 * is what the schema makes of the data.
 */
export interface Schema<Output = unknown> {
  /** What the library provides. */
  readonly '~standard': {
    /** Of Standard Schema. */
    readonly version: 1
    /** The library. */
    readonly vendor: string
    /** Checks a value, and may change it. */
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    /** For types only. */
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined
  }
}

/** What a schema says of one value. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }

/** One thing that is wrong with a value. */
export interface SchemaIssue {
  /** For people. */
  readonly message: string
  /** Where in the value. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** What a client reads about data that does not fit, at most this many characters. */
const MAX_MESSAGE = 500
/** Issues in that message. */
const MAX_ISSUES = 5

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
  const message = result.issues.slice(0, MAX_ISSUES).map(describe).join('; ')
  throw new Refusal('invalid_data', message.slice(0, MAX_MESSAGE) || 'The data does not fit the schema')
}

function describe({ message, path = [] }: SchemaIssue): string {
  const keys = path.map((part) => String(typeof part === 'object' ? part.key : part))
  return keys.length === 0 ? message : `${keys.join('.')}: ${message}`
}
