import { Command } from 'commander';
import { inspectModel, type ModelReport } from '../models/inspect.ts';
import { PARTS, PRECISIONS } from '../models/storage.ts';
import { CliError } from './error.ts';

/** `mantis inspect`: what a model is, what a picture costs in it, and what it takes to serve it. */
export function inspectCommand(): Command {
  return new Command('inspect')
    .description(
      'architecture, tokens per image, context, memory at each precision of a model folder (config.json is enough)',
    )
    .argument('<folder>', 'checkpoint folder or imported model')
    .option('--json', 'print one line of JSON')
    .action((dir: string, { json }: { readonly json?: boolean }) => {
      let report: ModelReport;
      try {
        report = inspectModel(dir);
      } catch (error) {
        throw new CliError(error instanceof Error ? error.message : String(error), 2);
      }
      process.stdout.write(json === true ? `${JSON.stringify(report)}\n` : `${lines(report).join('\n')}\n`);
    });
}

const whole = (value: number): string => value.toLocaleString('en-US');
const giga = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
const flop = (count: number): string =>
  count < 1e11 ? `${(count / 1e9).toFixed(2)} GFLOP` : `${(count / 1e12).toFixed(2)} TFLOP`;

function lines(r: ModelReport): string[] {
  const { vision, decoder, parameters: p } = r;
  const row = (label: string, text: string): string => `${label.padEnd(18)}${text}`;
  const part = (name: (typeof PARTS)[number]): string => row(`  ${name}`, whole(p[name]));
  return [
    row('model', r.family),
    row(
      'vision',
      vision.layers === 0
        ? `patches of ${vision.patchSize} px go straight into the decoder`
        : `${vision.kind}, ${vision.layersUsed} of ${vision.layers} layers used, ${vision.imageSize} px in patches of ${vision.patchSize}`,
    ),
    row(
      'decoder',
      `${decoder.layers} layers of ${decoder.hidden}, ${decoder.heads} heads (${decoder.kvHeads} for keys and values) of ${decoder.headDim}, FFN ${whole(decoder.intermediate)}, vocabulary ${whole(decoder.vocab)}`,
    ),
    row('parameters', `${whole(p.total)}${p.from === 'config' ? ' (by config.json)' : ''}`),
    ...PARTS.map(part),
    ...(p.unused > 0 ? [row('  never read', `${whole(p.unused)} of these`)] : []),
    row('tokens per image', `${whole(r.tokensPerImage)}, ${whole(r.tokensPerImageWithText)} with the text around it`),
    row(
      'context',
      `${whole(r.contextTokens)} tokens, ${r.imagesInContext} images${r.contextTokens > 8192 ? ` (${r.imagesIn8192} in 8,192)` : ''}`,
    ),
    row(
      'KV cache',
      `${whole(r.kvBytesPerToken.bits16)} bytes per token at 16 bits, ${giga(r.kvBytesPerToken.bits16 * r.contextTokens)} for the context; ${whole(r.kvBytesPerToken.engine)} as this engine keeps it (f32)`,
    ),
    row('prefill', `${flop(r.flopPerToken)} per token`),
    ...(r.flopPerImage > 0 ? [row('image', `${flop(r.flopPerImage)} each`)] : []),
    ...PRECISIONS.map((precision) => {
      const { fileBytes, memoryBytes } = r.weights[precision];
      const block = precision.startsWith('int') ? ` (blocks of ${r.blockSize})` : '';
      return row(`weights ${precision}`, `${giga(fileBytes)} in the file, ${giga(memoryBytes)} in memory${block}`);
    }),
    ...(r.imported === null
      ? []
      : [
          row('imported from', r.imported.source.from),
          row('stored as', PARTS.map((name) => `${name} ${r.imported?.storage.precision[name]}`).join(', ')),
        ]),
  ];
}
