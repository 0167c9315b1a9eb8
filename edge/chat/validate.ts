/**
 * Everything that can be wrong with a request, found before anything is queued and told in one answer: its schema, fields that exclude each other, the
 * model's limits, every picture, and whether it fits the context. What one of these finds does not keep the others from looking, as far as the pieces
 * can be read. The violations come in reading order; the first one gives the status.
 */
import { ChatRequest, type InputTokens, UNSUPPORTED_CHAT_FIELDS } from '../../shared/contract/chat.ts';
import { ApiError, type Violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { imageTokens } from '../../shared/contract/models.ts';
import { ScoreRequest } from '../../shared/contract/score.ts';
import type { Env } from '../env.ts';
import { type KnownModel, resolveModel } from '../fleet/models.ts';
import { awaitBackend } from '../fleet/presence.ts';
import type { ImageMemory } from '../images/memory.ts';
import { imageStore, type ResolvedImage, resolveImages } from '../images/resolve.ts';
import { shrinkImages } from '../images/shrink.ts';
import type { ValidChat } from './complete.ts';
import { countPrompt } from './count.ts';
import { checkFit, farTooLong, judge, type Wanted } from './fit.ts';
import { checkImageCount, checkImageRoles, checkSystemPlace, maxImages, type Prompt, writePrompt } from './prompt.ts';
import { answerTokensField, checkParameters, sampling } from './sampling.ts';
import { inReadingOrder, requestShape, type Walked, walkRequest } from './walk.ts';

const R = LIMITS.request;

/** Who asks, as far as pictures and models are theirs; `memory` has pictures of earlier requests that belong together. */
export type Caller = { tenant: string; memory?: ImageMemory };
export type ValidateOptions = { requestId: string };

/** What validation found out about pictures, in reading order. */
export type ImageFacts = { images: readonly ResolvedImage[]; imageTokens: readonly number[] };
export type ValidatedChat = ValidChat & ImageFacts;
export type ValidatedScore = Prompt & ImageFacts & { score: ScoreRequest; model: KnownModel };

const CHAT = requestShape<ChatRequest>(ChatRequest, {
  unsupported: UNSUPPORTED_CHAT_FIELDS,
  sizes: {
    stop: R.maxStopSequences,
    logit_bias: R.maxLogitBiases,
    metadata: R.maxMetadataPairs,
    modalities: R.maxStopSequences,
    'structured_outputs.choice': R.maxConstraintChoices,
  },
});
const SCORE = requestShape<ScoreRequest>(ScoreRequest, {
  sizes: { options: R.maxOptions, metadata: R.maxMetadataPairs },
});

/**
 * Checks a chat request.
 * @param body parsed JSON
 * @throws ApiError with every violation; `no_backend` where nothing is wrong but nobody serves the model
 */
export async function validateChat(
  env: Env,
  caller: Caller,
  body: unknown,
  options: ValidateOptions,
): Promise<ValidatedChat> {
  const { walked, model, wrong, facts } = await examineChat(env, caller, body);
  const { chat, known } = settled(walked, model, wrong, body);
  const prompt = writePrompt(chat.messages, facts.images, known, { ...options, tenant: caller.tenant }, sampling(chat));
  await refuseUnfit(env, known, prompt, facts, wantedBy(chat));
  return { chat, model: known, ...prompt, ...facts };
}

/** Checks a request for scores. @throws as `validateChat` */
export async function validateScore(
  env: Env,
  caller: Caller,
  body: unknown,
  options: ValidateOptions,
): Promise<ValidatedScore> {
  const walked = walkRequest(body, SCORE);
  const model = await modelOf(env, caller, walked.fields.model);
  const { wrong, facts } = await examineImages(env, caller, walked, model);
  const { chat: score, known } = settled(walked, model, wrong, body);
  const prompt = writePrompt(score.messages, facts.images, known, { ...options, tenant: caller.tenant }, sampling({}));
  await refuseUnfit(env, known, prompt, facts, { maxNewTokens: null, field: 'max_tokens', options: score.options });
  return { score, model: known, ...prompt, ...facts };
}

/**
 * Exactly what a chat request would take of the context, whether or not it fits.
 * @throws as `validateChat`, but for what merely does not fit; `no_backend` where nobody can count
 */
export async function countChat(
  env: Env,
  caller: Caller,
  body: unknown,
  options: ValidateOptions,
): Promise<InputTokens> {
  const { walked, model, wrong, facts } = await examineChat(env, caller, body);
  const { chat, known } = settled(walked, model, wrong, body);
  const { request, blobs } = writePrompt(
    chat.messages,
    facts.images,
    known,
    { ...options, tenant: caller.tenant },
    sampling(chat),
  );
  const ask = () => countPrompt(env, known, request, sizesOf(facts));
  let count = await ask();
  if (count === null) {
    // Nobody is there: a fleet that sleeps is woken, one that starts is waited for, as for an answer.
    const held = blobs.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
    await awaitBackend(env, request, known.card.id, held);
    count = await ask();
  }
  if (count === null)
    throw new ApiError(
      'no_backend',
      `No backend of ${JSON.stringify(known.id)} can count right now. Try again shortly.`,
      {
        param: 'model',
        retryAfterMs: 2_000,
      },
    );
  const { card } = known;
  const wanted = wantedBy(chat);
  const room = Math.max(0, card.contextTokens - count.promptTokens);
  return {
    object: 'chat.completion.input_tokens',
    model: known.id,
    input_tokens: count.promptTokens,
    text_tokens: count.promptTokens - count.imageTokens.reduce((total, tokens) => total + tokens, 0),
    image_tokens: count.imageTokens,
    context_tokens: card.contextTokens,
    max_new_tokens: Math.min(wanted.maxNewTokens ?? card.maxNewTokens, room),
    fits: checkFit(known, count, wanted) === null,
  };
}

type Model = KnownModel | ApiError | null;

async function examineChat(env: Env, caller: Caller, body: unknown) {
  const walked = walkRequest(body, CHAT);
  const model = await modelOf(env, caller, walked.fields.model);
  const { wrong, facts } = await examineImages(env, caller, walked, model);
  const known = model instanceof ApiError ? null : model;
  wrong.push(...checkParameters(walked.fields, known, walked.wrongFields));
  return { walked, model, wrong, facts };
}

/** @returns the refusal where there is none such; null where none is named */
async function modelOf(env: Env, { tenant }: Caller, name: unknown): Promise<Model> {
  if (typeof name !== 'string') return null;
  try {
    return await resolveModel(env, tenant, name);
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
}

/** Pictures are opened whatever else is wrong, unless they are too many. */
async function examineImages(
  env: Env,
  { tenant, memory }: Caller,
  { images: named, roles }: Walked<unknown>,
  model: Model,
): Promise<{ wrong: Violation[]; facts: ImageFacts }> {
  const known = model instanceof ApiError ? null : model;
  const wrong = [...checkSystemPlace(roles, known), ...checkImageRoles(named), ...checkImageCount(named, known)];
  const none = { images: [], imageTokens: [] };
  if (named.length === 0 || named.length > maxImages(known)) return { wrong, facts: none };
  const resolved = await resolveImages(named, {
    ...imageStore(env, tenant),
    ...(memory === undefined ? {} : { memory }),
  });
  const opened = resolved.flatMap((image) => ('digest' in image ? [image] : []));
  const images = known === null ? opened : await shrinkImages(env, known.card, opened);
  wrong.push(...resolved.flatMap((image) => ('code' in image ? [image] : [])));
  const tokens = known === null ? [] : images.map(({ info }) => imageTokens(known.card, info));
  return { wrong, facts: { images, imageTokens: tokens } };
}

/** @throws ApiError with all that is wrong so far */
function settled<T>(
  walked: Walked<T>,
  model: Model,
  wrong: readonly Violation[],
  body: unknown,
): { chat: T; known: KnownModel } {
  const { request, violations } = walked;
  const all = [...violations.kept, ...wrong];
  let total = violations.total + wrong.length;
  // A model that nobody serves now is no fault of the request, so it is told of only where nothing else is wrong.
  const isMissing = model instanceof ApiError && model.status < 500;
  if (isMissing) {
    all.push({ code: model.code, param: model.options.param ?? 'model', message: model.message });
    total++;
  }
  if (all.length > 0) throw ApiError.from(inReadingOrder(all, body).slice(0, R.maxReportedViolations), total);
  if (model instanceof ApiError) throw model;
  if (request === null || model === null) throw new Error('validate: a request without violations was not read');
  return { chat: request, known: model };
}

/** @throws ApiError `context_length_exceeded` with the numbers, or what else keeps the backend from reading the prompt */
async function refuseUnfit(
  env: Env,
  model: KnownModel,
  { request }: Prompt,
  facts: ImageFacts,
  wanted: Wanted,
): Promise<void> {
  const verdict = judge(model.card, request.messages, facts.imageTokens, wanted);
  if (verdict.type === 'fits') return;
  if (verdict.type === 'too_long' && !verdict.exact)
    throw ApiError.from([farTooLong(model, verdict.text, facts.imageTokens)]);
  const count = await countPrompt(env, model, request, sizesOf(facts), wanted.options);
  if (count === null) {
    if (verdict.type === 'too_long') throw ApiError.from([farTooLong(model, verdict.text, facts.imageTokens)]);
    return; // the backend that takes it counts before it starts
  }
  const unfit = checkFit(model, count, wanted);
  if (unfit !== null) throw ApiError.from([unfit]);
}

function wantedBy(chat: ChatRequest): Wanted {
  const field = answerTokensField(chat);
  return { maxNewTokens: chat[field] ?? null, field };
}

/** Sizes of the distinct pictures, in the order of their blobs. */
function sizesOf({ images }: ImageFacts): { width: number; height: number }[] {
  return [...new Map(images.map(({ digest, info }) => [digest, info])).values()];
}
