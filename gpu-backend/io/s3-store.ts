import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { S3Client } from '@aws-sdk/client-s3';

const MIB = 1 << 20;

/** What is stored is not what was put there, or is gone. */
export class S3ObjectError extends Error {
  override readonly name = 'S3ObjectError';
}

export interface S3StoreOptions {
  /** Larger files go in parts. Default 64 MiB. */
  readonly multipartBytes?: number;
  /** Of a part, held in memory. Default 16 MiB; S3 takes none below 5 MiB but the last. */
  readonly partBytes?: number;
  /** Tries of one call; what fails is repeated with growing pauses. Default 6. */
  readonly maxAttempts?: number;
}

interface FileFacts {
  readonly bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

/**
 * Files in a bucket of Amazon S3 or a store that speaks its language. Where and as whom is found as the AWS SDK finds it (`AWS_REGION`,
 * `AWS_ACCESS_KEY_ID`, a role, `AWS_ENDPOINT_URL_S3`, …). Every upload carries its SHA-256, which the store checks; every download is checked against it.
 */
export class S3Store {
  private constructor(
    private readonly client: S3Client,
    private readonly sdk: typeof import('@aws-sdk/client-s3'),
    /** `s3://bucket/prefix`, without a slash at the end. */
    readonly url: string,
    private readonly options: Required<S3StoreOptions>,
  ) {}

  /** @param url `s3://bucket/prefix` @throws Error where it is none */
  static async open(url: string, options: S3StoreOptions = {}): Promise<S3Store> {
    parseLocation(`${url}/x`);
    // Loaded where a store is configured only: the SDK takes tens of megabytes.
    const sdk = await import('@aws-sdk/client-s3');
    const all = { multipartBytes: 64 * MIB, partBytes: 16 * MIB, maxAttempts: 6, ...options };
    const hasOwnEndpoint = process.env.AWS_ENDPOINT_URL_S3 !== undefined || process.env.AWS_ENDPOINT_URL !== undefined;
    const client = new sdk.S3Client({
      maxAttempts: all.maxAttempts,
      // Stores other than Amazon's have no host names for their buckets.
      forcePathStyle: hasOwnEndpoint,
      // Ours are SHA-256 of what was there before the upload; the SDK's own CRC would be of what it happens to send.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: { connectionTimeout: 10_000, requestTimeout: 120_000 },
    });
    return new S3Store(client, sdk, url.replace(/\/+$/, ''), all);
  }

  /** Full name of an object: `s3://bucket/prefix/key`. */
  locationOf(key: string): string {
    return `${this.url}/${key}`;
  }

  /** Puts a file there, whole or not at all. @throws where the store refuses it, or stays away through all tries */
  async put(location: string, path: string, { bytes, sha256 }: FileFacts): Promise<void> {
    const { size } = await stat(path);
    if (size !== bytes) throw new Error(`${path}: expected ${bytes} bytes, found ${size}`);
    const target = parseLocation(location);
    if (bytes > this.options.multipartBytes) return await this.putInParts(target, path, bytes, sha256);
    const file = await open(path, 'r');
    try {
      const body = Buffer.alloc(bytes);
      await readFully(file, body, 0);
      const put = new this.sdk.PutObjectCommand({
        ...target,
        Body: body,
        ContentLength: bytes,
        ChecksumSHA256: Buffer.from(sha256, 'hex').toString('base64'),
      });
      await this.client.send(put);
    } finally {
      await file.close();
    }
  }

  private async putInParts(target: Target, path: string, bytes: number, sha256: string): Promise<void> {
    const { partBytes } = this.options;
    const { UploadId } = await this.client.send(
      new this.sdk.CreateMultipartUploadCommand({ ...target, ChecksumAlgorithm: 'SHA256' }),
    );
    const file = await open(path, 'r');
    const whole = createHash('sha256');
    const Parts: { PartNumber: number; ETag: string | undefined; ChecksumSHA256: string }[] = [];
    try {
      for (let at = 0; at < bytes; at += partBytes) {
        const body = Buffer.alloc(Math.min(partBytes, bytes - at));
        await readFully(file, body, at);
        whole.update(body);
        const PartNumber = Parts.length + 1;
        const ChecksumSHA256 = createHash('sha256').update(body).digest('base64');
        const { ETag } = await this.client.send(
          new this.sdk.UploadPartCommand({
            ...target,
            UploadId,
            PartNumber,
            Body: body,
            ContentLength: body.length,
            ChecksumSHA256,
          }),
        );
        Parts.push({ PartNumber, ETag, ChecksumSHA256 });
      }
      // Parts are checked one by one; that together they are the file that was meant is checked here.
      if (whole.digest('hex') !== sha256) throw new S3ObjectError(`${path}: changed while it was uploaded`);
      await this.client.send(
        new this.sdk.CompleteMultipartUploadCommand({ ...target, UploadId, MultipartUpload: { Parts } }),
      );
    } catch (error) {
      await this.client.send(new this.sdk.AbortMultipartUploadCommand({ ...target, UploadId })).catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
  }

  /**
   * Brings an object here: the file appears whole, with the digest that it should have, or not at all.
   * @throws S3ObjectError where there is no such object, or it is not what it should be
   */
  async get(location: string, path: string, expected: FileFacts): Promise<void> {
    await mkdir(dirname(path), { recursive: true });
    const temporary = `${path}.${randomUUID()}.part`;
    try {
      // A body that breaks off is not repeated by the SDK: it has answered already.
      for (let attempt = 1; ; attempt++) {
        try {
          await this.getOnce(location, temporary, expected);
          break;
        } catch (error) {
          if (error instanceof S3ObjectError || attempt >= this.options.maxAttempts) throw error;
        }
      }
      await rename(temporary, path);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  private async getOnce(location: string, temporary: string, expected: FileFacts): Promise<void> {
    let body: unknown;
    try {
      ({ Body: body } = await this.client.send(new this.sdk.GetObjectCommand(parseLocation(location))));
    } catch (error) {
      if (error instanceof this.sdk.NoSuchKey || (error instanceof Error && error.name === 'NotFound'))
        throw new S3ObjectError(`${location}: there is no such object`);
      throw error;
    }
    if (!(body instanceof Readable)) throw new Error(`${location}: expected a body, received none`);
    const hash = createHash('sha256');
    let bytes = 0;
    const meter = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        hash.update(chunk);
        bytes += chunk.length;
        // Whoever sends more than was stored is not given the disk.
        done(
          bytes > expected.bytes ? new S3ObjectError(`${location}: is longer than ${expected.bytes} bytes`) : null,
          chunk,
        );
      },
    });
    await pipeline(body, meter, createWriteStream(temporary));
    const sha256 = hash.digest('hex');
    if (bytes !== expected.bytes || sha256 !== expected.sha256)
      throw new S3ObjectError(
        `${location}: expected ${expected.bytes} bytes, sha256 ${expected.sha256}, received ${bytes} bytes, ${sha256}`,
      );
  }

  /** Deletes objects of this store; those that are gone already are no error. @throws where one is not within its bucket and prefix */
  async remove(locations: readonly string[]): Promise<void> {
    for (const location of locations) {
      if (!location.startsWith(`${this.url}/`)) throw new Error(`${location}: expected an object of ${this.url}`);
      await this.client.send(new this.sdk.DeleteObjectCommand(parseLocation(location)));
    }
  }

  close(): void {
    this.client.destroy();
  }
}

interface Target {
  readonly Bucket: string;
  readonly Key: string;
}

function parseLocation(location: string): Target {
  const match = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\/(.+)$/.exec(location);
  if (match?.[1] === undefined || match[2] === undefined)
    throw new Error(`expected s3://bucket/prefix, received ${JSON.stringify(location.slice(0, 128))}`);
  return { Bucket: match[1], Key: match[2].replace(/^\/+/, '') };
}

async function readFully(file: Awaited<ReturnType<typeof open>>, into: Buffer, position: number): Promise<void> {
  let got = 0;
  while (got < into.length) {
    const { bytesRead } = await file.read(into, got, into.length - got, position + got);
    if (bytesRead === 0) throw new Error(`the file ended at byte ${position + got}`);
    got += bytesRead;
  }
}
