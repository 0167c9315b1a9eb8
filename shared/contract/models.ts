import * as z from 'zod/mini';

/** How a model of the family may be tuned: projector only, low-rank adapters on the decoder (and projector), or everything. */
export const TrainStage = z.enum(['projector', 'lora', 'full']);
export type TrainStage = z.infer<typeof TrainStage>;

/** What a backend says about a model it serves. Tokens are decoder positions; pixels are of the model's own input square. */
export const ModelCard = z.object({
  id: z.string(),
  family: z.string(),
  /** Unix seconds. */
  created: z.int(),
  contextTokens: z.int(),
  /** Decoder positions one image takes, markers such as `(image 1: <Image>…)` not counted; null where it depends on the picture. */
  tokensPerImage: z.nullable(z.int()),
  imageWidth: z.int(),
  imageHeight: z.int(),
  maxImages: z.int(),
  maxNewTokens: z.int(),
  capabilities: z.object({ chat: z.boolean(), fineTune: z.array(TrainStage) }),
  /** `sha256:…` of the weights. */
  digest: z.string(),
});
export type ModelCard = z.infer<typeof ModelCard>;

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
      tokens_per_image: z.nullable(z.int()),
      image_width: z.int(),
      image_height: z.int(),
    }),
  ),
  capabilities: z.nullable(z.object({ chat: z.boolean(), fine_tune: z.array(TrainStage) })),
});
export type Model = z.infer<typeof Model>;
