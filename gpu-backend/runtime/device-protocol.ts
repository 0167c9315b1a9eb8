import type { Device, Placement } from './device.ts';
import type { Adapter } from './device-adapter.ts';

/** What is asked of the process that opens a device. */
export type DeviceRequest =
  | { readonly kind: 'open'; readonly device: Device }
  | { readonly kind: 'case'; readonly index: number; readonly placement: Placement };

/** Its answers, one a request, in order. */
export type DeviceReply =
  /** A session ran on the device and gave the right numbers. */
  | {
      readonly kind: 'opened';
      readonly adapters: readonly Adapter[];
      readonly runtimeVersion: string;
      readonly ms: number;
    }
  /** Largest difference of an op case to the interpreter, over the largest value (at least 1); NaN where an output is. */
  | { readonly kind: 'compared'; readonly error: number }
  | { readonly kind: 'failed'; readonly message: string };
