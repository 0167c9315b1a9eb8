import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

let collector: (() => void) | undefined;

/**
 * Collects garbage now. ONNX Runtime hands every fetched tensor over in a fresh ArrayBuffer, and V8, which sees a small heap
 * of small objects, waits long before it looks for dead ones; a process whose results are hundreds of megabytes a run then
 * carries the last run's through the next one's peak. A collection of our small heaps takes 5 to 15 ms.
 */
export function collectGarbage(): void {
  if (collector === undefined) {
    setFlagsFromString('--expose-gc');
    collector = runInNewContext('gc') as () => void;
  }
  collector();
}
