/**
 * The inner wire between edge and backend: signed both ways (`wire/signature.ts`), pictures as raw bytes (`wire/frame.ts`). Not public: names are
 * camelCase, times Unix milliseconds where named `…At` or `…Ms`.
 */
import * as z from 'zod/mini';
import { DataName, Subset, ValidationProgress } from './datasets.ts';
import { EvaluateTask } from './evalTask.ts';
import { CheckpointMetrics, EvaluationMetrics, JobError } from './jobs.ts';
import { LIMITS } from './limits.ts';
import { ModelCard, TrainStage } from './models.ts';
import { Stage, StageDraft } from './training.ts';

// ── Generation: edge → backend ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Where a backend has put a file itself: `s3://bucket/key`. */
const OutsideLocation = z.string().check(z.maxLength(1_024), z.regex(/^s3:\/\/[a-z0-9.-]{3,63}\/[\w.\-/]+$/));

/**
 * A stored file of weights; `url` is a path on the edge, fetched with a signed GET. `sha256` is lower-case hex. `location`: it is not at the edge but in the
 * backends' own store.
 */
export const WeightFile = z.object({
  name: z.string(),
  bytes: z.int(),
  sha256: z.string(),
  location: z.optional(OutsideLocation),
});
export type WeightFile = z.infer<typeof WeightFile>;

/** `blob` indexes the frame's blobs; the same picture twice may share one blob. `isFile`: the client wrote `image_file`; for paths in errors. */
export const GeneratePart = z.discriminatedUnion('type', [
  z.object({ type: z.literal('text'), text: z.string() }),
  z.object({
    type: z.literal('image'),
    blob: z.int().check(z.nonnegative()),
    isFile: z.optional(z.literal(true)),
  }),
]);
export type GeneratePart = z.infer<typeof GeneratePart>;

export const GenerateMessage = z.object({
  role: z.enum(['system', 'user', 'assistant']),
  parts: z.array(GeneratePart),
});
export type GenerateMessage = z.infer<typeof GenerateMessage>;

/** What an answer must look like. `param` is where the client wrote it, for messages. */
export const AnswerConstraint = z.object({
  param: z.string(),
  spec: z.discriminatedUnion('type', [
    z.object({ type: z.literal('json_object') }),
    z.object({ type: z.literal('json_schema'), schema: z.unknown() }),
    z.object({ type: z.literal('regex'), regex: z.string() }),
    z.object({ type: z.literal('choice'), choices: z.array(z.string()) }),
  ]),
});
export type AnswerConstraint = z.infer<typeof AnswerConstraint>;

export const Sampling = z.object({
  /** null: as many as fit, up to the card's `maxNewTokens`. A number that does not fit beside the prompt is refused, not cut. */
  maxTokens: z.nullable(z.int().check(z.positive())),
  temperature: z.number(),
  topP: z.number(),
  topK: z.optional(z.int()),
  minP: z.optional(z.number()),
  seed: z.optional(z.int()),
  presencePenalty: z.optional(z.number()),
  frequencyPenalty: z.optional(z.number()),
  repetitionPenalty: z.optional(z.number()),
  logitBias: z.optional(z.array(z.tuple([z.int().check(z.nonnegative()), z.number()]))),
  constraint: z.optional(AnswerConstraint),
  /** Answers to the one prompt; absent = 1. */
  choices: z.optional(z.int().check(z.minimum(1), z.maximum(LIMITS.request.maxChoices))),
  stop: z.array(z.string()),
  /** Alternatives listed a position (0 = the chosen token only); absent = no log-probabilities. */
  logprobs: z.optional(z.int()),
});
export type Sampling = z.infer<typeof Sampling>;

/** Who goes first where there is not room for all: answers somebody waits for, then batches (training waits for both). */
export const Priority = z.enum(['interactive', 'batch']);
export type Priority = z.infer<typeof Priority>;

/** Header of the frame of `POST /v1/generate` and `/v1/count`. */
export const GenerateRequest = z.object({
  requestId: z.string(),
  /** Opaque id of who asks. No cached work is shared between tenants; without one, a request shares with no other. */
  tenant: z.optional(z.string().check(z.regex(/^[0-9a-f]{32}$/))),
  /** Id of a served model, or `ft:…`. */
  model: z.string(),
  messages: z.array(GenerateMessage),
  sampling: Sampling,
  /** Absent: interactive. */
  priority: z.optional(Priority),
  /** What is left for the answer, milliseconds from arrival at the backend: time spent at the edge is taken off. */
  deadlineMs: z.int(),
  /** Present for `ft:` models: what to lay over the base. Files missing in the backend's cache are fetched from the edge. */
  adapter: z.optional(z.object({ id: z.string(), base: z.string(), kind: TrainStage, files: z.array(WeightFile) })),
});
export type GenerateRequest = z.infer<typeof GenerateRequest>;

export const LogprobEntry = z.object({
  token: z.string(),
  logprob: z.number(),
  /** UTF-8 bytes of the token, which may be half a character. */
  bytes: z.array(z.int()),
  top: z.array(z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()) })),
});
export type LogprobEntry = z.infer<typeof LogprobEntry>;

export const BackendUsage = z.object({
  promptTokens: z.int(),
  completionTokens: z.int(),
  imageTokens: z.int(),
  cachedTokens: z.int(),
});
export type BackendUsage = z.infer<typeof BackendUsage>;

export const BackendError = z.object({
  status: z.int(),
  code: z.string(),
  type: z.string(),
  message: z.string(),
  param: z.nullable(z.string()),
  /** Everything that is wrong, the error itself first, where there is more than one thing to say. */
  details: z.optional(z.array(z.object({ code: z.string(), param: z.nullable(z.string()), message: z.string() }))),
});
export type BackendError = z.infer<typeof BackendError>;

export const BackendFinishReason = z.enum(['stop', 'length', 'cancelled']);
export type BackendFinishReason = z.infer<typeof BackendFinishReason>;

/**
 * Server-sent events of `POST /v1/generate`: `started`, `delta`s, then exactly one of `finished` and `error`. An end without either is a crash.
 * Several choices mix; one that ends while others go on says so by `choice`, the last one by `finished`, whose usage sums over all.
 */
export const GenerateEvent = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('started'),
    promptTokens: z.int(),
    imageTokens: z.array(z.int()),
    /** Where the features of each picture came from; `none`: they are computed. */
    imageCache: z.optional(z.array(z.enum(['memory', 'disk', 'objects', 'none']))),
  }),
  z.object({ type: z.literal('delta'), index: z.int(), text: z.string(), logprobs: z.optional(z.array(LogprobEntry)) }),
  z.object({ type: z.literal('choice'), index: z.int(), finishReason: BackendFinishReason }),
  z.object({
    type: z.literal('finished'),
    index: z.int(),
    finishReason: BackendFinishReason,
    usage: BackendUsage,
  }),
  z.object({ type: z.literal('error'), error: BackendError }),
]);
export type GenerateEvent = z.infer<typeof GenerateEvent>;

/** Header of the frame of `POST /v1/score`. */
export const BackendScoreRequest = z.extend(GenerateRequest, {
  options: z.array(z.string().check(z.minLength(1))).check(z.minLength(1), z.maxLength(LIMITS.request.maxOptions)),
});
export type BackendScoreRequest = z.infer<typeof BackendScoreRequest>;

/** By option, in order. */
export const BackendScoreResponse = z.object({
  scores: z.array(z.object({ logprob: z.number(), tokens: z.int() })),
  usage: BackendUsage,
});
export type BackendScoreResponse = z.infer<typeof BackendScoreResponse>;

/**
 * Header of the frame of `POST /v1/count`. `pictures`: sizes, upright pixels, that stand for the blobs of the same number, so that no picture travels
 * to be counted. `options`: texts to count as `POST /v1/score` would read them.
 */
export const CountRequest = z.extend(GenerateRequest, {
  pictures: z.optional(z.array(z.object({ width: z.int().check(z.positive()), height: z.int().check(z.positive()) }))),
  options: z.optional(z.array(z.string()).check(z.maxLength(LIMITS.request.maxOptions))),
});
export type CountRequest = z.infer<typeof CountRequest>;

/** `promptTokens` and, in reading order, how many of them each picture takes; then those of each option. */
export const CountResponse = z.object({
  promptTokens: z.int(),
  imageTokens: z.array(z.int()),
  optionTokens: z.optional(z.array(z.int())),
});
export type CountResponse = z.infer<typeof CountResponse>;

/** Plain (non-stream) error body of a backend: OpenAI's envelope with our status. */
export const BackendErrorBody = z.object({ error: BackendError });

export const BackendModels = z.object({ data: z.array(ModelCard) });

// ── Registry: backend → edge ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** `POST /internal/backends/register` and `/heartbeat`: the same body, so that a lost edge learns everything from the next beat. */
export const BackendReport = z.object({
  id: z.string().check(z.minLength(1)),
  /** Origin the edge calls, `http://127.0.0.1:4321`. */
  url: z.string(),
  models: z.array(ModelCard),
  /** Answers it works on well at once: what it decodes in one step and as many being made ready. It refuses only far beyond. */
  capacity: z.int(),
  inFlight: z.int(),
  /** Unix milliseconds when the process began, and how long it took from there until it could answer. */
  startedAtMs: z.optional(z.int()),
  coldStartMs: z.optional(z.int()),
  /** Tuned models whose weights it has ready, `ft:` ids. */
  tuned: z.optional(z.array(z.string())),
  /** A fine-tuning job runs in it. */
  hasJob: z.optional(z.boolean()),
  state: z.enum(['ready', 'draining']),
});
export type BackendReport = z.infer<typeof BackendReport>;

/** `nowMs` is the edge's clock: what it signed before a backend's first report was not for this run of it. */
export const BackendAck = z.object({ heartbeatEveryMs: z.int(), goneAfterMs: z.int(), nowMs: z.optional(z.int()) });
export type BackendAck = z.infer<typeof BackendAck>;

// ── Jobs: backend → edge ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

export const StoredFile = z.object({ id: z.string(), bytes: z.int(), sha256: z.string() });
export type StoredFile = z.infer<typeof StoredFile>;

/** A complete checkpoint: all its files are in the store, each fetched by `GET /internal/jobs/{id}/checkpoints/{step}/{name}`. */
export const CheckpointManifest = z.object({
  step: z.int(),
  metrics: CheckpointMetrics,
  files: z.array(WeightFile),
});
export type CheckpointManifest = z.infer<typeof CheckpointManifest>;

/** A file of a dataset with its bytes' whereabouts, and what is taken of it. */
export const DataFile = z.extend(Subset, { file: StoredFile, filename: z.string() });
export type DataFile = z.infer<typeof DataFile>;

/** A list of examples: one file, or a dataset's mixture as it was when the job was made. */
export const DataSpec = z.object({ files: z.array(DataFile), balancing: z.boolean() });
export type DataSpec = z.infer<typeof DataSpec>;

/** What validation decided: the examples that are trained on are all but these lines of each file, in order. */
export const LeftOut = z.array(z.object({ data: DataName, file: z.string(), lines: z.array(z.int()) }));
export type LeftOut = z.infer<typeof LeftOut>;

/** How a held-out question is asked, and how sure the intervals are. */
export const AskedHow = z.object({
  maxExamples: z.nullable(z.int()),
  /** The most likely of these is the answer; null: it is generated. */
  options: z.nullable(z.array(z.string())),
  imageOrders: z.int(),
  textOnly: z.boolean(),
  confidence: z.number(),
});
export type AskedHow = z.infer<typeof AskedHow>;

/** What a job's checkpoints are asked. */
export const JobEvaluation = z.object({
  tenant: z.string(),
  heldOut: DataSpec,
  /** The model that the job starts from; checkpoints are compared with it. */
  base: z.string(),
  how: AskedHow,
  every: z.enum(['checkpoint', 'epoch', 'end']),
  earlyStop: z.nullable(z.object({ patience: z.int(), minDelta: z.number() })),
  /** By step, ascending. */
  done: z.array(z.object({ step: z.int(), accuracy: z.number() })),
  /** Checkpoints that are to be evaluated and have not been. */
  pending: z.array(z.object({ step: z.int(), model: z.string() })),
});
export type JobEvaluation = z.infer<typeof JobEvaluation>;

export const JobSpec = z.object({
  id: z.string(),
  baseModel: z.string(),
  suffix: z.nullable(z.string()),
  seed: z.int(),
  /** `Stage.data` is an index into it. */
  training: z.array(DataSpec).check(z.minLength(1)),
  validation: z.nullable(DataSpec),
  stages: z.array(Stage).check(z.minLength(1)),
  checkpointEvery: z.nullable(z.int()),
  checkpointsKept: z.nullable(z.int()),
  maxDurationS: z.nullable(z.int()),
  leftOut: LeftOut,
  /** Usable examples by list, counted by validation. */
  trainingExamples: z.array(z.int()),
  /** Present when the base is itself a fine-tuned model. */
  adapter: z.nullable(z.object({ id: z.string(), base: z.string(), kind: TrainStage, files: z.array(WeightFile) })),
  resume: z.nullable(z.object({ step: z.int(), checkpoint: CheckpointManifest })),
  evaluation: z._default(z.nullable(JobEvaluation), null),
  /** Older checkpoints, newest first: what a broken newest one falls back to. */
  earlier: z.array(CheckpointManifest),
  /** Grants since the last new checkpoint, this one included. More than one: tries have died, and the next is made alone. */
  tries: z._default(z.int(), 1),
});
export type JobSpec = z.infer<typeof JobSpec>;

/**
 * `sharing`: the backend trains jobs already and has room for another of the same base in the same process: one that trains that base itself, whose stages
 * are among these, and of which no try has died since its last checkpoint.
 */
export const ClaimRequest = z.object({
  backendId: z.string(),
  sharing: z.optional(z.object({ baseModel: z.string(), stages: z.array(TrainStage) })),
  /** Of tasks: only of these kinds; left out: of all. Long ones have a lane of their own, so that nobody's short one waits for them. */
  kinds: z.optional(z.array(z.enum(['validate', 'compare', 'evaluate']))),
});
export type ClaimRequest = z.infer<typeof ClaimRequest>;
/** `token` rises with every grant; each write carries it and a smaller one than the job's is refused with 409 `stale_lease`. */
export const Lease = z.object({ token: z.int(), expiresAt: z.int() });
export type Lease = z.infer<typeof Lease>;
export const ClaimResponse = z.object({ job: JobSpec, lease: Lease });
export type ClaimResponse = z.infer<typeof ClaimResponse>;

export const JobHeartbeatRequest = z.object({ token: z.int() });
/** `cancel`: no more of it. `pause`: save a checkpoint and give the job back as paused. */
export const JobHeartbeatResponse = z.object({
  cancel: z.boolean(),
  pause: z.optional(z.boolean()),
  /** Of an evaluation: others wait that this backend could take. Who has had its turn gives its place to them. */
  othersWait: z.optional(z.boolean()),
  expiresAt: z.int(),
});
export type JobHeartbeatResponse = z.infer<typeof JobHeartbeatResponse>;

/** `key` dedupes: the same key of a job is stored once, however often it is sent (`step-120`, `started`). */
export const TrainerEvent = z.object({
  key: z.string().check(z.minLength(1), z.maxLength(128)),
  level: z.enum(['info', 'warn', 'error']),
  message: z.string(),
  type: z.enum(['message', 'metrics']),
  data: z.nullable(z.record(z.string(), z.unknown())),
  /** Unix milliseconds. */
  createdAt: z.int(),
});
export type TrainerEvent = z.infer<typeof TrainerEvent>;
export const TrainerEventsRequest = z.object({ token: z.int(), events: z.array(TrainerEvent).check(z.maxLength(500)) });

/** Header that carries the fencing token on blob uploads. */
export const LEASE_HEADER = 'x-mantis-lease';

export const CheckpointRequest = z.object({
  token: z.int(),
  step: z.int(),
  /** What the stage of this step trains: an early stage's checkpoint is served as that. */
  kind: TrainStage,
  metrics: CheckpointMetrics,
  files: z.array(WeightFile).check(z.minLength(1)),
  /** It is going to be evaluated: receivers hear of it when its accuracy is known. */
  evaluates: z.optional(z.boolean()),
});
export type CheckpointRequest = z.infer<typeof CheckpointRequest>;

/** `PUT /internal/jobs/{id}/staged`, `PUT /internal/tasks/{id}/problems`: bytes that belong to nobody yet. */
export const StagedObject = z.object({ key: z.string(), bytes: z.int(), sha256: z.string() });
export type StagedObject = z.infer<typeof StagedObject>;

/** Bytes that were staged, with the name that their file gets. */
export const StagedFile = z.object({ filename: z.string(), mime: z.string(), staged: StagedObject });
export type StagedFile = z.infer<typeof StagedFile>;

/** `POST /internal/jobs/{id}/checkpoints/{step}/evaluation`. */
export const EvaluationRequest = z.object({
  token: z.int(),
  totalSteps: z.int(),
  /** Null: it could not be made, and will not be. */
  metrics: z.nullable(EvaluationMetrics),
  outcomes: z.nullable(StagedFile),
});
export type EvaluationRequest = z.infer<typeof EvaluationRequest>;

/** `POST /internal/jobs/{id}/checkpoints/{step}/files`: before a file is put into the backends' own store, so that nothing lies there unknown. */
export const AnnounceFileRequest = z.object({
  token: z.int(),
  step: z.int().check(z.nonnegative()),
  name: z.string().check(z.regex(/^[A-Za-z0-9_][\w.-]{0,127}$/)),
  bytes: z.int(),
  sha256: z.string(),
  location: OutsideLocation,
});
export type AnnounceFileRequest = z.infer<typeof AnnounceFileRequest>;

/** `POST /internal/outside/due` → `OutsideDue`: files of a store (`s3://bucket/prefix`) that nothing needs any more. */
export const OutsideDueRequest = z.object({ store: z.string().check(z.startsWith('s3://')) });
export const OutsideDue = z.object({ locations: z.array(z.string()) });
/** `POST /internal/outside/gone`: they have been deleted. */
export const OutsideGoneRequest = z.object({ locations: z.array(z.string()).check(z.maxLength(1_000)) });

export const FinishRequest = z.object({
  token: z.int(),
  /** `released`: the worker drains and gives the job back, to be resumed elsewhere. `paused`: as the heartbeat asked. */
  status: z.enum(['succeeded', 'failed', 'cancelled', 'released', 'paused']),
  trainedTokens: z.nullable(z.int()),
  error: z.nullable(JobError),
  /** The checkpoint that becomes the model; it must have been posted before. Required for `succeeded`. */
  finalStep: z.nullable(z.int()),
});
export type FinishRequest = z.infer<typeof FinishRequest>;

/** `GET /internal/models/{id}`: what a backend needs to serve an `ft:` model. `url` is a path on the edge. */
export const ModelManifest = z.object({
  id: z.string(),
  base: z.string(),
  kind: TrainStage,
  files: z.array(z.extend(WeightFile, { url: z.string() })),
});
export type ModelManifest = z.infer<typeof ModelManifest>;

// ── Tasks: shorter work that is leased as jobs are: validating data, comparing two models, deleting objects ───────────────────────────────────

export const ValidateTask = z.object({
  kind: z.literal('validate'),
  baseModel: z.string(),
  adapter: z.nullable(z.object({ id: z.string(), base: z.string(), kind: TrainStage, files: z.array(WeightFile) })),
  training: z.array(DataSpec),
  validation: z.nullable(DataSpec),
  /** What checkpoints or a gate will be asked, with the field that named it; no line of it may have an error. `options`: answers to choose from, a list a way of asking. */
  heldOut: z.optional(
    z.array(z.object({ data: DataSpec, param: z.string(), options: z.optional(z.array(z.array(z.string()))) })),
  ),
  stages: z.array(StageDraft),
  maxBadShare: z.number(),
  /** Whether a few steps are trained to measure what the training would take. */
  estimate: z.boolean(),
});
export type ValidateTask = z.infer<typeof ValidateTask>;

/** Answers of two models to the same questions: the gate of a schedule. Both are ids of served or tuned models. */
export const CompareTask = z.object({
  kind: z.literal('compare'),
  baseModel: z.string(),
  current: z.string(),
  candidate: z.string(),
  /** Held-out examples; the last assistant turn is the reference. */
  heldOut: DataSpec,
  maxExamples: z.nullable(z.int()),
  /** Of the interval, 0.95 for 95 %. */
  confidence: z.number(),
  /** As in `AskedHow`. */
  options: z.optional(z.nullable(z.array(z.string()))),
  imageOrders: z.optional(z.int()),
});
export type CompareTask = z.infer<typeof CompareTask>;

export const TaskSpec = z.discriminatedUnion('kind', [ValidateTask, CompareTask, EvaluateTask]);
export type TaskSpec = z.infer<typeof TaskSpec>;

/** `POST /internal/tasks/claim`: a run of an evaluation that is owed its report, else the next queued task that the backend can do, or 204. */
export const TaskClaim = z.object({
  id: z.string(),
  tenant: z.string(),
  spec: TaskSpec,
  lease: Lease,
  /** Of a run of an evaluation that has ended so: no more of it but the report that it has none of. */
  reportOnly: z.optional(z.enum(['cancelled', 'failed'])),
});
export type TaskClaim = z.infer<typeof TaskClaim>;

/** `POST /internal/tasks/{id}/finish`. `result` is JSON that the task's kind defines (taskResults.ts). */
export const TaskFinishRequest = z.object({
  token: z.int(),
  /** `paused`: others have their turn; it waits for its next one. `released`: something went wrong, here. */
  status: z.enum(['succeeded', 'failed', 'released', 'paused']),
  result: z.nullable(z.unknown()),
  error: z.nullable(JobError),
});
export type TaskFinishRequest = z.infer<typeof TaskFinishRequest>;

/** `POST /internal/tasks/{id}/progress`. */
export const TaskProgressRequest = z.object({ token: z.int(), progress: ValidationProgress });
