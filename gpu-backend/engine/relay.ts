import type { BackendFinishReason, GenerateEvent, GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { AnswerText } from './answer.ts';
import type { EngineEvent } from './engine.ts';
import type { ModelFront } from './model-front.ts';

/** What a choice sends: its text, and how it ended. */
type ChoiceEvent =
  | Extract<GenerateEvent, { type: 'delta' }>
  | {
      readonly type: 'ended';
      readonly index: number;
      readonly finishReason: BackendFinishReason;
      readonly completionTokens: number;
      readonly cachedTokens: number;
    };

/** Engine events → events of one choice. */
export async function* relay(
  events: AsyncGenerator<EngineEvent, void, undefined>,
  {
    request,
    front,
    index,
    onToken,
  }: {
    readonly request: GenerateRequest;
    readonly front: ModelFront;
    readonly index: number;
    /** Called at each token, before its text. */
    readonly onToken: () => void;
  },
): AsyncGenerator<ChoiceEvent, void, undefined> {
  const { sampling } = request;
  const answer = new AnswerText({
    tokenizer: front.tokenizer,
    stop: sampling.stop,
    logprobs: sampling.logprobs !== undefined,
  });
  let completionTokens = 0;
  let cachedTokens = 0;
  const delta = (ready: ReturnType<AnswerText['push']>): ChoiceEvent[] =>
    ready === null
      ? []
      : [
          {
            type: 'delta',
            index,
            text: ready.text,
            ...(ready.logprobs === null ? {} : { logprobs: [...ready.logprobs] }),
          },
        ];
  const ended = (finishReason: BackendFinishReason): ChoiceEvent => ({
    type: 'ended',
    index,
    finishReason,
    completionTokens,
    cachedTokens,
  });
  for await (const event of events) {
    switch (event.type) {
      case 'started':
        ({ cachedTokens } = event);
        break;
      case 'read':
        break;
      case 'token':
        completionTokens++;
        onToken();
        yield* delta(answer.push(event.token));
        if (answer.stopped) {
          // Leaving the loop cancels the row; what it computes until then is not shown or counted.
          yield ended('stop');
          return;
        }
        break;
      case 'end':
        yield* delta(answer.finish());
        if (event.reason === 'deadline')
          throw new ApiError('deadline_exceeded', `The answer was not finished within ${request.deadlineMs} ms.`);
        yield ended(event.reason);
        return;
      case 'failed':
        throw engineFailure('generation', event);
      default:
        event satisfies never;
    }
  }
}

/** What the engine's thread threw, with its stack: the log is all that says why an answer failed. */
export function engineFailure(what: string, { message, stack }: EngineEvent & { readonly type: 'failed' }): Error {
  const error = new Error(`${what} failed: ${message}`);
  if (stack !== undefined) error.stack = `${error.message}\n${stack}`;
  return error;
}
