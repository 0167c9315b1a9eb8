import { Command } from 'commander';
import type { Dataset, Subset } from '../../shared/contract/datasets.ts';
import { type ApiOptions, apiOptions, uploadTrainingFile, withApi } from './api.ts';
import { wholeNumber } from './parse.ts';
import { age, printTable, size } from './table.ts';

interface Shown {
  readonly json?: boolean;
}
interface TakenOptions {
  readonly name?: string;
  readonly maxSize?: number;
  readonly maxNumImages?: number;
  readonly imagesFirst?: boolean;
}

/** `mantis datasets …`: named lists of training files on the server, for jobs and schedules. */
export function datasetsCommand(): Command {
  const datasets = new Command('datasets').description(
    'create, grow, list and delete datasets: named lists of training files',
  );

  api(datasets, 'create <name> [files...]', 'make a dataset of files, which are uploaded, or of their ids')
    .option('--balancing', 'balance the files by the roots of their sizes, as Mantis does')
    .action(async (name: string, files: string[], options: ApiOptions & Shown & { readonly balancing?: boolean }) => {
      const made = await withApi(options, async (client) => {
        const subsets: Subset[] = [];
        for (const file of files) subsets.push({ file_id: await fileId(client, file) });
        return client.datasets.create({ name, subsets, ...(options.balancing === true ? { balancing: true } : {}) });
      });
      show(made, options);
    });

  api(datasets, 'append <id> <file>', 'add a file, which is uploaded, or its id')
    .option('--name <name>', 'of the file in reports')
    .option('--max-size <n>', 'examples taken of it, after shuffling', wholeNumber)
    .option('--max-num-images <n>', 'leave out its examples with more pictures', wholeNumber)
    .option('--images-first', 'put the pictures of records without <image> before the first turn')
    .action(async (id: string, file: string, options: ApiOptions & Shown & TakenOptions) => {
      const grown = await withApi(options, async (client) =>
        client.datasets.append(id, {
          file_id: await fileId(client, file),
          ...(options.name === undefined ? {} : { name: options.name }),
          ...(options.maxSize === undefined ? {} : { max_size: options.maxSize }),
          ...(options.maxNumImages === undefined ? {} : { max_num_images: options.maxNumImages }),
          ...(options.imagesFirst === true ? { images_first: true } : {}),
        }),
      );
      show(grown, options);
    });

  api(datasets, 'list', 'list datasets, newest first').action(async (options: ApiOptions & Shown) => {
    const all: Dataset[] = [];
    await withApi(options, async ({ datasets: list }) => {
      for (
        let page = await list.list({ limit: 100 });
        ;
        page = await list.list({ limit: 100, after: page.last_id ?? '' })
      ) {
        all.push(...page.data);
        if (!page.has_more) return;
      }
    });
    if (options.json === true) print(all);
    else
      printTable(
        ['id', 'name', 'version', 'files', 'size', 'examples', 'changed'],
        all.map((dataset) => [
          dataset.id,
          dataset.name,
          String(dataset.version),
          String(dataset.subsets.length),
          size(dataset.bytes),
          dataset.examples === null ? '?' : String(dataset.examples),
          age(dataset.updated_at),
        ]),
      );
  });

  api(datasets, 'get <id>', 'print one dataset').action(async (id: string, options: ApiOptions) =>
    print(await withApi(options, (client) => client.datasets.retrieve(id))),
  );

  api(datasets, 'delete <id>', 'delete a dataset; its files stay').action(async (id: string, options: ApiOptions) => {
    await withApi(options, (client) => client.datasets.delete(id));
    process.stdout.write(`deleted ${id}\n`);
  });
  return datasets;
}

function api(parent: Command, signature: string, description: string): Command {
  const command = parent.command(signature).description(description);
  for (const option of apiOptions()) command.addOption(option);
  return command.option('--json', 'print JSON');
}

async function fileId(client: Parameters<typeof uploadTrainingFile>[0], file: string): Promise<string> {
  return file.startsWith('file-') ? file : (await uploadTrainingFile(client, file)).id;
}

function show(dataset: Dataset, options: Shown): void {
  if (options.json === true) print(dataset);
  else
    process.stdout.write(
      `${dataset.id}  ${dataset.name}, version ${dataset.version}: ${files(dataset)}, ${size(dataset.bytes)}\n`,
    );
}

const files = ({ subsets }: Dataset): string => `${subsets.length} file${subsets.length === 1 ? '' : 's'}`;

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
