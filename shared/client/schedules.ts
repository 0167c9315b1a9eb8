import type { Deleted, List } from '../contract/files.ts';
import type {
  CreateScheduleRequest,
  NextRuns,
  Schedule,
  ScheduleRun,
  UpdateScheduleRequest,
} from '../contract/schedules.ts';
import type { Http } from './http.ts';

type Page = { limit?: number; after?: string };

/** Fine-tuning jobs that start by themselves. */
export class Schedules {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(request: CreateScheduleRequest): Promise<Schedule> {
    return this.#http.json('/v1/schedules', { method: 'POST', json: request });
  }

  list(query: Page = {}): Promise<List<Schedule>> {
    return this.#http.json('/v1/schedules', { query });
  }

  retrieve(id: string): Promise<Schedule> {
    return this.#http.json(path(id));
  }

  /** What is left out stays. */
  update(id: string, request: UpdateScheduleRequest): Promise<Schedule> {
    return this.#http.json(path(id), { method: 'POST', json: request });
  }

  delete(id: string): Promise<Deleted> {
    return this.#http.json(path(id), { method: 'DELETE' });
  }

  /** Now, whatever its condition says. */
  run(id: string): Promise<ScheduleRun> {
    return this.#http.json(`${path(id)}/run`, { method: 'POST' });
  }

  pause(id: string): Promise<Schedule> {
    return this.#http.json(`${path(id)}/pause`, { method: 'POST' });
  }

  resume(id: string): Promise<Schedule> {
    return this.#http.json(`${path(id)}/resume`, { method: 'POST' });
  }

  /** The next slots, 10 if `count` is left out. */
  next(id: string, count?: number): Promise<NextRuns> {
    return this.#http.json(`${path(id)}/next`, { query: { count } });
  }

  runs(id: string, query: Page = {}): Promise<List<ScheduleRun>> {
    return this.#http.json(`${path(id)}/runs`, { query });
  }

  retrieveRun(id: string, run: string): Promise<ScheduleRun> {
    return this.#http.json(`${path(id)}/runs/${encodeURIComponent(run)}`);
  }
}

const path = (id: string) => `/v1/schedules/${encodeURIComponent(id)}`;
