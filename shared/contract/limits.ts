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
    maxStopSequences: 4,
    maxStopChars: 256,
    maxTopLogprobs: 20,
    /** Answers to one prompt. */
    maxChoices: 8,
    maxLogitBiases: 1_024,
    /** Structured output: what a schema, a regex or the choices may measure as JSON; what they may be is bounded where they are compiled. */
    maxConstraintChars: 200_000,
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
    maxFrames: 1,
    mimes: ['image/jpeg', 'image/png', 'image/webp', 'image/gif'],
  },
  files: {
    /** Multipart uploads are buffered once in the isolate. */
    maxBytes: 64 * MIB,
    maxNameChars: 255,
  },
  dataset: {
    maxLines: 50_000,
    maxLineBytes: 20 * MIB,
    maxImagesPerExample: 64,
    maxReportedErrors: 100,
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
  },
  webhooks: {
    /** Standard Webhooks 1.0 sample schedule: 10 attempts over 75 h 35 min, each gap ± `jitter`. */
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
    maxEndpoints: 16,
    maxUrlChars: 2_048,
  },
  backends: {
    heartbeatEveryMs: 2_000,
    goneAfterMs: 10_000,
    signatureToleranceS: 300,
    maxFrameHeaderBytes: 4 * MIB,
    maxFrameBlobs: 64,
    /** A picture's features as stored; the largest known are 2,880 tokens of 4,096 floats. */
    maxFeatureRecordBytes: 64 * MIB,
  },
  lists: { defaultLimit: 20, maxLimit: 100, defaultCheckpointLimit: 10 },
} as const;

export type Limits = typeof LIMITS;
