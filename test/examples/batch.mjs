// Many questions at once, without waiting for each: uploaded as one file, answered when there is room, collected at the end.
import { createReadStream } from 'node:fs';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const model = 'mantis-nano';

// 1. A picture is uploaded once, however many lines ask about it.
const upload = async (name) => {
  const png = createReadStream(`test/fixtures/pictures/${name}.png`);
  return { type: 'image_url', image_url: { url: (await client.files.create({ file: png, purpose: 'vision' })).id } };
};
const pictures = [await upload('yellow-circle'), await upload('two-black-squares')];

// 2. One request a line, each with a name of its own.
const questions = ['describe image 1', 'describe image 2', 'which image has two black squares?'];
const lines = questions.map((text, i) =>
  JSON.stringify({
    custom_id: `question ${i + 1}`,
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model, messages: [{ role: 'user', content: [...pictures, { type: 'text', text }] }], temperature: 0 },
  }),
);
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join('\n')), 'questions.jsonl'),
  purpose: 'batch',
});

// 3. Start it and look now and then; a webhook for `batch.completed` says it too.
let batch = await client.batches.create({
  input_file_id: file.id,
  endpoint: '/v1/chat/completions',
  completion_window: '24h',
});
while (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 200));
  batch = await client.batches.retrieve(batch.id);
}
console.log(batch.status, batch.request_counts);

// 4. Answers come in the order in which they were ready.
const output = await (await client.files.content(batch.output_file_id)).text();
const answers = output
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));
for (const { custom_id, response } of answers.sort((a, b) => a.custom_id.localeCompare(b.custom_id)))
  console.log(`${custom_id}: ${response.body.choices[0].message.content}`);
