import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { type Layout, LayoutError, layoutConversation } from '../text/layout.ts';
import type { ModelFront } from './model-front.ts';

/** @throws ApiError for what the client can mend: order of roles, blobs that do not exist, too many images */
export function layOut(request: GenerateRequest, blobs: readonly Uint8Array[], front: ModelFront): Layout {
  const { card } = front;
  const images = imagePaths(request);
  if (images.length > card.maxImages)
    throw new ApiError(
      'too_many_images',
      `messages: expected at most ${card.maxImages} images for ${card.id}, received ${images.length}. Send fewer.`,
      { param: images[card.maxImages] ?? 'messages' },
    );
  const messages = request.messages.map(({ role, parts }, m) => ({
    role,
    parts: parts.map((part, p) => {
      if (part.type === 'text') return part;
      if (blobs[part.blob] === undefined)
        throw new ApiError(
          'invalid_value',
          `messages[${m}].parts[${p}].blob: expected 0 … ${blobs.length - 1}, received ${part.blob}.`,
        );
      return { type: 'image' as const, image: part.blob };
    }),
  }));
  try {
    return layoutConversation(messages, {
      tokenizer: front.tokenizer,
      template: front.template,
      tokensPerImage: front.tokensPerImage,
      imageTokenId: front.imageTokenId,
      addGenerationPrompt: true,
    });
  } catch (error) {
    if (!(error instanceof LayoutError)) throw error;
    throw new ApiError('invalid_value', error.message, { param: error.path });
  }
}

/** Where each image stands, in the request's own words; the edge turns `parts` into the client's `content`. */
export function imagePaths(request: GenerateRequest): string[] {
  return request.messages.flatMap(({ parts }, m) =>
    parts.flatMap(({ type }, p) => (type === 'image' ? [`messages[${m}].parts[${p}]`] : [])),
  );
}
