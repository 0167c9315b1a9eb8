/** Sums since start, for metrics. Plain numbers, so that they cross between threads. */
export class EngineCounters {
  steps = 0;
  /** Computed; what came from the prefix cache is in `cachedTokens`. */
  promptTokens = 0;
  cachedTokens = 0;
  generatedTokens = 0;
  encodedImages = 0;
  encodeRuns = 0;
  encodeMs = 0;
  prefillMs = 0;
  decodeMs = 0;
  decodeRuns = 0;
  preemptions = 0;
  /** Of speculation: tokens tried, and of those the ones that were right. */
  draftedTokens = 0;
  acceptedTokens = 0;
}
