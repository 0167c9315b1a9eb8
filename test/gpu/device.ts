import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { STANDARD_CAPABILITIES } from '../../gpu-backend/graph/capabilities.ts';
import type { Device, Placement } from '../../gpu-backend/runtime/device.ts';
import { openDevice } from '../../gpu-backend/runtime/device-open.ts';
import type { Tensor } from '../../gpu-backend/runtime/session.ts';

// CUDA multiplies in TF32 by default, with 10 bits of mantissa: kernels are compared here, not roundings.
process.env.NVIDIA_TF32_OVERRIDE ??= '0';

/** Devices that this tier compares with the processor. */
export const ACCELERATORS = ['cuda', 'webgpu'] as const satisfies readonly Device[];
export type Accelerator = (typeof ACCELERATORS)[number];

/** A device that was opened and proven, or why it is not tested. A software adapter is taken: it computes like any other. */
export interface TestDevice {
  readonly device: Accelerator;
  readonly placement: Placement;
  readonly skip: string | false;
}

/** Reports are kept between the files of a run, as a backend keeps them between starts. */
export const REPORTS_DIR = join(tmpdir(), 'mantis', 'backend', 'devices');

/** Opens every accelerator; what does not open is a reason to skip. */
export async function testDevices(): Promise<TestDevice[]> {
  const devices: TestDevice[] = [];
  for (const device of ACCELERATORS) {
    try {
      const { placement } = await openDevice(device, REPORTS_DIR);
      devices.push({ device, placement, skip: false });
    } catch (error) {
      const skip = (error instanceof Error ? error.message : String(error)).replace(/^MANTIS_DEVICE=/, '');
      devices.push({ device, placement: { device, capabilities: STANDARD_CAPABILITIES }, skip });
    }
  }
  return devices;
}

/** Largest |difference| over the largest |value| of the first, at least 1e-3. */
export function difference(want: Tensor | undefined, got: Tensor | undefined): number {
  if (want === undefined || got === undefined || want.data.length !== got.data.length)
    throw new Error(`expected ${want?.data.length} values, received ${got?.data.length}`);
  let [size, worst] = [1e-3, 0];
  want.data.forEach((value: number | bigint, i: number) => {
    const w = Number(value);
    const error = Math.abs(Number(got.data[i]) - w);
    size = Math.max(size, Math.abs(w));
    if (!(error <= worst)) worst = error;
  });
  return worst / size;
}

/** Of results on a device, relative to the largest value. */
export const TOLERANCE: Readonly<Record<Accelerator, number>> = { cuda: 1e-4, webgpu: 1e-4 };
