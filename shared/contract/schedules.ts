/** Schedules: fine-tuning jobs that start by themselves, on a condition, and end in a gate. */
import * as z from 'zod/mini';
import { AliasName, Comparison } from './aliases.ts';
import { CreateJobRequest, JobError } from './jobs.ts';
import { LIMITS } from './limits.ts';

const S = LIMITS.schedules;

/** What must be true of the training data for a slot to train; otherwise the run is recorded as skipped. */
export const ScheduleCondition = z.discriminatedUnion('type', [
  /** So many examples came since the last run that trained (all of them count before the first). */
  z.strictObject({ type: z.literal('new_examples'), at_least: z.int().check(z.minimum(1)) }),
  /** The data differ, by their digest, from those of the last run that trained. */
  z.strictObject({ type: z.literal('dataset_changed') }),
]);
export type ScheduleCondition = z.infer<typeof ScheduleCondition>;

/**
 * What happens when a slot comes while an earlier run goes on. `skip`: the slot is recorded as skipped. `queue`: one run waits, further ones are
 * skipped. `allow`: they run beside each other.
 */
export const OverlapPolicy = z.enum(['skip', 'queue', 'allow']);
export type OverlapPolicy = z.infer<typeof OverlapPolicy>;

/**
 * What happens to slots that passed while the installation was down. `run_once`: one run for all of them. `skip`: none; they are recorded. `run_all`:
 * one run each, the newest 24 at most, one after another.
 */
export const MisfirePolicy = z.enum(['run_once', 'skip', 'run_all']);
export type MisfirePolicy = z.infer<typeof MisfirePolicy>;

/**
 * Paired test of the new model against the alias's current one (against the base model where the alias is new), by exact answers to held-out examples.
 * Promoted where the interval's lower bound is at least −`margin` and the difference at least `min_difference`; else the alias keeps its model.
 */
export const Gate = z.strictObject({
  /** File or dataset; the last assistant turn of an example is the answer that counts. */
  held_out_file: z.string().check(z.minLength(1)),
  /** Share of answers by which the new model may be worse at the lower bound of the interval. 0: it must be shown to be better. Default 0.05. */
  margin: z.optional(z.number().check(z.minimum(0), z.maximum(1))),
  /** Least difference in accuracy. Default 0: at least as good on these examples. */
  min_difference: z.optional(z.number().check(z.minimum(-1), z.maximum(1))),
  /** Of the interval. Default 0.95. */
  confidence: z.optional(z.number().check(z.minimum(0.5), z.maximum(0.999))),
  /** The first so many examples are asked. Default: all, up to the limit. */
  max_examples: z.optional(z.int().check(z.minimum(1), z.maximum(S.maxGateExamples))),
  /** Answers to choose from: the most likely of them counts as the answer. Default: the answer is generated, greedily. */
  options: z.optional(
    z.array(z.string().check(z.minLength(1))).check(z.minLength(2), z.maxLength(LIMITS.request.maxOptions)),
  ),
  /** Orders of its pictures in which each question is asked, the given one first; for questions whose answer does not depend on it. Default 1. */
  image_orders: z.optional(z.int().check(z.minimum(1), z.maximum(LIMITS.jobs.maxImageOrders))),
});
export type Gate = z.infer<typeof Gate>;

const Cron = z.string().check(z.minLength(1), z.maxLength(S.maxCronChars));
const Zone = z.string().check(z.minLength(1), z.maxLength(64));
const Metadata = z.record(z.string().check(z.maxLength(64)), z.string().check(z.maxLength(512)));

const settings = {
  /** Five fields (minute hour day month weekday) or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. */
  cron: z.optional(Cron),
  /** IANA name in which `cron` is read, `Europe/Berlin`. Default `UTC`. */
  time_zone: z.optional(Zone),
  /** Instead of `cron`: once, Unix seconds. */
  at: z.optional(z.int().check(z.minimum(1))),
  /** What each run creates; `training_file` may be a dataset, which may grow. */
  job: CreateJobRequest,
  condition: z.optional(z.nullable(ScheduleCondition)),
  /** Default `skip`. */
  overlap: z.optional(OverlapPolicy),
  /** Default `run_once`. */
  misfire: z.optional(MisfirePolicy),
  /** Models of its newest runs that are kept; older ones are deleted with their checkpoints, except what an alias needs. Default: all. */
  keep_models: z.optional(z.nullable(z.int().check(z.minimum(1), z.maximum(S.maxKeptModels)))),
  /** Name that the new model gets: at once, or through the gate. It is created by the first promotion. */
  alias: z.optional(z.nullable(AliasName)),
  /** `base`: `job.model`. `alias`: the alias's current model, so that each run tunes the last promoted one further. Default `base`. */
  starts_from: z.optional(z.enum(['base', 'alias'])),
  gate: z.optional(z.nullable(Gate)),
  metadata: z.optional(z.nullable(Metadata)),
};
const Name = z.string().check(z.minLength(1), z.maxLength(S.maxNameChars));

/** `POST /v1/schedules`. Exactly one of `cron` and `at`. */
export const CreateScheduleRequest = z.strictObject({ name: Name, ...settings });
export type CreateScheduleRequest = z.infer<typeof CreateScheduleRequest>;

/** `POST /v1/schedules/{id}`: what is left out stays. A new time counts from now on. */
export const UpdateScheduleRequest = z.strictObject({
  ...settings,
  name: z.optional(Name),
  job: z.optional(CreateJobRequest),
});
export type UpdateScheduleRequest = z.infer<typeof UpdateScheduleRequest>;

/**
 * `pending`: waits for its turn. `gating`: trained, being compared. The ends: `skipped` (condition, overlap, misfire), `succeeded` (trained, no gate),
 * `promoted`, `kept` (the gate kept the alias as it was), `failed`.
 */
export const RunStatus = z.enum(['pending', 'running', 'gating', 'succeeded', 'promoted', 'kept', 'skipped', 'failed']);
export type RunStatus = z.infer<typeof RunStatus>;

export const SkipReason = z.enum(['condition', 'overlap', 'misfire', 'deleted']);
export type SkipReason = z.infer<typeof SkipReason>;

/** How a gate decided. */
export const GateDecision = z.object({
  promote: z.boolean(),
  /** The rule with its numbers, in words. */
  explanation: z.string(),
  margin: z.number(),
  min_difference: z.number(),
  comparison: Comparison,
});
export type GateDecision = z.infer<typeof GateDecision>;

export const ScheduleRun = z.object({
  id: z.string(),
  object: z.literal('schedule.run'),
  schedule: z.string(),
  /** `slot`: the time came. `manual`: somebody asked. */
  trigger: z.enum(['slot', 'manual']),
  /** The slot's time; of a manual run when it was asked for. */
  slot: z.int(),
  status: RunStatus,
  created_at: z.int(),
  started_at: z.nullable(z.int()),
  finished_at: z.nullable(z.int()),
  /** Why it was skipped, in one word and in a sentence. */
  skip_reason: z.nullable(SkipReason),
  note: z.nullable(z.string()),
  /** Earlier slots that this record stands for too, counted up to 20,000, and the first of them. */
  missed: z.int(),
  missed_from: z.nullable(z.int()),
  /** The training data when it started: their digest, and how many examples as far as that was known. */
  data_digest: z.nullable(z.string()),
  examples: z.nullable(z.int()),
  new_examples: z.nullable(z.int()),
  fine_tuning_job: z.nullable(z.string()),
  fine_tuned_model: z.nullable(z.string()),
  gate: z.nullable(GateDecision),
  /** Files of the gate: every question with both answers, and a report to look at. */
  result_files: z.array(z.string()),
  error: z.nullable(JobError),
});
export type ScheduleRun = z.infer<typeof ScheduleRun>;

export const Schedule = z.object({
  id: z.string(),
  object: z.literal('schedule'),
  name: z.string(),
  /** `ended`: no further slot will come. */
  status: z.enum(['active', 'paused', 'ended']),
  created_at: z.int(),
  updated_at: z.int(),
  cron: z.nullable(z.string()),
  time_zone: z.string(),
  at: z.nullable(z.int()),
  job: CreateJobRequest,
  condition: z.nullable(ScheduleCondition),
  overlap: OverlapPolicy,
  misfire: MisfirePolicy,
  keep_models: z.nullable(z.int()),
  alias: z.nullable(z.string()),
  starts_from: z.enum(['base', 'alias']),
  gate: z.nullable(Gate),
  /** The next five, Unix seconds; empty while it is paused. */
  next_runs: z.array(z.int()),
  /** The data of the last run that trained. */
  last_trained: z.nullable(z.object({ digest: z.nullable(z.string()), examples: z.nullable(z.int()), at: z.int() })),
  metadata: z.nullable(Metadata),
});
export type Schedule = z.infer<typeof Schedule>;

/** `GET /v1/schedules/{id}/next`. */
export const NextRuns = z.object({
  object: z.literal('schedule.next_runs'),
  schedule: z.string(),
  time_zone: z.string(),
  next_runs: z.array(z.object({ at: z.int(), local: z.string() })),
});
export type NextRuns = z.infer<typeof NextRuns>;
