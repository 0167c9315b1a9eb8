import { setTimeout as sleep } from 'node:timers/promises';
import type { JobEvaluation } from '../../shared/contract/backend.ts';
import type { EvaluationMetrics } from '../../shared/contract/jobs.ts';
import type { ModelService } from '../engine/service.ts';
import { compareHeldOut, outcomeLines } from '../eval/held-out.ts';
import type { EvalItem, EvalRecord } from '../eval/task.ts';
import type { EdgeClient } from './edge-client.ts';
import { HeldOut } from './evaluate-held-out.ts';
import { TaskFailure } from './task-runner.ts';

/** What an evaluation of a checkpoint found; crosses the channel to the process that trains. */
export interface Evaluated {
  readonly metrics: EvaluationMetrics;
  /** Every question with both answers, JSON Lines. */
  readonly outcomes: string;
}

export interface CheckpointEvaluatorOptions {
  readonly jobId: string;
  readonly evaluation: JobEvaluation;
  readonly service: ModelService;
  readonly edge: EdgeClient;
  /** Folder of the job; what is held out lies in one of its own. */
  readonly workDir: string;
}

/** What fails for a reason that may pass is made again, after this pause, doubled each time. */
const MAX_TRIES = 6;
const PAUSE_MS = 1_000;

interface Asked {
  readonly heldOut: HeldOut;
  readonly records: readonly EvalRecord[];
  readonly base: readonly EvalItem[];
}

/**
 * Evaluates checkpoints of one job in the process that answers, whose engine has the base in memory already: beside it a checkpoint is its adapter. The
 * process that trains never holds a second model, and its numbers never meet those of the answers. Questions queue behind everything that somebody waits for.
 * The model that the job starts from is asked once a try.
 */
export class CheckpointEvaluator {
  readonly #o: CheckpointEvaluatorOptions;
  readonly #stop = new AbortController();
  #asked: Promise<Asked> | null = null;
  #number = 0;

  constructor(options: CheckpointEvaluatorOptions) {
    this.#o = options;
  }

  /**
   * @param model name under which the checkpoint is served
   * @throws TaskFailure where a question cannot be asked; the signal's reason after `stop`
   */
  async evaluate(model: string): Promise<Evaluated> {
    for (let attempt = 1; ; attempt++) {
      this.#stop.signal.throwIfAborted();
      try {
        return await this.#evaluate(model);
      } catch (error) {
        // The edge may be restarting, the engine be replaced.
        if (error instanceof TaskFailure || attempt === MAX_TRIES) throw error;
        await sleep(PAUSE_MS * 2 ** (attempt - 1), undefined, { signal: this.#stop.signal });
      }
    }
  }

  async #evaluate(model: string): Promise<Evaluated> {
    const { evaluation } = this.#o;
    this.#asked ??= this.#open();
    // A failure that may pass is not remembered.
    this.#asked.catch(() => {
      this.#asked = null;
    });
    const { heldOut, records, base } = await this.#asked;
    const items = await heldOut.ask(model, records, this.#by(false));
    return {
      metrics: metricsOf(base, items, evaluation.how.confidence),
      outcomes: outcomeLines(
        base,
        items,
        ['base', 'checkpoint'],
        new Map(records.map(({ id, question }) => [id, question])),
      ),
    };
  }

  /** Breaks off what is being asked: nothing of it is wanted any more. */
  stop(): void {
    this.#stop.abort(new Error('the job was stopped'));
  }

  async close(): Promise<void> {
    this.stop();
    const asked = await this.#asked?.catch(() => null);
    await asked?.heldOut.close();
  }

  async #open(): Promise<Asked> {
    const { jobId, evaluation, edge, workDir } = this.#o;
    const fetchImage = (reference: string) =>
      edge.getBytes(`/internal/jobs/${encodeURIComponent(jobId)}/images?reference=${encodeURIComponent(reference)}`);
    const heldOut = await HeldOut.open({
      spec: evaluation.heldOut,
      param: 'method.supervised.mantis.evaluation.held_out_file',
      workDir: `${workDir}/evaluation`,
      edge,
      fetchImage,
      signal: this.#stop.signal,
    });
    try {
      const records = await heldOut.records(evaluation.how.maxExamples);
      return { heldOut, records, base: await heldOut.ask(evaluation.base, records, this.#by(true)) };
    } catch (error) {
      await heldOut.close();
      throw error;
    }
  }

  #by(isBase: boolean) {
    const { jobId, evaluation, service } = this.#o;
    // What the base answers without pictures tells nothing of the checkpoint.
    const how = isBase ? { ...evaluation.how, textOnly: false } : evaluation.how;
    const id = `${jobId}-eval-${this.#number++}`;
    return { service, tenant: evaluation.tenant, id, how, signal: this.#stop.signal };
  }
}

function metricsOf(base: readonly EvalItem[], items: readonly EvalItem[], confidence: number): EvaluationMetrics {
  const compared = compareHeldOut(base, items, confidence);
  const { first, second, orderConsistency, textOnly } = compared;
  return {
    eval_accuracy: second.accuracy,
    eval_interval: [...second.interval],
    eval_confidence: confidence,
    eval_examples: compared.examples,
    eval_groups: compared.groups,
    eval_base_accuracy: first.accuracy,
    eval_difference: compared.difference,
    eval_difference_interval: [...compared.interval],
    eval_p_value: compared.pValue,
    eval_detectable_difference: compared.detectable,
    ...(orderConsistency === null ? {} : { eval_order_consistency: orderConsistency }),
    ...(textOnly === null
      ? {}
      : { eval_text_only_accuracy: textOnly.accuracy, eval_text_only_interval: [...textOnly.interval] }),
  };
}
