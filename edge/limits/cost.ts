import type { GenerateRequest } from '../../shared/contract/backend.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { Cost } from './limiter.ts';

/** What validation knows of a request for a model. */
export type Priced = {
  readonly request: Pick<GenerateRequest, 'messages'>;
  readonly model: { readonly card: Pick<ModelCard, 'tokensPerImage'> };
  /** Decoder positions of each picture; where they are not known, the card's for all. */
  readonly imageTokens?: readonly number[];
};

/** @param bytes of the request's body */
export function costOfRequest({ request, model, imageTokens }: Priced, bytes: number): Cost {
  let images = 0;
  for (const { parts } of request.messages) for (const { type } of parts) if (type === 'image') images++;
  const tokens = imageTokens?.reduce((sum, count) => sum + count, 0) ?? images * model.card.tokensPerImage;
  return { requests: 1, images, imageTokens: tokens, bytes };
}
