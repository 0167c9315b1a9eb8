/** One example of each request and of the answers that need one; a test validates each against its schema. */

const MODEL = 'mantis-nano';
const RED =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAACXBIWXMAAAPoAAAD6AG1e1JrAAAAGUlEQVR4nGO4oKBAEmIY1aAwGkoXhmvSAABLfxAQzpmqpwAAAABJRU5ErkJggg==';
const CREATED = 1_764_000_000;

const CONVERSATION = [
  {
    role: 'user',
    content: [
      { type: 'text', text: 'Here is the first picture:' },
      { type: 'image_url', image_url: { url: RED } },
      { type: 'text', text: 'and the second:' },
      { type: 'image_file', image_file: { file_id: 'file-0123456789abcdefghijklmn' } },
      { type: 'text', text: 'What has changed?' },
    ],
  },
] as const;

const USAGE = {
  prompt_tokens: 69,
  completion_tokens: 5,
  total_tokens: 74,
  prompt_tokens_details: { cached_tokens: 0, image_tokens: 50 },
};
const FINGERPRINT = 'fp_0123456789ab';
const COMPLETION_ID = 'chatcmpl-0123456789abcdefghijklmn';

/** By schema name. */
export const EXAMPLES: Readonly<Record<string, unknown>> = {
  ChatRequest: { model: MODEL, messages: CONVERSATION, max_completion_tokens: 64, temperature: 0 },
  ChatCompletion: {
    id: COMPLETION_ID,
    object: 'chat.completion',
    created: CREATED,
    model: MODEL,
    system_fingerprint: FINGERPRINT,
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: 'Red became blue.', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
    ],
    usage: USAGE,
  },
  ChatChunk: {
    id: COMPLETION_ID,
    object: 'chat.completion.chunk',
    created: CREATED,
    model: MODEL,
    system_fingerprint: FINGERPRINT,
    choices: [{ index: 0, delta: { content: 'Red' }, logprobs: null, finish_reason: null }],
  },
  ScoreRequest: { model: MODEL, messages: CONVERSATION, options: ['red became blue', 'blue became red'] },
  CreateUploadRequest: {
    filename: 'rows.jsonl',
    purpose: 'fine-tune',
    bytes: 1_000_000,
    mime_type: 'application/jsonl',
  },
  CompleteUploadRequest: { part_ids: ['part_0123456789abcdefghijklmn'] },
  CreateBatchRequest: {
    input_file_id: 'file-0123456789abcdefghijklmn',
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  },
  CreateDatasetRequest: {
    name: 'Support, spring',
    subsets: [{ file_id: 'file-0123456789abcdefghijklmn', name: 'tickets', max_size: 10_000 }],
    balancing: true,
  },
  UpdateDatasetRequest: { name: 'Support, summer' },
  Subset: { file_id: 'file-0123456789abcdefghijklmn', name: 'calls' },
  CreateDatasetValidationRequest: { model: MODEL, training_file: 'dataset_0123456789abcdefghijklmn' },
  CreateJobRequest: { model: MODEL, training_file: 'file-0123456789abcdefghijklmn', suffix: 'changes' },
  CreateWebhookEndpointRequest: { url: 'https://example.com/hooks', events: ['fine_tuning.job.*'] },
  UpdateWebhookEndpointRequest: { description: 'Trains of the vision team', status: 'enabled' },
  RotateWebhookSecretRequest: { overlap_s: 3_600 },
  RedeliverWebhooksRequest: { since: CREATED, status: ['failed'] },
  CreateScheduleRequest: {
    name: 'Nightly',
    cron: '30 2 * * *',
    time_zone: 'Europe/Berlin',
    job: { model: MODEL, training_file: 'dataset_0123456789abcdefghijklmn', suffix: 'nightly' },
    condition: { type: 'new_examples', at_least: 100 },
    alias: 'assistant',
    gate: { held_out_file: 'file-0123456789abcdefghijklmn', margin: 0.02 },
    keep_models: 5,
  },
  UpdateScheduleRequest: { cron: '30 3 * * *' },
  CreateAliasRequest: { name: 'assistant', model: MODEL },
  UpdateAliasRequest: { description: 'What the shop asks' },
  PromoteAliasRequest: { model: 'ft:mantis-nano:org:nightly:0123abcd', reason: 'better on hard cases' },
  RollbackAliasRequest: { reason: 'answers are too long' },
  CreateEvalRequest: {
    name: 'What has changed?',
    data_source_config: {
      type: 'custom',
      item_schema: {
        type: 'object',
        properties: { images: { type: 'array', items: { type: 'string' } }, answer: { type: 'string' } },
        required: ['images', 'answer'],
      },
      include_sample_schema: true,
    },
    testing_criteria: [
      {
        type: 'string_check',
        name: 'names the change',
        input: '{{sample.output_text}}',
        reference: '{{item.answer}}',
        operation: 'ilike',
      },
    ],
  },
  UpdateEvalRequest: { name: 'Changes' },
  CreateEvalRunRequest: {
    name: 'nano',
    data_source: {
      type: 'completions',
      model: MODEL,
      source: { type: 'file_id', id: 'file-0123456789abcdefghijklmn' },
      input_messages: {
        type: 'template',
        template: [
          {
            role: 'user',
            content: [
              { type: 'mantis.images', image_urls: '{{item.images}}' },
              { type: 'input_text', text: 'What has changed?' },
            ],
          },
        ],
      },
      sampling_params: { temperature: 0, max_completion_tokens: 64 },
    },
  },
  CreateTenantRequest: { name: 'Vision team' },
  UpdateTenantRequest: { name: 'Vision team' },
  CreateKeyRequest: { name: 'Server of the vision team', scopes: ['inference', 'files'] },
  UpdateKeyRequest: { name: 'Server of the vision team' },
  RotateKeyRequest: { overlap_s: 3_600 },
  WebhookEvent: {
    id: 'evt_0123456789abcdefghijklmn',
    object: 'event',
    type: 'fine_tuning.job.succeeded',
    created_at: CREATED,
    data: { id: 'ftjob-0123456789abcdefghijklmn', sequence: 1 },
  },
  ErrorEnvelope: {
    error: {
      message:
        'messages[0].content[1].image_url: expected one of image/jpeg, image/png, image/webp, image/gif, image/avif, received "image/tiff".',
      type: 'invalid_request_error',
      param: 'messages[0].content[1].image_url',
      code: 'unsupported_image_media_type',
    },
  },
};
