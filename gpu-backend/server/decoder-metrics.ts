import { Gauge, type Registry } from 'prom-client';
import type { DecodePool, DecodePoolStats } from '../vision/pool.ts';

const LEVELS: readonly (readonly [keyof DecodePoolStats, string])[] = [
  ['queued', 'Pictures that wait for a decoder.'],
  ['running', 'Pictures in decoders.'],
  ['heldBytes', 'Estimated memory of the pictures in decoders.'],
  ['done', 'Pictures that were decoded or refused for what they are, since start.'],
  ['timedOut', 'Pictures refused because they took too long, since start.'],
  ['tooLarge', 'Pictures refused because they took more memory than their header says, since start.'],
  ['crashed', 'Pictures that no decoder survived, since start.'],
  ['started', 'Decoder processes started, the first ones included.'],
  ['ready', 'Decoder processes that take pictures.'],
];

/** Adds `mantis_decoder_…` gauges, read when they are asked for. */
export function addDecoderMetrics(registry: Registry, pool: DecodePool): void {
  for (const [key, help] of LEVELS)
    new Gauge({
      name: `mantis_decoder_${key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`,
      help,
      registers: [registry],
      collect() {
        this.set(pool.stats()[key]);
      },
    });
  new Gauge({
    name: 'mantis_decoder_resident_bytes',
    help: 'Resident memory of all decoder processes.',
    registers: [registry],
    collect() {
      this.set(pool.residentBytes());
    },
  });
}
