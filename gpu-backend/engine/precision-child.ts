/** Entry of the process that times formats: kernels block it, not the server, and a fault of one ends it alone. */
import type { VlmConfig } from '../models/config.ts';
import type { WeightFormat } from './precision.ts';
import { type ProbeReport, probeFormats } from './precision-probe.ts';

export interface ProbeQuestion {
  readonly config: VlmConfig;
  readonly threads: number;
  readonly formats: readonly WeightFormat[];
}

export type ProbeAnswer = { readonly report: ProbeReport } | { readonly problem: string };

process.once('message', ({ config, threads, formats }: ProbeQuestion) => {
  probeFormats(config, threads, formats)
    .then(
      (report): ProbeAnswer => ({ report }),
      (error: unknown): ProbeAnswer => ({ problem: error instanceof Error ? error.message : String(error) }),
    )
    .then((answer) => process.send?.(answer, () => process.exit(0)));
});
// A parent that is gone needs no answer.
process.on('disconnect', () => process.exit(0));
