/** Two runs of evaluations, compared by a backend, on the inner wire. Not public: names are camelCase. */
import * as z from 'zod/mini';

const Side = z.object({
  /** The run, whose items the backend fetches. */
  run: z.string(),
  /** Its name; null where it has none. */
  name: z.nullable(z.string()),
  model: z.object({ name: z.string(), identity: z.string() }),
  /** What its report says that was run. */
  spec: z.looseObject({ task: z.string() }),
  /** Criteria of one's own judged the items; else a benchmark's score did. */
  isOwn: z.boolean(),
});

/** `POST /v1/compare-runs` of a backend. The second is shown by what it does otherwise than the first. */
export const EvalCompareRequest = z.object({
  first: Side,
  second: Side,
  title: z.string(),
  /** Compare what they share although they did different things. */
  force: z.boolean(),
  format: z.enum(['html', 'json']),
});
export type EvalCompareRequest = z.infer<typeof EvalCompareRequest>;
