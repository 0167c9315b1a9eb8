import type { GenerateEvent, GenerateRequest } from '../../shared/contract/backend.ts';
import type { Metrics } from './metrics.ts';

/** Passes the events of one generation on, and measures them. */
export async function* observeGeneration(
  events: AsyncIterable<GenerateEvent>,
  request: GenerateRequest,
  metrics: Metrics,
): AsyncGenerator<GenerateEvent, void, undefined> {
  // Fine-tuned models would be one label each; they count under their base.
  const label = { model_name: request.adapter?.base ?? request.model };
  const arrivedAt = performance.now();
  const secondsSince = (start: number) => (performance.now() - start) / 1000;
  let startedAt = arrivedAt;
  let firstTokenAt: number | null = null;
  let lastTokenAt: number | null = null;
  for await (const event of events) {
    switch (event.type) {
      case 'started':
        startedAt = performance.now();
        metrics.preprocess.observe(label, secondsSince(arrivedAt));
        metrics.requestPromptTokens.observe(label, event.promptTokens);
        metrics.promptTokens.inc(label, event.promptTokens);
        metrics.requestImages.observe(label, event.imageTokens.length);
        break;
      case 'delta':
        if (lastTokenAt === null) {
          firstTokenAt = performance.now();
          metrics.timeToFirstToken.observe(label, secondsSince(arrivedAt));
          metrics.prefillTime.observe(label, secondsSince(startedAt));
        } else metrics.interTokenLatency.observe(label, secondsSince(lastTokenAt));
        lastTokenAt = performance.now();
        break;
      case 'choice':
        metrics.requestSuccess.inc({ ...label, finished_reason: event.finishReason });
        break;
      case 'finished':
        metrics.generationTokens.inc(label, event.usage.completionTokens);
        metrics.requestSuccess.inc({ ...label, finished_reason: event.finishReason });
        metrics.requestGenerationTokens.observe(label, event.usage.completionTokens);
        if (firstTokenAt !== null) metrics.decodeTime.observe(label, secondsSince(firstTokenAt));
        metrics.e2eLatency.observe(label, secondsSince(arrivedAt));
        break;
      case 'error':
        metrics.requestFailure.inc({ code: event.error.code });
        break;
      default:
        event satisfies never;
    }
    yield event;
  }
}
