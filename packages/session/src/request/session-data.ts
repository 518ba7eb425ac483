/**
 * The data of a session, for augmentation:
 * ```ts
 * declare module '@flotilla/session' { interface SessionData { cart: Item[] } }
 * ```
 */
// oxlint-disable-next-line typescript/no-empty-object-type -- empty until a user adds to it
export interface SessionData {}

/** The keys of the data: any string until {@link SessionData} is augmented. */
export type SessionKey<Data> = [keyof Data] extends [never] ? string : keyof Data & string
/** The type of one value: `unknown` until {@link SessionData} is augmented. */
export type SessionValue<Data, Key> = Key extends keyof Data ? Data[Key] : unknown
/** All data: any record until {@link SessionData} is augmented. */
export type SessionValues<Data> = [keyof Data] extends [never] ? Record<string, unknown> : Partial<Data>
