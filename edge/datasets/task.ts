/** The task that validates data, for a job or for a client that asks for it alone. */
import type { DataSpec, ValidateTask } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { StageDraft } from '../../shared/contract/training.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import type { KnownModel } from '../fleet/models.ts';
import { equalTask, type NewTask, type TaskRow } from '../store/tasks.ts';
import { dataDigest } from './spec.ts';

/** `options`: answers among which it will be asked to choose. */
export type HeldOut = { data: DataSpec; param: string; options?: readonly string[] | null };

/** Rises when the same data would be judged otherwise: what an earlier version found is then not taken for an answer. */
const RULES = 2;

/** Everything of a validation's row but its id, its subject and what the client asked. `equal`: one that has found the same already. */
export type PreparedValidation = Pick<NewTask, 'spec' | 'fileIds'> & { inputDigest: string; equal: TaskRow | null };

/**
 * @param asked.estimate whether time and memory of the training are measured too. A job goes without: it would make the same steps twice.
 */
export async function prepareValidation(
  env: Env,
  tenant: string,
  { card, adapter }: Pick<KnownModel, 'card' | 'adapter'>,
  asked: {
    training: DataSpec[];
    validation: DataSpec | null;
    /** What checkpoints and a gate will be asked, each with the field that names it. */
    heldOut?: readonly HeldOut[];
    stages: StageDraft[];
    maxBadShare: number;
    estimate?: boolean;
  },
): Promise<PreparedValidation> {
  const { estimate = false, heldOut: asHeldOut = [], ...data } = asked;
  const heldOut = await different(asHeldOut);
  const lists = [
    ...data.training,
    ...(data.validation === null ? [] : [data.validation]),
    ...heldOut.map(({ data: own }) => own),
  ];
  const spec: ValidateTask = {
    kind: 'validate',
    baseModel: card.id,
    adapter: adapter ?? null,
    ...data,
    ...(heldOut.length === 0 ? {} : { heldOut }),
    estimate,
  };
  const digests = await Promise.all(lists.map(dataDigest));
  const seen = [
    RULES,
    digests,
    data.validation !== null,
    card.digest,
    adapter?.id ?? null,
    data.stages,
    data.maxBadShare,
    ...(heldOut.length === 0
      ? []
      : [heldOut.map(({ param, options }) => (options === undefined ? param : [param, options]))]),
  ];
  const digest = (measured: boolean) => sha256Hex(new TextEncoder().encode(JSON.stringify([...seen, measured])));
  const sinceMs = nowMs() - LIMITS.dataset.reuseValidationMs;
  const whole = await digest(true);
  const inputDigest = estimate ? whole : await digest(false);
  return {
    spec,
    inputDigest,
    fileIds: [
      ...new Set(
        [...lists, ...asHeldOut.map(({ data: own }) => own)].flatMap(({ files }) => files.map(({ file }) => file.id)),
      ),
    ],
    // One that measured more than is wanted serves as well.
    equal:
      (await equalTask(env.DB, tenant, inputDigest, sinceMs)) ??
      (estimate ? null : await equalTask(env.DB, tenant, whole, sinceMs)),
  };
}

/** The same data is read once, whatever names it; by all the options that it will be asked with. */
async function different(heldOut: readonly HeldOut[]): Promise<NonNullable<ValidateTask['heldOut']>> {
  const byDigest = new Map<string, { data: DataSpec; param: string; options: string[][] }>();
  for (const { data, param, options } of heldOut) {
    const digest = await dataDigest(data);
    const known = byDigest.get(digest) ?? { data, param, options: [] };
    byDigest.set(digest, known);
    if (options != null) known.options.push([...options]);
  }
  return [...byDigest.values()].map(({ options, ...one }) => (options.length === 0 ? one : { ...one, options }));
}
