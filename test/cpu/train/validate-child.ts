/** Validates a file and says what it took; a process of its own, so that its memory is that of validation. Arguments: file, scratch folder. */
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { validateData } from '../../../gpu-backend/train/validate/validate.ts';

const [path = '', workDir = ''] = process.argv.slice(2);
const nano = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
const file = { id: 'file-1', bytes: statSync(path).size, sha256: '0'.repeat(64) };

async function main(): Promise<void> {
  const { report } = await validateData({
    baseDir: nano,
    training: [
      { spec: { files: [{ file_id: 'file-1', file, filename: 'large.jsonl' }], balancing: false }, paths: [path] },
    ],
    stages: [{ train: 'lora', n_epochs: 1, batch_size: null, learning_rate_multiplier: 1, data: 0 }],
    maxBadShare: 0.1,
    workDir,
  });
  const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  const { training, problem_counts, duplicates } = report;
  process.stdout.write(`${JSON.stringify({ peakMiB: Number(peak) / 1024, training, problem_counts, duplicates })}\n`);
}

void main();
