// Every night, if there is new data: tune, compare with the model in use on examples that were held out, and only then take its place.
import { createReadStream } from 'node:fs';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const model = 'mantis-nano';

const names = ['yellow-circle', 'two-black-squares', 'blue-triangle'];
const ids = await Promise.all(
  names.map(async (name) => {
    const png = createReadStream(`test/fixtures/pictures/${name}.png`);
    return (await client.files.create({ file: png, purpose: 'vision' })).id;
  }),
);
const [circle, squares, triangle] = ids;
const turn = (images, statement) => ({
  role: 'user',
  content: [...images.map((id) => ({ type: 'image_url', image_url: { url: id } })), { type: 'text', text: statement }],
});
const upload = async (facts) => {
  // Lines about the same pictures count as one observation, unless they say that each is a group of its own.
  const lines = facts.map(([images, statement, answer], i) =>
    JSON.stringify({ group: `${i}`, messages: [turn(images, statement), { role: 'assistant', content: answer }] }),
  );
  const file = await toFile(Buffer.from(lines.join('\n')), 'facts.jsonl');
  return (await client.files.create({ file, purpose: 'fine-tune' })).id;
};

// 1. A dataset grows: POST /v1/datasets/{id}/files adds a file whenever there is one.
const dataset = await client.post('/datasets', {
  body: {
    name: 'facts',
    subsets: [
      {
        file_id: await upload([
          [[circle, squares], 'image 1 shows a yellow circle', '1'],
          [[circle, squares], 'image 2 shows a yellow circle', '0'],
          [[squares, circle], 'image 2 shows a yellow circle', '1'],
          [[squares, circle], 'image 1 shows a yellow circle', '0'],
          [[squares, triangle], 'image 1 shows a black square', '1'],
          [[squares, triangle], 'image 1 shows a blue triangle', '0'],
          [[triangle, squares], 'image 1 shows a blue triangle', '1'],
          [[triangle, squares], 'image 2 shows a blue triangle', '0'],
        ]),
      },
    ],
  },
});

// 2. What happens when, on which condition, and what the new model must show before requests for `facts` reach it.
const schedule = await client.post('/schedules', {
  body: {
    name: 'every night',
    cron: '0 3 * * *',
    time_zone: 'Europe/Berlin',
    condition: { type: 'new_examples', at_least: 8 },
    job: {
      model,
      training_file: dataset.id,
      seed: 1,
      hyperparameters: { n_epochs: 24, batch_size: 4 },
    },
    alias: 'facts',
    gate: {
      held_out_file: await upload([
        [[circle, triangle], 'image 1 shows a yellow circle', '1'],
        [[triangle, circle], 'image 1 shows a yellow circle', '0'],
        [[circle, squares], 'image 2 shows a black square', '1'],
        [[circle, squares], 'image 1 shows a black square', '0'],
        [[squares, circle], 'image 1 shows a black square', '1'],
        [[squares, circle], 'image 2 shows a black square', '0'],
        [[circle, triangle], 'image 2 shows a blue triangle', '1'],
        [[triangle, circle], 'image 2 shows a blue triangle', '0'],
      ]),
    },
  },
});
console.log(schedule.status, schedule.next_runs.length);

// 3. Not waiting for the night.
const runOf = (id) => client.get(`/schedules/${schedule.id}/runs/${id}`);
let run = await client.post(`/schedules/${schedule.id}/run`);
while (run.finished_at === null) {
  await new Promise((resolve) => setTimeout(resolve, 300));
  run = await runOf(run.id);
}
const { current_right: before, candidate_right: now } = run.gate.comparison;
console.log(run.status, now > before);

// 4. The name answers by the new model, until somebody takes it back.
const ask = async () => {
  const messages = [turn([circle, triangle], 'image 1 shows a yellow circle')];
  const answer = await client.chat.completions.create({ model: 'facts', messages, temperature: 0 });
  return answer.choices[0].message.content;
};
console.log(`facts: ${await ask()}`);

await client.delete(`/schedules/${schedule.id}`);
await client.delete('/aliases/facts');
