import * as z from 'zod/mini';

/** How a model of the family may be tuned: projector only, low-rank adapters on the decoder (and projector), or everything. */
export const TrainStage = z.enum(['projector', 'lora', 'full']);
export type TrainStage = z.infer<typeof TrainStage>;

/**
 * How many decoder positions a picture takes where that depends on its size: it is made to fit `width` x `height` pixels with its shape kept (a
 * smaller one stays as it is), cut into squares of `patch` pixels, and each row of squares ends with `rowEnd` more positions.
 */
export const ImageGrid = z.object({ width: z.int(), height: z.int(), patch: z.int(), rowEnd: z.int() });
export type ImageGrid = z.infer<typeof ImageGrid>;

/**
 * What a text can cost at least and at most, so that most prompts need not be counted. A text of n UTF-8 bytes takes between `n / longestTokenBytes` and
 * `n * mostTokensPerByte` tokens; the model's format adds at most `promptTokens` once, `messageTokens` a message and `imageTokens` around a picture.
 */
export const TextBounds = z.object({
  longestTokenBytes: z.int(),
  mostTokensPerByte: z.int(),
  promptTokens: z.int(),
  messageTokens: z.int(),
  imageTokens: z.int(),
});
export type TextBounds = z.infer<typeof TextBounds>;

/** What a backend says about a model it serves. Tokens are decoder positions; pixels are of the largest picture that the model itself sees. */
export const ModelCard = z.object({
  id: z.string(),
  family: z.string(),
  /** Unix seconds. */
  created: z.int(),
  contextTokens: z.int(),
  /** Decoder positions one image takes, the most where `imageGrid` says that it depends; markers such as `(image 1: <Image>…)` not counted. */
  tokensPerImage: z.int(),
  /** Absent: every picture takes `tokensPerImage`. */
  imageGrid: z.optional(ImageGrid),
  imageWidth: z.int(),
  imageHeight: z.int(),
  maxImages: z.int(),
  maxNewTokens: z.int(),
  /** One more than the largest token id. */
  vocabTokens: z.optional(z.int()),
  /** Absent where nothing can be said, as with formats that are programs: prompts are then counted each time. */
  textBounds: z.optional(TextBounds),
  /** A system message may only be the first: so in all built-in formats; a checkpoint's own template decides for itself. */
  systemFirst: z.optional(z.boolean()),
  capabilities: z.object({ chat: z.boolean(), fineTune: z.array(TrainStage) }),
  /** `sha256:…` of the weights. */
  digest: z.string(),
});
export type ModelCard = z.infer<typeof ModelCard>;

/** Decoder positions that an upright picture of this size, pixels, takes in the card's model. */
export function imageTokens(
  { tokensPerImage, imageGrid }: Pick<ModelCard, 'tokensPerImage' | 'imageGrid'>,
  { width, height }: { readonly width: number; readonly height: number },
): number {
  if (imageGrid === undefined) return tokensPerImage;
  const factor = Math.min(1, imageGrid.height / height, imageGrid.width / width);
  const patches = (side: number): number => Math.ceil(Math.max(1, Math.trunc(side * factor)) / imageGrid.patch);
  return patches(height) * (patches(width) + imageGrid.rowEnd);
}

/** Public model object: OpenAI's four fields, and what a client must know before it sends pictures. */
export const Model = z.object({
  id: z.string(),
  object: z.literal('model'),
  created: z.int(),
  owned_by: z.string(),
  parent: z.nullable(z.string()),
  limits: z.nullable(
    z.object({
      context_tokens: z.int(),
      max_images: z.int(),
      max_new_tokens: z.int(),
      /** The most one picture takes. */
      tokens_per_image: z.int(),
      /** How many it takes by its size; null where all take the same. */
      image_grid: z.nullable(z.object({ width: z.int(), height: z.int(), patch: z.int(), row_end: z.int() })),
      image_width: z.int(),
      image_height: z.int(),
    }),
  ),
  capabilities: z.nullable(
    z.object({
      chat: z.boolean(),
      /** Ways in which it may be tuned; none: it may not. */
      fine_tune: z.array(TrainStage),
      input_modalities: z.array(z.enum(['text', 'image'])),
      output_modalities: z.array(z.literal('text')),
      image_formats: z.array(z.string()),
      /** How a picture may be named in a request. */
      image_sources: z.array(z.enum(['data_url', 'https_url', 'file_id', 'sha256'])),
      streaming: z.boolean(),
      logprobs: z.boolean(),
      /** Most alternatives of a token that `top_logprobs` lists. */
      max_top_logprobs: z.int(),
      max_choices: z.int(),
      seed: z.boolean(),
      penalties: z.boolean(),
      /** What `response_format` may be. */
      response_formats: z.array(z.enum(['text', 'json_object', 'json_schema'])),
      /** What `structured_outputs` may hold. */
      structured_outputs: z.array(z.enum(['json', 'json_object', 'regex', 'choice'])),
      tools: z.boolean(),
      score: z.boolean(),
      batch: z.boolean(),
    }),
  ),
});
export type Model = z.infer<typeof Model>;
