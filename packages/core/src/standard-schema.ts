/**
 * A schema of any library that implements Standard Schema, version 1 (https://standardschema.dev), such as Zod, Valibot or ArkType.
 * `Output` is what the schema makes of the data.
 */
export interface StandardSchema<Input = unknown, Output = Input> {
  /** What the library provides. */
  readonly '~standard': {
    /** Of Standard Schema. */
    readonly version: 1
    /** The library. */
    readonly vendor: string
    /** Checks a value, and may change it. */
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    /** For types only. */
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

/** What a schema says of one value: the value, or what is wrong with it. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }

/** One thing that is wrong with a value. */
export interface SchemaIssue {
  /** For people. */
  readonly message: string
  /** Where in the value, from the outside in. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** Issues that a description names. */
const MAX_ISSUES = 5

/** The first issues, each with its place. */
export function describeIssues(issues: readonly SchemaIssue[]): string {
  return issues.slice(0, MAX_ISSUES).map(describe).join('; ')
}

function describe({ message, path = [] }: SchemaIssue): string {
  const at = path.map((part) => String(typeof part === 'object' ? part.key : part)).join('.')
  return at === '' ? message : `${at}: ${message}`
}
