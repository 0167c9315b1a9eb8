import type { ModelCard } from '../../../shared/contract/models.ts';

export const OVERLOAD_CARD: ModelCard = {
  id: 'bounded',
  family: 'bench',
  created: 1_700_000_000,
  contextTokens: 8_192,
  tokensPerImage: 64,
  imageWidth: 128,
  imageHeight: 128,
  maxImages: 20,
  maxNewTokens: 4_096,
  vocabTokens: 50_000,
  textBounds: { longestTokenBytes: 64, mostTokensPerByte: 1, promptTokens: 8, messageTokens: 8, imageTokens: 8 },
  capabilities: { chat: true, fineTune: [] },
  digest: 'sha256:00ff',
};
