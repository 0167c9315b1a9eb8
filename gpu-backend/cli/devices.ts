import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { decodeGraph } from '../models/decode.ts';
import { emptyPast } from '../models/empty-past.ts';
import { loadCheckpoint } from '../models/load.ts';
import { weightFeeds } from '../models/verify-case.ts';
import { causalBias } from '../models/vlm.ts';
import { DEVICE_CHOICES, type DeviceChoice } from '../runtime/device.ts';
import { describeDevice, type OpenedDevice, openDevice } from '../runtime/device-open.ts';
import { type PlacementReport, profilePlacement } from '../runtime/device-placement.ts';
import { f32, ints } from '../runtime/session.ts';
import { CliError } from './error.ts';

interface DevicesOptions {
  readonly device: DeviceChoice;
  readonly fresh?: boolean;
  readonly model?: string;
  readonly json?: boolean;
}

/** Where reports of what a device gets right are kept between commands. */
export const deviceReports = (): string =>
  join(process.env.MANTIS_DATA_DIR ?? join(tmpdir(), 'mantis'), 'backend', 'devices');

/** `mantis devices`: what this machine computes on, why not on the others, and what of a device is wrong. */
export function devicesCommand(): Command {
  return new Command('devices')
    .description(
      'the device that models run on here, the reason for each that is not used, and what its kernels get wrong',
    )
    .addOption(
      new Option('--device <name>', 'what to choose, as a backend does from MANTIS_DEVICE')
        .choices(DEVICE_CHOICES)
        .env('MANTIS_DEVICE')
        .default('auto'),
    )
    .option('--fresh', 'probe again, whatever an earlier report says')
    .option('--model <folder>', 'also run a step of this checkpoint and name the nodes that do not run on the device')
    .option('--json', 'print one line of JSON')
    .action(async ({ device, fresh, model, json }: DevicesOptions) => {
      let opened: OpenedDevice;
      try {
        opened = await openDevice(device, fresh === true ? null : deviceReports());
      } catch (error) {
        throw new CliError(error instanceof Error ? error.message : String(error), 1);
      }
      const nodes = model === undefined ? null : await placementOf(model, opened);
      if (json === true) {
        process.stdout.write(`${JSON.stringify({ choice: device, ...opened, nodes })}\n`);
        return;
      }
      process.stdout.write(`${[...table(opened), ...(nodes === null ? [] : ['', ...nodeLines(nodes)])].join('\n')}\n`);
    });
}

/** A prefill of four tokens, one of them a picture's: every op of serving is in it. */
async function placementOf(dir: string, { placement }: OpenedDevice): Promise<PlacementReport> {
  const { config, weights } = loadCheckpoint(dir);
  const decode = decodeGraph(config, { images: true });
  const S = 4;
  return await profilePlacement(
    decode.graph,
    {
      ...weightFeeds(decode.weights, weights),
      ...emptyPast(config, 1),
      ids: ints([0, 0, 0, 0], [1, S]),
      positions: ints([0, 1, 2, 3], [1, S]),
      causal_bias: f32(causalBias(S, 1, config.text.slidingWindow), [S, S]),
      rows: ints([S - 1], [1]),
      image_features: f32(new Float32Array(config.text.hidden), [1, config.text.hidden]),
      image_rows: ints([1], [1]),
    },
    placement,
  );
}

function table({ verdicts, conformance }: OpenedDevice): string[] {
  const rows = verdicts.map(({ device, used, reason, probe: { adapter, openMs } }) => [
    device,
    used ? 'used' : '-',
    adapter === null ? '' : adapter.name,
    adapter === null ? '' : adapter.driver,
    openMs === null ? '' : `${openMs} ms`,
    reason,
  ]);
  const all = [['device', '', 'adapter', 'driver', 'opened in', 'reason'], ...rows];
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  const lines = all.map((row) =>
    row
      .map((text, i) => text.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  const findings = describeDevice({ verdicts: [], conformance });
  return findings.length === 0 ? lines : [...lines, '', ...findings];
}

function nodeLines({ placed, copies }: PlacementReport): string[] {
  const counts = new Map<string, number>();
  for (const { device, nodes } of placed) counts.set(device, (counts.get(device) ?? 0) + nodes.length);
  const summary = [...counts].map(([device, count]) => `${count} nodes on ${device}`).join(', ');
  const hasDevice = [...counts.keys()].some((device) => device !== 'cpu');
  const left = hasDevice ? placed.filter(({ device }) => device === 'cpu') : [];
  return [
    `${summary}, ${copies.length} copies between`,
    ...left.map(
      ({ op, nodes }) =>
        `  on the processor: ${nodes.length} ${op} (${nodes.slice(0, 3).join(', ')}${nodes.length > 3 ? ', …' : ''})`,
    ),
  ];
}
