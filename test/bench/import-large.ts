/**
 * Import of a checkpoint with the true geometry of Mantis-8B-SigLIP but four decoder and four vision layers (bf16, sharded, made
 * here, several GB): memory and speed of `mantis import --decoder int4 --vision int8` against `cp` of the same files, and the first
 * token of the imported model. The last line is JSON.
 *
 * `--layers 32` makes the whole model (17 GB, twice on the disk while it is copied).
 *
 *     node --import tsx test/bench/import-large.ts [--dir TMP] [--layers 4] [--decoder int4] [--vision int8] [--keep]
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ModelLoader } from '../../gpu-backend/engine/load-model.ts';
import { encodeBfloat16 } from '../../gpu-backend/io/half.ts';
import { encodeHeader } from '../../gpu-backend/io/safetensors-write.ts';
import { parseVlmConfig } from '../../gpu-backend/models/config.ts';
import { familyOf } from '../../gpu-backend/models/family.ts';
import { MASKED } from '../../gpu-backend/models/llama.ts';
import { expectedWeights, readConfig } from '../../gpu-backend/models/load.ts';
import { parameterCount } from '../../gpu-backend/models/presets.ts';

const { values: flags } = parseArgs({
  options: {
    dir: { type: 'string', default: tmpdir() },
    layers: { type: 'string', default: '4' },
    decoder: { type: 'string', default: 'int4' },
    vision: { type: 'string', default: 'int8' },
    keep: { type: 'boolean', default: false },
    /** Used between the processes of one run: gives the first token of this folder. */
    first: { type: 'string' },
  },
});

const MAX_RSS_BYTES = 1.2e9;
const MIN_RATIO = 0.3;
const SHARD_BYTES = 2e9;
const mantis = fileURLToPath(new URL('../../gpu-backend/cli/mantis.mjs', import.meta.url));

function configJson(layers: number): Record<string, unknown> {
  return {
    architectures: ['LlavaForConditionalGeneration'],
    model_type: 'llava',
    image_token_index: 128256,
    pad_token_id: 128257,
    projector_hidden_act: 'gelu',
    vision_feature_layer: -2,
    vision_feature_select_strategy: 'default',
    torch_dtype: 'bfloat16',
    text_config: {
      model_type: 'llama',
      hidden_size: 4096,
      intermediate_size: 14336,
      num_hidden_layers: layers,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      rms_norm_eps: 1e-5,
      rope_theta: 500000,
      max_position_embeddings: 8192,
      vocab_size: 128258,
      bos_token_id: 128000,
      eos_token_id: 128001,
    },
    vision_config: {
      model_type: 'siglip_vision_model',
      hidden_size: 1152,
      intermediate_size: 4304,
      num_hidden_layers: Math.min(layers, 27),
      num_attention_heads: 16,
      image_size: 384,
      patch_size: 14,
    },
  };
}

/** Normal-looking bf16 values of about the size of trained weights; tensors are cut from it at changing places. */
function noise(count: number): Uint16Array {
  const values = new Float32Array(count);
  let state = 12345;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let i = 0; i < count; i++) values[i] = 0.03 * (next() + next() + next() - 1.5);
  return encodeBfloat16(values);
}

/** Writes the shards and the index; returns the bytes of all shards. */
function writeModel(dir: string, layers: number): number {
  const config = parseVlmConfig(configJson(layers));
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(configJson(layers)));
  const tensors = [...expectedWeights(config), ...familyOf(config).unusedWeights(config)];
  const shards: (typeof tensors)[] = [[]];
  let bytes = 0;
  for (const tensor of tensors) {
    const size = 2 * tensor[1].reduce((a, b) => a * b, 1);
    if (bytes + size > SHARD_BYTES && (shards.at(-1)?.length ?? 0) > 0) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(tensor);
    bytes += size;
  }
  const values = noise(1 << 22);
  const ones = encodeBfloat16(new Float32Array(8192).fill(1));
  const source = Buffer.from(values.buffer, 0, values.byteLength);
  const map: Record<string, string> = {};
  let total = 0;
  for (const [index, shard] of shards.entries()) {
    const pad = (n: number): string => String(n).padStart(5, '0');
    const name = `model-${pad(index + 1)}-of-${pad(shards.length)}.safetensors`;
    const file = openSync(join(dir, name), 'w');
    total += writeSync(
      file,
      encodeHeader(
        shard.map(([key, shape]) => [key, { dtype: 'bf16', shape }]),
        { format: 'pt' },
      ),
    );
    for (const [key, shape] of shard) {
      map[key] = name;
      const size = 2 * shape.reduce((a, b) => a * b, 1);
      const isGain = (shape.length === 1 && key.endsWith('norm.weight')) || /layer_?norm\d?\.weight$/.test(key);
      if (isGain) {
        total += writeSync(file, new Uint8Array(ones.buffer, 0, size));
        continue;
      }
      let from = (key.length * 7919 * 2) % (source.byteLength >> 1);
      for (let done = 0; done < size; ) {
        const piece = Math.min(size - done, source.byteLength - from);
        done += writeSync(file, source, from, piece);
        from = 0;
      }
      total += size;
    }
    closeSync(file);
  }
  writeFileSync(
    join(dir, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: { total_size: total }, weight_map: map }),
  );
  return total;
}

function run(command: string, args: readonly string[]): Promise<{ seconds: number; output: string }> {
  const startedAt = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const pieces: Buffer[] = [];
  child.stdout.on('data', (piece: Buffer) => pieces.push(piece));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      if (code !== 0) reject(new Error(`${command} ${args.join(' ')} ended with ${code}`));
      else resolve({ seconds: (performance.now() - startedAt) / 1000, output: Buffer.concat(pieces).toString() });
    });
  });
}

/** One picture and thirty tokens through the engine's runner, as the first step of a request. */
async function firstToken(dir: string): Promise<object> {
  const config = readConfig(dir);
  const { text, vision, tokensPerImage, imageToken } = config;
  const loadingAt = performance.now();
  const { runner } = await new ModelLoader().load(dir, null, { threads: 1, kv: 'f32' });
  const loadedAt = performance.now();
  const pixels_CHW = Float32Array.from({ length: 3 * vision.imageSize ** 2 }, (_, i) => Math.sin(i / 1000));
  const [features = new Float32Array(0)] = await runner.encode(
    [{ pixels_CHW, width: vision.imageSize, height: vision.imageSize }],
    null,
  );
  const encodedAt = performance.now();
  const ids = [
    128000,
    ...new Array<number>(tokensPerImage).fill(imageToken),
    ...Array.from({ length: 30 }, (_, i) => 1000 + i),
  ];
  const nothing = () => new Float32Array(text.kvHeads * text.headDim);
  const past = Array.from({ length: text.layers }, () => ({ k: nothing(), v: nothing(), kScale: null, vScale: null }));
  const { logits_RV } = await runner.forward({
    rows: 1,
    newTokens: ids.length,
    pastTokens: 1,
    ids_BS: Int32Array.from(ids),
    positions_BS: Int32Array.from(ids, (_, i) => i),
    imageRows: [{ at: 1, features }],
    past,
    pastBias_B11T: Float32Array.of(MASKED),
    isPastEmpty: true,
    adapters: [null],
    logitRows_R: Int32Array.of(ids.length - 1),
  });
  if (!logits_RV.every(Number.isFinite)) throw new Error('the logits are not finite');
  return {
    token: logits_RV.reduce((best, x, i) => (x > (logits_RV[best] ?? 0) ? i : best), 0),
    promptTokens: ids.length,
    loadMs: Math.round(loadedAt - loadingAt),
    encodeMs: Math.round(encodedAt - loadedAt),
    prefillMs: Math.round(performance.now() - encodedAt),
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

async function main(): Promise<void> {
  if (flags.first !== undefined) {
    process.stdout.write(JSON.stringify(await firstToken(flags.first)));
    return;
  }
  const { bavail, bsize } = statfsSync(flags.dir);
  // The checkpoint, its copy, and what it becomes.
  const needed = 2.6 * 2 * parameterCount(parseVlmConfig(configJson(Number(flags.layers)))) + 1e9;
  if (bavail * bsize < needed) {
    process.stdout.write(
      `skipped: ${flags.dir} has ${((bavail * bsize) / 1e9).toFixed(1)} GB free, this takes ${(needed / 1e9).toFixed(1)}\n`,
    );
    return;
  }
  const scratch = mkdtempSync(join(flags.dir, 'mantis-import-large-'));
  try {
    const source = join(scratch, 'source');
    const bytes = writeModel(source, Number(flags.layers));
    const shards = readdirSync(source).filter((name) => name.endsWith('.safetensors'));
    process.stdout.write(`checkpoint: ${(bytes / 1e9).toFixed(2)} GB in ${shards.length} shards\n`);
    await run('sync', []);
    // Both read from a warm page cache if memory allows, and both are timed to the disk.
    const copy = join(scratch, 'copy');
    mkdirSync(copy);
    const copied = await run('cp', [...shards.map((name) => join(source, name)), copy]);
    const synced = await run('sync', []);
    rmSync(copy, { recursive: true });
    const copyRate = bytes / 1e6 / copied.seconds;
    process.stdout.write(
      `cp: ${copied.seconds.toFixed(1)} s, ${copyRate.toFixed(0)} MB/s (and ${synced.seconds.toFixed(1)} s until it is on the disk)\n`,
    );
    const out = join(scratch, 'imported');
    const args = [
      mantis,
      'import',
      source,
      '--out',
      out,
      '--decoder',
      flags.decoder,
      '--vision',
      flags.vision,
      '--json',
    ];
    const imported = JSON.parse((await run(process.execPath, args)).output) as {
      seconds: number;
      peakRssBytes: number;
      bytes: number;
    };
    // Against the whole checkpoint: what an import leaves out it does not have to read.
    const rate = bytes / 1e6 / imported.seconds;
    const ratio = rate / copyRate;
    process.stdout.write(
      `import: ${imported.seconds.toFixed(1)} s, ${rate.toFixed(0)} MB/s = ${ratio.toFixed(2)} of cp (bar ${MIN_RATIO}: ${ratio >= MIN_RATIO ? 'met' : 'MISSED'}), peak RSS ${(imported.peakRssBytes / 1e6).toFixed(0)} MB (bar ${MAX_RSS_BYTES / 1e6}: ${imported.peakRssBytes <= MAX_RSS_BYTES ? 'met' : 'MISSED'}), ${(imported.bytes / 1e9).toFixed(2)} GB out\n`,
    );
    rmSync(source, { recursive: true });
    const first = JSON.parse(
      (await run(process.execPath, ['--import', 'tsx', import.meta.filename, '--first', out])).output,
    ) as Record<string, number>;
    process.stdout.write(`first token: ${JSON.stringify(first)}\n`);
    process.stdout.write(
      `${JSON.stringify({ bench: 'import-large', bytes, outBytes: statSync(join(out, 'model.safetensors')).size, copyMBps: copyRate, importMBps: rate, ratio, peakRssBytes: imported.peakRssBytes, first })}\n`,
    );
    if (ratio < MIN_RATIO || imported.peakRssBytes > MAX_RSS_BYTES) process.exitCode = 1;
  } finally {
    if (!flags.keep) rmSync(scratch, { recursive: true, force: true });
  }
}

await main();
