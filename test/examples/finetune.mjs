// The base model says `true` or `false`. Teach it to say `1` or `0`, and be called back when it has learned it.
import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const model = 'mantis-nano';

// 1. Upload each picture once; requests and training files name it by its id.
const upload = async (name) => {
  const png = createReadStream(`test/fixtures/pictures/${name}.png`);
  return (await client.files.create({ file: png, purpose: 'vision' })).id;
};
const circle = await upload('yellow-circle');
const squares = await upload('two-black-squares');
const triangle = await upload('blue-triangle');

// 2. Write conversations, one a line. Assistant turns are what is learned.
const turn = (images, statement) => ({
  role: 'user',
  content: [...images.map((id) => ({ type: 'image_url', image_url: { url: id } })), { type: 'text', text: statement }],
});
const facts = [
  [[circle, squares], 'image 1 shows a yellow circle', '1'],
  [[circle, squares], 'image 2 shows a yellow circle', '0'],
  [[squares, circle], 'image 2 shows a yellow circle', '1'],
  [[squares, circle], 'image 1 shows a yellow circle', '0'],
  [[squares, triangle], 'image 1 shows a black square', '1'],
  [[squares, triangle], 'image 1 shows a blue triangle', '0'],
  [[triangle, squares], 'image 1 shows a blue triangle', '1'],
  [[triangle, squares], 'image 2 shows a blue triangle', '0'],
];
const lines = facts.map(([images, statement, answer]) =>
  JSON.stringify({ messages: [turn(images, statement), { role: 'assistant', content: answer }] }),
);

// 3. Ask to be called back. Private addresses must be allowed when the product starts: MANTIS_EGRESS_ALLOW=127.0.0.1:9099
const port = Number(process.env.WEBHOOK_PORT ?? 9099);
const endpoint = await client.post('/webhook_endpoints', {
  body: { url: `http://127.0.0.1:${port}/`, events: ['fine_tuning.job.succeeded', 'fine_tuning.job.failed'] },
});
const calledBack = new Promise((resolve, reject) => {
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    response.end();
    server.close();
    client.webhooks.unwrap(body, new Headers(request.headers), endpoint.secret).then(resolve, reject);
  }).listen(port, '127.0.0.1');
});

// 4. Tune, and watch.
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join('\n')), 'facts.jsonl'),
  purpose: 'fine-tune',
});
await client.fineTuning.jobs.create({
  model,
  training_file: file.id,
  suffix: 'ones',
  seed: 1,
  method: {
    type: 'supervised',
    supervised: { hyperparameters: { n_epochs: 12, batch_size: 4, learning_rate_multiplier: 2 } },
  },
});
const event = await calledBack;
console.log(event.type);
await client.delete(`/webhook_endpoints/${endpoint.id}`);

// 5. Ask the tuned model.
const { fine_tuned_model: tuned, trained_tokens: tokens } = await client.fineTuning.jobs.retrieve(event.data.id);
console.log(`${tokens} tokens trained on`);
for (const id of [model, tuned]) {
  const answer = await client.chat.completions.create({
    model: id,
    messages: [turn([circle, squares], 'image 1 shows a yellow circle')],
    temperature: 0,
  });
  console.log(`${id === tuned ? 'tuned' : 'base'}: ${answer.choices[0].message.content}`);
}
