import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type Capabilities, CPU_CAPABILITIES, CUDA_CAPABILITIES, WEBGPU_CAPABILITIES } from '../graph/capabilities.ts';
import { type ConformanceReport, conformanceOf, provenPlacement } from './conformance.ts';
import { CPU_PLACEMENT, DEVICES, type Device, type DeviceChoice, type Placement } from './device.ts';
import { type Adapter, nvidiaAdapters } from './device-adapter.ts';
import { DeviceProcess } from './device-process.ts';

/** What a device said when it was tried. */
export interface DeviceProbe {
  readonly device: Device;
  /** Null where a session really ran there and was right. */
  readonly problem: string | null;
  /** What computes, where it could be found out. */
  readonly adapter: Adapter | null;
  readonly runtimeVersion: string | null;
  /** From nothing to the first result, process start not counted. */
  readonly openMs: number | null;
}

/** One line of the choice: the device, and why it is used or not. */
export interface DeviceVerdict {
  readonly device: Device;
  readonly used: boolean;
  readonly reason: string;
  readonly probe: DeviceProbe;
}

const WISH: Readonly<Record<Device, Capabilities>> = {
  cpu: CPU_CAPABILITIES,
  webgpu: WEBGPU_CAPABILITIES,
  cuda: CUDA_CAPABILITIES,
};

/** Tries one device: what files show first, then a session in a process of its own. */
export async function probeDevice(device: Device, root = '/'): Promise<DeviceProbe> {
  const none = { device, adapter: null, runtimeVersion: null, openMs: null };
  const missing = device === 'cuda' ? cudaMissing(root) : device === 'webgpu' ? vulkanMissing(root) : null;
  if (missing !== null)
    return {
      ...none,
      adapter: device === 'cuda' ? (nvidiaAdapters(join(root, 'proc/driver/nvidia'))[0] ?? null) : null,
      problem: missing,
    };
  const child = new DeviceProcess();
  try {
    const reply = await child.ask({ kind: 'open', device });
    if (reply.kind === 'opened')
      return {
        device,
        problem: null,
        adapter: reply.adapters[0] ?? null,
        runtimeVersion: reply.runtimeVersion,
        openMs: Math.round(reply.ms),
      };
    const message = reply.kind === 'failed' ? reply.message : `an answer to another question: ${reply.kind}`;
    return { ...none, problem: explain(device, message, child.lastWords) };
  } finally {
    child.close();
  }
}

/** Why CUDA cannot work here, by what is on disk; null = it may. */
function cudaMissing(root: string): string | null {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return `onnxruntime-node has CUDA for linux/x64 only, this is ${process.platform}/${process.arch}`;
  const missing: string[] = [];
  if (!existsSync(join(root, 'dev/nvidia0'))) missing.push('no NVIDIA card (there is no /dev/nvidia0)');
  const libraries = join(
    dirname(createRequire(import.meta.url).resolve('onnxruntime-node')),
    '..',
    'bin/napi-v6/linux/x64',
  );
  if (!existsSync(join(libraries, 'libonnxruntime_providers_cuda.so')))
    missing.push(
      'libonnxruntime_providers_cuda.so is not installed (ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js fetches it)',
    );
  return missing.length === 0 ? null : missing.join('; ');
}

/** Places where a Vulkan loader looks for drivers (Vulkan loader interface, "Driver Discovery"), below the root. */
const DRIVER_FOLDERS = [
  'etc/vulkan/icd.d',
  'usr/share/vulkan/icd.d',
  'usr/local/share/vulkan/icd.d',
  'usr/local/etc/vulkan/icd.d',
];

/** Why WebGPU cannot work here, by what is on disk; null = it may. A process start is saved where no driver is installed. */
function vulkanMissing(root: string): string | null {
  if (process.platform !== 'linux') return null;
  const named = process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES ?? process.env.VK_ADD_DRIVER_FILES;
  if (named !== undefined && named !== '') return null;
  const found = DRIVER_FOLDERS.some((folder) => {
    try {
      return readdirSync(join(root, folder)).some((name) => name.endsWith('.json'));
    } catch {
      return false;
    }
  });
  return found
    ? null
    : `no Vulkan driver (no manifest in /${DRIVER_FOLDERS.slice(0, 2).join(' or /')}, and VK_DRIVER_FILES names none)`;
}

/** The message of a provider in words that say what to do. */
function explain(device: Device, message: string, lastWords: string): string {
  if (device === 'webgpu' && /WebGPU adapter/.test(message)) {
    if (/Couldn't load Vulkan/.test(lastWords)) return 'no adapter: the Vulkan loader libvulkan.so.1 is not installed';
    const lacks = /^Warning: (Vulkan .*) required\.?$/m.exec(lastWords)?.[1];
    if (lacks !== undefined) return `no adapter: the driver lacks ${lacks} (Mesa has it from version 25 on)`;
    return 'no adapter: no driver of this machine has what WebGPU needs';
  }
  const last = lastWords.trim().split('\n').at(-1) ?? '';
  const short = message.trim().split('\n')[0]?.slice(0, 300) ?? '';
  return short.startsWith('the process') && last !== '' ? `${short}: ${last.slice(0, 300)}` : short;
}

/**
 * Each output that comes back is a round trip (1.1 ms on a Hopper card), and a step of decoding brings two a layer: 24.6 ms for nano's
 * step on an H100, which the processor makes in less than one.
 */
const SLOWER_BY_WEBGPU = 'answers more slowly than the processor does (MANTIS_DEVICE=webgpu takes it anyway)';

/**
 * Which of the tried devices is used. `auto` takes cuda where it is usable, else the processor: over WebGPU both a card and a software
 * adapter answer more slowly. A device asked for by name is used or refused, never replaced.
 * @throws Error when the device asked for is not usable, with its reason
 */
export function chooseDevice(choice: DeviceChoice, probes: readonly DeviceProbe[]): DeviceVerdict[] {
  const probeOf = (device: Device): DeviceProbe =>
    probes.find((probe) => probe.device === device) ?? {
      device,
      problem: device === 'cpu' ? null : 'not tried',
      adapter: null,
      runtimeVersion: null,
      openMs: null,
    };
  const fault = (probe: DeviceProbe): string | null => {
    if (probe.problem !== null) return probe.problem;
    if (choice === 'auto' && probe.device === 'webgpu') return SLOWER_BY_WEBGPU;
    return null;
  };
  const order = [...DEVICES];
  const used = choice === 'auto' ? order.find((device) => fault(probeOf(device)) === null) : choice;
  if (used === undefined)
    throw new Error(`no device is usable; ${order.map((d) => `${d}: ${fault(probeOf(d))}`).join('; ')}`);
  const refusal = fault(probeOf(used));
  if (refusal !== null) throw new Error(`MANTIS_DEVICE=${used} is not usable: ${refusal}`);
  return order.map((device) => {
    const probe = probeOf(device);
    if (device === used)
      return { device, used: true, reason: choice === 'auto' ? 'the first that works' : 'asked for', probe };
    const reason = choice === 'auto' ? (fault(probe) ?? `${used} comes first`) : `${used} was asked for`;
    return { device, used: false, reason, probe };
  });
}

/** The device of a process, chosen and proven. */
export interface OpenedDevice {
  readonly placement: Placement;
  readonly verdicts: readonly DeviceVerdict[];
  /** Null for the processor, whose kernels the tests of the project prove. */
  readonly conformance: ConformanceReport | null;
}

/**
 * Chooses the device of this process: tries them, probes every op on the one chosen, and says why the others are not used.
 * @param cacheDir folder that keeps conformance reports between starts; null = probe at every start
 * @throws Error when the device asked for by name is not usable, or gets ops wrong that have no remedy
 */
export async function openDevice(choice: DeviceChoice, cacheDir: string | null): Promise<OpenedDevice> {
  const tried: DeviceProbe[] = [];
  // A named device needs no others; the processor needs no trial, nor does what `auto` would not take.
  for (const device of DEVICES)
    if (device === choice ? device !== 'cpu' : choice === 'auto' && device === 'cuda')
      tried.push(await probeDevice(device));
  if (choice === 'auto')
    tried.push({ device: 'webgpu', adapter: null, runtimeVersion: null, openMs: null, problem: vulkanMissing('/') });
  for (;;) {
    const verdicts = chooseDevice(choice, tried);
    const chosen = verdicts.find(({ used }) => used)?.probe;
    if (chosen === undefined || chosen.device === 'cpu')
      return { placement: CPU_PLACEMENT, verdicts, conformance: null };
    const wish: Placement = { device: chosen.device, capabilities: WISH[chosen.device] };
    const { device, adapter, runtimeVersion } = chosen;
    const conformance = await conformanceOf({ device, adapter, runtimeVersion: runtimeVersion ?? '' }, wish, cacheDir);
    if (conformance.usable) return { placement: provenPlacement(wish, conformance), verdicts, conformance };
    const wrong = conformance.findings
      .filter(({ remedy }) => remedy === 'none')
      .map(({ op, problem }) => `${op}: ${problem}`);
    // Chosen again without it: `auto` goes on to the next device, a name ends in its error.
    tried.splice(tried.indexOf(chosen), 1, {
      ...chosen,
      problem: `gets ops wrong that have no remedy (${wrong.join('; ')})`,
    });
  }
}

/** A line for each device and each finding, for a log or a terminal. */
export function describeDevice({ verdicts, conformance }: Pick<OpenedDevice, 'verdicts' | 'conformance'>): string[] {
  const lines = verdicts.map(({ device, used, reason, probe: { adapter } }) => {
    const named = adapter === null ? '' : ` (${adapter.name}, driver ${adapter.driver})`;
    return `${used ? 'uses' : 'not'} ${device}${named}: ${reason}`;
  });
  if (conformance === null) return lines;
  const { cases, findings, lostCapabilities, ms, device } = conformance;
  lines.push(`${device}: ${cases - findings.length} of ${cases} op cases as the interpreter (probed in ${ms} ms)`);
  if (lostCapabilities.length > 0) lines.push(`${device}: works without ${lostCapabilities.join(', ')}`);
  for (const { op, name, problem, remedy } of findings)
    lines.push(`${device}: ${op}${name === '' ? '' : ` (${name})`} is wrong, ${problem}; remedy: ${remedy}`);
  return lines;
}
