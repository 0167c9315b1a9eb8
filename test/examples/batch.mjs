import { readFile } from 'node:fs/promises';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY

// A picture is uploaded once, and named by its id in as many requests as you like.
const upload = async (name) => {
  const file = await toFile(await readFile(`test/fixtures/pictures/${name}.png`), `${name}.png`);
  return (await client.files.create({ file, purpose: 'vision' })).id;
};
const names = ['yellow-circle', 'blue-triangle', 'two-black-squares'];
const pictures = await Promise.all(names.map(upload));

// One request a line.
const lines = names.map((name, i) => {
  const content = [
    { type: 'image_url', image_url: { url: pictures[i] } },
    { type: 'text', text: 'describe image 1' },
  ];
  const body = { model: 'mantis-nano', temperature: 0, messages: [{ role: 'user', content }] };
  return JSON.stringify({ custom_id: name, method: 'POST', url: '/v1/chat/completions', body });
});
const input = await client.files.create({
  file: await toFile(Buffer.from(lines.join('\n')), 'in.jsonl'),
  purpose: 'batch',
});
let batch = await client.batches.create({
  input_file_id: input.id,
  endpoint: '/v1/chat/completions',
  completion_window: '24h',
});
while (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 250));
  batch = await client.batches.retrieve(batch.id);
}
console.log(batch.status, batch.request_counts);

const output = await (await client.files.content(batch.output_file_id)).text();
for (const line of output.trimEnd().split('\n')) {
  const { custom_id, response } = JSON.parse(line);
  console.log(`${custom_id}: ${response.body.choices[0].message.content}`);
}
