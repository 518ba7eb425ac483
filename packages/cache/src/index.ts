export { default, flotillaCache } from './plugin.js'
export type { Loaded, LoadMissing } from './batch.js'
export { Cache, type NamespaceOptions } from './cache.js'
export type { Codec } from './codec.js'
export type { GetOrSetOptions } from './engine.js'
export type { ExplainedCopy, ExplainedLease, Explanation } from './explain.js'
export type { Factory, FactoryContext } from './factory.js'
export type { InvalidateOptions } from './invalidate-options.js'
export type { HttpOptions } from './http/options.js'
export type { RouteCacheOptions } from './http/route.js'
export type { CacheOptions, EntryOptions } from './options.js'
export type { CacheStats } from './stats.js'
export type { SetEntry, SetOptions } from './writer.js'
export {
  ClosedError,
  CorruptEntryError,
  DeadlockError,
  FactoryTimeoutError,
  FactoryTypeError,
  KeyError,
  LoadedError,
  NoStaleError,
  OptionsError,
  RefusedError,
  RegisteredTwiceError,
  ReplicasError,
  TagsError,
  TtlError,
  UnavailableError,
  ValueError
} from './errors.js'
