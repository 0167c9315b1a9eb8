import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CapabilityName, withoutCapabilities } from '../graph/capabilities.ts';
import type { OpName } from '../graph/ops/attrs.ts';
import { capabilitiesUsed, caseGraph } from './conformance-compare.ts';
import { DEVICE_CASES } from './conformance-device-cases.ts';
import type { Device, Placement } from './device.ts';
import type { Adapter } from './device-adapter.ts';
import { DeviceProcess } from './device-process.ts';
import { encodeGraph } from './session.ts';

/**
 * Largest accepted difference to the interpreter, over the largest value of the output. Kernels of a GPU reorder sums and take
 * short cuts in exp; CUDA multiplies matrices in TF32 (10 bits of mantissa) by default. Wrong kernels are off by 0.1 and more.
 */
const TOLERANCE: Readonly<Record<Device, number>> = { cpu: 1e-5, webgpu: 1e-4, cuda: 5e-3 };

/** Where and with what the probe ran: a report holds for this and nothing else. */
export interface ProbedDevice {
  readonly device: Device;
  readonly adapter: Adapter | null;
  readonly runtimeVersion: string;
}

/** One case that a device got wrong, and what was done about it. */
export interface Finding {
  readonly op: OpName;
  readonly name: string;
  readonly problem: string;
  readonly remedy: 'standard lowering' | 'processor' | 'none';
}

export interface ConformanceReport extends ProbedDevice {
  readonly cases: number;
  readonly lostCapabilities: readonly CapabilityName[];
  readonly cpuOps: readonly OpName[];
  readonly findings: readonly Finding[];
  /** Every op is right, with the remedies. Else the device must not be used. */
  readonly usable: boolean;
  readonly ms: number;
}

/** Runs cases on a device and says what is wrong with each, by its number. */
export type CaseRunner = (indices: readonly number[], placement: Placement) => Promise<Map<number, string>>;

/**
 * Runs every op case on the device and compares it with the interpreter. What is wrong with a kernel of the capability table is
 * lowered to standard ONNX instead; what is wrong in that form too runs on the processor (WebGPU only: ONNX Runtime takes no
 * such list for CUDA); what is wrong even then makes the device unusable.
 */
export async function probeConformance(
  probed: ProbedDevice,
  wish: Placement,
  run: CaseRunner = runCases,
): Promise<ConformanceReport> {
  const startedAt = performance.now();
  const all = DEVICE_CASES.map((_, i) => i);
  const uses = (i: number): CapabilityName[] => {
    const c = DEVICE_CASES[i];
    return c === undefined ? [] : capabilitiesUsed(c, wish.capabilities);
  };
  const problems = await run(all, wish);
  const lost: CapabilityName[] = [];
  for (const i of problems.keys()) lost.push(...(await guilty(i, uses(i), lost, wish, run)));
  // A lost kernel changes the lowering of cases that were right, so they run again with those that were wrong.
  const again = all.filter((i) => problems.has(i) || uses(i).some((name) => lost.includes(name)));
  const standard: Placement = { ...wish, capabilities: withoutCapabilities(wish.capabilities, lost) };
  const stillWrong = lost.length === 0 ? problems : await run(again, standard);
  const opsOf = (wrong: ReadonlyMap<number, string>): OpName[] =>
    [...new Set([...wrong.keys()].flatMap((i) => DEVICE_CASES[i]?.op ?? []))].sort();
  const cpuOps = wish.device === 'webgpu' ? opsOf(stillWrong) : [];
  const onProcessor = all.filter((i) => cpuOps.some((op) => op === DEVICE_CASES[i]?.op));
  const hopeless = cpuOps.length === 0 ? stillWrong : await run(onProcessor, { ...standard, cpuOps });
  const findings = all.flatMap((i): Finding[] => {
    const c = DEVICE_CASES[i];
    const problem = hopeless.get(i) ?? stillWrong.get(i) ?? problems.get(i);
    if (c === undefined || problem === undefined) return [];
    const remedy = hopeless.has(i) ? 'none' : stillWrong.has(i) ? 'processor' : 'standard lowering';
    return [{ op: c.op, name: c.name, problem, remedy }];
  });
  return {
    ...probed,
    cases: all.length,
    lostCapabilities: lost,
    cpuOps,
    findings,
    usable: hopeless.size === 0,
    ms: Math.round(performance.now() - startedAt),
  };
}

/** The one capability that a case needs to lose to be right, besides those lost already; all that it uses where none alone helps. */
async function guilty(
  index: number,
  used: readonly CapabilityName[],
  lost: readonly CapabilityName[],
  wish: Placement,
  run: CaseRunner,
): Promise<readonly CapabilityName[]> {
  const isRight = async (without: readonly CapabilityName[]): Promise<boolean> => {
    const capabilities = withoutCapabilities(wish.capabilities, without);
    return (await run([index], { ...wish, capabilities })).size === 0;
  };
  if (used.some((name) => lost.includes(name)) && (await isRight(lost))) return [];
  const left = used.filter((name) => !lost.includes(name));
  if (left.length < 2) return left;
  // A row asks for the kernel first and then for its finer points: those go first.
  for (const name of left.toReversed()) if (await isRight([...lost, name])) return [name];
  return left;
}

/** Runs cases in a process beside ours; one that dies is counted against the case it had in hand, and another is started. */
export const runCases: CaseRunner = async (indices, placement) => {
  const problems = new Map<number, string>();
  let child = new DeviceProcess();
  try {
    for (const index of indices) {
      if (!child.isAlive) child = new DeviceProcess();
      const reply = await child.ask({ kind: 'case', index, placement });
      if (reply.kind === 'failed') problems.set(index, firstLine(reply.message));
      else if (reply.kind === 'compared' && !(reply.error <= TOLERANCE[placement.device]))
        problems.set(index, `off by ${reply.error.toPrecision(2)}, at most ${TOLERANCE[placement.device]} is right`);
    }
  } finally {
    child.close();
  }
  return problems;
};

const firstLine = (text: string): string => text.trim().split('\n')[0]?.slice(0, 300) ?? '';

/** The placement that a report leaves of the wish. */
export function provenPlacement(wish: Placement, { lostCapabilities, cpuOps }: ConformanceReport): Placement {
  return {
    ...wish,
    capabilities: withoutCapabilities(wish.capabilities, lostCapabilities),
    ...(cpuOps.length === 0 ? {} : { cpuOps }),
  };
}

/** Probes a device once for each runtime, driver, adapter and set of lowered cases; later starts read the report. */
export async function conformanceOf(
  probed: ProbedDevice,
  wish: Placement,
  cacheDir: string | null,
  run: CaseRunner = runCases,
): Promise<ConformanceReport> {
  if (cacheDir === null) return await probeConformance(probed, wish, run);
  const path = join(cacheDir, `conformance-${probed.device}-${reportKey(probed, wish)}.json`);
  try {
    return JSON.parse(await readFile(path, 'utf8')) as ConformanceReport;
  } catch {
    // Not there, or cut off: probed again.
  }
  const report = await probeConformance(probed, wish, run);
  await mkdir(cacheDir, { recursive: true });
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, `${JSON.stringify(report, null, 2)}\n`);
  await rename(draft, path);
  return report;
}

/** Digest of all that a report depends on; the models of the cases stand for the lowering. */
function reportKey(probed: ProbedDevice, wish: Placement): string {
  const hash = createHash('sha256').update(JSON.stringify([probed, wish, TOLERANCE]));
  for (const c of DEVICE_CASES)
    hash
      .update(c.op)
      .update(c.name)
      .update(encodeGraph(caseGraph(c), wish.capabilities));
  return hash.digest('hex').slice(0, 16);
}
