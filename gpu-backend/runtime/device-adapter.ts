import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Kinds of a graphics adapter, the one that WebGPU's high-performance preference takes first; `software` computes on the processor. */
const ADAPTER_KINDS = ['discrete', 'integrated', 'virtual', 'other', 'software'] as const;

/** A piece of hardware (or a program that acts as one) and its driver. */
export interface Adapter {
  readonly name: string;
  readonly kind: (typeof ADAPTER_KINDS)[number];
  readonly driver: string;
}

/** VkPhysicalDeviceType (vulkan_core.h) by number. */
const VULKAN_KINDS: readonly Adapter['kind'][] = ['other', 'integrated', 'discrete', 'virtual', 'software'];

/** Numbers of vulkan_core.h: structure types, VK_ERROR_INCOMPATIBLE_DRIVER, and VK_MAKE_API_VERSION(0, 1, 2, 0). */
const APPLICATION_INFO = 0;
const INSTANCE_CREATE_INFO = 1;
const PHYSICAL_DEVICE_PROPERTIES_2 = 1000059001;
const PHYSICAL_DEVICE_DRIVER_PROPERTIES = 1000196000;
const ERROR_INCOMPATIBLE_DRIVER = -9;
const VULKAN_1_2 = (1 << 22) | (2 << 12);

/** Bytes that hold any of the structures (VkPhysicalDeviceProperties2 is 840 in Vulkan 1.4), with room. */
const STRUCTURE_BYTES = 4096;

/**
 * Adapters of the Vulkan drivers of this machine (Linux, 64 bits), in the order in which WebGPU prefers them. WebGPU itself does
 * not tell which one it has taken. Calls native code of the drivers, so run it in a process that may die.
 * @throws Error when the Vulkan loader is missing
 */
export async function vulkanAdapters(): Promise<Adapter[]> {
  const { default: koffi } = await import('koffi');
  const vulkan = koffi.load('libvulkan.so.1');
  const createInstance = vulkan.func(
    'int vkCreateInstance(const void *info, const void *allocator, _Out_ void **instance)',
  );
  const enumerate = vulkan.func(
    'int vkEnumeratePhysicalDevices(void *instance, _Inout_ uint32_t *count, _Out_ void **devices)',
  );
  const getProperties = vulkan.func('void vkGetPhysicalDeviceProperties2(void *device, void *properties)');
  /** A zeroed structure { sType u32, padding, pNext pointer, … }. Three a call and one an adapter: they live with the process. */
  const structure = (type: number, next: bigint): bigint => {
    const at: bigint = koffi.address(koffi.alloc('uint8_t', STRUCTURE_BYTES));
    koffi.encode(at, 0, 'uint8_t', new Uint8Array(STRUCTURE_BYTES), STRUCTURE_BYTES);
    koffi.encode(at, 0, 'uint32_t', type);
    koffi.encode(at, 8, 'uint64_t', next);
    return at;
  };

  const application = structure(APPLICATION_INFO, 0n);
  // { …, applicationName 16, applicationVersion 24, engineName 32, engineVersion 40, apiVersion 44 }
  koffi.encode(application, 44, 'uint32_t', VULKAN_1_2);
  const info = structure(INSTANCE_CREATE_INFO, 0n);
  // { …, flags 16, applicationInfo 24 }
  koffi.encode(info, 24, 'uint64_t', application);
  const instance: unknown[] = [null];
  const created: unknown = createInstance(info, null, instance);
  if (created === ERROR_INCOMPATIBLE_DRIVER) return [];
  if (created !== 0) throw new Error(`vkCreateInstance gave ${String(created)}`);
  const count = [0];
  enumerate(instance[0], count, null);
  const devices: unknown[] = new Array(count[0] ?? 0).fill(null);
  enumerate(instance[0], count, devices);
  const adapters = devices.map((device): Adapter => {
    const driver = structure(PHYSICAL_DEVICE_DRIVER_PROPERTIES, 0n);
    const properties = structure(PHYSICAL_DEVICE_PROPERTIES_2, driver);
    getProperties(device, properties);
    const bytesAt = (at: bigint, offset: number, length: number): Buffer =>
      Buffer.from(koffi.decode(at, offset, 'uint8_t', length) as Uint8Array);
    const textAt = (at: bigint, offset: number): string =>
      bytesAt(at, offset, 256).toString('utf8').split('\0')[0] ?? '';
    // VkPhysicalDeviceProperties from 16 on: apiVersion, driverVersion, vendorID, deviceID, deviceType (u32 each), deviceName[256].
    const kind = bytesAt(properties, 16 + 16, 4).readUInt32LE();
    // { …, driverID 16, driverName[256] 20, driverInfo[256] 276 }: for example "NVIDIA" and "550.54.14".
    return {
      name: textAt(properties, 16 + 20),
      kind: VULKAN_KINDS[kind] ?? 'other',
      driver: `${textAt(driver, 20)} ${textAt(driver, 276)}`.trim(),
    };
  });
  return adapters.sort((a, b) => ADAPTER_KINDS.indexOf(a.kind) - ADAPTER_KINDS.indexOf(b.kind));
}

/** NVIDIA cards as their kernel driver lists them (Linux). */
export function nvidiaAdapters(root = '/proc/driver/nvidia'): Adapter[] {
  const read = (path: string): string => {
    try {
      return readFileSync(join(root, path), 'utf8');
    } catch {
      return '';
    }
  };
  const driver = /Kernel Module[^\d]*([\d.]+)/.exec(read('version'))?.[1] ?? 'unknown';
  let cards: string[];
  try {
    cards = readdirSync(join(root, 'gpus')).sort();
  } catch {
    return [];
  }
  return cards.map((card) => ({
    name: /^Model:\s*(.+)$/m.exec(read(join('gpus', card, 'information')))?.[1]?.trim() ?? 'NVIDIA card',
    kind: 'discrete',
    driver,
  }));
}
