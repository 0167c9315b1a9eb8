/** The typed SDK: the whole public API over `fetch`, for Node, browsers and Workers. */
import type { ChatChunk, ChatCompletion, ChatRequest, InputTokens } from '../contract/chat.ts';
import type { Deleted, FileObject, FilePurpose, List } from '../contract/files.ts';
import type { Health, Version } from '../contract/health.ts';
import type { CreateJobRequest, FineTuningJob, JobCheckpoint, JobEvent, JobStatus } from '../contract/jobs.ts';
import type { Limits } from '../contract/limits.ts';
import type { Model } from '../contract/models.ts';
import type { ScoreRequest, ScoreResponse } from '../contract/score.ts';
import type { BucketWidth, UsageGroup, UsagePage, UsageRecord } from '../contract/usage.ts';
import { decodeSse } from '../wire/sse.ts';
import { Admin } from './admin.ts';
import { Aliases } from './aliases.ts';
import { Batches } from './batches.ts';
import { Datasets, DatasetValidations } from './datasets.ts';
import { Evals } from './evals.ts';
import { ClientError, type ClientOptions, Http, type RequestOptions, streamError } from './http.ts';
import { Schedules } from './schedules.ts';
import { Uploads } from './uploads.ts';
import { WebhookDeliveries, WebhookEndpoints, WebhookEvents } from './webhooks.ts';

type Page = { limit?: number; after?: string };
type Call = { signal?: AbortSignal };

export type UsageOptions = {
  startTime: number;
  endTime?: number;
  /** Default one day. */
  bucketWidth?: BucketWidth;
  groupBy?: UsageGroup[];
  limit?: number;
  /** `next_page` of the page before. */
  page?: string;
};

/** What following a job yields: its events, and last how it ended. */
export type JobUpdate =
  | { type: 'event'; event: JobEvent }
  | { type: 'end'; status: JobStatus; fineTunedModel: string | null };

export class MantisClient {
  readonly #http: Http;

  /** For keys with the scope `admin`. */
  readonly admin: Admin;
  readonly aliases: Aliases;
  readonly batches: Batches;
  readonly datasets: Datasets;
  readonly datasetValidations: DatasetValidations;
  readonly evals: Evals;
  readonly schedules: Schedules;
  readonly uploads: Uploads;
  readonly webhookEndpoints: WebhookEndpoints;
  readonly webhookDeliveries: WebhookDeliveries;
  readonly webhookEvents: WebhookEvents;

  constructor(options: ClientOptions) {
    this.#http = new Http(options);
    this.admin = new Admin(this.#http);
    this.aliases = new Aliases(this.#http);
    this.batches = new Batches(this.#http);
    this.datasets = new Datasets(this.#http);
    this.datasetValidations = new DatasetValidations(this.#http);
    this.evals = new Evals(this.#http);
    this.schedules = new Schedules(this.#http);
    this.uploads = new Uploads(this.#http);
    this.webhookEndpoints = new WebhookEndpoints(this.#http);
    this.webhookDeliveries = new WebhookDeliveries(this.#http);
    this.webhookEvents = new WebhookEvents(this.#http);
  }

  readonly chat = {
    /** A whole answer. */
    create: (request: Omit<ChatRequest, 'stream' | 'stream_options'>, call: Call = {}): Promise<ChatCompletion> =>
      this.#post('/v1/chat/completions', request, call),

    /**
     * The answer as it is made. Leaving the loop closes the connection, which frees the backend.
     * @throws ClientError also in the middle, when the backend dies: half an answer never looks whole.
     */
    stream: (request: Omit<ChatRequest, 'stream'>, call: Call = {}): AsyncGenerator<ChatChunk, void, undefined> =>
      this.#chunks(request, call),

    /** What the request would take of the model's context, and whether it fits. */
    inputTokens: (request: ChatRequest, call: Call = {}): Promise<InputTokens> =>
      this.#post('/v1/chat/completions/input_tokens', request, call),
  };

  /** How likely each option is as the answer, without generating. */
  readonly score = (request: ScoreRequest, call: Call = {}): Promise<ScoreResponse> =>
    this.#post('/v1/score', request, call);

  /** Every limit that is enforced. */
  readonly limits = (): Promise<Limits> => this.#http.json('/v1/limits');

  /** What is there and what is wrong, in words; answered without a key too. */
  readonly health = (): Promise<Health> => this.#http.json('/health');

  /** The product's name and version, and the edge's clock, Unix ms. */
  readonly version = (): Promise<Version> => this.#http.json('/version');

  readonly models = {
    list: (): Promise<List<Model>> => this.#http.json('/v1/models'),
    retrieve: (id: string): Promise<Model> => this.#http.json(`/v1/models/${encodeURIComponent(id)}`),
    /** A fine-tune of one's own, with its checkpoints. */
    delete: (id: string): Promise<Deleted> =>
      this.#http.json(`/v1/models/${encodeURIComponent(id)}`, { method: 'DELETE' }),
  };

  readonly files = {
    /** @param expiresAfterS deletes itself then, an hour to 30 days from now */
    create: (file: Blob, filename: string, purpose: FilePurpose, expiresAfterS?: number): Promise<FileObject> => {
      const form = new FormData();
      form.set('purpose', purpose);
      if (expiresAfterS !== undefined) {
        form.set('expires_after[anchor]', 'created_at');
        form.set('expires_after[seconds]', String(expiresAfterS));
      }
      form.set('file', file, filename);
      return this.#http.json('/v1/files', { method: 'POST', form });
    },
    list: (query: Page & { purpose?: FilePurpose; order?: 'asc' | 'desc' } = {}): Promise<List<FileObject>> =>
      this.#http.json('/v1/files', { query }),
    retrieve: (id: string): Promise<FileObject> => this.#http.json(path('/v1/files', id)),
    content: async (id: string): Promise<Uint8Array> =>
      new Uint8Array(await (await this.#http.response(`${path('/v1/files', id)}/content`)).arrayBuffer()),
    delete: (id: string): Promise<Deleted> => this.#http.json(path('/v1/files', id), { method: 'DELETE' }),
  };

  readonly jobs = {
    create: (request: CreateJobRequest, call: Call = {}): Promise<FineTuningJob> =>
      this.#post('/v1/fine_tuning/jobs', request, call),
    list: (query: Page = {}): Promise<List<FineTuningJob>> => this.#http.json('/v1/fine_tuning/jobs', { query }),
    retrieve: (id: string): Promise<FineTuningJob> => this.#http.json(path('/v1/fine_tuning/jobs', id)),
    cancel: (id: string): Promise<FineTuningJob> =>
      this.#http.json(`${path('/v1/fine_tuning/jobs', id)}/cancel`, { method: 'POST' }),
    /** A running job saves a checkpoint first; it is `pausing` until then. */
    pause: (id: string): Promise<FineTuningJob> =>
      this.#http.json(`${path('/v1/fine_tuning/jobs', id)}/pause`, { method: 'POST' }),
    resume: (id: string): Promise<FineTuningJob> =>
      this.#http.json(`${path('/v1/fine_tuning/jobs', id)}/resume`, { method: 'POST' }),
    events: (id: string, query: Page = {}): Promise<List<JobEvent>> =>
      this.#http.json(`${path('/v1/fine_tuning/jobs', id)}/events`, { query }),
    checkpoints: (id: string, query: Page = {}): Promise<List<JobCheckpoint>> =>
      this.#http.json(`${path('/v1/fine_tuning/jobs', id)}/checkpoints`, { query }),
    /** Every event from the first on, then live until the job has ended; a cut connection is taken up where it broke. */
    follow: (id: string, call: Call = {}): AsyncGenerator<JobUpdate, void, undefined> => this.#follow(id, call),
  };

  readonly usage = {
    /** Sums in buckets of time. @param query.startTime Unix seconds */
    retrieve: (query: UsageOptions): Promise<UsagePage> =>
      this.#http.json('/v1/usage', {
        query: {
          start_time: query.startTime,
          end_time: query.endTime,
          bucket_width: query.bucketWidth,
          group_by: query.groupBy?.join(','),
          limit: query.limit,
          page: query.page,
        },
      }),
    /** What each request and picture used, newest first. */
    records: (query: Page & { request_id?: string } = {}): Promise<List<UsageRecord>> =>
      this.#http.json('/v1/usage/records', { query }),
  };

  #post<T>(to: string, json: unknown, call: Call): Promise<T> {
    return this.#http.json<T>(to, { method: 'POST', json, ...call });
  }

  async *#chunks(request: object, call: Call): AsyncGenerator<ChatChunk, void, undefined> {
    const options: RequestOptions = {
      method: 'POST',
      json: { ...request, stream: true },
      accept: 'text/event-stream',
      ...call,
    };
    const response = await this.#http.response('/v1/chat/completions', options);
    if (response.body === null) throw cutOff();
    for await (const { data } of decodeSse(response.body, call.signal)) {
      if (data === '[DONE]') return;
      const error = streamError(data);
      if (error !== null) throw error;
      yield JSON.parse(data) as ChatChunk;
    }
    throw cutOff();
  }

  async *#follow(id: string, call: Call): AsyncGenerator<JobUpdate, void, undefined> {
    let lastEventId = '0';
    for (;;) {
      const headers = { 'last-event-id': lastEventId };
      const options = { accept: 'text/event-stream', headers, ...call };
      const response = await this.#http.response(`${path('/v1/fine_tuning/jobs', id)}/events`, options);
      try {
        for await (const { id: eventId, event, data } of decodeSse(
          response.body ?? new ReadableStream(),
          call.signal,
        )) {
          if (event === 'end') {
            const end = JSON.parse(data) as { status: JobStatus; fine_tuned_model: string | null };
            yield { type: 'end', status: end.status, fineTunedModel: end.fine_tuned_model };
            return;
          }
          if (eventId !== undefined) lastEventId = eventId;
          yield { type: 'event', event: JSON.parse(data) as JobEvent };
        }
      } catch (error) {
        // The connection broke; the next request says where we were. Its own failure is the caller's.
        if (call.signal?.aborted || !(error instanceof TypeError)) throw error;
      }
    }
  }
}

function path(collection: string, id: string): string {
  return `${collection}/${encodeURIComponent(id)}`;
}

function cutOff(): ClientError {
  return new ClientError(
    200,
    'The stream ended without [DONE]; the answer is incomplete.',
    'stream_cut_off',
    null,
    null,
    [],
  );
}
