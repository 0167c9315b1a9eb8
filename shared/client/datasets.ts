import type {
  CreateDatasetRequest,
  CreateDatasetValidationRequest,
  Dataset,
  DatasetProblem,
  DatasetValidation,
  Subset,
  UpdateDatasetRequest,
  ValidationProgress,
} from '../contract/datasets.ts';
import type { Deleted, List } from '../contract/files.ts';
import type { Http } from './http.ts';

type Page = { limit?: number; after?: string };

/** Named lists of training files, which grow. */
export class Datasets {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(request: CreateDatasetRequest): Promise<Dataset> {
    return this.#http.json('/v1/datasets', { method: 'POST', json: request });
  }

  list(query: Page = {}): Promise<List<Dataset>> {
    return this.#http.json('/v1/datasets', { query });
  }

  retrieve(id: string): Promise<Dataset> {
    return this.#http.json(`/v1/datasets/${encodeURIComponent(id)}`);
  }

  /** What is given replaces what was. */
  update(id: string, request: UpdateDatasetRequest): Promise<Dataset> {
    return this.#http.json(`/v1/datasets/${encodeURIComponent(id)}`, { method: 'POST', json: request });
  }

  /** Adds a file. Appends from several sides at once all count; the same one twice counts once. */
  append(id: string, subset: Subset): Promise<Dataset> {
    return this.#http.json(`/v1/datasets/${encodeURIComponent(id)}/files`, { method: 'POST', json: subset });
  }

  /** Its files stay. */
  delete(id: string): Promise<Deleted> {
    return this.#http.json(`/v1/datasets/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }
}

const ENDED: ReadonlySet<DatasetValidation['status']> = new Set(['succeeded', 'failed', 'cancelled']);

/** Dry runs: what is wrong with data, and what training on it would take. */
export class DatasetValidations {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  /** Where equal data was validated for the same model and stages before, that validation is the answer. */
  create(request: CreateDatasetValidationRequest): Promise<DatasetValidation> {
    return this.#http.json('/v1/dataset_validations', { method: 'POST', json: request });
  }

  /** Newest first, without their reports. */
  list(query: Page = {}): Promise<List<DatasetValidation>> {
    return this.#http.json('/v1/dataset_validations', { query });
  }

  retrieve(id: string): Promise<DatasetValidation> {
    return this.#http.json(`/v1/dataset_validations/${encodeURIComponent(id)}`);
  }

  cancel(id: string): Promise<DatasetValidation> {
    return this.#http.json(`/v1/dataset_validations/${encodeURIComponent(id)}/cancel`, { method: 'POST' });
  }

  /** Asks until it has ended, however it ends. @param options.pollMs between questions, 250 */
  async wait(
    id: string,
    options: { pollMs?: number; signal?: AbortSignal; onProgress?: (progress: ValidationProgress) => void } = {},
  ): Promise<DatasetValidation> {
    for (;;) {
      const validation = await this.retrieve(id);
      if (ENDED.has(validation.status)) return validation;
      if (validation.progress !== null) options.onProgress?.(validation.progress);
      options.signal?.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, options.pollMs ?? 250));
    }
  }

  /** Every problem: those of the report, or where that lists only the first ones, those of its file. */
  async problems(validation: DatasetValidation): Promise<DatasetProblem[]> {
    const { report } = validation;
    if (report === null) return [];
    if (report.problems_file === null) return report.problems;
    const response = await this.#http.response(`/v1/files/${encodeURIComponent(report.problems_file)}/content`);
    const lines = (await response.text()).split('\n').filter((line) => line !== '');
    return lines.map((line) => JSON.parse(line) as DatasetProblem);
  }
}
