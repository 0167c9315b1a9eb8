import { LIMITS } from '../../shared/contract/limits.ts';
import type { FeatureTier } from '../engine/feature-store.ts';
import type { RecordId } from '../engine/feature-store-record.ts';
import type { EdgeClient } from './edge-client.ts';

/** Records in the edge's object store: what a new machine starts with. Old ones are deleted there. */
export class ObjectTier implements FeatureTier {
  readonly name = 'objects';
  readonly #edge: EdgeClient;

  constructor(edge: EdgeClient) {
    this.#edge = edge;
  }

  read(id: RecordId, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer> | null> {
    return this.#edge.getBlob(pathOf(id), LIMITS.backends.maxFeatureRecordBytes, signal);
  }

  async write(id: RecordId, record: Uint8Array<ArrayBuffer>): Promise<void> {
    if (record.byteLength <= LIMITS.backends.maxFeatureRecordBytes) await this.#edge.putBlob(pathOf(id), record);
  }

  /** Nothing to do: the picture is encoded and its record written over the damaged one. */
  async drop(): Promise<void> {}
}

function pathOf({ tenant, name }: RecordId): string {
  return `/internal/features/${tenant}/${name}`;
}
