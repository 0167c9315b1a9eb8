import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

let collector: (() => void) | undefined;

/**
 * Collects garbage now. V8 sees a small heap of small objects and waits long before it looks for dead ones, though each may
 * hold hundreds of megabytes: files that weights were read from, results that onnxruntime-node's binding hands over in fresh
 * ArrayBuffers. A process then carries them through its peak. A collection of our small heaps takes 5 to 15 ms.
 */
export function collectGarbage(): void {
  if (collector === undefined) {
    setFlagsFromString('--expose-gc');
    collector = runInNewContext('gc') as () => void;
  }
  collector();
}
