import { detail, ERR_INVALID_DATA } from '../errors.js'
import type { SessionFields } from '../store/session-fields.js'
import type { Changes } from '../store/session-store.js'

/** The part of the Standard Schema interface (https://standardschema.dev, version 1) that is used here. */
export interface StandardSchema<Input = unknown, Output = Input> {
  /** The name is the standard's. */
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

/** A value, or what is wrong with it. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }

/** One thing that is wrong. */
export interface SchemaIssue {
  /** For a human. */
  readonly message: string
  /** The place of the mistake, from the outside in. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** The data type that a schema describes, for `Session<SessionDataOf<typeof schema>>`. */
export type SessionDataOf<Schema extends StandardSchema> = NonNullable<Schema['~standard']['types']>['output']

/**
 * @returns the schema's output
 * @throws FLOTILLA_SESSION_ERR_INVALID_DATA whose cause names the first paths that are wrong
 */
export async function validate(schema: StandardSchema, data: unknown): Promise<Record<string, unknown>> {
  const result = await schema['~standard'].validate(data)
  if (result.issues) throw new ERR_INVALID_DATA(detail(result.issues.slice(0, 5).map(describe).join('; ')))
  return result.value as Record<string, unknown>
}

/**
 * What has to hold before anything of these changes is written.
 * @throws FLOTILLA_SESSION_ERR_TOO_LARGE, FLOTILLA_SESSION_ERR_INVALID_DATA
 */
export async function assertStorable(
  fields: SessionFields,
  changes: Changes,
  { maxSize, schema }: { readonly maxSize: number; readonly schema: StandardSchema | undefined }
): Promise<void> {
  fields.assertSize(changes, maxSize)
  if (schema) await validate(schema, fields.preview(changes))
}

function describe({ message, path }: SchemaIssue): string {
  const at = (path ?? []).map((part) => String(typeof part === 'object' ? part.key : part)).join('.')
  return at ? `${at}: ${message}` : message
}
