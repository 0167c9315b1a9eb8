/** Any endpoint that speaks OpenAI's chat completions, asked as the paper's wrapper of GPT-4V asks: text and pictures in their order, temperature 0. */
import { sha256Hex } from '../../io/digest.ts';
import { sniffFormat } from '../../vision/header.ts';
import { canonicalJson, type EvalAnswer, type EvalImage, type EvalModel, type EvalPrompt, type Json } from '../task.ts';
import { Endpoint, EndpointError, type EndpointOptions } from './endpoint.ts';

export interface OpenAiModelOptions extends EndpointOptions {
  readonly model: string;
  /** Laid over every request: further fields, others in place of ours, null takes one away (`{"temperature": null}`). */
  readonly request?: { readonly [field: string]: Json };
  /** `score`: mantis-edge's /score compares choices by likelihood. Default: every answer is generated. */
  readonly choices?: 'score';
  /** Further facts that an answer depends on, such as the digest of the weights. */
  readonly facts?: { readonly [key: string]: Json };
  /** Largest picture, bytes of the file. Default 20 MiB. */
  readonly maxImageBytes?: number;
  /** Most pictures of a question. Default: no bound. */
  readonly maxImages?: number;
  /** Longest answer that the model may write; a task's bound that is not below it is left out of requests. Default: not known. */
  readonly maxAnswerTokens?: number;
}

const MAX_IMAGE_BYTES = 20 * 2 ** 20;

export function openAiModel(options: OpenAiModelOptions): EvalModel {
  const { model, request = {}, choices, facts = {}, maxImageBytes, maxImages, maxAnswerTokens, ...address } = options;
  const endpoint = new Endpoint(address);
  const comparesChoices = choices === 'score';
  const identity = { endpoint: endpoint.address, model, request, comparesChoices, facts };
  /** What the endpoint calls the bound of an answer: newer models refuse the older word. */
  let boundName: 'max_tokens' | 'max_completion_tokens' = 'max_tokens';

  const generate = async (messages: Json, prompt: EvalPrompt, signal: AbortSignal): Promise<EvalAnswer> => {
    for (;;) {
      const bound = boundName;
      const isBound = maxAnswerTokens === undefined || prompt.maxTokens < maxAnswerTokens;
      const body = { model, messages, temperature: 0, ...(isBound ? { [bound]: prompt.maxTokens } : {}), ...request };
      try {
        return await endpoint.post('/chat/completions', withoutNulls(body), readCompletion, signal);
      } catch (error) {
        const isBoundRefused =
          bound === 'max_tokens' &&
          error instanceof EndpointError &&
          error.status === 400 &&
          (error.param === 'max_tokens' || error.message.includes('max_completion_tokens'));
        if (!isBoundRefused) throw error;
        boundName = 'max_completion_tokens';
      }
    }
  };

  return {
    name: `${model} @ ${endpoint.host}`,
    identity: `openai:sha256:${sha256Hex(canonicalJson(identity))}`,
    comparesChoices,
    atOnce: endpoint.atOnce,
    async answer(prompt, signal) {
      if (maxImages !== undefined && prompt.images.length > maxImages)
        throw new Error(
          `a question with ${prompt.images.length} pictures is not sent, ${maxImages} are allowed; use --mode merge`,
        );
      const messages = await messagesOf(prompt, maxImageBytes ?? MAX_IMAGE_BYTES);
      if (!comparesChoices || prompt.choices === undefined || prompt.choices.length < 2)
        return await generate(messages, prompt, signal);
      const options = [...prompt.choices];
      return await endpoint.post(
        '/score',
        { model, messages, options },
        (answer) => readScores(answer, options),
        signal,
      );
    },
    close: async () => {},
  };
}

function withoutNulls(body: { readonly [field: string]: Json }): Json {
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
}

async function messagesOf({ system, earlier = [], parts, images }: EvalPrompt, maxImageBytes: number): Promise<Json> {
  const urls = await Promise.all(images.map((image, i) => dataUrl(image, i, maxImageBytes)));
  const written = (of: EvalPrompt['parts']): Json =>
    of.map((part): Json => {
      if (typeof part === 'string') return { type: 'text', text: part };
      const url = urls[part.image];
      if (url === undefined) throw new Error(`a prompt shows picture ${part.image + 1}, but has ${images.length}`);
      return { type: 'image_url', image_url: { url } };
    });
  return [
    ...(system === undefined ? [] : [{ role: 'system', content: system }]),
    // What a model has said is plain text everywhere; as parts some servers refuse it.
    ...earlier.map(({ role, parts: said }) => ({
      role,
      content: role === 'assistant' ? said.filter((part) => typeof part === 'string').join('') : written(said),
    })),
    { role: 'user', content: written(parts) },
  ];
}

/** @throws Error for a picture that is too large to be sent, or of no known format */
async function dataUrl(image: EvalImage, index: number, maxBytes: number): Promise<string> {
  const bytes = await image.bytes();
  if (bytes.byteLength > maxBytes)
    throw new Error(
      `picture ${index + 1} has ${bytes.byteLength} bytes and is not sent, ${maxBytes} are allowed; make it smaller`,
    );
  const format = sniffFormat(bytes);
  if (format === null) throw new Error(`picture ${index + 1} is not a JPEG, PNG, WebP, GIF or AVIF and is not sent`);
  return `data:image/${format};base64,${Buffer.from(bytes).toString('base64')}`;
}

interface Completion {
  readonly choices?: readonly {
    readonly message?: { readonly content?: unknown; readonly refusal?: unknown };
    readonly finish_reason?: unknown;
  }[];
  readonly usage?: { readonly prompt_tokens?: unknown; readonly completion_tokens?: unknown } | null;
}

/** @throws Error naming what is missing */
function readCompletion(answer: unknown): EvalAnswer {
  const { choices, usage } = (answer ?? {}) as Completion;
  const first = choices?.[0];
  const { content, refusal } = first?.message ?? {};
  const reason = first?.finish_reason;
  // A model that declines has answered; a wrong answer, but one. So has one that ended, or came to its bound while it was thinking, without a word.
  const hasEnded = first?.message != null && typeof reason === 'string';
  const text =
    typeof content === 'string'
      ? content
      : typeof refusal === 'string'
        ? refusal
        : (textOfParts(content) ?? (hasEnded ? '' : null));
  if (text === null) throw new Error('expected choices[0].message.content');
  return {
    text,
    finishReason: reason === 'stop' || reason === 'length' ? reason : 'other',
    ...usageOf(usage),
  };
}

/** Content as a list of parts, which some servers send. */
function textOfParts(content: unknown): string | null {
  if (!Array.isArray(content)) return null;
  return content.map((part: { text?: unknown } | null) => (typeof part?.text === 'string' ? part.text : '')).join('');
}

function usageOf(usage: Completion['usage']): Pick<EvalAnswer, 'usage'> {
  const { prompt_tokens: promptTokens, completion_tokens: completionTokens = 0 } = usage ?? {};
  if (typeof promptTokens !== 'number' || typeof completionTokens !== 'number') return {};
  return { usage: { promptTokens, completionTokens } };
}

/** @throws Error where there is not a number for each option */
function readScores(answer: unknown, options: readonly string[]): EvalAnswer {
  const { scores, usage } = (answer ?? {}) as {
    readonly scores?: readonly { readonly logprob?: unknown }[];
    readonly usage?: Completion['usage'];
  };
  const logprobs = scores?.map(({ logprob }) => logprob) ?? [];
  if (logprobs.length !== options.length || !logprobs.every((one) => typeof one === 'number' && Number.isFinite(one)))
    throw new Error(`expected scores of ${options.length} options`);
  const values = logprobs as number[];
  return {
    text: options[values.indexOf(Math.max(...values))] ?? '',
    finishReason: 'choice',
    logprobs: values,
    ...usageOf(usage),
  };
}
