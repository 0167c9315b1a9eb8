import type { FileObject } from '../contract/files.ts';
import { LIMITS } from '../contract/limits.ts';
import type { CompleteUploadRequest, CreateUploadRequest, Upload, UploadPart } from '../contract/uploads.ts';
import type { Http } from './http.ts';

/** Files in parts. */
export class Uploads {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(request: CreateUploadRequest): Promise<Upload> {
    return this.#http.json('/v1/uploads', { method: 'POST', json: request });
  }

  retrieve(id: string): Promise<Upload> {
    return this.#http.json(path(id));
  }

  addPart(id: string, data: Blob): Promise<UploadPart> {
    const form = new FormData();
    form.set('data', data, 'part');
    return this.#http.json(`${path(id)}/parts`, { method: 'POST', form });
  }

  complete(id: string, request: CompleteUploadRequest): Promise<Upload> {
    return this.#http.json(`${path(id)}/complete`, { method: 'POST', json: request });
  }

  cancel(id: string): Promise<Upload> {
    return this.#http.json(`${path(id)}/cancel`, { method: 'POST' });
  }

  /** Sends a whole file part after part, and gives the upload up where one fails. @param partBytes at most `limits.uploads.maxPartBytes`, its default */
  async file(
    data: Blob,
    about: Omit<CreateUploadRequest, 'bytes'>,
    partBytes: number = LIMITS.uploads.maxPartBytes,
  ): Promise<FileObject> {
    const { id } = await this.create({ ...about, bytes: data.size });
    try {
      const part_ids: string[] = [];
      for (let at = 0; at < data.size; at += partBytes)
        part_ids.push((await this.addPart(id, data.slice(at, at + partBytes))).id);
      const { file } = await this.complete(id, { part_ids });
      if (file === null) throw new Error(`upload ${id} was completed without a file`);
      return file;
    } catch (error) {
      await this.cancel(id).catch(() => {});
      throw error;
    }
  }
}

function path(id: string): string {
  return `/v1/uploads/${encodeURIComponent(id)}`;
}
