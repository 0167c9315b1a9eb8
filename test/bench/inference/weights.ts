import { openSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { toFloat32 } from '../../../gpu-backend/io/tensor.ts';

/** The decoder's weights of a checkpoint folder by their short names, such as `layers.3.mlp.up_proj`. */
export class DecoderWeights {
  readonly #store: ReturnType<typeof openSafetensors>;
  readonly #names: ReadonlyMap<string, string>;

  constructor(dir: string) {
    this.#store = openSafetensors(dir);
    const suffix = /^(?:model\.)?language_model\.(?:model\.)?(.*)\.weight$/;
    this.#names = new Map(
      [...this.#store.tensors.keys()].flatMap((stored) => {
        const name = suffix.exec(stored)?.[1];
        return name === undefined ? [] : [[name, stored] as const];
      }),
    );
  }

  /** [out, in] as in the file, or [size]. */
  read(name: string): Float32Array {
    const tensor = this.#store.tensors.get(this.#names.get(name) ?? '');
    if (tensor === undefined)
      throw new Error(`the checkpoint has no decoder weight ${name}; it has ${[...this.#names.keys()].join(', ')}`);
    return toFloat32(tensor.read());
  }

  close(): void {
    this.#store.close();
  }
}

/** Rows of several weights of the same input width, one below the other. */
export function stackRows(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** [rows, columns] → [columns, rows]. */
export function transposed(matrix: Float32Array, columns: number): Float32Array {
  const rows = matrix.length / columns;
  const out = new Float32Array(matrix.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = matrix[r * columns + c]!;
  return out;
}
