/** Names for models that stay while the model behind them changes: usable wherever a request names a `model`. */
import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

/** Neither a tuned model (`ft:…`) nor a path; what a backend serves under the same name wins, so such a name is refused at creation. */
export const AliasName = z
  .string()
  .check(
    z.maxLength(LIMITS.aliases.maxNameChars),
    z.regex(/^[a-z0-9][a-z0-9._-]*$/, 'lower-case letters, digits, ".", "_" or "-", the first a letter or digit'),
  );

const ModelName = z.string().check(z.minLength(1), z.maxLength(LIMITS.request.maxModelChars));
const Why = z.string().check(z.minLength(1), z.maxLength(LIMITS.aliases.maxReasonChars));
const Description = z.string().check(z.maxLength(LIMITS.aliases.maxReasonChars));

/** `POST /v1/aliases`. */
export const CreateAliasRequest = z.strictObject({
  name: AliasName,
  model: ModelName,
  description: z.optional(z.nullable(Description)),
});
export type CreateAliasRequest = z.infer<typeof CreateAliasRequest>;

/** `POST /v1/aliases/{name}`: what it is for. Its model changes by `promote` and `rollback` only, so that every change has its entry. */
export const UpdateAliasRequest = z.strictObject({ description: z.nullable(Description) });
export type UpdateAliasRequest = z.infer<typeof UpdateAliasRequest>;

/** `POST /v1/aliases/{name}/promote`. */
export const PromoteAliasRequest = z.strictObject({ model: ModelName, reason: z.optional(Why) });
export type PromoteAliasRequest = z.infer<typeof PromoteAliasRequest>;

/** `POST /v1/aliases/{name}/rollback`. */
export const RollbackAliasRequest = z.strictObject({ reason: z.optional(Why) });
export type RollbackAliasRequest = z.infer<typeof RollbackAliasRequest>;

export const Alias = z.object({
  /** The name. */
  id: z.string(),
  object: z.literal('alias'),
  model: z.string(),
  /** Rises by one with every change of the model. */
  version: z.int(),
  /** What a rollback would bring back, or null. */
  previous_model: z.nullable(z.string()),
  description: z.nullable(z.string()),
  created_at: z.int(),
  updated_at: z.int(),
});
export type Alias = z.infer<typeof Alias>;

/** Paired comparison of two models on the same held-out examples; what a gate decides by. */
export const Comparison = z.object({
  current: z.string(),
  candidate: z.string(),
  examples: z.int(),
  current_right: z.int(),
  candidate_right: z.int(),
  only_current: z.int(),
  only_candidate: z.int(),
  /** Accuracy of the candidate less that of the current model. */
  difference: z.number(),
  /** Groups of questions that depend on each other; as many as examples where none do. Absent from comparisons of earlier versions. */
  groups: z.optional(z.int()),
  /** The smallest difference that so many questions show four times of five; null where it cannot be said. */
  detectable_difference: z.optional(z.nullable(z.number())),
  /** Of the difference, at `confidence`: Newcombe's hybrid score interval for paired proportions (1998, method 10) with Student's t; where examples are grouped, clustered. */
  interval: z.tuple([z.number(), z.number()]),
  confidence: z.number(),
  /** Exact two-sided McNemar test. */
  p_value: z.number(),
});
export type Comparison = z.infer<typeof Comparison>;

/** An entry of an alias's history. */
export const AliasChange = z.object({
  id: z.string(),
  object: z.literal('alias.change'),
  alias: z.string(),
  version: z.int(),
  kind: z.enum(['created', 'promoted', 'rolled_back']),
  model: z.string(),
  /** What it was before; null at the creation. */
  was: z.nullable(z.string()),
  created_at: z.int(),
  /** `key_…`, or `system` for a schedule's gate. */
  by: z.string(),
  reason: z.nullable(z.string()),
  /** The schedule's run that promoted it, and the numbers it decided by. */
  schedule_run: z.nullable(z.string()),
  comparison: z.nullable(Comparison),
});
export type AliasChange = z.infer<typeof AliasChange>;
