import { EVAL_LIMITS } from './evalLimits.ts';

/**
 * Every number that bounds a request, in one place. Edge and backend enforce these, `/openapi.json` and `GET /v1/limits` publish them, tests
 * try each at limit and limit + 1. Bytes are bytes, `…Ms` milliseconds, `…S` seconds. Limits that depend on the model (context, images per
 * request, new tokens) are in its `ModelCard`; where both speak, the smaller holds.
 */
const KIB = 1024;
const MIB = 1024 * KIB;

export const LIMITS = {
  request: {
    /** A JSON body with base64 images costs about three times its size in a 128 MB isolate. */
    maxJsonBytes: 20 * MIB,
    maxMessages: 256,
    maxPartsPerMessage: 256,
    maxTextChars: 1_000_000,
    /** All texts of a conversation together. */
    maxTotalTextChars: 1_000_000,
    /** Texts that cannot fit anyway are counted for the error's sake up to this size; beyond, it says "at least". */
    maxCountedTextBytes: 262_144,
    maxModelChars: 256,
    /** `user`, `name`, `uuid` and other labels that change nothing. */
    maxLabelChars: 512,
    maxMetadataPairs: 16,
    maxMetadataKeyChars: 64,
    maxMetadataValueChars: 512,
    /** Arrays and objects within each other in a JSON body. */
    maxJsonDepth: 128,
    /** Fields and elements of a JSON body, counted by the colons and commas between them. */
    maxJsonValues: 300_000,
    /** What a refused request still sends is read for so long and so far, so that its client gets to read the answer; less of it without a valid key. */
    maxDrainedBytes: 64 * MIB,
    maxDrainedBytesUnknown: MIB,
    maxDrainMs: 5_000,
    /** Entries of `error.details`; what is beyond is counted in one more. */
    maxReportedViolations: 100,
    /** Of a field's path in an error; keys are the client's own words. */
    maxParamChars: 256,
    maxStopSequences: 4,
    maxStopChars: 256,
    maxTopLogprobs: 20,
    /** Answers to one prompt. */
    maxChoices: 8,
    maxLogitBiases: 1_024,
    /** Structured output: what a schema, a regex or the choices may measure as JSON; what they may be is bounded where they are compiled. */
    maxConstraintChars: 200_000,
    /** Choices of `structured_outputs`. */
    maxConstraintChoices: 10_000,
    maxOptions: 64,
    maxOptionChars: 1_000,
    /** A whole generation, queueing included, may take this long. */
    deadlineMs: 300_000,
  },
  images: {
    maxPerRequest: 64,
    maxBytes: 10 * MIB,
    maxTotalBytes: 15 * MIB,
    maxSide: 16_384,
    maxPixels: 50_000_000,
    maxTotalPixels: 200_000_000,
    maxAspectRatio: 200,
    /** AVIF takes far more time and memory to decode than its bytes say: measured 1.9 s and 356 MB for 16.8 Mpx in 1.4 kB. */
    maxAvifPixels: 4_194_304,
    mimes: ['image/jpeg', 'image/png', 'image/webp', 'image/gif', 'image/avif'],
    /** Pictures on the web. Their bytes count as all others do. */
    remote: {
      maxPerRequest: 16,
      /** At once, for one request: the platform waits for the headers of six connections. */
      maxConcurrent: 6,
      maxRedirects: 3,
      maxUrlChars: 2_048,
      /** From the call until the headers of one answer; again for each redirect. */
      firstByteMs: 5_000,
      /** One picture, redirects included. */
      totalMs: 10_000,
      /** All pictures of a request. */
      requestMs: 20_000,
      /** Downloads that requests of one isolate hold at a time, and those of one tenant: what comes beyond is told to try again. */
      maxHeldBytes: 64 * MIB,
      maxHeldBytesPerTenant: 32 * MIB,
    },
    /** Pictures that the edge may shrink itself, one at a time, where it is told to. */
    edgePixels: 12_000_000,
  },
  /** Decoding of pictures, in processes of a backend that may be killed. */
  decode: {
    /** From the moment a process has a picture; then it is killed, and the picture refused: the answer is there within two seconds. */
    timeoutMs: 1_800,
    /** Pictures that may wait; more are told that the backend is full. */
    maxQueued: 2_048,
    /** A picture above this estimate is heavy: of several processes one is always left to the others. */
    heavyBytes: 128 * MIB,
    /** What a process may hold above twice its picture's estimate, and above what it held when idle. */
    slackBytes: 64 * MIB,
    /** A process is replaced after so many pictures, or when it holds so much more than at its start. */
    maxPictures: 5_000,
    maxGrowthBytes: 192 * MIB,
  },
  files: {
    /** Streamed to the object store in parts of `partBytes`, which is what one upload holds in memory, twice. */
    maxBytes: 512 * MIB,
    partBytes: 8 * MIB,
    maxNameChars: 255,
    /** Fields of a multipart form, and what one of them (not a file) may measure. */
    maxFormFields: 16,
    maxFormFieldBytes: 4_096,
    minExpiryS: 3_600,
    maxExpiryS: 2_592_000,
    /** Bytes that belong to no file after this long (an upload that broke off) are deleted. */
    looseMs: 7_200_000,
  },
  /** Files in parts, `POST /v1/uploads`. */
  uploads: {
    maxBytes: 8_192 * MIB,
    maxPartBytes: 64 * MIB,
    maxParts: 10_000,
    lifetimeMs: 3_600_000,
    /** Putting the parts together may take this long before it may be tried again. */
    completeMs: 600_000,
  },
  batches: {
    maxLines: 50_000,
    maxBytes: 200 * MIB,
    maxLineBytes: 20 * MIB,
    maxCustomIdChars: 256,
    maxReportedErrors: 100,
    windowS: 86_400,
    /** Lines that a batch has under way at once, at first and at most; it takes fewer while backends say that they are full. */
    firstLinesInFlight: 16,
    maxLinesInFlight: 256,
    /** Lines that wait for a place no longer than the one make room for more, those that wait longer than the other are too many. */
    shortWaitMs: 200,
    longWaitMs: 1_000,
    /** Bytes of input lines that are under way at once. */
    maxBytesInFlight: 12 * MIB,
    /** Pictures that its lines share are kept decoded and hashed, up to so many bytes. */
    maxPictureBytes: 16 * MIB,
    /** A line during which the server failed this often (not: was full) is given up. */
    maxAttempts: 3,
    /** Pause after a refusal for want of room, doubled up to the most. */
    minPauseMs: 250,
    maxPauseMs: 15_000,
    /** How often the counts that `GET /v1/batches/{id}` shows are written. */
    countEveryMs: 1_000,
    /** Batches of one tenant that have not ended. */
    maxPending: 100,
  },
  dataset: {
    /** Of the name of a group of held-out examples. */
    maxGroupChars: 256,
    /** Examples of one file. Mantis-Instruct as a whole has 720,548. */
    maxLines: 1_000_000,
    maxLineBytes: 20 * MIB,
    maxImagesPerExample: 64,
    /** Problems that a report lists; all of them are in its file. */
    maxReportedErrors: 1_000,
    /** Left-out lines that a report lists, by file. */
    maxListedLines: 10_000,
    maxSubsets: 100,
    maxPerTenant: 1_000,
    /** Pictures that data only names stay as validation saw them for so long after, and as long as a job on that validation has not ended. */
    pinsKeptMs: 30 * 24 * 3_600_000,
    /** Validations of one tenant that were asked for without a job and have not ended. */
    maxPendingValidations: 100,
    /** A validation of equal data, model and stages that is younger is not made again. */
    reuseValidationMs: 7 * 24 * 3_600_000,
  },
  jobs: {
    leaseMs: 15_000,
    heartbeatEveryMs: 3_000,
    /** A job whose worker vanished this often without a new checkpoint in between fails instead of being tried again. */
    maxFruitlessClaims: 5,
    /** Pause before the third try, doubled for each further one. */
    retryPauseMs: 1_000,
    maxSuffixChars: 64,
    maxEpochs: 50,
    maxBatchSize: 256,
    maxMetadataPairs: 16,
    maxCheckpointFileBytes: 1024 * MIB,
    maxEventMessageChars: 4_096,
    /** Stages of one job. */
    maxStages: 4,
    /** A step that takes longer than the larger of this and `stallFactor` medians of the job's steps is taken for stuck, and its process is ended. */
    stallMs: 60_000,
    stallFactor: 20,
    /** Likewise for what is done between steps: fetching data, looking at pictures, saving, validating. */
    phaseStallMs: 30 * 60_000,
    /** While answers are computed on the same machine, a job waits up to so long before each of its micro-batches. */
    yieldMs: 1_000,
    /** Share of bad lines up to which a job trains on the good ones, where it does not say. */
    defaultMaxBadShare: 0.1,
    /** Held-out examples that a job asks each evaluated checkpoint. */
    maxEvaluationExamples: 10_000,
    /** Orders of its pictures in which a held-out question is asked. */
    maxImageOrders: 24,
    /** Of the intervals of an evaluation, where a job does not say. */
    defaultEvaluationConfidence: 0.95,
  },
  training: {
    /** Decoder positions of one forward and backward pass, where a stage does not say. */
    microBatchTokens: 1_500,
    /** Pictures of a packed row, where a stage does not say. */
    maxRowImages: 64,
    /** Features of a frozen vision tower that a job holds in memory, and that one backend keeps on disk over restarts. */
    featureMemoryBytes: 512 * MIB,
    featureDiskBytes: 4_096 * MIB,
  },
  schedules: {
    maxPerTenant: 100,
    maxNameChars: 128,
    maxCronChars: 256,
    /** `GET /v1/schedules/{id}/next?count=`. */
    maxNextRuns: 100,
    /** A slot that is seen later than this has misfired; what happens then is the schedule's misfire policy. */
    lateMs: 300_000,
    /** Runs that `run_all` makes up for. */
    maxCatchUp: 24,
    /** Missed slots that are counted after an outage; of more the count is a lower bound. */
    maxCountedMisses: 20_000,
    /** A start that fails for a reason that may pass (no backend, database) is tried again after this pause, doubled up to the most… */
    retryPauseMs: 1_000,
    maxRetryPauseMs: 300_000,
    /** …and given up after so many tries, about a day. */
    maxStartTries: 300,
    maxKeptModels: 1_000,
    /** Records of a schedule's ended runs that are kept, newest first. */
    maxRuns: 1_000,
    /** Held-out examples of a gate. */
    maxGateExamples: 10_000,
    defaultGateMargin: 0.05,
    defaultGateConfidence: 0.95,
  },
  evals: EVAL_LIMITS,
  aliases: {
    maxPerTenant: 1_000,
    maxNameChars: 64,
    maxReasonChars: 512,
    /** An isolate reads an alias again beside the request that uses it when it has known it for this long… */
    refreshAfterMs: 1_000,
    /** …and before it where it is this old: a promotion is everywhere after that. */
    staleAfterMs: 2_000,
  },
  webhooks: {
    /** Standard Webhooks 1.0 sample schedule: 10 attempts over 75 h 35 min, each gap up to `jitter` shorter, never longer. */
    retryAfterMs: [
      0,
      5_000,
      5 * 60_000,
      30 * 60_000,
      2 * 3_600_000,
      5 * 3_600_000,
      10 * 3_600_000,
      14 * 3_600_000,
      20 * 3_600_000,
      24 * 3_600_000,
    ],
    jitter: 0.1,
    timeoutMs: 15_000,
    toleranceS: 300,
    maxEndpoints: 32,
    maxUrlChars: 2_048,
    maxDescriptionChars: 256,
    /** Calls of one endpoint that are under way at once. */
    callsAtOnce: 4,
    /** A call whose result nobody has written down by then is made again. */
    claimMs: 45_000,
    /** Longest pause that a receiver's `retry-after` makes. */
    maxRetryAfterMs: 86_400_000,
    /** Of a receiver's answer, how much is read, and how much of it is kept in the log. */
    maxAnswerBytes: 65_536,
    keptAnswerBytes: 1_024,
    maxEventBytes: 20_480,
    /** An endpoint to which nothing got through for so long is disabled. */
    disableAfterMs: 5 * 86_400_000,
    /** How long an old secret signs beside the new one where the rotation does not say, and at most; secrets of an endpoint at once. */
    defaultOverlapS: 86_400,
    maxOverlapS: 7 * 86_400,
    maxSecrets: 4,
    /** Of the checkpoints of one job, one in so long is told of. */
    checkpointEveryMs: 60_000,
    /** Events, deliveries and attempts are kept so long. */
    keepMs: 30 * 86_400_000,
    /** Attempts that a delivery shows. */
    shownAttempts: 50,
  },
  keys: {
    /** Random part of a key, base-62: 43 characters are 256 bits. */
    randomChars: 43,
    maxKeyChars: 512,
    maxNameChars: 128,
    /** Keys of one tenant that are neither revoked nor expired. */
    maxPerTenant: 1_000,
    maxTenants: 10_000,
    /** Largest value of a key's or tenant's limit. */
    maxLimit: 1_000_000_000_000,
    /** How long a rotated key's old secret works where the request does not say. */
    defaultOverlapS: 86_400,
    maxOverlapS: 30 * 86_400,
    /** An isolate asks again for a key that it has known for this long, beside the request that uses it… */
    refreshAfterMs: 1_500,
    /** …and before it where it is this old: what is revoked works no longer than this. */
    staleAfterMs: 3_000,
    lastUsedEveryMs: 3_600_000,
    /** Wrong keys from one client address in a minute; further ones are answered with 429. */
    maxFailuresPerMinute: 100,
  },
  backends: {
    heartbeatEveryMs: 2_000,
    goneAfterMs: 10_000,
    /** Idle connections of the edge are kept by a backend, longer than the edge itself does. */
    keepAliveMs: 75_000,
    /** Clocks may be this far apart; a signature's nonce is remembered as long. */
    signatureToleranceS: 60,
    /** Nonces that a receiver remembers; calls beyond are refused, never accepted unseen. */
    maxNonces: 1_000_000,
    maxFrameHeaderBytes: 8 * MIB,
    maxFrameBlobs: 64,
    /** Of each backend process an edge isolate remembers the pictures it holds up to this many bytes; less than the backend keeps (`MANTIS_BLOB_CACHE_MIB`). */
    maxKnownBlobBytes: 48 * MIB,
    /** Backend processes whose pictures are remembered. */
    maxKnownInstances: 64,
    /** Smaller pictures travel always: asking for one again would cost more than it saves. */
    minOmittedBlobBytes: 1_024,
    /** A picture's features as stored; the largest known are 2,880 tokens of 4,096 floats. */
    maxFeatureRecordBytes: 64 * MIB,
  },
  fleet: {
    /** Upstream attempts of one request, the first included. */
    maxAttempts: 3,
    /** Retries may be this share of requests, so that a failing fleet is not drowned by them; so many are free at once. */
    retryRatio: 0.15,
    retryBurst: 20,
    /** Requests that wait for a backend, of each priority; one tenant may have half of the places while others wait. */
    maxQueued: 1_024,
    /** Bodies of waiting requests are held in the isolate's memory. */
    maxQueuedBytes: 48 * MIB,
    /** A burst may wait this long for a place. */
    burstWaitMs: 20_000,
    /** A queue that has not been empty for this long is no burst: who would wait longer than `standingWaitMs` (or than one answer takes) is refused. */
    standingAfterMs: 5_000,
    standingWaitMs: 1_000,
    /** An isolate lets this many times as many requests through as lately found room, once it has seen so many; what it has seen halves in this time. */
    throttleRatio: 1.5,
    throttleMinRequests: 400,
    throttleHalfLifeMs: 1_000,
    /** Share of each backend's places that batches leave to interactive requests. */
    interactiveReserve: 0.25,
    /** A backend may carry this much more than its share of the load for the sake of what it has in its caches. */
    affinitySlack: 0.25,
    /** A backend below this share of its places is not yet busy: what is in its caches outweighs everything else. */
    affinityFreeShare: 0.25,
    /** A backend that joins or returns among others is given its full share only after this time. */
    slowStartMs: 20_000,
    /** Failures in a row, or share of the last answers, that take a backend out, and for how long: doubled each time up to the most. */
    breakerFailures: 3,
    breakerErrorShare: 0.3,
    breakerMinAnswers: 10,
    breakerOpenMs: 1_000,
    breakerMaxOpenMs: 30_000,
    /** With fewer of them in than this share, backends are asked in spite of their failures. */
    breakerPanicShare: 0.5,
    /** A backend that says it is full is asked again after this time. */
    busyMs: 250,
    /** The first event of an answer is waited for 20 times as long as usual, within these bounds; then it is sought elsewhere. */
    minFirstEventMs: 5_000,
    maxFirstEventMs: 60_000,
    /** How long requests wait for a first backend: where one is being started, and where there is nobody to start one. */
    holdMs: 30_000,
    restartHoldMs: 8_000,
    /** A place that was never given back is free again this long after its deadline. */
    leaseSlackMs: 10_000,
    /** A whole answer that takes longer begins with white space, so that a client that hangs up is noticed. */
    wholePingAfterMs: 75,
    wholePingEveryMs: 75,
  },
  /** How the number of backends follows the load; least, most, reserve and idle time are settings of the installation (deploy/README.md). */
  scaling: {
    /** Share of a backend's places that is filled before another is wanted. */
    targetLoad: 0.75,
    /** Who has waited longer for a place wants another backend. */
    maxWaitMs: 2_000,
    /** Load must have lasted so long before backends are added, and been gone so long before one goes. */
    upAfterMs: 1_000,
    downAfterMs: 30_000,
    idleS: 300,
    /** What a backend is taken to carry until one has said it: answers at once and their tokens. */
    rowsPerBackend: 32,
    tokensPerBackend: 32_768,
    /** The fleet is looked at this often while anything goes on, and while nothing does. */
    busyTickMs: 500,
    idleTickMs: 5_000,
    jobsEveryMs: 2_000,
    /** A driver that failed is asked again after this time, doubled up to the most; after some failures in a row nobody is told to wait for a start. */
    retryMs: 1_000,
    maxRetryMs: 30_000,
    failuresUntilHopeless: 3,
    /** Of so many last starts the median is what the next one is expected to take. */
    coldStarts: 7,
    /** One call to the service behind a driver. */
    driverTimeoutMs: 10_000,
    /** How long Amazon ECS is asked to spare a task that works, renewed with every scale-in. */
    ecsProtectionMinutes: 60,
    maxBackends: 1_000,
  },
  /** Per-key limits are counted in sliding windows of `windowMs`. */
  rates: {
    windowMs: 60_000,
    /** A running request's slot is free again this long after its isolate was last heard of. */
    leaseMs: 30_000,
    leaseRenewMs: 10_000,
    /** What `retry-after-ms` says when all slots of a key are in use. */
    concurrentRetryMs: 1_000,
  },
  idempotency: {
    maxKeyChars: 255,
    /** How long an answer is repeated under its `Idempotency-Key`. */
    keepMs: 25 * 3_600_000,
    /** How long a client's own retry of a creation without a key counts as the same request. */
    retryWindowMs: 10 * 60_000,
    /** A request that has not ended by then is taken for lost, and its key may be used again. */
    lostAfterMs: 10 * 60_000,
    /** Larger answers are not kept. */
    maxAnswerBytes: 256 * KIB,
    /** Larger multipart bodies are compared only under an `Idempotency-Key`. */
    maxUnkeyedMultipartBytes: 16 * MIB,
    /** Answers kept for one tenant; the oldest go first. */
    maxAnswersPerTenant: 50_000,
  },
  usage: {
    /** Records wait this long in the isolate for others to be written with. */
    flushMs: 250,
    /** More wait only while the database fails; then the oldest are dropped, and that is logged. */
    maxBuffered: 10_000,
    /** Buckets of a page, by width. */
    maxBuckets: { '1m': 1_440, '1h': 168, '1d': 31 },
    defaultBuckets: { '1m': 60, '1h': 24, '1d': 7 },
  },
  lists: { defaultLimit: 20, maxLimit: 100, defaultCheckpointLimit: 10 },
} as const;

export type Limits = typeof LIMITS;
