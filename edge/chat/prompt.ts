/** From a request that is right to what a backend is asked; and what can be wrong with where pictures stand and how many there are. */
import type { GenerateMessage, GeneratePart, GenerateRequest, Sampling } from '../../shared/contract/backend.ts';
import type { ChatMessage, ChatRequest, ContentPart } from '../../shared/contract/chat.ts';
import { type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { KnownModel } from '../fleet/models.ts';
import type { ImageReference, ResolvedImage } from '../images/resolve.ts';
import type { Blob } from '../images/transfer.ts';
import type { NamedImage } from './walk.ts';

export type Prompt = { request: GenerateRequest; blobs: Blob[] };

/**
 * @param images the conversation's pictures in reading order
 * @param who names the request, and apart from whom its caches are kept
 */
export function writePrompt(
  conversation: readonly ChatMessage[],
  images: readonly ResolvedImage[],
  { adapter, id }: Pick<KnownModel, 'adapter' | 'id'>,
  who: { requestId: string; tenant: string },
  sampling: Sampling,
): Prompt {
  const blobs: Blob[] = [];
  const blobOf = new Map<string, number>();
  let next = 0;
  const toPart = (part: ContentPart): GeneratePart => {
    // Whatever a person types stays text, `<image>` included: a slot exists only where a part is a picture.
    if (part.type === 'text') return { type: 'text', text: part.text };
    const image = images[next++];
    if (image === undefined) throw new Error('writePrompt: a picture of the request was not resolved');
    let blob = blobOf.get(image.digest);
    if (blob === undefined) {
      blob = blobs.push({ digest: image.digest, mime: image.info.mime, bytes: image.bytes }) - 1;
      blobOf.set(image.digest, blob);
    }
    return { type: 'image', blob, ...(part.type === 'image_file' ? { isFile: true } : {}) };
  };
  const messages = conversation.map(
    ({ role, content }): GenerateMessage => ({
      role: role === 'developer' ? 'system' : role,
      parts: typeof content === 'string' ? [{ type: 'text', text: content }] : content.map(toPart),
    }),
  );
  const request: GenerateRequest = {
    ...who,
    model: id,
    messages,
    sampling,
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
          part.type === 'text' ? [] : [misplaced(`messages[${m}].content[${p}].${part.type}`, role)],
        ),
  );
}

/** As `checkPlaces`, for pictures of a request that is not right otherwise. */
export function checkImageRoles(images: readonly NamedImage[]): Violation[] {
  return images.flatMap(({ param, role }) =>
    role === 'system' || role === 'developer' || role === 'assistant' ? [misplaced(param, role)] : [],
  );
}

function misplaced(param: string, role: string): Violation {
  return violation('image_not_allowed_here', param, {
    expected: 'pictures in messages of role "user" only',
    received: `one in a message of role "${role}"`,
  });
}

/** @param roles of the messages, as the request gives them */
export function checkSystemPlace(
  roles: readonly unknown[],
  model: Pick<KnownModel, 'card' | 'id'> | null,
): Violation[] {
  if (model?.card.systemFirst !== true) return [];
  return roles.flatMap((role, m) =>
    m > 0 && (role === 'system' || role === 'developer')
      ? [
          violation('invalid_value', `messages[${m}].role`, {
            expected: `${JSON.stringify(role)} in the first message only for ${model.id}`,
            received: `it in message ${m + 1}`,
          }),
        ]
      : [],
  );
}

/** Most pictures of a request for this model; null where it is not known. */
export function maxImages(model: Pick<KnownModel, 'card'> | null): number {
  return Math.min(model?.card.maxImages ?? LIMITS.images.maxPerRequest, LIMITS.images.maxPerRequest);
}

export function checkImageCount(
  images: readonly NamedImage[],
  model: Pick<KnownModel, 'card' | 'id'> | null,
): Violation[] {
  const limit = maxImages(model);
  const over = images[limit];
  if (over === undefined) return [];
  const expected = `at most ${limit} images${model === null ? '' : ` for ${model.id}`}`;
  return [violation('too_many_images', over.param, { expected, received: images.length })];
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
