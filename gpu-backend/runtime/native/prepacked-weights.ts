import { OutPointer, openLibrary } from './library.ts';

const out = new OutPointer();

const collected = new FinalizationRegistry((handle: bigint) =>
  openLibrary().api.releasePrepackedWeightsContainer(handle),
);

/**
 * Weights in the layout that kernels want, made once and read by every session that is created with this container and the
 * same `initializers`. Sessions keep it alive; it is freed when the last of them is collected.
 */
export class PrepackedWeights {
  #handle = 0n;

  /** OrtPrepackedWeightsContainer*, made when it is first asked for: onnxruntime-node's binding has none. */
  get handle(): bigint {
    if (this.#handle === 0n) {
      const { api } = openLibrary();
      this.#handle = out.handle((container) => api.createPrepackedWeightsContainer(container));
      collected.register(this, this.#handle);
    }
    return this.#handle;
  }
}
