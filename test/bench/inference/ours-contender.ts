/** node --import tsx ours-contender.ts CHECKPOINT PRECISION KV THREADS */
import { offer } from './contender.ts';
import { Ours, type OursOptions } from './ours.ts';

const [dir = '', precision, kv, threads = '1'] = process.argv.slice(2) as [
  string,
  OursOptions['precision'],
  OursOptions['kv'],
  string,
];
await offer(() => Ours.create(dir, { precision, kv, threads: Number(threads) }));
