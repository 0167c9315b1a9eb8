import { Command } from 'commander';
import { type ApiOptions, apiOptions, withApi } from './api.ts';

/** `mantis models`: what the API serves, with the limits a client must know. */
export function modelsCommand(): Command {
  const command = new Command('models')
    .description('list the models of the API')
    .option('--json', 'print the list as JSON');
  for (const option of apiOptions()) command.addOption(option);
  return command.action(async (options: ApiOptions & { readonly json?: boolean }) => {
    const { data } = await withApi(options, (api) => api.models.list());
    if (options.json === true) {
      process.stdout.write(`${JSON.stringify(data)}\n`);
      return;
    }
    for (const { id, parent, limits } of data) {
      const about =
        limits === null
          ? ''
          : `${limits.context_tokens} tokens, up to ${limits.max_images} images of ${limits.image_grid === null ? '' : 'at most '}${limits.tokens_per_image} tokens`;
      process.stdout.write(`${id}${parent === null ? '' : ` (from ${parent})`}  ${about}\n`);
    }
  });
}
