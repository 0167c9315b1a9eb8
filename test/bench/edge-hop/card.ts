import type { ModelCard } from '../../../shared/contract/models.ts';

/** A token each so many milliseconds. */
export const TOKEN_MS = 10;

export const UPSTREAM_CARD: ModelCard = {
  id: 'trivial',
  family: 'bench',
  created: 1_700_000_000,
  contextTokens: 8_192,
  tokensPerImage: 64,
  imageWidth: 128,
  imageHeight: 128,
  maxImages: 20,
  maxNewTokens: 4_096,
  // As of any real model: with them the door can tell that a prompt fits without asking.
  vocabTokens: 32_000,
  textBounds: { longestTokenBytes: 16, mostTokensPerByte: 1, promptTokens: 16, messageTokens: 16, imageTokens: 16 },
  systemFirst: true,
  capabilities: { chat: true, fineTune: [] },
  digest: 'sha256:00ff',
};
