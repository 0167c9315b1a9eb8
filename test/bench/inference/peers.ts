/** Puts the peers into a folder outside the project and says how each contender is started. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Group } from './cases.ts';
import { ggufExport } from './gguf.ts';
import { CACHE } from './model.ts';
import { onnxExport } from './onnx-export.ts';
import type { OursOptions } from './ours.ts';

/** Largest error of log-probabilities (share of their standard deviation) by bits of the weights. */
export const TOLERANCE = { 32: 1e-3, 8: 0.1, 4: 0.5 } as const;

export interface ContenderSpec {
  readonly name: string;
  readonly group: Group;
  readonly bits: keyof typeof TOLERANCE;
  /** Makes its files where they are missing, and gives its command line. @throws Error with why it cannot run */
  readonly command: () => readonly string[] | Promise<readonly string[]>;
}

const PEERS = join(CACHE, 'peers');
const VERSIONS = { '@huggingface/transformers': '4.3.1', 'node-llama-cpp': '3.22.1' } as const;
/** Prebuilt binaries, named one by one: the optional dependencies of the peers would bring those of all devices, 1 GB. */
const LINUX_X64 = {
  '@node-llama-cpp/linux-x64': '3.22.1',
  '@img/sharp-linux-x64': '0.35.5',
  '@img/sharp-libvips-linux-x64': '1.3.4',
} as const;

let installed: string | Error | null = null;

/** Installs once. @throws Error with npm's words when it cannot */
function peersDir(): string {
  installed ??= install();
  if (installed instanceof Error) throw installed;
  return installed;
}

function install(): string | Error {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return new Error(`the peers' binaries are pinned for linux-x64, this is ${process.platform}-${process.arch}`);
  const manifest = JSON.stringify({
    private: true,
    dependencies: { ...VERSIONS, ...LINUX_X64 },
    overrides: { sharp: LINUX_X64['@img/sharp-linux-x64'] },
  });
  const done = join(PEERS, 'installed.json');
  if (existsSync(done) && readFileSync(done, 'utf8') === manifest) return PEERS;
  console.error(`installing the peers into ${PEERS} (once)`);
  mkdirSync(PEERS, { recursive: true });
  writeFileSync(join(PEERS, 'package.json'), manifest);
  try {
    // No install scripts: onnxruntime-node's would fetch CUDA libraries, node-llama-cpp's would build from source.
    execFileSync('npm', ['install', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund'], {
      cwd: PEERS,
      stdio: 'pipe',
    });
  } catch (error) {
    return new Error(
      `npm could not install the peers: ${error instanceof Error ? error.message.slice(0, 500) : error}`,
    );
  }
  writeFileSync(done, manifest);
  return PEERS;
}

function python(): string {
  const path = process.env.MANTIS_BENCH_PYTHON;
  if (path === undefined) throw new Error('set MANTIS_BENCH_PYTHON to the python of a venv with torch and safetensors');
  try {
    execFileSync(path, ['-c', 'import torch, safetensors'], { stdio: 'pipe' });
  } catch {
    throw new Error(`${path} cannot import torch and safetensors`);
  }
  return path;
}

const file = (name: string): string => join(import.meta.dirname, name);
const node = (script: string, ...args: readonly string[]): string[] => [
  process.execPath,
  '--expose-gc',
  '--import',
  'tsx',
  file(script),
  ...args,
];

const OUR_BITS: ReadonlyMap<string, ContenderSpec['bits']> = new Map<OursOptions['precision'], ContenderSpec['bits']>([
  ['f32', 32],
  ['w8a8', 8],
  ['int8', 8],
  ['int4', 4],
]);

/** Our engine in the formats asked for, each as `weights/kv`, for example `w8a8/int8`. */
export function ourSpecs(checkpointDir: string, formats: readonly string[], threads: number): ContenderSpec[] {
  return formats.map((format) => {
    const [precision = '', kv = ''] = format.split('/');
    const bits = OUR_BITS.get(precision);
    if (bits === undefined || (kv !== 'f32' && kv !== 'int8'))
      throw new Error(`expected formats such as f32/f32 or w8a8/int8 (weights/kv), received ${format}`);
    return {
      name: `ours ${format}`,
      group: 'ours',
      // An 8-bit cache alone rounds too.
      bits: kv === 'int8' && bits === 32 ? 8 : bits,
      command: () => node('ours-contender.ts', checkpointDir, precision, kv, String(threads)),
    };
  });
}

export function peerSpecs(checkpointDir: string, threads: number): ContenderSpec[] {
  const transformers = (['gqa q8', 'gqa q4', 'concat q4', 'concat fp32'] as const).map((name): ContenderSpec => {
    const [layout, format] = name.split(' ') as ['gqa' | 'concat', 'q8' | 'q4' | 'fp32'];
    return {
      name: `transformers.js ${name}`,
      group: 'transformers.js',
      bits: format === 'q8' ? 8 : format === 'q4' ? 4 : 32,
      command: () => {
        const model = onnxExport(checkpointDir, layout, format);
        return node('transformers-contender.ts', peersDir(), model, format, String(threads));
      },
    };
  });
  const llama = (['q4_0', 'q8_0'] as const).map((format): ContenderSpec => {
    const name = format === 'q4_0' ? 'llama.cpp Q4_0' : 'llama.cpp Q8_0';
    return {
      name,
      group: name,
      bits: format === 'q4_0' ? 4 : 8,
      command: () => node('llama-contender.ts', peersDir(), ggufExport(checkpointDir, format), String(threads)),
    };
  });
  const torch: ContenderSpec = {
    name: 'PyTorch f32 static cache',
    group: 'PyTorch f32',
    bits: 32,
    command: () => [python(), file('torch_contender.py'), checkpointDir, String(threads)],
  };
  return [...transformers, ...llama, torch];
}

export const PEER_VERSIONS: Readonly<Record<string, string>> = VERSIONS;
