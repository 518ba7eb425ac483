import type { Lsn } from './lsn.js'

/** What a read must have seen, in terms of the cluster as it is now. */
export type Requirement = { readonly timeline: number; readonly lsn: Lsn } | 'primary' | undefined
