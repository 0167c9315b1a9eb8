// How good is it? Items with pictures, a question and what the answer must say; every answer judged, wrong ones listed, a report at the end.
import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY

const show = async (name) => `data:image/png;base64,${await readFile(`test/fixtures/pictures/${name}.png`, 'base64')}`;
const images = [await show('yellow-circle'), await show('two-black-squares')];

// 1. What is asked and how it is judged.
const evaluation = await client.evals.create({
  name: 'two pictures',
  data_source_config: {
    type: 'custom',
    item_schema: {
      type: 'object',
      properties: { images: { type: 'array' }, question: { type: 'string' }, answer: { type: 'string' } },
      required: ['images', 'question', 'answer'],
    },
    include_sample_schema: true,
  },
  testing_criteria: [
    {
      type: 'string_check',
      name: 'says it',
      input: '{{sample.output_text}}',
      reference: '{{item.answer}}',
      operation: 'ilike',
    },
  ],
});

// 2. One model, all items. `mantis.images` puts a list of pictures; a file with the purpose `evals` holds up to 50,000 items.
let run = await client.evals.runs.create(evaluation.id, {
  name: 'nano',
  data_source: {
    type: 'completions',
    model: 'mantis-nano',
    source: {
      type: 'file_content',
      content: [
        { item: { images, question: 'describe image 1', answer: 'circle' } },
        { item: { images, question: 'which image has two black squares?', answer: '2' } },
        { item: { images, question: 'describe image 2', answer: 'triangle' } },
      ],
    },
    input_messages: {
      type: 'template',
      template: [
        {
          role: 'user',
          content: [
            { type: 'mantis.images', image_urls: '{{item.images}}' },
            { type: 'input_text', text: '{{item.question}}' },
          ],
        },
      ],
    },
    sampling_params: { temperature: 0, max_completion_tokens: 32 },
  },
});

// 3. Look now and then; a webhook for `eval.run.succeeded` says it too.
while (!['completed', 'failed', 'canceled'].includes(run.status)) {
  await new Promise((resolve) => setTimeout(resolve, 200));
  run = await client.evals.runs.retrieve(run.id, { eval_id: evaluation.id });
}
console.log(run.status, run.result_counts);

// 4. What went wrong, and the report with numbers, intervals and pictures.
for await (const { sample, datasource_item: item } of client.evals.runs.outputItems.list(run.id, {
  eval_id: evaluation.id,
  status: 'fail',
}))
  console.log(`${item.question}: expected ${item.answer}, received ${sample.output[0].content}`);
const report = await fetch(`${run.report_url}?format=json`);
const { headline } = await report.json();
const percent = (share) => `${(100 * share).toFixed(1)} %`;
console.log(`${percent(headline.mean)}, 95 % interval ${headline.interval.map(percent).join(' to ')}`);
