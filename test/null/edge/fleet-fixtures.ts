import type { BackendReport } from '../../../shared/contract/backend.ts';
import type { ModelCard } from '../../../shared/contract/models.ts';

export const card = (id: string): ModelCard => ({
  id,
  family: 'mantis',
  created: 0,
  contextTokens: 100,
  tokensPerImage: 10,
  imageWidth: 8,
  imageHeight: 8,
  maxImages: 4,
  maxNewTokens: 10,
  capabilities: { chat: true, fineTune: [] },
  digest: 'sha256:0',
});

export const report = (id: string, more: Partial<BackendReport> = {}): BackendReport => ({
  id,
  url: `http://${id}`,
  models: [card('m')],
  capacity: 4,
  inFlight: 0,
  state: 'ready',
  ...more,
});
