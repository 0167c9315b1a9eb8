import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { CPU_CAPABILITIES, WEBGPU_CAPABILITIES } from '../../../gpu-backend/graph/capabilities.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { OPS } from '../../../gpu-backend/graph/ops/table.ts';
import {
  type CaseRunner,
  conformanceOf,
  probeConformance,
  provenPlacement,
  runCases,
} from '../../../gpu-backend/runtime/conformance.ts';
import { DEVICE_CASES } from '../../../gpu-backend/runtime/conformance-device-cases.ts';
import { CPU_PLACEMENT, cpuNodeNames, type Placement } from '../../../gpu-backend/runtime/device.ts';
import { nvidiaAdapters } from '../../../gpu-backend/runtime/device-adapter.ts';
import {
  chooseDevice,
  type DeviceProbe,
  describeDevice,
  openDevice,
  probeDevice,
} from '../../../gpu-backend/runtime/device-open.ts';
import { profilePlacement, readProfile } from '../../../gpu-backend/runtime/device-placement.ts';
import { DeviceProcess } from '../../../gpu-backend/runtime/device-process.ts';
import { f32 } from '../../../gpu-backend/runtime/session.ts';

const dir = mkdtempSync(join(tmpdir(), 'mantis-device-'));
after(() => rmSync(dir, { recursive: true }));

const probe = (device: DeviceProbe['device'], more: Partial<DeviceProbe> = {}): DeviceProbe => ({
  device,
  problem: null,
  adapter: null,
  runtimeVersion: '1.30.0',
  openMs: 5,
  ...more,
});
const software = { name: 'llvmpipe', kind: 'software', driver: 'Mesa 25' } as const;
const usedOf = (choice: Parameters<typeof chooseDevice>[0], probes: readonly DeviceProbe[]) =>
  chooseDevice(choice, probes).find(({ used }) => used)?.device;

test('auto takes cuda, else the processor, and says why', () => {
  const noCuda = probe('cuda', { problem: 'no NVIDIA card' });
  assert.equal(usedOf('auto', [probe('cuda'), probe('webgpu')]), 'cuda');
  assert.equal(usedOf('auto', [noCuda, probe('webgpu')]), 'cpu');
  const verdicts = chooseDevice('auto', [noCuda, probe('webgpu', { adapter: software })]);
  assert.deepEqual(
    verdicts.map(({ device, used }) => [device, used]),
    [
      ['cuda', false],
      ['webgpu', false],
      ['cpu', true],
    ],
  );
  const lines = describeDevice({ verdicts, conformance: null }).join('\n');
  assert.match(lines, /not cuda: no NVIDIA card/);
  assert.match(lines, /not webgpu \(llvmpipe, driver Mesa 25\): .*more slowly.*MANTIS_DEVICE=webgpu/);
});

test('a named device is used or refused, never replaced', () => {
  assert.equal(usedOf('webgpu', [probe('webgpu', { adapter: software })]), 'webgpu');
  assert.equal(usedOf('cpu', []), 'cpu');
  assert.throws(
    () => chooseDevice('cuda', [probe('cuda', { problem: 'no NVIDIA card' })]),
    /MANTIS_DEVICE=cuda is not usable: no NVIDIA card/,
  );
});

test('what is not installed is named without a process being started', async () => {
  const { problem } = await probeDevice('cuda', dir);
  assert.match(problem ?? '', process.platform === 'linux' ? /no NVIDIA card.*nvidia0/ : /linux\/x64 only/);
});

test('NVIDIA cards and their driver are read from /proc', () => {
  const root = join(dir, 'nvidia');
  mkdirSync(join(root, 'gpus', '0000:01:00.0'), { recursive: true });
  writeFileSync(
    join(root, 'version'),
    'NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30\n',
  );
  writeFileSync(join(root, 'gpus', '0000:01:00.0', 'information'), 'Model: \t\t NVIDIA H100 PCIe\nIRQ: 32\n');
  assert.deepEqual(nvidiaAdapters(root), [{ name: 'NVIDIA H100 PCIe', kind: 'discrete', driver: '550.54.14' }]);
  assert.deepEqual(nvidiaAdapters(join(dir, 'nothing')), []);
});

test('the processor is opened without a probe', async () => {
  const opened = await openDevice('cpu', null);
  assert.equal(opened.placement.device, 'cpu');
  assert.equal(opened.conformance, null);
});

test('every op has a device case', () => {
  const covered = new Set(DEVICE_CASES.map(({ op }) => op));
  for (const op of Object.keys(OPS)) assert.ok(covered.has(op as keyof typeof OPS), `${op} has no case`);
});

test('the processor passes every case, in the process that devices are probed in', async () => {
  const problems = await runCases(
    DEVICE_CASES.map((_, i) => i),
    CPU_PLACEMENT,
  );
  assert.deepEqual([...problems.values()], []);
});

test('a process that takes too long, or is gone, is an answer', async () => {
  const child = new DeviceProcess();
  const late = await child.ask({ kind: 'open', device: 'cpu' }, 1);
  assert.deepEqual([late.kind, child.isAlive], ['failed', false]);
  const gone = await child.ask({ kind: 'open', device: 'cpu' });
  assert.match(gone.kind === 'failed' ? gone.message : '', /no answer within 1 ms/);
});

const probed = { device: 'webgpu', adapter: software, runtimeVersion: '1.30.0' } as const;
const wish: Placement = { device: 'webgpu', capabilities: WEBGPU_CAPABILITIES };

/** A device that gets cases wrong by a rule over op and placement. */
const brokenDevice =
  (isWrong: (op: string, placement: Placement) => boolean, calls: Placement[] = []): CaseRunner =>
  async (indices, placement) => {
    calls.push(placement);
    return new Map(
      indices.flatMap((i) => (isWrong(DEVICE_CASES[i]?.op ?? '', placement) ? [[i, 'off by 1'] as const] : [])),
    );
  };

test('a wrong kernel loses its capability, and only its own', async () => {
  const run = brokenDevice((op, { capabilities }) => op === 'rmsNorm' && capabilities.simplifiedLayerNormStats);
  const report = await probeConformance(probed, wish, run);
  assert.deepEqual(report.lostCapabilities, ['simplifiedLayerNormStats']);
  assert.deepEqual([report.cpuOps, report.usable], [[], true]);
  assert.deepEqual(
    [...new Set(report.findings.map(({ op, remedy }) => `${op} ${remedy}`))],
    ['rmsNorm standard lowering'],
  );
  const proven = provenPlacement(wish, report);
  assert.equal(proven.capabilities.simplifiedLayerNormStats, false);
  assert.equal(proven.capabilities.rotaryEmbedding, true);
});

test('a kernel that is wrong beyond its finer point goes as a whole', async () => {
  const wide = DEVICE_CASES.findIndex(({ op, name }) => op === 'groupQueryAttention' && name === 'causal, wide');
  const run: CaseRunner = async (indices, { capabilities }) =>
    new Map(
      indices.flatMap((i) => {
        const c = DEVICE_CASES[i];
        const isWindow = c?.op === 'groupQueryAttention' && c.name === 'window' && capabilities.groupQueryWindow;
        const isWrong = (isWindow || i === wide) && capabilities.groupQueryAttention;
        return isWrong ? [[i, 'off by 1'] as const] : [];
      }),
    );
  const report = await probeConformance(probed, wish, run);
  assert.deepEqual([...report.lostCapabilities].sort(), ['groupQueryAttention', 'groupQueryWindow']);
  assert.deepEqual([report.cpuOps, report.usable], [[], true]);
});

test('an op that is wrong in every lowering runs on the processor, where the provider lets us', async () => {
  const isWrong = (op: string, { cpuOps = [] }: Placement) => op === 'softmax' && !cpuOps.includes('softmax');
  const report = await probeConformance(probed, wish, brokenDevice(isWrong));
  assert.deepEqual([report.cpuOps, report.usable], [['softmax'], true]);
  assert.deepEqual(provenPlacement(wish, report).cpuOps, ['softmax']);
  const cuda = await probeConformance(
    { ...probed, device: 'cuda' },
    { ...wish, device: 'cuda' },
    brokenDevice(isWrong),
  );
  assert.deepEqual([cuda.cpuOps, cuda.usable], [[], false]);
});

test('what is wrong even there makes the device unusable', async () => {
  const report = await probeConformance(
    probed,
    wish,
    brokenDevice((op) => op === 'gemm'),
  );
  assert.equal(report.usable, false);
  assert.ok(report.findings.every(({ op, remedy }) => op === 'gemm' && remedy === 'none'));
});

test('a report is kept for the driver that it was made with', async () => {
  const calls: Placement[] = [];
  const run = brokenDevice(() => false, calls);
  const cache = join(dir, 'reports');
  const first = await conformanceOf(probed, wish, cache, run);
  assert.deepEqual(await conformanceOf(probed, wish, cache, run), first);
  assert.equal(calls.length, 1);
  await conformanceOf({ ...probed, adapter: { ...software, driver: 'Mesa 26' } }, wish, cache, run);
  assert.equal(calls.length, 2);
  assert.equal(readdirSync(cache).length, 2);
});

test('nodes of an op that stays on the processor are named for the provider', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [2, 3]);
  const p = graph.scope('layer0', () => g.softmax(graph, x));
  graph.output('y', g.add(graph, p, x));
  assert.deepEqual(cpuNodeNames(graph, CPU_CAPABILITIES, { ...wish, cpuOps: ['softmax'] }), ['layer0/Softmax_0']);
  assert.deepEqual(cpuNodeNames(graph, CPU_CAPABILITIES, wish), []);
});

test('a profile says where nodes ran', async () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [2, 3]);
  graph.output('y', g.softmax(graph, g.add(graph, x, x)));
  const { placed, copies } = await profilePlacement(graph, { x: f32(new Float32Array(6), [2, 3]) }, CPU_PLACEMENT);
  assert.deepEqual(placed.map(({ device, op }) => `${device} ${op}`).sort(), ['cpu Add', 'cpu Softmax']);
  assert.deepEqual(copies, []);
  const mixed = readProfile([
    { cat: 'Node', name: 'a_kernel_time', args: { provider: 'CPUExecutionProvider', op_name: 'Shape' } },
    { cat: 'Node', name: 'b_kernel_time', args: { provider: 'CUDAExecutionProvider', op_name: 'MatMul' } },
    { cat: 'Node', name: 'm_kernel_time', args: { provider: 'CUDAExecutionProvider', op_name: 'MemcpyFromHost' } },
    { cat: 'Session', name: 'model_run' },
  ]);
  assert.deepEqual(mixed, {
    placed: [
      { device: 'cuda', op: 'MatMul', nodes: ['b'] },
      { device: 'cpu', op: 'Shape', nodes: ['a'] },
    ],
    copies: ['m'],
  });
});
