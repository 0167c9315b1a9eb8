/** From the public chat request to what a backend is asked: pictures resolved and counted, defaults filled in, everything wrong named. */
import type { GenerateMessage, GeneratePart, GenerateRequest } from '../../shared/contract/backend.ts';
import type { ChatRequest, ContentPart } from '../../shared/contract/chat.ts';
import { ApiError, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { imageTokens } from '../../shared/contract/models.ts';
import type { Blob } from '../fleet/errand.ts';
import type { KnownModel } from '../fleet/models.ts';
import { type ImageReference, type ImageStore, resolveImages } from '../images/resolve.ts';
import { checkParameters, sampling } from './sampling.ts';

export type Prompt = { request: GenerateRequest; blobs: Blob[] };

/** @throws ApiError with every violation of the request that can be known before a backend sees it. */
export async function buildPrompt(
  chat: ChatRequest,
  model: KnownModel,
  store: ImageStore,
  who: { requestId: string; tenant: string },
): Promise<Prompt> {
  const references = imageReferences(chat);
  const wrong = [...checkParameters(chat, model), ...checkPlaces(chat), ...checkCount(references, model)];
  // Too many pictures are refused before any of them is opened.
  const images = wrong.length > 0 ? [] : await resolveImages(references, store);
  const bad = images.flatMap((image) => ('code' in image ? [image] : []));
  const sizes = images.flatMap((image) => ('digest' in image ? [image.info] : []));
  wrong.push(...bad);
  // Nothing to add where the count was refused or a picture could not be opened.
  if (wrong.length === 0 && model.card.imageGrid !== undefined)
    wrong.push(
      ...checkTokens(
        sizes.map((size) => imageTokens(model.card, size)),
        model,
      ),
    );
  if (wrong.length > 0) throw ApiError.from(wrong);

  const blobs: Blob[] = [];
  const blobOf = new Map<string, number>();
  let next = 0;
  const toPart = (part: ContentPart): GeneratePart => {
    // Whatever a person types stays text, `<image>` included: a slot exists only where a part is a picture.
    if (part.type === 'text') return { type: 'text', text: part.text };
    const image = images[next++];
    if (image === undefined || !('digest' in image))
      throw new Error('buildPrompt: a picture of the request was not resolved');
    let blob = blobOf.get(image.digest);
    if (blob === undefined) {
      blob = blobs.push({ digest: image.digest, mime: image.info.mime, bytes: image.bytes }) - 1;
      blobOf.set(image.digest, blob);
    }
    return { type: 'image', blob };
  };
  const messages = chat.messages.map(
    ({ role, content }): GenerateMessage => ({
      role: role === 'developer' ? 'system' : role,
      parts: typeof content === 'string' ? [{ type: 'text', text: content }] : content.map(toPart),
    }),
  );
  const { adapter, id } = model;
  const request: GenerateRequest = {
    ...who,
    model: id,
    messages,
    sampling: sampling(chat),
    deadlineMs: LIMITS.request.deadlineMs,
    ...(adapter === null ? {} : { adapter }),
  };
  return { request, blobs };
}

/** Every picture with its path, in reading order. */
export function imageReferences(chat: Pick<ChatRequest, 'messages'>): ImageReference[] {
  return chat.messages.flatMap(({ content }, m) =>
    typeof content === 'string'
      ? []
      : content.flatMap((part, p): ImageReference[] => {
          const at = `messages[${m}].content[${p}]`;
          if (part.type === 'image_url') return [{ param: `${at}.image_url`, url: part.image_url.url }];
          if (part.type === 'image_file') return [{ param: `${at}.image_file`, url: part.image_file.file_id }];
          return [];
        }),
  );
}

/** Pictures belong to what the user says. */
export function checkPlaces(chat: Pick<ChatRequest, 'messages'>): Violation[] {
  return chat.messages.flatMap(({ role, content }, m) =>
    role === 'user' || typeof content === 'string'
      ? []
      : content.flatMap((part, p) =>
          part.type === 'text'
            ? []
            : [
                violation('image_not_allowed_here', `messages[${m}].content[${p}].${part.type}`, {
                  expected: 'pictures in messages of role "user" only',
                  received: `one in a message of role "${role}"`,
                }),
              ],
        ),
  );
}

function checkCount(references: readonly ImageReference[], { card, id }: KnownModel): Violation[] {
  const limit = Math.min(card.maxImages, LIMITS.images.maxPerRequest);
  const over = references[limit];
  if (over !== undefined) {
    return [
      violation('too_many_images', over.param, {
        expected: `at most ${limit} images for ${id}`,
        received: references.length,
      }),
    ];
  }
  // Where it depends on the picture, tokens are counted once the pictures are open.
  return card.imageGrid === undefined
    ? checkTokens(
        references.map(() => card.tokensPerImage),
        { card, id },
      )
    : [];
}

/**
 * Pictures alone must not fill the context; what the text adds, the backend counts.
 * @param tokens decoder positions of each picture
 */
export function checkTokens(tokens: readonly number[], { card, id }: Pick<KnownModel, 'card' | 'id'>): Violation[] {
  const all = tokens.reduce((sum, count) => sum + count, 0);
  if (all < card.contextTokens) return [];
  const sum = card.imageGrid === undefined ? `x ${card.tokensPerImage} = ${all}` : `of ${tokens.join(' + ')} = ${all}`;
  return [
    violation('context_length_exceeded', 'messages', {
      expected: `less than the ${card.contextTokens} tokens of ${id}'s context`,
      received: `${tokens.length} images ${sum} tokens`,
      remedy: card.imageGrid === undefined ? 'Send fewer images.' : 'Send fewer or smaller images.',
    }),
  ];
}
