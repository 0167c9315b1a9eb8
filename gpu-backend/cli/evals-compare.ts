import type { Command } from 'commander';
import { evalComparisonSchema } from '../eval/report/schema.ts';
import { renderComparisonText } from '../eval/report/text.ts';
import { withApi } from './api.ts';
import { CliError } from './error.ts';
import type { JsonOption } from './evals-view.ts';
import { api } from './keys.ts';

interface CompareOptions extends JsonOption {
  readonly html?: boolean;
  readonly force?: boolean;
}

/** `mantis evals compare`: two runs of an installation, answer by answer. */
export function addCompareCommand(evals: Command): void {
  api(evals, 'compare <eval> <first> <second>', 'what the second run does otherwise than the first, answer by answer')
    .option('--html', 'as a page')
    .option('--force', 'compare what they share although they did different things')
    .action(async (id: string, first: string, second: string, options: CompareOptions) => {
      if (options.json === true && options.html === true)
        throw new CliError('--json and --html are two ways to write the comparison: name one', 2);
      const format = options.html === true ? 'html' : 'json';
      const force = options.force === true;
      const text = await withApi(options, (client) => client.evals.runs.compare(id, second, first, { format, force }));
      if (options.html === true || options.json === true) process.stdout.write(text);
      else process.stdout.write(`${renderComparisonText(evalComparisonSchema.parse(JSON.parse(text)))}\n`);
    });
}
