/**
 * Places where tests make a machine fail: a process that dies, a disk that is full, a computation that hangs, in the middle of
 * real work. A point does nothing unless `MANTIS_FAULT_POINTS` names it, and in built backends that variable is not read: the
 * build puts `undefined` for it (deploy/bundle-backend.ts), and what hangs on it is left out.
 *
 *     MANTIS_FAULT_POINTS='file.write=ENOSPC:3,step=kill:7'
 *
 * `name=action:first` or `name=action:first-last`, counted from 1 over the life of the process; `-` alone means until the end.
 */

const POINTS = process.env.MANTIS_FAULT_POINTS;

/** Names of all points, so that a wrong one is an error and not a test that tests nothing. */
export const FAULT_POINTS = [
  /** replaceFile: before the temporary file is opened, before each write to it, before sync, before rename, before the folder's sync. */
  'file.open',
  'file.write',
  'file.sync',
  'file.rename',
  'file.folder',
  /** saveCheckpoint: before its manifest is written, before its folder gets its name, after that, before older ones are removed. */
  'checkpoint.manifest',
  'checkpoint.rename',
  'checkpoint.named',
  'checkpoint.prune',
  /** Before a micro-batch is computed; `nan` makes its loss and gradients not a number. */
  'micro-batch',
  /** Before an optimizer step is applied. */
  'update',
] as const;
export type FaultPoint = (typeof FAULT_POINTS)[number];

/** `ENOSPC` throws as a full disk does, `oom` as a failed allocation of ONNX Runtime, `hang` blocks the thread, `nan` is the caller's to make. */
type Action = 'kill' | 'ENOSPC' | 'oom' | 'hang' | 'nan';

interface Fault {
  readonly action: Action;
  readonly first: number;
  readonly last: number;
}

const faults = POINTS === undefined ? new Map<FaultPoint, readonly Fault[]>() : parseFaults(POINTS);
const hits = new Map<FaultPoint, number>();

/**
 * Says that the code has come to a point.
 * @returns true when the caller shall make its numbers not a number
 * @throws Error as a full disk or a failed allocation would, when armed so
 */
export function faultPoint(name: FaultPoint): boolean {
  return process.env.MANTIS_FAULT_POINTS === undefined ? false : strike(name);
}

function strike(name: FaultPoint): boolean {
  const own = faults.get(name);
  if (own === undefined) return false;
  const hit = (hits.get(name) ?? 0) + 1;
  hits.set(name, hit);
  let isNan = false;
  for (const { action, first, last } of own) {
    if (hit < first || hit > last) continue;
    switch (action) {
      case 'kill':
        process.kill(process.pid, 'SIGKILL');
        // The signal may be delivered a moment later; nothing more may be done until then.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
        break;
      case 'hang':
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
        break;
      case 'ENOSPC':
        throw Object.assign(new Error(`ENOSPC: no space left on device, ${name} (fault ${hit})`), { code: 'ENOSPC' });
      case 'oom':
        throw new Error(`Failed to allocate memory for requested buffer of size 1 at ${name} (fault ${hit})`);
      case 'nan':
        isNan = true;
    }
  }
  return isNan;
}

function parseFaults(text: string): Map<FaultPoint, Fault[]> {
  const parsed = new Map<FaultPoint, Fault[]>();
  for (const entry of text.split(',').filter((part) => part !== '')) {
    const match = /^([\w.-]+)=(kill|ENOSPC|oom|hang|nan)(?::(\d+)(-(\d*))?)?$/.exec(entry);
    const name = FAULT_POINTS.find((point) => point === match?.[1]);
    if (match === null || name === undefined)
      throw new Error(
        `MANTIS_FAULT_POINTS: expected "point=action:first-last" with a point of ${FAULT_POINTS.join(', ')}, received ${JSON.stringify(entry)}`,
      );
    const first = Number(match[3] ?? 1);
    const last = match[4] === undefined ? first : match[5] === '' ? Number.POSITIVE_INFINITY : Number(match[5]);
    parsed.set(name, [...(parsed.get(name) ?? []), { action: match[2] as Action, first, last }]);
  }
  return parsed;
}
